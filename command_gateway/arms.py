"""Arms: what controllers report becomes JointPositionsChanged, one event for each sample."""

from aorist.declare import Commands, restating
from fleet.arms.v1.commands_pb2 import JointSample, ReportJointPositionsRequest
from fleet.arms.v1.events_pb2 import ArmEvent, JointPositionsChanged

# region commands
arms = Commands("fleet.arms.v1.ArmCommandService", publishes=ArmEvent)

# A sample is stated as it came: the event has the same fields.
changed = arms.stream(restating(JointSample, JointPositionsChanged))


@arms.command
def report(ask: ReportJointPositionsRequest) -> JointPositionsChanged:
    return changed(ask.sample)


# endregion
