"""SIGTERM with streams open: not serving is said first, what was acknowledged is in the log, a checkpoint is taken, exit code 0 in time."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fleet.arms.v1.commands_pb2 import StreamJointPositionsRequest
from fleet.arms.v1.commands_pb2_grpc import ArmCommandServiceStub
from fleet.arms.v1.queries_pb2 import WatchArmPositionRequest
from fleet.arms.v1.queries_pb2_grpc import ArmQueryServiceStub
from tests.harness.client import Robot, all_arms, at_least, channel_to, one_of, refused, sample
from tests.harness.log_file import LogFile, newest, newest_snapshot
from tests.harness.process import DevProcess

DRAIN_S = 5.0
SERVING = health_pb2.HealthCheckResponse.SERVING


async def test_sigterm_with_streams_open(tmp_path: Path, transport: str) -> None:
    # the interval is long: the only checkpoint is that of the stop
    async with DevProcess(tmp_path, transport=transport, drain_s=DRAIN_S, checkpoint_interval_s=3600) as process:
        await process.start()
        robot = Robot(lambda number: [sample(f"arm-{n}", number) for n in range(20)], most=30)
        await robot.converse(process.address)
        async with channel_to(process.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())  # type: ignore[attr-defined]
            assert (await one_of(health)).status == SERVING
            watch = ArmQueryServiceStub(channel).WatchArmPosition(WatchArmPositionRequest(arm_id="arm-0"))
            await one_of(watch)
            stream = ArmCommandServiceStub(channel).StreamJointPositions()
            for sequence in range(1, 6):
                await stream.write(StreamJointPositionsRequest(sequence=sequence, samples=[sample("last", sequence)]))
            told: list[int] = []

            async def acknowledgements() -> None:
                async for answer in stream:
                    told.append(answer.acknowledged_sequence)
                    if told[-1] == 5:
                        process.terminate()

            async def not_serving() -> float:
                assert (await one_of(health)).status != SERVING
                return time.monotonic()

            async def watch_ended() -> float:
                code, reason, _ = await refused(one_of(watch))
                assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
                return time.monotonic()

            started = time.monotonic()
            refusal, said_at, ended_at = await asyncio.gather(refused(acknowledgements()), not_serving(), watch_ended())
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
            assert said_at <= ended_at + 0.05  # on one connection, but read by two tasks
            assert await process.ended(DRAIN_S + 10) == 0, process.tail()
            assert time.monotonic() - started < DRAIN_S + 5

        log = LogFile.of_dead(process.db)
        assert told[-1] == 5
        assert robot.acknowledged | {("last", sample("last", n).sampled_at_us) for n in range(1, 6)} == set(
            log.samples()
        )
        log.check_snapshots(newest, newest_snapshot)
        covered = sum(saved.next_offset for saved in log.checkpoints.values())
        assert covered >= sum(offset + 1 for offset in robot.positions.values())
        assert not [line for line in process.logged() if line["level"] in ("warning", "error", "critical")]

        # the next one begins there: it restores keys from rows and folds only what is beyond
        lines = len(process.logged())
        await process.start()
        restored = {line["shard"]: line for line in process.logged()[lines:] if line["event"] == "restored"}
        for partition, saved in log.checkpoints.items():
            assert restored[f"arm_position@2/{partition}"]["next_offset"] == saved.next_offset
        keys = [line["keys"] for shard, line in restored.items() if shard.startswith("arm_position@2/")]
        assert sum(keys) == len(log.rows)
        ends = [(partition, end - 1) for partition, end in log.ends.items() if end]
        assert await all_arms(process.address, at_least(ends)) == log.folded(newest)
        await process.stop()


async def test_a_stop_with_nothing_going_on_is_quick(tmp_path: Path, transport: str) -> None:
    async with DevProcess(tmp_path, transport=transport, drain_s=60) as process:
        await process.start()
        started = time.monotonic()
        await process.stop()
        assert time.monotonic() - started < 20


async def test_a_second_process_on_the_file_is_told_so(tmp_path: Path) -> None:
    async with DevProcess(tmp_path) as first, DevProcess(tmp_path / "other") as second:
        await first.start()
        (tmp_path / "other").mkdir()
        second.db = first.db
        second.launch()
        assert not await second.serving()
        assert await second.ended() == 1
        assert "is open elsewhere" in second.tail()
        assert first.alive()


async def test_a_port_that_is_taken_is_told_so(tmp_path: Path, transport: str) -> None:
    async with DevProcess(tmp_path) as first:
        address = await first.start()
        (tmp_path / "other").mkdir()
        async with DevProcess(tmp_path / "other", worker_listen=address, transport=transport) as second:
            second.launch()
            assert not await second.serving()
            assert await second.ended() == 1
            assert f"cannot listen on {address}" in second.tail()
