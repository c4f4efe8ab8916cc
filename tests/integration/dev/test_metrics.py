"""What Prometheus finds agrees with what `aorist status` shows, and counts what was called."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from aorist.v1.read_pb2 import ROLE_OWNER, ReadOptions
from aorist.v1.status_pb2 import ShardStatus
from fleet.arms.v1.commands_pb2 import ReportJointPositionsRequest, StreamJointPositionsRequest
from fleet.arms.v1.queries_pb2 import GetArmPositionRequest
from stack.ports import free_ports
from tests.harness.client import refused, sample, shards_of, until_shards
from tests.harness.in_process import served
from tests.harness.scraping import Scrape, scrape
from tests.integration.dev.conftest import TRANSPORTS

REPORT, STREAM, GET = (
    "fleet.arms.v1.ReportJointPositionsRequest",
    "fleet.arms.v1.StreamJointPositionsRequest",
    "fleet.arms.v1.GetArmPositionRequest",
)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_metrics_agree_with_status_and_count_calls(tmp_path: Path, transport: str) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    async with served(tmp_path, transport=transport, metrics_listen=address, checkpoint_interval_s=0.1) as dev:
        told = [
            await dev.commands.ReportJointPositions(ReportJointPositionsRequest(sample=sample(f"arm-{number}")))
            for number in range(20)
        ]
        bad = ReportJointPositionsRequest(sample=sample(""))
        assert (await refused(dev.commands.ReportJointPositions(bad))).code is grpc.StatusCode.INVALID_ARGUMENT
        batch = StreamJointPositionsRequest(sequence=1, samples=[sample("arm-0", 5), sample("")])
        acknowledged = [answer async for answer in dev.commands.StreamJointPositions(iter([batch]))]
        assert len(acknowledged[-1].refused) == 1
        await dev.queries.GetArmPosition(
            GetArmPositionRequest(arm_id="arm-3", read=ReadOptions(at_least=[told[3].position]))
        )
        await refused(dev.queries.GetArmPosition(GetArmPositionRequest(arm_id="nobody")))
        await until_shards(
            dev.address,
            lambda now: all(not s.dirty_keys and s.checkpoint_offset == s.offset for s in now.values()),
            "everything in checkpoints",
        )
        found = await asyncio.to_thread(scrape, address)
        for shard in (await shards_of(dev.address)).values():
            _check_shard(found, shard)

        assert found["aorist_ready", ()] == 1
        assert found["aorist_members", ()] == 1
        assert found["aorist_view_partitions", ("arm_position@2",)] == 8
        assert found["aorist_view_owned_partitions", ("arm_position@2",)] == 8
        assert found["aorist_takeovers_total", ("free",)] == sum(
            count for (name, _), count in found.items() if name == "aorist_view_partitions"
        )
        assert found["aorist_takeovers_total", ("suspected",)] == 0
        taken, took_s = (found[f"aorist_checkpoint_duration_seconds_{part}", ()] for part in ("count", "sum"))
        assert taken >= 1
        assert 0 < took_s < 60
        assert found["aorist_checkpoint_failures_total", ()] == 0
        assert found["aorist_calls_total", (REPORT, "OK")] == 20
        assert found["aorist_calls_total", (REPORT, "INVALID")] == 1
        assert found["aorist_calls_total", (STREAM, "OK")] == 1
        assert found["aorist_stream_items_total", (STREAM, "accepted")] == 1
        assert found["aorist_stream_items_total", (STREAM, "refused")] == 1
        assert found["aorist_calls_total", (GET, "OK")] == 1
        assert found["aorist_calls_total", (GET, "UNKNOWN_KEY")] == 1


def _check_shard(found: Scrape, shard: ShardStatus) -> None:
    name = (shard.view, str(shard.partition))
    wanted = {"position": shard.offset, "lag_events": 0, "keys": shard.keys, "changed_keys": 0, "quarantined_keys": 0}
    assert {metric: found[f"aorist_shard_{metric}", name] for metric in wanted} == wanted
    assert found["aorist_unknown_events_total", name] == shard.unknown_events
    assert found["aorist_shard_role", (*name, "OWNER")] == (shard.role == ROLE_OWNER)
    assert found["aorist_shard_role", (*name, "STANDBY")] == (shard.role != ROLE_OWNER)
    phases = {phase: found["aorist_shard_phase", (*name, phase)] for phase in ("RESTORING", "SERVING", "HALTED")}
    assert phases == {"RESTORING": 0, "SERVING": 1, "HALTED": 0}
    assert 0 <= found["aorist_shard_lag_seconds", name] < 5
    if shard.checkpoint_offset >= 0:
        assert found["aorist_shard_checkpoint_position", name] == shard.checkpoint_offset
        assert 0 <= found["aorist_shard_checkpoint_age_seconds", name] < 60
    else:
        assert ("aorist_shard_checkpoint_position", name) not in found
