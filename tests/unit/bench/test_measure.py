"""What the table says follows from the rounds: a ratio of pairs, an aim reached or not. Backlogs are what they say they are."""

from __future__ import annotations

from itertools import pairwise

import pytest

from aorist.position import partition_of
from bench.fill import FIRST_US, PARTITIONS, PATTERNS, PHASE, ROUND_US, _messages, _Template, arm_name
from bench.measure import Aim, Line, NotMeasuredError, interleaved, percentile
from fleet.arms.v1.events_pb2 import ArmEvent
from materializers.arm_motion import BAND


def test_ratio_is_the_median_over_rounds() -> None:
    assert Line("n", "/s", [50, 10, 60], [100, 100, 100]).ratio == 0.5


def test_less_time_than_the_limit_is_a_ratio_above_one() -> None:
    assert Line("n", "ms", [2.0], [4.0], less_is_better=True).ratio == 2.0


@pytest.mark.parametrize(
    ("value", "reached"), [(4.0, "missed"), (5.0, "first step"), (12.0, "goal")], ids=["below", "first", "goal"]
)
def test_aim_in_the_unit_of_the_line(value: float, reached: str) -> None:
    assert Line("n", "/s", [value], aim=Aim(5, 12)).reached() == reached


@pytest.mark.parametrize(("value", "reached"), [(3.0, "missed"), (2.0, "first step"), (1.0, "goal")])
def test_aim_where_less_is_better(value: float, reached: str) -> None:
    assert Line("n", "ms", [value], less_is_better=True, aim=Aim(2, 1)).reached() == reached


def test_aim_as_a_share_of_the_limit() -> None:
    assert Line("n", "/s", [70], [100], aim=Aim(0.6, 0.85, of_limit=True)).reached() == "first step"


def test_rounds_take_turns() -> None:
    calls: list[str] = []
    interleaved(range(2), lambda: calls.append("ours"), lambda: calls.append("limit"))
    assert calls == ["ours", "limit", "ours", "limit"]


def test_percentile_of_nothing_is_no_figure() -> None:
    with pytest.raises(NotMeasuredError):
        percentile([], 0.99)


def test_backlog_has_every_arm_once_a_round_in_its_partition_and_time_grows() -> None:
    templates = [_Template(arm_name(number), axes=2) for number in range(20)]
    times: dict[str, list[int]] = {}
    for partition, messages in _messages(templates, PATTERNS + 1):
        for message in messages:
            event = ArmEvent.FromString(message["value"]).joint_positions_changed  # type: ignore[arg-type]
            assert message["key"] == event.arm_id.encode()
            assert partition_of(event.arm_id.encode(), PARTITIONS) == partition
            assert [axis.axis for axis in event.axes] == [0, 1]
            times.setdefault(event.arm_id, []).append(event.sampled_at_us)
    assert len(times) == 20
    assert all(seen == [FIRST_US + n * ROUND_US for n in range(PATTERNS + 1)] for seen in times.values())


def test_arms_that_rest_jitter_within_the_band_for_half_of_the_time() -> None:
    templates, positions = [_Template(arm_name(1), axes=1)], list[float]()
    for _, messages in _messages(templates, 2 * PHASE, rests=True):
        for message in messages:
            event = ArmEvent.FromString(message["value"]).joint_positions_changed  # type: ignore[arg-type]
            positions.append(event.axes[0].position)
    steps = [abs(after - before) for before, after in pairwise(positions)]
    assert all(step > BAND for step in steps[:PHASE])
    assert all(0 < step < BAND for step in steps[PHASE:])
