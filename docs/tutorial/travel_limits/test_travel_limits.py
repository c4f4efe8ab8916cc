"""The view by itself: events in, an answer out, no server."""

# mypy: disable-error-code="import-not-found,import-untyped"
# ruff: noqa: I001

# region given
from aorist.declare import given
from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.events_pb2 import JointPositionsChanged
from limits.v1.queries_pb2 import GetTravelLimitsRequest, GetTravelLimitsResponse, Travel, TravelLimits
from materializers.travel_limits import travel_limits

EVENTS = [
    JointPositionsChanged(
        arm_id="arm-1", axes=[AxisPosition(axis=0, position=0.5), AxisPosition(axis=1, position=2.0)]
    ),
    JointPositionsChanged(arm_id="arm-1", axes=[AxisPosition(axis=0, position=-1.25)]),
    JointPositionsChanged(arm_id="arm-1", axes=[AxisPosition(axis=0, position=0.25)]),
]
SEEN = TravelLimits(arm_id="arm-1", axes={0: Travel(least=-1.25, greatest=0.5), 1: Travel(least=2.0, greatest=2.0)})


def test_the_least_and_the_greatest_position_of_each_axis_are_kept() -> None:
    given(travel_limits, EVENTS).ask(GetTravelLimitsRequest(arm_id="arm-1")).then(GetTravelLimitsResponse(limits=SEEN))


# endregion


# region replay
def test_replayed_events_change_nothing() -> None:
    again = [*EVENTS, *EVENTS[1:], *EVENTS]
    given(travel_limits, again).ask(GetTravelLimitsRequest(arm_id="arm-1")).then(GetTravelLimitsResponse(limits=SEEN))


# endregion
