"""Asks for one arm again and again, and tells whenever somebody else answers: `python who_answers.py HOST:PORT ARM`."""

# ruff: noqa: T201

# region who
import sys
import time

import grpc

from aorist.v1.read_pb2 import Role
from fleet.arms.v1.queries_pb2 import GetArmPositionRequest
from fleet.arms.v1.queries_pb2_grpc import ArmQueryServiceStub

arms = ArmQueryServiceStub(grpc.insecure_channel(sys.argv[1]))
told, began = "", time.monotonic()
while True:
    try:
        header = arms.GetArmPosition(GetArmPositionRequest(arm_id=sys.argv[2]), timeout=10).header
        now = f"{Role.Name(header.role)} epoch {header.epoch} {'stale' if header.stale else 'fresh'}"
    except grpc.RpcError as error:
        now = f"{error.code().name}: {error.details()}"
    if now != told:
        print(f"{time.monotonic() - began:7.3f} s  {now}", flush=True)
        told = now
    time.sleep(0.001)
# endregion
