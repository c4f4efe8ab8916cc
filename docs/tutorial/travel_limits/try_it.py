"""Reports three samples and asks for the limits: `python try_it.py HOST:PORT`."""

# mypy: disable-error-code="import-not-found"
# ruff: noqa: I001, T201

# region try
import sys
import time

import grpc

from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.commands_pb2 import JointSample, ReportJointPositionsRequest
from fleet.arms.v1.commands_pb2_grpc import ArmCommandServiceStub
from limits.v1.queries_pb2 import GetTravelLimitsRequest
from limits.v1.queries_pb2_grpc import TravelLimitsServiceStub

channel = grpc.insecure_channel(sys.argv[1])
arms, limits = ArmCommandServiceStub(channel), TravelLimitsServiceStub(channel)

for position in (0.5, -1.25, 0.25):
    axes = [AxisPosition(axis=0, position=position)]
    sample = JointSample(arm_id="arm-1", sampled_at_us=time.time_ns() // 1000, axes=axes)
    reported = arms.ReportJointPositions(ReportJointPositionsRequest(sample=sample))

ask = GetTravelLimitsRequest(arm_id="arm-1")
ask.read.at_least.append(reported.position)  # an answer that includes what was just reported
seen = limits.GetTravelLimits(ask).limits.axes[0]
print(f"axis 0 of arm-1 was seen from {seen.least} to {seen.greatest}")
# endregion
