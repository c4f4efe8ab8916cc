"""Travel limits seen: the least and the greatest position at which each axis of an arm was ever seen."""

# For this repository's checks only: the contract is generated where the tutorial is tested, and handlers have one shape, used or not.
# mypy: disable-error-code="import-not-found"
# ruff: noqa: ARG001, I001

# region view
from aorist.declare import View
from fleet.arms.v1.events_pb2 import ArmEvent, JointPositionsChanged
from limits.v1.queries_pb2 import (
    GetTravelLimitsRequest,
    GetTravelLimitsResponse,
    ListTravelLimitsRequest,
    TravelLimits,
)

travel_limits = View("travel_limits", events=ArmEvent, state=TravelLimits)
# endregion


# region apply
@travel_limits.apply
def moved(arm: TravelLimits, event: JointPositionsChanged) -> None:
    for axis in event.axes:
        known = axis.axis in arm.axes
        seen = arm.axes[axis.axis]
        seen.least = min(seen.least, axis.position) if known else axis.position
        seen.greatest = max(seen.greatest, axis.position) if known else axis.position


# endregion


# region get
@travel_limits.get
def get(arm: TravelLimits, ask: GetTravelLimitsRequest) -> GetTravelLimitsResponse:
    return GetTravelLimitsResponse(limits=arm)


# endregion


# region list
@travel_limits.list
def each(arm: TravelLimits, ask: ListTravelLimitsRequest) -> TravelLimits | None:
    return arm


# endregion
