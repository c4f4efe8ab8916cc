"""Recordings of real arms are understood whole and exactly; what cannot be understood is said in one sentence."""

from __future__ import annotations

import gzip
import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fleet.arms.v1.commands_pb2 import JointSample
from robots.layout import Asked, Layout, RecordingError, guess
from robots.recordings import Recording, open_recording, parse_anchor

Find = Callable[[str], Path]
START_US = 1_700_000_000_000_000


def whole(recording: Recording, start_us: int | None = START_US) -> dict[str, list[JointSample]]:
    arms: dict[str, list[JointSample]] = {}
    for sample in recording.samples(lambda _arm_id, _first_us: start_us):
        arms.setdefault(sample.arm_id, []).append(sample)
    return arms


def positions(sample: JointSample) -> list[float]:
    assert [axis.axis for axis in sample.axes] == list(range(len(sample.axes)))
    return [axis.position for axis in sample.axes]


def offsets(samples: list[JointSample]) -> list[int]:
    return [sample.sampled_at_us - START_US for sample in samples]


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "table.csv"
        path.write_bytes(text.encode())
        return path

    return write


Write = Callable[[str], Path]


class TestRealArms:
    def test_kuka_runs_are_three_arms_in_degrees(self, recording: Find) -> None:
        arms = whole(open_recording(recording("kuka"), arm="kuka-{arm}"))
        assert {name: len(samples) for name, samples in arms.items()} == {f"kuka-{run}": 2501 for run in "ABC"}
        for samples in arms.values():
            assert offsets(samples) == [4000 * row for row in range(2501)]
        assert positions(arms["kuka-A"][0]) == [
            math.radians(degrees) for degrees in (0.059679, 0.004274, -0.103126, 0.001590, 0.013205, 0.000240)
        ]
        assert positions(arms["kuka-C"][0])[0] == -0.043263 * math.pi / 180

    def test_staubli_at_5_khz_takes_joints_not_motors(self, recording: Find) -> None:
        began = time.process_time()
        (samples,) = whole(open_recording(recording("staubli"))).values()
        took_s = time.process_time() - began
        assert offsets(samples) == [200 * row for row in range(45_000)]
        assert positions(samples[0]) == [0.000001, 1.5707813, -1.5707778, 0.0, 0.0, -0.000009]
        assert positions(samples[-1]) == [-0.000003, 1.5707813, -1.5708, -0.000002, 0.0000043, 0.0000017]
        assert took_s < 3, "45,000 rows take 0.6 s of one core"

    def test_tiago_has_a_torso_in_metres_and_times_that_jitter(self, recording: Find) -> None:
        opened = open_recording(recording("tiago"))
        assert opened.layout.units == ("m", *["rad"] * 7)
        (samples,) = whole(opened).values()
        assert len(samples) == 8022
        assert offsets(samples)[:2] == [0, 10_879]  # 0.010879278182983398 s
        assert offsets(samples)[-1] == 80_210_929  # 80.21092915534973 s
        assert positions(samples[0])[:2] == [0.059777934162170615, 0.06999127460154318]
        assert positions(samples[-1])[0] == 0.25486746422707013

    def test_ur5e_takes_actual_positions_from_an_export_with_spaces(self, recording: Find) -> None:
        (samples,) = whole(open_recording(recording("ur5e"))).values()
        assert len(samples) == 256
        assert offsets(samples) == [100_000 * row for row in range(256)]  # 4029.5389999999998 s and on
        assert positions(samples[0])[:2] == [1.2144851098128129e-05, -1.5707534360957034]
        assert len(samples[0].axes) == 6

    def test_a_second_reading_gives_the_same_bytes(self, recording: Find) -> None:
        opened = open_recording(recording("ur5e"))
        first, second = (
            [
                sample.SerializeToString(deterministic=True)
                for (samples,) in [whole(opened).values()]
                for sample in samples
            ]
            for _ in range(2)
        )
        assert first == second

    def test_names_come_from_the_file_and_the_column(self, recording: Find) -> None:
        first = next(open_recording(recording("kuka")).samples(lambda _arm_id, _first_us: 0))
        assert first.arm_id == "kuka-kr300-r2500_runs-A-B-C_250Hz-A"

    def test_reading_is_lazy(self, recording: Find) -> None:
        opened = open_recording(recording("staubli"))
        rows = opened.samples(lambda _arm_id, _first_us: 0)
        next(rows)
        assert 0 < opened.fraction_read() < 0.2

    def test_how_long_it_is_by_arm(self, recording: Find) -> None:
        ends = open_recording(recording("kuka"), arm="{arm}").ends()
        assert ends == {"A": 10_000_000, "B": 10_000_000, "C": 10_000_000}


