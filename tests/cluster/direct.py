"""A worker asked as gateways ask it: what it answers as the owner, whoever owns its shards by now."""

from __future__ import annotations

import time

import grpc

from aorist.v1.read_pb2 import ROLE_OWNER
from aorist.v1.worker_pb2 import Answer, AskRequest, Question
from aorist.v1.worker_pb2_grpc import WorkerServiceStub
from fleet.arms.v1.queries_pb2 import GetArmPositionRequest, GetArmPositionResponse
from tests.cluster.load import Load
from tests.cluster.oracle import Told
from tests.harness.client import channel_to
from tests.harness.log_file import VIEW


async def ask_directly(address: str, load: Load) -> list[Told]:
    """As gateways do, about every arm, for a while: what the worker answers as the owner. All else that it may say is that it is none, or
    is not ready to be one again.
    """
    told, heard = list[Told](), 0
    partitions = {answer.arm: answer.partition for answer in load.told}
    async with channel_to(address) as channel:
        worker = WorkerServiceStub(channel)
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            asked = AskRequest(
                questions=[question(load.topic, arm, partition) for arm, partition in partitions.items()]
            )
            try:
                response = await worker.Ask(asked, timeout=10)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                continue
            for arm, answer in zip(partitions, response.answers, strict=True):
                check_role(answer)
                heard += 1
                if answer.HasField("response"):
                    got = GetArmPositionResponse.FromString(answer.response)
                    (axis,), at = got.arm.axes, got.header.position
                    told.append(
                        Told(arm, at.partition, at.offset, int(axis.position), axis.sampled_at_us, answer.epoch)
                    )
    assert heard, "it was away all the time: nothing is shown"
    return told


def check_role(answer: Answer) -> None:
    if answer.HasField("error"):
        refused = str(answer.error)
        assert "NO_OWNER" in refused or "RESTORING" in refused, answer
    else:
        assert GetArmPositionResponse.FromString(answer.response).header.role == ROLE_OWNER


def question(topic: str, arm: str, partition: int) -> Question:
    request = GetArmPositionRequest(arm_id=arm)
    return Question(
        view=f"{VIEW}@1",
        topic=topic,
        partition=partition,
        request_type=request.DESCRIPTOR.full_name,
        request=request.SerializeToString(),
        key=arm.encode(),
        timeout_ms=1000,
    )
