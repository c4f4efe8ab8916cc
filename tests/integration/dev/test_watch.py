"""Watches: the state now, then its changes, conflated and rate-limited; positions never go back, the last state is never missed."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from fleet.arms.v1.commands_pb2 import ReportJointPositionsRequest
from fleet.arms.v1.queries_pb2 import GetArmPositionRequest, WatchArmPositionRequest, WatchArmPositionResponse
from fleet.arms.v1.queries_pb2_grpc import ArmQueryServiceStub
from tests.harness.client import BASE_US, OPTIONS, Robot, at_least, one_of, refused, sample
from tests.harness.in_process import Served, live_shards, served
from tests.harness.places import PATIENCE_S
from tests.harness.process import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def move(server: Served, arm: str, at: int, *positions: float) -> None:
    """Returns once the view has it."""
    request = ReportJointPositionsRequest(sample=sample(arm, at, *positions))
    told = (await server.commands.ReportJointPositions(request)).position
    read = at_least([(told.partition, told.offset)])
    await server.queries.GetArmPosition(GetArmPositionRequest(arm_id=arm, read=read))


def time_of(answer: WatchArmPositionResponse) -> int:
    return answer.arm.axes[0].sampled_at_us - BASE_US


async def collect(call: Any, last: int) -> list[WatchArmPositionResponse]:
    """Every answer up to the one with this sample time. Neither positions nor states may go back."""
    seen: list[WatchArmPositionResponse] = []
    while not seen or time_of(seen[-1]) < last:
        answer = await one_of(call)
        if seen:
            assert answer.header.position.offset > seen[-1].header.position.offset
            assert answer.header.epoch >= seen[-1].header.epoch
            assert time_of(answer) >= time_of(seen[-1])
        seen.append(answer)
    return seen


async def stream(server: Served, arm: str, first: int, last: int) -> None:
    """Samples at each of these times, as fast as they are taken."""
    robot = Robot(lambda number: [sample(arm, first + number * 10 + n) for n in range(10)], most=(last - first) // 10)
    await robot.converse(server.address)
    assert robot.done == robot.most


def watchers(arm: str) -> int:
    return sum(len(shard._watched.get(arm.encode(), ())) for shard in live_shards())


async def test_a_watch_begins_with_the_state_now(dev: Served, arm: str) -> None:
    await move(dev, arm, 3, 0.25, 0.75)
    call = dev.queries.WatchArmPosition(WatchArmPositionRequest(arm_id=arm))
    answer = await one_of(call)

    assert answer.arm.arm_id == arm
    assert [(a.axis, a.position) for a in answer.arm.axes] == [(0, 0.25), (1, 0.75)]
    assert answer.header.epoch > 0
    call.cancel()


async def test_every_change_to_a_watcher_who_keeps_up(dev: Served, arm: str) -> None:
    await move(dev, arm, 0)
    call = dev.queries.WatchArmPosition(WatchArmPositionRequest(arm_id=arm))
    for at in range(20):
        await move(dev, arm, at)
        assert time_of((await collect(call, at))[-1]) == at
    call.cancel()


async def test_changes_faster_than_they_are_taken_are_conflated_and_the_last_is_there(dev: Served, arm: str) -> None:
    await move(dev, arm, 0)
    call = dev.queries.WatchArmPosition(WatchArmPositionRequest(arm_id=arm))
    seen, _ = await asyncio.gather(collect(call, 4999), stream(dev, arm, 0, 5000))

    assert time_of(seen[-1]) == 4999
    assert len(seen) < 2500  # of 5000 changes
    call.cancel()


async def test_the_last_state_is_never_missed(dev: Served, arm: str) -> None:
    """Bursts that end at any moment: after each, without any further event, the watcher has its last state."""
    await move(dev, arm, 0)
    calls = [dev.queries.WatchArmPosition(WatchArmPositionRequest(arm_id=arm)) for _ in range(3)]
    calls += [dev.queries.WatchArmPosition(WatchArmPositionRequest(arm_id=arm, min_interval_ms=7))]
    for burst in range(1, 40):
        last = burst * 100 + 9
        results = await asyncio.gather(*(collect(call, last) for call in calls), stream(dev, arm, last - 9, last + 1))
        assert all(time_of(seen[-1]) == last for seen in results if seen is not None)
    for call in calls:
        call.cancel()


async def test_a_watch_with_an_interval_gives_no_more_than_asked_for(dev: Served, arm: str) -> None:
    await move(dev, arm, 0)
    call = dev.queries.WatchArmPosition(WatchArmPositionRequest(arm_id=arm, min_interval_ms=200))
    times: list[float] = []
    done = asyncio.Event()

    async def write() -> int:
        at = 0
        while not done.is_set():
            at += 1
            await move(dev, arm, at)
        return at

    writing = asyncio.create_task(write())
    while len(times) < 7:
        answer = await one_of(call)
        times.append(time.monotonic())
    done.set()
    changes = await writing

    assert changes > 30  # far more than were shown
    assert times[-1] - times[0] > 0.9 * 6 * 0.2  # the clock may be read late, hardly a tenth
    if time_of(answer) < changes:
        answer = (await collect(call, changes))[-1]
    assert time_of(answer) == changes
    call.cancel()


async def test_an_interval_beyond_the_contract_is_refused(dev: Served, arm: str) -> None:
    request = WatchArmPositionRequest(arm_id=arm, min_interval_ms=3_600_001)
    code, _, fields = await refused(dev.queries.WatchArmPosition(request).read())
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(fields) == {"min_interval_ms"}


async def test_a_watch_can_begin_at_least_at_a_position(dev: Served, arm: str) -> None:
    for at in range(30):
        request = ReportJointPositionsRequest(sample=sample(arm, at))
        told = (await dev.commands.ReportJointPositions(request)).position
        read = at_least([(told.partition, told.offset)])
        call = dev.queries.WatchArmPosition(WatchArmPositionRequest(arm_id=arm, read=read))
        answer = await one_of(call)
        assert time_of(answer) >= at
        assert answer.header.position.offset >= told.offset
        call.cancel()


async def test_a_change_of_another_arm_is_no_change(dev: Served, arm: str) -> None:
    """The two share a partition, so the position moves; there is nothing to show."""
    await move(dev, arm, 0)
    mine = {event.partition for event in dev.log_file().of_arm(arm)}
    other = f"{arm}-0"
    for number in range(1, 200):
        await move(dev, other, 0)
        if {event.partition for event in dev.log_file().of_arm(other)} == mine:
            break
        other = f"{arm}-{number}"
    call = dev.queries.WatchArmPosition(WatchArmPositionRequest(arm_id=arm))
    assert time_of(await one_of(call)) == 0
    for at in range(1, 30):
        await move(dev, other, at)
    await move(dev, arm, 77)
    assert time_of(await one_of(call)) == 77  # and nothing between
    call.cancel()


async def test_a_cancelled_watch_leaves_nothing_behind(dev: Served, arm: str) -> None:
    await move(dev, arm, 0)
    tasks = asyncio.all_tasks()
    assert watchers(arm) == 0
    calls = [dev.queries.WatchArmPosition(WatchArmPositionRequest(arm_id=arm)) for _ in range(20)]
    calls += [dev.queries.WatchArmPosition(WatchArmPositionRequest(arm_id=arm, min_interval_ms=60_000))]
    for call in calls:
        await one_of(call)
    assert watchers(arm) == len(calls)
    for call in calls:
        call.cancel()

    def gone() -> bool:
        left = [task for task in asyncio.all_tasks() - tasks if "aorist" in repr(task.get_coro())]
        return watchers(arm) == 0 and not left

    await until(gone, "the end of everything that served the cancelled watches")


async def test_hundreds_of_watchers_hold_up_nobody(dev: Served, arm: str) -> None:
    await move(dev, arm, 0)
    calls = [dev.queries.WatchArmPosition(WatchArmPositionRequest(arm_id=arm)) for _ in range(250)]
    for call in calls:
        await one_of(call)
    await move(dev, arm, 1)
    for call in calls:
        assert time_of((await collect(call, 1))[-1]) == 1
        call.cancel()


async def test_watches_end_with_a_reason_when_the_server_stops(tmp_path: Path, transport: str) -> None:
    async with served(tmp_path, transport=transport) as server:
        await move(server, "arm", 0)
        calls = [server.queries.WatchArmPosition(WatchArmPositionRequest(arm_id="arm")) for _ in range(3)]
        for call in calls:
            await one_of(call)
        server.stop.set()
        for call in calls:
            code, reason, _ = await refused(asyncio.wait_for(one_of(call), PATIENCE_S))
            assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")


async def test_watchers_who_do_not_read_hold_up_neither_others_nor_the_stop(tmp_path: Path, transport: str) -> None:
    """More of them than Python's default pool has threads: the native transport blocks a thread for each."""
    narrow = (*OPTIONS, ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
    wide = [0.5] * 32
    async with served(tmp_path, transport=transport, drain_s=1.0, checkpoint_interval_s=0.1) as server:
        await move(server, "arm", 0, *wide)
        channels = [grpc.aio.insecure_channel(server.address, options=narrow) for _ in range(12)]
        try:
            watches = [ArmQueryServiceStub(c).WatchArmPosition(WatchArmPositionRequest(arm_id="arm")) for c in channels]
            for watch in watches:
                await one_of(watch)
            for at in range(1, 250):  # a quarter of a megabyte for each: more than any window
                await move(server, "arm", at, *wide)
            assert await asyncio.wait_for(asyncio.to_thread(lambda: "served"), 5) == "served"
            server.stop.set()
            await asyncio.wait({server.serving}, timeout=10)
            assert server.serving.done()
        finally:  # lets go of a server that does hang
            for channel in channels:
                await channel.close()
