"""As in the real project."""

from aorist.declare import Queries
from fleet.arms.v1.events_pb2 import ArmEvent
from fleet.arms.v1.queries_pb2 import ListArmPositionsRequest

arms = Queries("fleet.arms.v1.ArmQueryService", events=ArmEvent)

arms.merge_by_key(ListArmPositionsRequest)
