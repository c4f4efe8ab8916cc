"""A fold may take a message that stands in for an event: it gets what the event says, or is refused at import."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aorist.declare import View, check_fold
from aorist.engine.parked import fold_parked
from aorist.errors import FoldCheckError, MisdeclaredError
from aorist.ports import ParkedEvent
from aorist.position import Partition
from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.events_pb2 import ArmEvent, JointPositionsChanged
from fleet.arms.v1.stand_ins_pb2 import JointPositionsByAxis
from materializers.arm_position import Arm, arm_position
from tests.unit.declare.contract import compile_proto

FIELD = "joint_positions_changed"
UNKNOWN = bytes([0xF2, 0x3F, 0x02]) + b"no"

axes = st.lists(st.tuples(st.integers(0, 2**32 - 1) | st.integers(0, 3), st.floats(allow_nan=False)))


@given(axes, st.integers(-(2**63), 2**63 - 1), st.sampled_from([b"", UNKNOWN]))
def test_it_says_what_the_event_says(told: list[tuple[int, float]], at_us: int, more: bytes) -> None:
    positions = [
        AxisPosition.FromString(AxisPosition(axis=axis, position=position).SerializeToString() + more)
        for axis, position in told
    ]
    event = JointPositionsChanged(arm_id="a", sampled_at_us=at_us, axes=positions)
    taken: Any = arm_position.taken(FIELD, JointPositionsChanged.FromString(event.SerializeToString() + more))
    assert isinstance(taken, JointPositionsByAxis)
    assert (taken.arm_id, taken.sampled_at_us, dict(taken.axes)) == ("a", at_us, dict(told))


def test_a_parked_event_is_folded_as_any_other() -> None:
    event = JointPositionsChanged(arm_id="a", sampled_at_us=5, axes=[AxisPosition(axis=1, position=1.5)])
    parked = ParkedEvent(b"a", 7, ArmEvent(joint_positions_changed=event).SerializeToString(), "why", 1)
    folded = fold_parked(arm_position, Partition("t", 0), Arm(), 3, [parked])
    alone = Arm()
    arm_position.handlers[FIELD](alone, arm_position.taken(FIELD, event))
    assert (folded.state, folded.offset, folded.failed) == (alone, 7, None)


SHAPES = """
    enum Mood { MOOD_UNSPECIFIED = 0; }
    message Part { uint32 axis = 1; double position = 2; }
    message Maybe { uint32 axis = 1; optional double position = 2; }
    message Long { uint32 axis = 1; double position = 2; bool more = 3; }
    message Event {
      string id = 1;
      int64 at_us = 2;
      repeated Part parts = 3;
      repeated Maybe maybes = 4;
      repeated Long longs = 5;
      Part part = 6;
      repeated int64 numbers = 7;
      Mood mood = 8;
    }
    message Other { string id = 1; }
    message Envelope {
      option (aorist.v1.topic) = { name: "t" partitions: 2 key: "id" retention_ms: 1000 };
      aorist.v1.EventMeta meta = 1;
      oneof event { Event happened = 2; }
    }
    message State { map<uint32, double> parts = 1; int64 at_us = 2; }
    message StandIn { option (aorist.v1.stands_in_for) = "PACKAGE.EVENT"; FIELDS }
"""


WITH_MAP = "map<uint32, double> parts = 3;"
FIELDS = [
    "string id = 1;",
    "int64 at_us = 2;",
    WITH_MAP,
    "repeated Maybe maybes = 4;",
    "repeated Long longs = 5;",
    "Part part = 6;",
    "repeated int64 numbers = 7;",
    "Mood mood = 8;",
]


def view_of(*fields: str, event: str = "Event") -> View[Any]:
    """Its apply looks for part 1 also where there is none, which in a map makes one."""
    made = compile_proto(SHAPES.replace("FIELDS", " ".join(fields)).replace("EVENT", event))
    view: View[Any] = View("parts", events=made.Envelope, state=made.State)

    def apply(state: Any, event: Any) -> None:
        state.parts[1] = event.parts[1]

    apply.__annotations__ = {"state": made.State, "event": made.StandIn, "return": None}
    view.apply(apply)
    return view


@pytest.mark.parametrize("parts", [WITH_MAP, "repeated Part parts = 3;"], ids=["with a map", "as it is"])
def test_what_says_the_same_is_taken(parts: str) -> None:
    assert view_of(*(parts if field == WITH_MAP else field for field in FIELDS)).takes["happened"].__name__ == "StandIn"


@pytest.mark.parametrize(
    ("number", "field", "says"),
    [
        (1, "string id = 1; bool more = 9;", "only StandIn has a field 9"),
        (8, "", "only Event has a field 8"),
        (1, "string name = 1;", "field 1, `name`, is not the same in both"),
        (2, "sint64 at_us = 2;", "field 2, `at_us`, is not the same in both"),
        (2, "optional int64 at_us = 2;", "field 2, `at_us`, is not the same in both"),
        (3, "repeated Maybe parts = 3;", "field 3, `parts`, is not the same in both"),
        (3, "map<uint32, float> parts = 3;", "field 3, `parts`, is a map, and that of Event is no list of that name"),
        (3, "map<sint32, double> parts = 3;", "field 3, `parts`, is a map"),
        (3, "map<uint32, double> others = 3;", "field 3, `others`, is a map"),
        (4, "map<uint32, double> maybes = 4;", "field 4, `maybes`, is a map"),
        (5, "map<uint32, double> longs = 5;", "field 5, `longs`, is a map"),
        (6, "map<uint32, double> part = 6;", "field 6, `part`, is a map"),
        (7, "map<uint32, double> numbers = 7;", "field 7, `numbers`, is a map"),
    ],
)
def test_what_would_say_something_else_is_refused_where_it_is_taken(number: int, field: str, says: str) -> None:
    with pytest.raises(MisdeclaredError) as refused:
        view_of(*FIELDS[: number - 1], field, *FIELDS[number:])
    assert f"{__file__}:" in str(refused.value)
    assert f"StandIn cannot stand in for Event: {says}" in str(refused.value)


def test_it_stands_in_for_an_event_of_the_envelope() -> None:
    with pytest.raises(MisdeclaredError, match=r"StandIn stands in for made\d+\.Other, no event of Envelope"):
        view_of(*FIELDS, event="Other")


def test_its_fold_is_checked_as_any_other() -> None:
    view = view_of(*FIELDS)
    with pytest.raises(FoldCheckError, match="apply changed event 0 itself"):
        check_fold(view)