class TestLayout:
    @pytest.mark.parametrize(
        ("header", "time_column", "time_unit", "columns", "units"),
        [
            ("t,q1,q2", "t", "s", ("q1", "q2"), ("rad", "rad")),
            ("q_1,q_0,timestamp_ms", "timestamp_ms", "ms", ("q_0", "q_1"), ("rad", "rad")),
            ("Time [us],J1 [deg],J2 [mm]", "Time [us]", "us", ("J1 [deg]", "J2 [mm]"), ("deg", "mm")),
            (
                "time_s,joint_2_position,joint_1_position",
                "time_s",
                "s",
                ("joint_1_position", "joint_2_position"),
                ("rad",) * 2,
            ),
            (
                "time,rail_joint_position,elbow_joint_pos",
                "time",
                "s",
                ("rail_joint_position", "elbow_joint_pos"),
                ("m", "rad"),
            ),
            ("stamp,position[0],position[1]", "stamp", "s", ("position[0]", "position[1]"), ("rad", "rad")),
            ("t,q10,q9,dq9,motor9", "t", "s", ("q9", "q10"), ("rad", "rad")),
        ],
    )
    def test_is_guessed_from_names(
        self, header: str, time_column: str, time_unit: str, columns: tuple[str, ...], units: tuple[str, ...]
    ) -> None:
        assert guess(header.split(",")) == Layout(",", time_column, time_unit, columns, units, None)

    def test_every_part_can_be_said(self) -> None:
        asked = Asked(";", "clock", "us", ("b", "x*"), ("mm", "deg", "rad"), "who")
        header = ["who", "x1", "x2", "b", "clock", "run", "time"]
        assert guess(header, asked) == Layout(";", "clock", "us", ("b", "x1", "x2"), ("mm", "deg", "rad"), "who")

    def test_one_unit_is_for_all_and_an_empty_arm_column_for_none(self) -> None:
        layout = guess(["run", "t", "q1", "q2"], Asked(units=("deg",), split=""))
        assert layout.units == ("deg", "deg")
        assert layout.split is None

    @pytest.mark.parametrize(
        ("header", "asked", "sentence"),
        [
            ("a,q1", Asked(), "no column looks like time among 'a', 'q1': name it with --time-column"),
            ("t,a", Asked(), "no columns look like joint positions among 't', 'a': name them with --columns"),
            ("t,q1", Asked(columns=("q2",)), "column 'q2' is not there; there are 't', 'q1'"),
            ("t,q1", Asked(columns=("z*",)), "no column fits 'z*'; there are 't', 'q1'"),
            ("t,q1,q1", Asked(), "column 'q1' is there more than once"),
            ("t,q1_deg,q1_rad", Asked(), "q1_deg and q1_rad may be the same axis: choose with --columns"),
            ("t,q1", Asked(columns=("q1", "q1")), "a column is used twice"),
            ("t,q1", Asked(time="clock"), "column 'clock' is not there"),
            ("t,q1", Asked(split="arm"), "column 'arm' is not there"),
            ("t,q1", Asked(units=("furlong",)), "unknown unit 'furlong': --unit is one of rad, deg, m, mm"),
            ("t,q1", Asked(units=("m", "m")), "2 units for 1 axes"),
            ("t,q1", Asked(time_unit="h"), "unknown time unit 'h': --time-unit is one of s, ms, us"),
            ("t," + ",".join(f"q{n}" for n in range(33)), Asked(), "33 columns of positions; an arm has 1 to 32 axes"),
        ],
    )
    def test_says_what_it_cannot_understand(self, header: str, asked: Asked, sentence: str) -> None:
        with pytest.raises(RecordingError) as raised:
            guess(header.split(","), asked)
        assert sentence in str(raised.value)


