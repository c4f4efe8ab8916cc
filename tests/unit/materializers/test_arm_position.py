"""The flat state of an arm holds what a dictionary of readings would, whatever axes and times events tell, and comes back from a row."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.events_pb2 import JointPositionsChanged
from fleet.arms.v1.queries_pb2 import ArmPosition, AxisReading
from fleet.arms.v1.snapshots_pb2 import ArmPositionSnapshot
from fleet.arms.v1.stand_ins_pb2 import JointPositionsByAxis
from materializers.arm_position import AXES, Arm, arm_position, moved, pack

CODEC = arm_position.codec

axes = st.one_of(st.integers(0, 3), st.integers(0, AXES + 1), st.integers(0, 2**32 - 1))
times = st.one_of(st.integers(-2, 2), st.sampled_from([-(2**63), 2**63 - 1]))
events = st.tuples(times, st.lists(st.tuples(axes, st.integers(-9, 9)), max_size=8))


def event(at_us: int, *new: tuple[int, float]) -> JointPositionsByAxis:
    positions = [AxisPosition(axis=axis, position=position) for axis, position in new]
    published = JointPositionsChanged(arm_id="a", sampled_at_us=at_us, axes=positions)
    return JointPositionsByAxis.FromString(published.SerializeToString())


def folded(*events: JointPositionsByAxis) -> Arm:
    arm = Arm()
    for one in events:
        moved(arm, one)
    return arm


@given(st.lists(events, max_size=8))
def test_the_newest_of_every_axis_is_held_and_survives_a_snapshot(
    told: list[tuple[int, list[tuple[int, int]]]],
) -> None:
    newest: dict[int, tuple[int, int]] = {}
    for at_us, new in told:
        for axis, position in new:
            if axis not in newest or at_us >= newest[axis][0]:
                newest[axis] = at_us, position
    arm = folded(*(event(at_us, *new) for at_us, new in told))
    readings = [AxisReading(axis=n, position=p, sampled_at_us=at) for n, (at, p) in sorted(newest.items())]
    assert pack(arm) == ArmPosition(axes=readings)
    again = CODEC.decode(CODEC.encode(arm))
    assert again == arm
    assert pack(again) == pack(arm)


def test_an_arm_that_comes_back_from_a_row_folds_on() -> None:
    first = event(5, (0, 0.5), (1, 1.5))
    late, next_ = event(4, (0, 9.0), (2, 2.5)), event(6, (1, 1.75))
    assert folded(first, late, next_) == Arm([0.5, 1.75, 2.5], each_at_us=[5, 6, 4])
    again = CODEC.decode(CODEC.encode(folded(first)))
    for one in (late, next_):
        moved(again, one)
    assert again == folded(first, late, next_)


def test_a_row_of_one_time_says_it_once() -> None:
    at_us = time.time_ns() // 1000
    arm = folded(event(at_us, *((axis, axis + 0.5) for axis in range(6))))
    assert ArmPositionSnapshot.FromString(CODEC.encode(arm)).sampled_at_us == [at_us]
    assert len(CODEC.encode(arm)) <= 60


def test_a_number_beyond_the_contracts_costs_what_one_axis_does() -> None:
    """Lists that reached it would be of gigabytes."""
    arm = folded(event(1, (2**32 - 1, 0.5), (AXES, 1.5)), event(0, (AXES, 9.0)), event(1, (AXES, 2.5)))
    assert not arm.positions
    assert pack(arm) == ArmPosition(
        axes=[AxisReading(axis=n, position=p, sampled_at_us=1) for n, p in ((AXES, 2.5), (2**32 - 1, 0.5))]
    )


def test_a_row_whose_lists_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="3 positions, but 2 times"):
        CODEC.decode(ArmPositionSnapshot(positions=[1, 2, 3], sampled_at_us=[4, 5]).SerializeToString())
