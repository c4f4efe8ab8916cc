"""Travel limits: queries go to the owner of the arm; lists are merged in the order of arm ids."""

# mypy: disable-error-code="import-not-found"
# ruff: noqa: I001

# region queries
from aorist.declare import Queries
from fleet.arms.v1.events_pb2 import ArmEvent
from limits.v1.queries_pb2 import ListTravelLimitsRequest

limits = Queries("limits.v1.TravelLimitsService", events=ArmEvent)

limits.merge_by_key(ListTravelLimitsRequest)
# endregion