class TestRows:
    @pytest.mark.parametrize(
        ("unit", "cell", "position"),
        [
            ("rad", "0.1", 0.1),
            ("deg", "180", math.pi),
            ("m", "0.3", 0.3),
            ("mm", "0.3", 0.0003),
            ("mm", "0.9", 0.0009),
        ],
    )
    def test_units_are_converted_exactly(self, table: Write, unit: str, cell: str, position: float) -> None:
        path = table(f"t,q1\n0,{cell}\n")
        (samples,) = whole(open_recording(path, Asked(units=(unit,)))).values()
        assert positions(samples[0]) == [position]

    @pytest.mark.parametrize("mark", [",", ";", "\t", " ", "   "])
    def test_separators_line_ends_and_empty_lines(self, table: Write, mark: str) -> None:
        text = "t,q1,q2\r\n0,1,2\r\n\r\n1,3,4".replace(",", mark)
        (samples,) = whole(open_recording(table(text))).values()
        assert [positions(sample) for sample in samples] == [[1, 2], [3, 4]]

    def test_quotes_a_mark_of_order_and_a_comma_at_the_end(self, table: Write) -> None:
        (samples,) = whole(open_recording(table('\ufeff"t","q1"\n"0","1",\n'))).values()
        assert positions(samples[0]) == [1]

    @pytest.mark.parametrize(
        ("unit", "first", "second", "offset_us"),
        [
            ("s", "0", "0.0000015", 2),  # halves go to the even neighbour
            ("s", "0", "0.0000025", 2),
            ("s", "123456789.123456", "123456789.123457", 1),
            ("ms", "0.1", "0.3", 200),
            ("us", "1700000000000001", "1700000000000003", 2),
        ],
    )
    def test_times_are_rounded_once(self, table: Write, unit: str, first: str, second: str, offset_us: int) -> None:
        path = table(f"t,q1\n{first},0\n{second},0\n")
        (samples,) = whole(open_recording(path, Asked(time_unit=unit))).values()
        assert offsets(samples) == [0, offset_us]

    def test_recorded_times_can_be_kept(self, table: Write) -> None:
        path = table("t,q1\n1700000000.1234567,0\n1700000000.2,0\n")
        (samples,) = whole(open_recording(path), start_us=None).values()
        assert [sample.sampled_at_us for sample in samples] == [1_700_000_000_123_457, 1_700_000_000_200_000]

    def test_interleaved_arms_have_times_of_their_own(self, table: Write) -> None:
        arms = whole(open_recording(table("arm,t,q1\na,5,0\nb,1,0\na,6,0\nb,3,0\n"), arm="{arm}.{n}"))
        assert {name: offsets(samples) for name, samples in arms.items()} == {"a.1": [0, 10**6], "b.2": [0, 2 * 10**6]}

    @pytest.mark.parametrize(
        ("row", "fault"),
        [
            ("1,x", "line 3: q1 is 'x', not a number"),
            ("1,", "line 3: q1 is '', not a number"),
            ("1,nan", "line 3: q1 is 'nan', not a finite number"),
            ("1,-inf", "line 3: q1 is '-inf', not a finite number"),
            ("1,1e999", "line 3: q1 is '1e999', not a finite number"),
            ("nan,1", "line 3: t is 'nan', not a finite number"),
            ("soon,1", "line 3: t is 'soon', not a number"),
            ("1e30,1", "line 3: t is too far out to be a time"),
            ("1", "line 3: 1 cells where the header has 2"),
            ("1,1,1", "line 3: 3 cells where the header has 2"),
            ("-1,1", "line 3: time goes back from 0 to -1"),
        ],
    )
    def test_a_bad_row_is_named_or_passed_over(self, table: Write, row: str, fault: str) -> None:
        path = table(f"t,q1\n0,0\n{row}\n2,2\n")
        with pytest.raises(RecordingError) as raised:
            whole(open_recording(path))
        assert str(raised.value).startswith(f"{path}, {fault}")
        assert "--skip-bad-rows" in str(raised.value)
        tolerant = open_recording(path, skip_bad_rows=True)
        (samples,) = whole(tolerant).values()
        assert offsets(samples) == [0, 2_000_000]
        assert tolerant.skipped_rows == 1
        assert fault in tolerant.skipped_notes[0]

    def test_equal_times_are_not_going_back(self, table: Write) -> None:
        (samples,) = whole(open_recording(table("t,q1\n0,0\n0,1\n"))).values()
        assert offsets(samples) == [0, 0]


