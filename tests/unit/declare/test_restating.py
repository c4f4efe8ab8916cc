"""An event may be declared to say what was asked: the same record as one whose fields are set one by one, and nothing unchecked."""

from __future__ import annotations

import pytest

from aorist.declare import Commands, restating
from aorist.errors import MisdeclaredError
from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.commands_pb2 import JointSample
from fleet.arms.v1.events_pb2 import ArmEvent, JointPositionsChanged
from tests.unit.declare.contract import compile_proto

SAMPLE = JointSample(arm_id="a", sampled_at_us=1, axes=[AxisPosition(axis=2, position=0.5), AxisPosition()])
EVENT = JointPositionsChanged(arm_id=SAMPLE.arm_id, sampled_at_us=SAMPLE.sampled_at_us, axes=SAMPLE.axes)
UNKNOWN = bytes([0xF2, 0x3F, 0x02]) + b"no"


def declared() -> Commands:
    arms = Commands("fleet.arms.v1.ArmCommandService", publishes=ArmEvent)
    arms.stream(restating(JointSample, JointPositionsChanged))
    return arms


def test_it_is_a_function_like_any_handler() -> None:
    assert restating(JointSample, JointPositionsChanged)(SAMPLE) == EVENT


@pytest.mark.parametrize("size", [1, 100, 2_000], ids=["short", "of two bytes", "long"])
def test_its_record_is_that_of_the_event(size: int) -> None:
    arms, sample = declared(), JointSample(arm_id="a", axes=[AxisPosition(position=0.5)] * size)
    record = arms.recorder(arms.commands["StreamJointPositions"])(sample)
    assert record == arms.schema.recorder()(JointPositionsChanged(arm_id="a", axes=sample.axes))
    assert record.value is not None
    assert ArmEvent.FromString(record.value).joint_positions_changed.axes == sample.axes


def test_what_nobody_knows_does_not_get_in() -> None:
    axis = AxisPosition.FromString(AxisPosition(axis=2, position=0.5).SerializeToString() + UNKNOWN)
    data = JointSample(arm_id="a", sampled_at_us=1, axes=[axis, AxisPosition()]).SerializeToString() + UNKNOWN
    arms = declared()
    assert arms.commands["StreamJointPositions"].function(JointSample.FromString(data)) == EVENT
    record = arms.recorder(arms.commands["StreamJointPositions"])(JointSample.FromString(data))
    assert record == arms.schema.recorder()(EVENT)


SHAPES = compile_proto("""
    message Of { string id = 1; repeated int64 values = 2; optional int32 maybe = 3; }
    message Same { string id = 1; repeated int64 values = 2; optional int32 maybe = 3; }
    message Fewer { string id = 1; repeated int64 values = 2; }
    message More { string id = 1; repeated int64 values = 2; optional int32 maybe = 3; bool and = 4; }
    message Renamed { string name = 1; repeated int64 values = 2; optional int32 maybe = 3; }
    message Zigzag { string id = 1; repeated sint64 values = 2; optional int32 maybe = 3; }
    message Single { string id = 1; int64 values = 2; optional int32 maybe = 3; }
    message Always { string id = 1; repeated int64 values = 2; int32 maybe = 3; }
""")


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ("Fewer", "only Of has a field 3"),
        ("More", "only More has a field 4"),
        ("Renamed", "field 1, `id`, is not the same in both"),
        ("Zigzag", "field 2, `values`, is not"),
        ("Single", "field 2, `values`, is not"),
        ("Always", "field 3, `maybe`, is not"),
    ],
)
def test_other_fields_are_refused_where_it_is_declared(event: str, says: str) -> None:
    restating(SHAPES.Of, SHAPES.Same)
    with pytest.raises(MisdeclaredError) as refused:
        restating(SHAPES.Of, SHAPES.classes[event])
    assert f"{__file__}:" in str(refused.value)
    assert says in str(refused.value)
