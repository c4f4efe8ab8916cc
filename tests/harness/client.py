"""Clients that know the contract and nothing else, and what they make of errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from aorist.v1.position_pb2 import Position
from aorist.v1.read_pb2 import ReadOptions
from aorist.v1.status_pb2 import GetStatusRequest, ShardStatus
from aorist.v1.status_pb2_grpc import StatusServiceStub
from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.commands_pb2 import JointSample, StreamJointPositionsRequest
from fleet.arms.v1.commands_pb2_grpc import ArmCommandServiceStub
from fleet.arms.v1.queries_pb2 import ArmPosition, ListArmPositionsRequest
from fleet.arms.v1.queries_pb2_grpc import ArmQueryServiceStub
from tests.harness.log_file import TOPIC
from tests.harness.places import PATIENCE_S

# Connections of its own: shared ones keep a back-off that a restarted server would have to wait out.
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))

BASE_US = 1_767_225_600_000_000
"""2026-01-01: sample times of tests that need no clock."""


def channel_to(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, options=OPTIONS)


def sample(arm_id: str, at: int = 0, *positions: float) -> JointSample:
    """`at`: microseconds after BASE_US. One axis for each position; without any, one at 0.5."""
    axes = [AxisPosition(axis=n, position=p) for n, p in enumerate(positions or (0.5,))]
    return JointSample(arm_id=arm_id, sampled_at_us=BASE_US + at, axes=axes)


class Refusal(NamedTuple):
    """An error as a program sees it. `fields`: violated field -> why."""

    code: grpc.StatusCode
    reason: str
    fields: dict[str, str]


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    status: Any = rpc_status.from_call(error)  # type: ignore[arg-type]  # an error is a call
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    reason, fields = "", dict[str, str]()
    for detail in status.details if status is not None else ():
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            fields |= {v.field: v.description for v in bad.field_violations}
    return Refusal(error.code(), reason, fields)


def retry_ms_of(error: grpc.aio.AioRpcError) -> int:
    """When to try again, as the error says; -1: it does not."""
    status: Any = rpc_status.from_call(error)  # type: ignore[arg-type]
    retry = error_details_pb2.RetryInfo()
    found = any(detail.Unpack(retry) for detail in (status.details if status is not None else ()))
    return int(retry.retry_delay.ToMilliseconds()) if found else -1


async def one_of(call: Any) -> Any:
    """The next answer of a stream; it must not have ended."""
    answer = await asyncio.wait_for(call.read(), PATIENCE_S)
    assert answer is not grpc.aio.EOF, "the stream has ended"
    return answer


async def refused(call: Awaitable[object]) -> Refusal:
    """How `call` fails; it must."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return refusal_of(error)
    raise AssertionError(f"was not refused: {answer}")


@dataclass
class Robot:
    """A controller that makes batch after batch, notes what is acknowledged, and sends the rest again, unchanged."""

    batch: Callable[[int], Sequence[JointSample]]
    in_flight: int = 8
    most: int = 2**62  # batches
    done: int = 0  # batches acknowledged: the first ones
    acknowledged: set[tuple[str, int]] = field(default_factory=set)
    positions: dict[int, int] = field(default_factory=dict)

    async def converse(self, address: str, stop: asyncio.Event | None = None) -> None:
        """One stream, from the first batch not acknowledged. Returns at its end, or when it broke off."""
        async with channel_to(address) as channel:
            call = ArmCommandServiceStub(channel).StreamJointPositions()
            room = asyncio.Semaphore(self.in_flight)
            writing = asyncio.create_task(self._write(call, room, stop))
            try:
                async for answer in call:
                    assert not answer.refused
                    while self.done < answer.acknowledged_sequence:
                        self.acknowledged |= {(s.arm_id, s.sampled_at_us) for s in self.batch(self.done)}
                        self.done += 1
                        room.release()
                    for position in answer.positions:
                        assert position.offset > self.positions.get(position.partition, -1)
                        self.positions[position.partition] = position.offset
            except grpc.aio.AioRpcError as error:
                assert error.code() in (  # noqa: PT017 - anything else would hide what went wrong
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.CANCELLED,
                    grpc.StatusCode.INTERNAL,  # grpc.aio's own, when a write meets the end of the connection
                    grpc.StatusCode.UNKNOWN,
                ), error
            finally:
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)

    async def _write(self, call: Any, room: asyncio.Semaphore, stop: asyncio.Event | None) -> None:
        for number in range(self.done, self.most):
            await room.acquire()
            if stop is not None and stop.is_set():
                break
            await call.write(StreamJointPositionsRequest(sequence=number + 1, samples=self.batch(number)))
        await call.done_writing()


def at_least(positions: Iterable[tuple[int, int]], max_wait_ms: int = int(PATIENCE_S * 1000)) -> ReadOptions:
    """Freshness of these (partition, offset), for as long as a test waits."""
    wanted = [Position(topic=TOPIC, partition=partition, offset=offset) for partition, offset in positions]
    return ReadOptions(at_least=wanted, max_wait_ms=max_wait_ms)


async def all_arms(address: str, read: ReadOptions | None = None) -> dict[str, ArmPosition]:
    """Every arm the list shows, page by page; no partition may be missing."""
    arms: dict[str, ArmPosition] = {}
    async with channel_to(address) as channel:
        queries, token = ArmQueryServiceStub(channel), ""
        while True:
            page = await queries.ListArmPositions(ListArmPositionsRequest(page_token=token, read=read))
            assert not page.missing_partitions
            arms |= {arm.arm_id: arm for arm in page.arms}
            token = page.next_page_token
            if not token:
                return arms


async def shards_of(address: str) -> dict[int, ShardStatus]:
    """What the status service says of each partition of the view of positions."""
    async with channel_to(address) as channel:
        answer = await StatusServiceStub(channel).GetStatus(GetStatusRequest())
    return {shard.partition: shard for shard in answer.shards if shard.view.startswith("arm_position@")}


async def until_shards(address: str, condition: Callable[[dict[int, ShardStatus]], bool], what: str) -> None:
    """Returns once the status service says so."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition(shards := await shards_of(address)):
        assert time.monotonic() < give_up, f"not within {PATIENCE_S:g} s: {what}; {shards}"
        await asyncio.sleep(0.02)
