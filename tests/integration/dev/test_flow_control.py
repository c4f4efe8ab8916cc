"""Flow control: a flooding robot is slowed, not served at others' cost: memory stays flat, nothing acknowledged is missing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from fleet.arms.v1.commands_pb2 import JointSample, StreamJointPositionsRequest, StreamJointPositionsResponse
from fleet.arms.v1.commands_pb2_grpc import ArmCommandServiceStub
from tests.harness.client import OPTIONS, Robot, channel_to, one_of, refused, sample
from tests.harness.log_file import LogFile
from tests.harness.process import DevProcess

STREAM = "/fleet.arms.v1.ArmCommandService/StreamJointPositions"
PADDING = bytes([0xF2, 0x3F, 0x80, 0x80, 0x10]) + bytes(256 << 10)  # an unknown field: costs memory, not disk
OFFERED = 100 << 20
FLAT = 48 << 20
"""Much more than may be unacknowledged at once, in the server and on its way through two HTTP/2 stacks; much less than is offered."""


@pytest.fixture
async def process(tmp_path: Path, transport: str) -> AsyncIterator[DevProcess]:
    async with DevProcess(tmp_path, transport=transport, log_level="warning", drain_s=1) as running:
        await running.start()
        robot = Robot(lambda number: [sample("warm", number * 100 + n) for n in range(100)], most=50)
        await robot.converse(running.address)  # so that what every process needs is there before memory is measured
        yield running


def flood(channel: grpc.aio.Channel) -> Any:
    serialize, parse = StreamJointPositionsRequest.SerializeToString, StreamJointPositionsResponse.FromString
    padded = lambda request: serialize(request) + PADDING  # noqa: E731 - a function for grpc
    return channel.stream_stream(STREAM, request_serializer=padded, response_deserializer=parse)()


def batch(sequence: int) -> StreamJointPositionsRequest:
    return StreamJointPositionsRequest(sequence=sequence, samples=[sample("flood", sequence)])


async def most_resident(process: DevProcess, work: asyncio.Future[Any]) -> int:
    """The most memory it held until `work` was done."""
    most = process.resident_bytes()
    while not work.done():
        await asyncio.wait({work}, timeout=0.02)
        most = max(most, process.resident_bytes())
    work.result()
    return most


async def serve_second_robot(process: DevProcess) -> float:
    """How long it took to get ten batches acknowledged, one after the other."""
    started = time.monotonic()
    second = Robot(lambda number: [sample("second", number)], in_flight=1, most=10)
    await second.converse(process.address)
    assert second.done == 10
    return time.monotonic() - started


async def test_a_flood_that_reads_its_acknowledgements_late(process: DevProcess) -> None:
    """100 MB as fast as they are taken, acknowledgements read when there is nothing left to write; another robot beside it."""
    before, batches = process.resident_bytes(), OFFERED // len(PADDING)
    async with channel_to(process.address) as channel:
        call = flood(channel)

        async def write() -> None:
            for sequence in range(1, batches + 1):
                await call.write(batch(sequence))
            await call.done_writing()

        writing = asyncio.create_task(write())
        second = asyncio.create_task(serve_second_robot(process))
        most = await most_resident(process, asyncio.gather(writing, second))
        acknowledged = [answer.acknowledged_sequence async for answer in call]

    assert acknowledged[-1] == batches
    assert most - before < FLAT, f"{(most - before) >> 20} MB more"
    assert LogFile.of(process.db).count() == {"warm": 5000, "flood": batches, "second": 10}


async def test_a_flood_that_never_reads_is_stopped_and_others_are_served(process: DevProcess) -> None:
    """Its answers are long, as everything in it is refused: once they fill what is on the way, no more is read from it."""
    before = process.resident_bytes()
    narrow = (*OPTIONS, ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536))
    async with grpc.aio.insecure_channel(process.address, options=narrow) as channel:
        call = ArmCommandServiceStub(channel).StreamJointPositions()
        bad = [JointSample()] * 400  # 1 kB, answered with 60
        written = 0

        async def write() -> None:
            nonlocal written
            for sequence in range(1, 100_000):
                await call.write(StreamJointPositionsRequest(sequence=sequence, samples=bad))
                written += 1

        writing = asyncio.create_task(write())
        for _ in range(3):
            assert await serve_second_robot(process) < 20
            most = process.resident_bytes()
        stopped_at = -1
        while stopped_at != written:  # until it has stood still for a second
            stopped_at = written
            await asyncio.wait({writing}, timeout=1.0)
            most = max(most, process.resident_bytes())
        assert not writing.done()
        assert 0 < written < 90_000
        assert most - before < FLAT, f"{(most - before) >> 20} MB more"
        assert await serve_second_robot(process) < 20

        # what it was told, once it looks, is true
        answer = await one_of(call)
        assert answer.acknowledged_sequence >= 1
        assert len(answer.refused) == 400 * answer.acknowledged_sequence
        writing.cancel()
        call.cancel()


async def test_refusals_by_the_thousand_all_arrive(process: DevProcess) -> None:
    """A robot with a wrong clock: acknowledgements are cumulative, but never larger than what clients take."""
    bad = [JointSample(arm_id="bad arm", sampled_at_us=1)] * 1500
    async with channel_to(process.address) as channel:
        call = ArmCommandServiceStub(channel).StreamJointPositions()
        for sequence in range(1, 41):
            await call.write(StreamJointPositionsRequest(sequence=sequence, samples=bad))
        await call.done_writing()
        refused_samples = [(r.sequence, r.index) async for answer in call for r in answer.refused]

    assert refused_samples == [(sequence, index) for sequence in range(1, 41) for index in range(1500)]


async def test_a_flood_at_the_stop_does_not_hold_it_up(process: DevProcess) -> None:
    async with channel_to(process.address) as channel:
        call = flood(channel)
        acknowledged = 0

        async def write() -> None:
            for sequence in range(1, 100_000):
                await call.write(batch(sequence))

        async def read() -> None:
            nonlocal acknowledged
            async for answer in call:
                if acknowledged < 20 <= answer.acknowledged_sequence:
                    process.terminate()
                acknowledged = answer.acknowledged_sequence

        writing = asyncio.create_task(write())
        refusal = await refused(read())
        assert refusal.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)  # INTERNAL: a write met the end
        assert await process.ended(15) == 0, process.tail()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    assert acknowledged >= 20
    there = {at for arm, at in LogFile.of_dead(process.db).samples() if arm == "flood"}
    assert {sample("flood", n).sampled_at_us for n in range(1, acknowledged + 1)} <= there


async def test_a_batch_of_very_many_samples_does_not_hold_up_others(process: DevProcess) -> None:
    many = StreamJointPositionsRequest(sequence=1, samples=[sample("many", n) for n in range(10_000)])
    answered = 0

    async def ping() -> None:
        nonlocal answered
        async with channel_to(process.address) as channel:
            stub = ArmCommandServiceStub(channel)
            call = stub.StreamJointPositions()
            for sequence in range(1, 100_000):
                await call.write(StreamJointPositionsRequest(sequence=sequence))
                await one_of(call)
                answered += 1

    pinging = asyncio.create_task(ping())
    async with channel_to(process.address) as channel:
        call = ArmCommandServiceStub(channel).StreamJointPositions()
        await call.write(many)
        before = answered
        assert (await one_of(call)).acknowledged_sequence == 1
        meanwhile = answered - before
        call.cancel()
    pinging.cancel()
    await asyncio.gather(pinging, return_exceptions=True)

    assert meanwhile >= 5  # were the batch checked in one go, one or two would have got through
