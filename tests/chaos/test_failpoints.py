"""The process dies at each named place of the protocol, again and again; whatever it had acknowledged is there, folded exactly once.

After each death the file is read by a plain reader: the checkpoint is never ahead of the rows, every row is exactly what the events up
to its position make, nothing acknowledged is missing. After the last restart every answer equals the fold of the whole log.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from aorist.failpoints import STEPS
from tests.chaos.counting import ARMS, PROJECT, batch, check_answers, counted
from tests.harness.client import Robot, shards_of
from tests.harness.log_file import LogFile
from tests.harness.places import PATIENCE_S
from tests.harness.process import DevProcess, until

DEATHS = 2
"""In a row, on one file, by the same failpoint."""

COUNTS = {
    "after_append": (1, 6),
    "after_poll": (
        1,
        11,
        40,
    ),  # 1: at the first look at the log, before serving. The first looks, one per partition, find its end.
    "after_apply": (9, 60),
    "after_rows": (1, 9),  # the first shard's rows; rows of a later shard, or of a later round
    "after_checkpoint": (1, 10),
    "after_commit": (1, 10),
}


def dev(folder: Path) -> DevProcess:
    return DevProcess(folder, project=PROJECT, checkpoint_interval_s=0.1, log_level="warning")


def test_every_failpoint_has_its_counts() -> None:
    assert set(COUNTS) == set(STEPS)


async def stream_until_dead(process: DevProcess, robot: Robot) -> None:
    """Robots do not stop for a dead server; the test does."""
    stop = asyncio.Event()
    conversing = asyncio.create_task(robot.converse(process.address, stop))
    try:
        await until(lambda: not process.alive(), "death at the failpoint")
    finally:
        stop.set()
        await asyncio.wait_for(conversing, PATIENCE_S)


@pytest.mark.parametrize(("name", "count"), [(name, count) for name, counts in COUNTS.items() for count in counts])
async def test_death_at(name: str, count: int, tmp_path: Path) -> None:
    robot, epochs = Robot(batch, in_flight=2), list[set[int]]()
    async with dev(tmp_path) as process:
        for _ in range(DEATHS):
            process.launch(failpoints=f"{name}={count}")
            if await process.serving():
                await stream_until_dead(process, robot)
            assert await process.ended() == -signal.SIGKILL, process.tail()
            log = LogFile.of_dead(process.db)
            log.check_snapshots(counted)
            assert all(log.checkpoints[p].next_offset >= committed for p, committed in log.committed.items())
            assert robot.acknowledged <= set(log.samples())
            epochs.append({row.epoch for row in log.rows} | {saved.epoch for saved in log.checkpoints.values()})

        address = await process.start()
        robot.most = robot.done + 5  # what it has left, and a little
        await robot.converse(address)
        assert robot.done == robot.most
        now = {shard.epoch for shard in (await shards_of(address)).values()}
        assert all(min(now) > max(earlier) for earlier in epochs if earlier)
        log = LogFile.of(process.db)
        assert robot.acknowledged <= set(log.samples())
        assert {arm for arm, _ in log.samples()} == set(ARMS)
        await check_answers(address, log)
        await process.stop()

        log = LogFile.of_dead(process.db)
        log.check_snapshots(counted)
        assert {p: saved.next_offset for p, saved in log.checkpoints.items()} == log.ends
