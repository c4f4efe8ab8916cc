"""The test kit folds and asks as the platform does: `given(view, events).ask(request).then(answer)`."""

from __future__ import annotations

import pytest

from aorist.declare import View, given
from aorist.errors import MisdeclaredError, UnknownKeyError
from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.events_pb2 import JointPositionsChanged
from fleet.arms.v1.queries_pb2 import (
    ArmPosition,
    AxisReading,
    GetArmPositionRequest,
    GetArmPositionResponse,
    ListArmPositionsRequest,
    ListArmPositionsResponse,
    WatchArmPositionRequest,
    WatchArmPositionResponse,
)
from materializers.arm_position import arm_position
from tests.unit.declare.things import Things, Wrong


def moved(arm: str, at: int, **axes: float) -> JointPositionsChanged:
    positions = [AxisPosition(axis=int(name[1:]), position=position) for name, position in axes.items()]
    return JointPositionsChanged(arm_id=arm, sampled_at_us=at, axes=positions)


def arm(name: str, *axes: tuple[int, float, int]) -> ArmPosition:
    return ArmPosition(arm_id=name, axes=[AxisReading(axis=n, position=p, sampled_at_us=at) for n, p, at in axes])


EVENTS = [moved("b", 1, a0=0.5), moved("a", 2, a1=1.5, a0=1.0), moved("a", 3, a1=2.5)]
A, B = arm("a", (0, 1.0, 2), (1, 2.5, 3)), arm("b", (0, 0.5, 1))


def test_a_get_is_answered_with_the_key_filled_in() -> None:
    given(arm_position, EVENTS).ask(GetArmPositionRequest(arm_id="a")).then(GetArmPositionResponse(arm=A))


def test_a_watch_is_answered_as_of_now() -> None:
    given(arm_position, EVENTS).ask(WatchArmPositionRequest(arm_id="b")).then(WatchArmPositionResponse(arm=B))


def test_a_list_is_in_the_order_of_keys() -> None:
    given(arm_position, EVENTS).ask(ListArmPositionsRequest()).then(ListArmPositionsResponse(arms=[A, B]))


def test_a_late_repeat_does_not_win() -> None:
    given(arm_position, [*EVENTS, EVENTS[1]]).ask(GetArmPositionRequest(arm_id="a")).then(GetArmPositionResponse(arm=A))


def test_another_answer_fails_and_shows_both() -> None:
    asked = given(arm_position, EVENTS).ask(GetArmPositionRequest(arm_id="b"))
    with pytest.raises(AssertionError, match=r"(?s)expected.*arm_id: \"a\".*got.*arm_id: \"b\""):
        asked.then(GetArmPositionResponse(arm=A))


def test_an_unknown_key_is_not_found() -> None:
    with pytest.raises(UnknownKeyError, match="no event of c has been folded"):
        given(arm_position, EVENTS).ask(GetArmPositionRequest(arm_id="c"))


def test_what_is_no_event_of_the_view_is_refused() -> None:
    with pytest.raises(MisdeclaredError, match="AxisPosition is not an event of ArmEvent"):
        given(arm_position, [AxisPosition()])


def test_what_the_view_does_not_answer_is_refused() -> None:
    with pytest.raises(MisdeclaredError, match="view `arm_position` answers no AxisPosition"):
        given(arm_position, EVENTS).ask(AxisPosition())


def test_a_view_that_is_not_complete_is_refused(things: Things) -> None:
    things.write(Wrong(()))
    contract = things.contract
    view = View("bare", events=contract.ThingEvent, state=contract.Thing)
    with pytest.raises(MisdeclaredError, match="Moved has no handler"):
        given(view)


def test_ignored_events_and_filtered_keys_are_left_out(things: Things) -> None:
    things.write(Wrong(()))
    view, c = things.load().views["thing"], things.contract
    events = [c.Moved(id="a", to=1), c.Stopped(id="b"), c.Moved(id="c", to=0), c.Stopped(id="a")]
    given(view, events).ask(c.ListThingsRequest()).then(c.ListThingsResponse(things=[c.Thing(id="a", at=1)]))
    with pytest.raises(UnknownKeyError):
        given(view, events).ask(c.GetThingRequest(id="b"))


def test_handlers_come_back_unchanged(things: Things) -> None:
    """So that a test may call them."""
    things.write(Wrong(()))
    contract = things.contract
    state = contract.Thing()
    next(iter(things.load().views["thing"].handlers.values()))(state, contract.Moved(to=5))
    assert state.at == 5
