"""Windows of several lengths: they add up exactly, close in time, survive a snapshot, and a gap costs nothing."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from aorist.declare import Codec, Series, View, Windows
from aorist.errors import MisdeclaredError
from aorist.ports import LATEST_US, SeriesSpec
from aorist.v1 import position_pb2, series_pb2
from fleet.arms.v1.events_pb2 import ArmEvent, JointPositionsChanged

S = 1_000_000
T0 = 1_767_225_600 * S
"""A whole hour."""


@dataclass(slots=True)
class Sum:
    us: int = 0


def add(into: Sum, more: Sum) -> None:
    into.us += more.us


codec = Codec.through(
    position_pb2.Position, lambda s: position_pb2.Position(offset=s.us), lambda message: Sum(message.offset)
)


def series(**changed: Any) -> Series[Sum]:
    right: dict[str, Any] = {"add": add, "codec": codec, "lengths": [(1, 10), (60, 100), (3600, 1000)]}
    return Series(Sum, **(right | changed))


def pour(windows: Windows[Sum], before_us: int, at_us: int) -> int:
    """Adds the interval to whatever it belongs to; how much of it did."""
    poured = 0
    for totals, us in windows.over(before_us, at_us):
        assert us > 0
        totals.us += us
        poured += us
    return poured


def everything(windows: Windows[Sum]) -> dict[tuple[int, int], int]:
    """By length and start, closed or open."""
    closed = {(w.window_s, w.start_us): codec.decode(w.totals).us for w in windows.closed}
    opened = {(w.window_s, w.start_us): w.totals.us for w in windows.open()}
    assert not closed.keys() & opened.keys()
    return closed | opened


def test_an_interval_is_cut_at_the_ends_of_windows() -> None:
    windows = series().windows()
    spans = windows.over(T0 + 900_000, T0 + 2_100_000)
    assert [us for _, us in spans] == [100_000, 1_000_000, 100_000]
    for totals, us in spans:
        totals.us += us
    assert everything(windows) == {
        (1, T0): 100_000,
        (1, T0 + S): S,
        (1, T0 + 2 * S): 100_000,
        (60, T0): 1_200_000,
        (3600, T0): 1_200_000,
    }


def test_a_window_includes_its_end_and_not_its_start() -> None:
    windows = series().windows()
    pour(windows, T0 - 500_000, T0)
    assert everything(windows)[1, T0 - S] == 500_000
    pour(windows, T0, T0 + 1)
    assert everything(windows)[1, T0] == 1


@pytest.mark.parametrize("seed", range(20))
def test_windows_of_all_lengths_add_up_to_what_was_poured_in(seed: int) -> None:
    """Against a plain count by window; with gaps of all sizes, and a second source that comes up to a second late."""
    chosen, windows = random.Random(seed), series().windows()
    expected: dict[tuple[int, int], int] = {}
    at_us = T0 + chosen.randrange(3600 * S)
    for _ in range(400):
        before_us, at_us = at_us, at_us + chosen.choice([1, 4_000, 100_000, 1_000_000, 1_999_999])
        shift_us = chosen.choice([0, 0, chosen.randrange(1_000_000)])
        assert pour(windows, before_us - shift_us, at_us - shift_us) > 0
        for us in _per_second(before_us - shift_us, at_us - shift_us).items():
            for window_s in (1, 60, 3600):
                place = (window_s, us[0] // (window_s * S) * window_s * S)
                expected[place] = expected.get(place, 0) + us[1]
        at_us += chosen.choice([0] * 9 + [chosen.randrange(10 * S), chosen.randrange(10_000 * S)])
    got = everything(windows)
    dropped = {place for place in expected if expected[place] != got.get(place, 0)}
    assert not dropped


def _per_second(before_us: int, at_us: int) -> dict[int, int]:
    seconds = range(before_us // S, (at_us - 1) // S + 1)
    return {n * S: min(at_us, (n + 1) * S) - max(before_us, n * S) for n in seconds}


def test_a_window_closes_once_its_grace_is_over_and_what_reaches_it_then_is_dropped() -> None:
    windows = series(grace_s=2).windows()
    pour(windows, T0, T0 + 100)
    pour(windows, T0 + 2 * S, T0 + 3 * S)
    assert windows.closed == []
    assert pour(windows, T0 + 100, T0 + 300) == 200, "it reports late, but within its grace"
    pour(windows, T0 + 3 * S, T0 + 3 * S + 1)
    assert [(w.window_s, w.start_us, codec.decode(w.totals).us) for w in windows.closed] == [(1, T0, 300)]
    assert pour(windows, T0 + 300, T0 + 400) == 0
    assert pour(windows, T0 + 900_000, T0 + S + 100) == 100, "the part of it that reaches an open window is not"


def test_windows_close_in_the_order_of_time_and_longer_ones_with_the_last_within() -> None:
    windows = series().windows()
    for second in (3598, 3599, 3600, 3700, 7300):
        pour(windows, T0 + second * S, T0 + second * S + 10)
    assert [(w.window_s, w.start_us // S - T0 // S, codec.decode(w.totals).us) for w in windows.closed] == [
        (1, 3598, 10),
        (1, 3599, 10),
        (1, 3600, 10),
        (60, 3540, 20),
        (60, 3600, 10),
        (3600, 0, 20),
        (1, 3700, 10),
        (60, 3660, 10),
        (3600, 3600, 20),
    ]


def test_a_gap_of_years_is_no_loop_over_its_windows() -> None:
    windows = series().windows()
    pour(windows, T0, T0 + 10)
    pour(windows, T0 + 10**15, T0 + 10**15 + 10)
    assert len(windows.closed) == 3
    assert pour(windows, T0, T0 + 2 * 10**15) <= 3 * S, "an interval longer than the grace counts from there"
    assert len(windows.open()) <= 3 + 2 + 2


def test_times_that_no_store_looks_at_have_no_windows() -> None:
    windows = series().windows()
    for before_us, at_us in ((-5, 3), (LATEST_US - 5, LATEST_US), (2**62, 2**62 + 5), (T0 + 5, T0 + 5), (T0 + 6, T0)):
        assert pour(windows, before_us, at_us) == 0
    assert windows == series().windows()


@pytest.mark.parametrize("seed", range(5))
def test_a_snapshot_at_any_time_changes_nothing(seed: int) -> None:
    chosen, declared = random.Random(seed), series()
    plain, often = declared.windows(), declared.windows()
    at_us = T0
    for _ in range(200):
        at_us += chosen.choice([0, 500_000, 90 * S, 4000 * S])
        before_us, at_us = at_us, at_us + chosen.randrange(1, 1_500_000)
        pour(plain, before_us, at_us)
        pour(often, before_us, at_us)
        data = often.pack().SerializeToString(deterministic=True)
        often = declared.unpack(series_pb2.Windows.FromString(data))
        assert often == plain
        assert often.pack() == plain.pack()


def test_what_is_acknowledged_leaves_the_state_and_nothing_else_does() -> None:
    windows = series().windows()
    for second in range(10):
        pour(windows, T0 + second * S, T0 + second * S + 10)
    first, rest = windows.closed[:3], windows.closed[3:]
    assert rest
    windows.acknowledged(first)
    assert windows.closed == rest
    windows.acknowledged(first)
    assert windows.closed == rest


def test_what_lies_before_the_oldest_open_window_is_closed() -> None:
    windows = series().windows()
    assert windows.open_from(1) == 0
    for second in (0, 100, 4000):
        pour(windows, T0 + second * S, T0 + second * S + 10)
        for w in windows.closed:
            assert w.start_us < windows.open_from(w.window_s)
        for window in windows.open():
            assert window.start_us >= windows.open_from(window.window_s)


# --- declaring ---


def view_of(*fields: str, declared: Series[Sum] | None = None) -> View[Any]:
    made = declared or series()
    state = type("Kept", (), {"__annotations__": dict.fromkeys(fields, Windows[Sum])})
    for name in fields:
        setattr(state, name, field(default_factory=made.windows))
    kept: Any = dataclass(slots=True)(state)

    def encode(one: Any) -> bytes:
        return b"".join(getattr(one, name).pack().SerializeToString() for name in fields)

    return View(
        "kept", events=ArmEvent, state=kept, codec=Codec(encode, lambda _: kept()), ignores=[JointPositionsChanged]
    )


def test_a_view_finds_its_series_by_the_type_of_the_field() -> None:
    declared = series()
    view = view_of("windows", declared=declared)
    assert view.series is declared
    assert view.windows_field == "windows"
    assert view.series_specs() == [
        SeriesSpec("kept", 1, 10),
        SeriesSpec("kept", 60, 100),
        SeriesSpec("kept", 3600, 1000),
    ]


def test_a_view_without_windows_keeps_no_series() -> None:
    view = view_of()
    assert view.series is None
    assert view.series_specs() == []


def test_two_series_in_one_state_are_refused() -> None:
    with pytest.raises(MisdeclaredError, match=r"has 2 fields of type Windows \(one, two\): a view keeps one series"):
        view_of("one", "two")


@dataclass(slots=True)
class Needs:
    us: int


class Unequal:
    pass


def grows(into: Sum, more: Sum) -> None:
    into.us += more.us + 1


seen: dict[int, int] = {}


def remembers(into: Sum, more: Sum) -> None:
    seen[len(seen)] = more.us


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"lengths": []}, "pairs (window_s, keep_s) of whole seconds"),
        ({"lengths": [(0, 1)]}, "pairs (window_s, keep_s) of whole seconds"),
        ({"lengths": [(1, 10), (60, 10), (90, 10)]}, "windows of 90 s are not made of whole ones of 60 s"),
        ({"lengths": [(60, 10), (1, 10)]}, "windows of 1 s are not made of whole ones of 60 s"),
        ({"lengths": [(1, 10), (60, 9)]}, "windows of 60 s are kept for 9 s, those of 1 s for 10 s"),
        ({"lengths": [(5, 10)], "grace_s": 12}, "grace_s is 12: let it be 1 to 3600 times the shortest length, 5 s"),
        ({"grace_s": 0}, "grace_s is 0"),
        ({"grace_s": 3601}, "grace_s is 3601"),
        ({"codec": None}, "its totals are not a protobuf message"),
        ({"codec": Codec(lambda _: b"", lambda _: Sum(1))}, "decode(encode(...)) of new Sum is not equal to it"),
        ({"add": grows}, "adding new Sum to new Sum changes it"),
        ({"add": remembers}, "uses `seen`, a dict outside its state"),
    ],
)
def test_a_series_that_cannot_be_is_refused_in_a_sentence(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(MisdeclaredError) as refused:
        series(**changed)
    assert says in str(refused.value)
    assert "test_series.py" in str(refused.value)


@pytest.mark.parametrize(("totals", "says"), [(Needs, "cannot be made without arguments"), (Unequal, "is not equal")])
def test_totals_that_cannot_be_are_refused_in_a_sentence(totals: Any, says: str) -> None:
    with pytest.raises(MisdeclaredError, match=says):
        Series(totals, add=lambda _into, _more: None, codec=Codec(lambda _: b"", lambda _: totals()))


def test_a_length_that_is_not_declared_any_more_takes_a_new_build() -> None:
    windows = series().windows()
    pour(windows, T0, T0 + 10 * S)
    pour(windows, T0 + 100 * S, T0 + 101 * S)
    with pytest.raises(ValueError, match="declares no windows of 3600 s any more: raise `build`"):
        series(lengths=[(1, 10), (60, 10)]).unpack(windows.pack())
