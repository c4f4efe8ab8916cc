"""What a restart makes of files that a crash could not leave by timing alone: old checkpoints, none, and a log that lost its end."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aorist.v1.read_pb2 import ReadOptions
from fleet.arms.v1.queries_pb2 import GetArmPositionRequest
from fleet.arms.v1.queries_pb2_grpc import ArmQueryServiceStub
from tests.chaos.counting import ARMS, PROJECT, batch, check_answers, counted
from tests.harness.client import Robot, all_arms, at_least, channel_to, refused, shards_of
from tests.harness.log_file import LogFile
from tests.harness.process import DevProcess


@pytest.fixture
async def stopped(tmp_path: Path) -> AsyncIterator[DevProcess]:
    """A process that has served, checkpointed everything and stopped."""
    async with DevProcess(tmp_path, project=PROJECT, checkpoint_interval_s=3600) as process:
        robot = Robot(batch, most=20)
        await robot.converse(await process.start())
        await check_answers(process.address, LogFile.of(process.db))
        await process.stop()
        log = LogFile.of_dead(process.db)
        assert len(log.rows) == len(ARMS)
        assert {p: saved.next_offset for p, saved in log.checkpoints.items()} == log.ends
        yield process


def execute(db: Path, *statements: str) -> None:
    with closing(sqlite3.connect(db)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


async def halted(process: DevProcess) -> set[int]:
    """Partitions that stand still. If any do, status says why, health is not serving, and the log has an error of each."""
    shards = {p: shard for p, shard in (await shards_of(process.address)).items() if shard.phase == "HALTED"}
    assert all("lost" in shard.problem for shard in shards.values())
    async with channel_to(process.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
    assert (answer.status == health_pb2.HealthCheckResponse.NOT_SERVING) == bool(shards)
    said = {line["shard"] for line in process.logged() if line["level"] == "error"}
    assert said == {f"arm_position@1/{partition}" for partition in shards}
    return set(shards)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE checkpoints SET next_offset = 0",
        "UPDATE checkpoints SET next_offset = next_offset / 2",
        "DELETE FROM checkpoints",
        "DELETE FROM checkpoints WHERE shard_no % 2 = 0",
        "UPDATE committed SET next_offset = 0",
        "UPDATE committed SET next_offset = next_offset + 1000",
        "DELETE FROM committed",
    ],
)
async def test_delivery_from_any_earlier_position_changes_nothing(stopped: DevProcess, change: str) -> None:
    """Rows say themselves how far they are; what was committed to the log is not asked at all."""
    execute(stopped.db, change)
    await check_answers(await stopped.start(), LogFile.of(stopped.db))
    await stopped.stop()
    LogFile.of_dead(stopped.db).check_snapshots(counted)


async def test_rows_without_which_the_checkpoint_is_older_are_folded_again(stopped: DevProcess) -> None:
    """As after a crash before any row of these keys was written: with their checkpoint gone too, the log has all of it."""
    execute(stopped.db, "DELETE FROM checkpoints", "DELETE FROM snapshots WHERE key LIKE 'arm-%5'")
    await check_answers(await stopped.start(), LogFile.of(stopped.db))


async def test_a_log_that_lost_its_end_is_refused_loudly(stopped: DevProcess) -> None:
    """The checkpoint is past the log's end: folding on would take others' events for those that are lost."""
    victim = LogFile.of_dead(stopped.db).of_arm("arm-00")[0].partition
    execute(
        stopped.db,
        'UPDATE partitions SET "end" = "end" - 3 WHERE no = (SELECT partition_no FROM events WHERE key = CAST(\'arm-00\' AS BLOB))',
        'DELETE FROM events WHERE offset >= (SELECT "end" FROM partitions WHERE no = partition_no)',
    )
    await stopped.start()

    assert await halted(stopped) == {victim}
    async with channel_to(stopped.address) as channel:
        read = ReadOptions(max_wait_ms=100)
        ask = ArmQueryServiceStub(channel).GetArmPosition(GetArmPositionRequest(arm_id="arm-00", read=read))
        code, reason, _ = await refused(ask)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert reason in ("HALTED", "NO_OWNER")  # a shard that could not be restored is not claimed


async def test_a_log_that_lost_its_beginning_is_refused_loudly(stopped: DevProcess) -> None:
    """Retention overtook the checkpoint: the events between are lost to the view."""
    execute(
        stopped.db,
        'UPDATE partitions SET "start" = "end" - 2',
        "DELETE FROM events WHERE offset < (SELECT start FROM partitions WHERE no = partition_no)",
        "UPDATE checkpoints SET next_offset = next_offset - 5",
    )
    await stopped.start()

    assert await halted(stopped) == set(range(8))


async def test_a_log_whose_beginning_went_after_the_checkpoint_is_fine(stopped: DevProcess) -> None:
    whole = LogFile.of_dead(stopped.db)
    execute(
        stopped.db,
        'UPDATE partitions SET "start" = "end"',
        "DELETE FROM events",
    )
    await stopped.start()
    ends = [(partition, end - 1) for partition, end in whole.ends.items()]
    assert await all_arms(stopped.address, at_least(ends)) == whole.folded(counted)
