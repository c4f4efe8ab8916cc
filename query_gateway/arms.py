"""Arms: queries go to the owner of the arm; lists are merged in the order of arm ids, comparisons from the busiest arm on."""

from aorist.declare import Queries
from fleet.arms.v1.events_pb2 import ArmEvent
from fleet.arms.v1.motion_pb2 import CompareMotionRequest
from fleet.arms.v1.queries_pb2 import ListArmPositionsRequest

arms = Queries("fleet.arms.v1.ArmQueryService", events=ArmEvent)

arms.merge_by_key(ListArmPositionsRequest)

# region motion
motion = Queries("fleet.arms.v1.ArmMotionQueryService", events=ArmEvent)

motion.merge_descending(CompareMotionRequest)
# endregion
