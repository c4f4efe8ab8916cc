"""The process dies between the steps of parking, replaying and skipping, among load: a key is parked or free, and nothing is lost.

Samples of 24 arms stream in; one of them is poison to the apply until it is mended.
"""

from __future__ import annotations

import signal
from pathlib import Path

import grpc
import pytest

from aorist.failpoints import QUARANTINE_STEPS
from aorist.v1 import quarantine_pb2
from aorist.v1.quarantine_pb2_grpc import QuarantineServiceStub
from fleet.arms.v1.events_pb2 import JointPositionsChanged
from fleet.arms.v1.queries_pb2 import ArmPosition
from tests.chaos.counting import PROJECT, batch, check_answers, counted
from tests.chaos.test_failpoints import stream_until_dead
from tests.harness.client import Robot, all_arms, at_least, channel_to
from tests.harness.log_file import LogFile
from tests.harness.process import DevProcess

DEATHS = 2
POISON = batch(3)[5]
FEW = 12


def dev(folder: Path) -> DevProcess:
    return DevProcess(folder, project=PROJECT, checkpoint_interval_s=0.05, log_level="warning")


@pytest.fixture(autouse=True)
def _broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTING_POISON", str(POISON.sampled_at_us))


async def parked(address: str) -> list[quarantine_pb2.ParkedKey]:
    async with channel_to(address) as channel:
        return list((await QuarantineServiceStub(channel).ListParked(quarantine_pb2.ListParkedRequest())).keys)


async def replay(address: str, key: quarantine_pb2.ParkedKey) -> quarantine_pb2.ReplayParkedResponse:
    request = quarantine_pb2.ReplayParkedRequest(view=key.view, partition=key.partition, key=key.key)
    async with channel_to(address) as channel:
        return await QuarantineServiceStub(channel).ReplayParked(request)


async def skip(address: str, key: quarantine_pb2.ParkedKey) -> quarantine_pb2.SkipParkedResponse:
    request = quarantine_pb2.SkipParkedRequest(
        view=key.view, partition=key.partition, key=key.key, offset=key.offset, why="a test"
    )
    async with channel_to(address) as channel:
        return await QuarantineServiceStub(channel).SkipParked(request)


async def stream(process: DevProcess, robot: Robot, batches: int) -> None:
    """So many more, and all of them folded or parked."""
    robot.most = robot.done + batches
    await robot.converse(process.address)
    assert robot.done == robot.most
    await all_arms(process.address, at_least(robot.positions.items()))


def without_poison(events: list[JointPositionsChanged]) -> ArmPosition:
    return counted([event for event in events if event.sampled_at_us != POISON.sampled_at_us])


async def check_all_but_the_parked(process: DevProcess, key: quarantine_pb2.ParkedKey) -> None:
    """Every arm is what all its events make; the parked one what those before the poison do."""
    log = LogFile.of(process.db)
    expected = log.folded(counted)
    before = [changed for offset, changed in log.by_arm[POISON.arm_id] if offset < key.offset]
    expected[POISON.arm_id] = counted(before)
    ends = [(partition, end - 1) for partition, end in log.ends.items() if end]
    assert await all_arms(process.address, at_least(ends)) == expected


async def test_death_once_an_event_is_parked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is parked again from its record, or from the log, and all other arms go on."""
    robot = Robot(batch, in_flight=2)
    async with dev(tmp_path) as process:
        process.launch(failpoints="after_parked=1")
        assert await process.serving()
        await stream_until_dead(process, robot)
        assert await process.ended() == -signal.SIGKILL, process.tail()
        for _ in range(DEATHS):  # at a checkpoint that passes parked events
            process.launch(failpoints="after_checkpoint=12")
            if await process.serving():
                await stream_until_dead(process, robot)
            assert await process.ended() == -signal.SIGKILL, process.tail()
        await process.start()
        await stream(process, robot, FEW)
        (key,) = await parked(process.address)
        assert (key.key, key.events_held > 1) == (POISON.arm_id.encode(), True)
        await check_all_but_the_parked(process, key)
        await mended(process, monkeypatch)
        assert not (await replay(process.address, key)).HasField("left")
        await check_the_end(process, robot)


@pytest.mark.parametrize("name", ["after_replayed", "after_released"])
async def test_death_during_a_replay(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    robot = Robot(batch, in_flight=2)
    async with dev(tmp_path) as process:
        await process.start()
        await stream(process, robot, FEW)
        (key,) = await parked(process.address)
        await process.stop()
        monkeypatch.delenv("COUNTING_POISON")
        process.launch(failpoints=f"{name}=1")
        assert await process.serving()
        with pytest.raises(grpc.aio.AioRpcError):
            await replay(process.address, key)
        assert await process.ended() == -signal.SIGKILL, process.tail()
        await process.start()
        assert await parked(process.address) == []  # its row was durable: that is what frees it
        await check_the_end(process, robot)


async def test_death_during_a_skip(tmp_path: Path) -> None:
    robot = Robot(batch, in_flight=2)
    async with dev(tmp_path) as process:
        await process.start()
        await stream(process, robot, FEW)
        (key,) = await parked(process.address)
        await process.stop()
        process.launch(failpoints="after_skipped=1")
        assert await process.serving()
        with pytest.raises(grpc.aio.AioRpcError):
            await skip(process.address, key)
        assert await process.ended() == -signal.SIGKILL, process.tail()
        await process.start()
        (key,) = await parked(process.address)
        assert not (await replay(process.address, key)).HasField("left")  # the mark stands
        await stream(process, robot, FEW)
        log = LogFile.of(process.db)
        ends = [(partition, end - 1) for partition, end in log.ends.items() if end]
        assert await all_arms(process.address, at_least(ends)) == log.folded(without_poison)


def test_every_step_dies_somewhere() -> None:
    assert set(QUARANTINE_STEPS) == {"after_parked", "after_skipped", "after_replayed", "after_released"}


async def mended(process: DevProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process with the fix; what was parked stays so until it is replayed."""
    await process.stop()
    monkeypatch.delenv("COUNTING_POISON")
    await process.start()
    assert len(await parked(process.address)) == 1


async def check_the_end(process: DevProcess, robot: Robot) -> None:
    await stream(process, robot, FEW)
    log = LogFile.of(process.db)
    assert robot.acknowledged <= set(log.samples())
    await check_answers(process.address, log)
    await process.stop()
    log = LogFile.of_dead(process.db)
    log.check_snapshots(counted)
    assert {p: saved.next_offset for p, saved in log.checkpoints.items()} == log.ends