class TestFiles:
    def fails(self, path: Path, sentence: str, arm: str | None = None) -> None:
        with pytest.raises(RecordingError) as raised:
            whole(open_recording(path, arm=arm))
        assert sentence in str(raised.value)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_empty(self, table: Write) -> None:
        self.fails(table(""), "empty; the first line has to name the columns")
        self.fails(table("t,q1\n\n"), "no row with positions in it")

    def test_missing(self, tmp_path: Path) -> None:
        self.fails(tmp_path / "none.csv", "cannot be read: No such file")

    def test_not_text(self, tmp_path: Path) -> None:
        path = tmp_path / "noise.csv"
        path.write_bytes(bytes(range(128, 256)))
        self.fails(path, "not a text table in UTF-8")

    def test_cut_off_in_the_middle(self, tmp_path: Path) -> None:
        path = tmp_path / "half.csv.gz"
        packed = gzip.compress("".join(["t,q1\n", *(f"{n},{n * n % 97}\n" for n in range(20_000))]).encode())
        path.write_bytes(packed[: len(packed) // 2])
        self.fails(path, "cannot be read: Compressed file ended before")

    def test_no_name_for_an_arm(self, table: Write) -> None:
        path = table("run,t,q1\nno 1,0,0\n")
        self.fails(path, "'table-no 1' is no name for an arm")
        assert list(whole(open_recording(path, arm="{file}-{n}"))) == ["table-1"]

    def test_one_name_for_two_arms(self, table: Write) -> None:
        self.fails(
            table("run,t,q1\n1,0,0\n2,0,0\n"), "two arms would be called 'x': put {arm} or {n} into --arm", arm="x"
        )


@pytest.mark.parametrize(
    ("text", "anchor"),
    [
        ("now", "now"),
        ("recorded", "recorded"),
        ("2023-11-14T22:13:20Z", START_US),
        ("2023-11-14T22:13:20", START_US),
        ("2023-11-14T23:13:20.000001+01:00", START_US + 1),
        ("1700000000", START_US),
        ("1700000000.5", START_US + 500_000),
        ("1700000000000001", START_US + 1),
    ],
)
def test_anchors(text: str, anchor: int | str) -> None:
    assert parse_anchor(text) == anchor


@pytest.mark.parametrize("text", ["", "yesterday", "0", "nan", "inf", "1e40", "1999-12-31", "1700000000000", "-5"])
def test_no_anchors(text: str) -> None:
    with pytest.raises(RecordingError, match="is no anchor: give now, recorded, a time like"):
        parse_anchor(text)
