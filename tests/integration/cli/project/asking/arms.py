"""As in the real project."""

from envelope import Envelope  # type: ignore[import-not-found]

from aorist.declare import Queries
from fleet.arms.v1.queries_pb2 import ListArmPositionsRequest

arms = Queries("fleet.arms.v1.ArmQueryService", events=Envelope)

arms.merge_by_key(ListArmPositionsRequest)
