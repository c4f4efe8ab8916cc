"""As in the real project."""

from envelope import Envelope  # type: ignore[import-not-found]

from aorist.declare import Commands
from fleet.arms.v1.commands_pb2 import JointSample, ReportJointPositionsRequest
from fleet.arms.v1.events_pb2 import JointPositionsChanged

arms = Commands("fleet.arms.v1.ArmCommandService", publishes=Envelope)


@arms.stream
def changed(sample: JointSample) -> JointPositionsChanged:
    return JointPositionsChanged(arm_id=sample.arm_id, sampled_at_us=sample.sampled_at_us, axes=sample.axes)


@arms.command
def report(ask: ReportJointPositionsRequest) -> JointPositionsChanged:
    return changed(ask.sample)
