"""What people and other programs look at: status, health, reflection by the real grpcurl; and that the fast way is taken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pygrpc_native._server import _split_handlers

from aorist.serve import transport as transport_module
from aorist.v1 import read_pb2
from aorist.v1.status_pb2 import GetStatusRequest
from aorist.v1.status_pb2_grpc import StatusServiceStub
from fleet.arms.v1.commands_pb2 import ReportJointPositionsRequest
from fleet.arms.v1.queries_pb2 import GetArmPositionRequest
from stack.tools import grpcurl
from tests.harness.client import BASE_US, at_least, refused, sample, shards_of, until_shards
from tests.harness.in_process import Served, live_shards, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

COMMANDS, QUERIES, MOTION, STATUS = (
    "fleet.arms.v1.ArmCommandService",
    "fleet.arms.v1.ArmQueryService",
    "fleet.arms.v1.ArmMotionQueryService",
    "aorist.v1.StatusService",
)


async def curl(*arguments: str) -> tuple[int, str]:
    """Exit code and all that real grpcurl prints."""
    process = await asyncio.create_subprocess_exec(
        str(grpcurl()), "-plaintext", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()


async def curl_call(dev: Served, method: str, request: dict[str, Any]) -> Any:
    code, printed = await curl("-d", json.dumps(request), dev.address, method)
    assert code == 0, printed
    return json.loads(printed)


async def test_status_names_every_shard_its_owner_and_its_checkpoint(dev: Served, arm: str) -> None:
    told = (await dev.commands.ReportJointPositions(ReportJointPositionsRequest(sample=sample(arm)))).position
    shards = await shards_of(dev.address)
    assert sorted(shards) == list(range(8))
    for shard in shards.values():
        assert (shard.view, shard.member, shard.phase) == ("arm_position@2", "tested", "SERVING")
        assert shard.role == read_pb2.ROLE_OWNER
        assert shard.epoch > 0
        assert shard.address
        assert not shard.problem
    assert len({shard.epoch for shard in shards.values()}) == 8

    await until_shards(
        dev.address,
        lambda now: now[told.partition].checkpoint_offset >= told.offset and now[told.partition].dirty_keys == 0,
        "a checkpoint with the event in it",
    )
    shard = (await shards_of(dev.address))[told.partition]
    assert shard.offset >= shard.checkpoint_offset
    assert shard.lag_events == 0
    assert 0 <= shard.checkpoint_age_ms < 60_000
    assert shard.keys >= 1


async def test_health_is_serving_for_the_whole_and_for_each_service(dev: Served) -> None:
    health: Any = health_pb2_grpc.HealthStub(dev.channel)
    for service in ("", COMMANDS, QUERIES, STATUS):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    unknown = health.Check(health_pb2.HealthCheckRequest(service="fleet.arms.v1.NoSuchService"))
    assert (await refused(unknown)).code is grpc.StatusCode.NOT_FOUND


async def test_health_and_status_tell_why_it_is_not_ready(tmp_path: Path) -> None:
    async with served(tmp_path, max_lag_ms=600_000) as dev:
        health: Any = health_pb2_grpc.HealthStub(dev.channel)
        told = health.Watch(health_pb2.HealthCheckRequest())
        assert (await told.read()).status == health_pb2.HealthCheckResponse.SERVING
        shard = next(shard for shard in live_shards() if shard.name == ("arm_position@2", 3))
        shard.halt("offset 9: no")
        assert (await told.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        (member,) = (await StatusServiceStub(dev.channel).GetStatus(GetStatusRequest())).members
        assert (member.member, list(member.problems)) == ("tested", ["arm_position@2/3: offset 9: no"])
        told.cancel()


async def test_grpcurl_lists_and_describes_what_is_served(dev: Served) -> None:
    code, printed = await curl(dev.address, "list")
    assert code == 0
    expected = {COMMANDS, QUERIES, STATUS, "grpc.health.v1.Health"}
    assert expected <= set(printed.split())
    assert "WorkerService" not in printed  # not for applications

    for service, words in (
        (COMMANDS, ("ReportJointPositions", "stream .fleet.arms.v1.StreamJointPositionsRequest")),
        (QUERIES, ("GetArmPosition", "ListArmPositions", "WatchArmPosition")),
        (STATUS, ("GetStatus",)),
        ("fleet.arms.v1.JointSample", ("arm_id", "sampled_at_us", "axes")),
        ("aorist.v1.ReadOptions", ("at_least", "max_wait_ms", "max_staleness_ms", "on_stale")),
    ):
        code, printed = await curl(dev.address, "describe", service)
        assert code == 0, printed
        assert all(word in printed for word in words), printed


async def test_grpcurl_reports_gets_lists_and_watches(dev: Served, arm: str) -> None:
    one = {"armId": arm, "sampledAtUs": str(BASE_US), "axes": [{"axis": 0, "position": -0.5}, {"axis": 31}]}
    told = await curl_call(dev, f"{COMMANDS}/ReportJointPositions", {"sample": one})
    read = {"atLeast": [told["position"]]}
    got = await curl_call(dev, f"{QUERIES}/GetArmPosition", {"armId": arm, "read": read})
    page = await curl_call(dev, f"{QUERIES}/ListArmPositions", {"pageSize": 1000})

    assert got["arm"]["arm_id"] == arm
    assert [(a.get("axis", 0), a.get("position", 0)) for a in got["arm"]["axes"]] == [(0, -0.5), (31, 0)]
    assert got["header"]["role"] == "ROLE_OWNER"
    assert got["arm"] in page["arms"]
    code, printed = await curl(
        "-max-time", "1", "-d", json.dumps({"armId": arm}), dev.address, f"{QUERIES}/WatchArmPosition"
    )
    assert code != 0  # the time was up
    assert arm in printed


async def test_what_grpcurl_prints_of_a_refusal_names_the_field(dev: Served) -> None:
    bad = {"sample": {"armId": "arm", "sampledAtUs": str(BASE_US), "axes": [{"axis": 40, "position": "NaN"}]}}
    code, printed = await curl("-d", json.dumps(bad), dev.address, f"{COMMANDS}/ReportJointPositions")

    assert code != 0
    assert "InvalidArgument" in printed
    for words in ("sample.axes[0].axis", "sample.axes[0].position", "less than or equal to 31", "finite"):
        assert words in printed, printed


@pytest.mark.parametrize("axes", [[40] * 32, list(range(100, 1000))], ids=["32 bad axes", "900 bad axes"])
async def test_a_refusal_with_very_much_in_it_still_arrives_as_one(dev: Served, axes: Sequence[int]) -> None:
    """All of an error travels in trailers, which have a limit of their own."""
    bad = sample("x" * 3000)
    del bad.axes[:]
    for axis in axes:
        bad.axes.add(axis=axis, position=float("nan"))
    code, reason, fields = await refused(dev.commands.ReportJointPositions(ReportJointPositionsRequest(sample=bad)))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID")
    assert fields


async def test_every_method_that_can_be_is_served_by_the_native_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generic handlers, and methods left to the fallback, would be ten times slower without anybody noticing."""
    servers: list[Any] = []
    make = transport_module._server

    def kept(*arguments: Any) -> Any:
        servers.append(make(*arguments))
        return servers[-1]

    monkeypatch.setattr(transport_module, "_server", kept)
    async with served(tmp_path, transport="native") as server:
        told = await server.commands.ReportJointPositions(ReportJointPositionsRequest(sample=sample("arm")))
        read = at_least([(told.position.partition, told.position.offset)])
        await server.queries.GetArmPosition(GetArmPositionRequest(arm_id="arm", read=read))
        await StatusServiceStub(server.channel).GetStatus(GetStatusRequest())
        native: set[str] = set()
        behind: set[str] = set()
        for one in servers:
            found, streamed, generic = _split_handlers(one._registered, one._generic_handlers)
            assert generic == []
            assert {path for path, _ in one._table} == set(found)
            native |= set(found)
            behind |= {f"/{service}/{name}" for service, methods in streamed.items() for name in methods}

    assert len(servers) == 2  # gateways and worker
    assert native == {
        f"/{COMMANDS}/ReportJointPositions",
        f"/{QUERIES}/GetArmPosition",
        f"/{QUERIES}/ListArmPositions",
        f"/{QUERIES}/WatchArmPosition",
        *(f"/{MOTION}/{name}" for name in ("GetMotion", "ListMotionWindows", "CompareMotion")),
        f"/{STATUS}/GetStatus",
        "/aorist.v1.PeerService/Heartbeat",
        *(f"/aorist.v1.QuarantineService/{name}" for name in ("ListParked", "ReplayParked", "SkipParked")),
        *(f"/aorist.v1.BuildService/{name}" for name in ("ListBuilds", "Promote", "Rollback", "Drop")),
        "/aorist.v1.WorkerService/Ask",
        "/aorist.v1.WorkerService/Digest",
        "/aorist.v1.WorkerService/Watch",
        *(f"/grpc.health.v1.Health/{name}" for name in ("Check", "List", "Watch")),
    }
    # requests that stream are what the native front leaves to grpcio
    assert behind == {
        f"/{COMMANDS}/StreamJointPositions",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }
