"""The roles as processes of their own on the real servers: what one takes, another answers, whichever of them ends."""

from __future__ import annotations

import asyncio
import json

from aorist.v1.position_pb2 import Position
from aorist.v1.read_pb2 import ReadOptions
from fleet.arms.v1.commands_pb2 import ReportJointPositionsRequest
from fleet.arms.v1.commands_pb2_grpc import ArmCommandServiceStub
from fleet.arms.v1.queries_pb2 import ArmPosition, GetArmPositionRequest, ListArmPositionsRequest
from fleet.arms.v1.queries_pb2_grpc import ArmQueryServiceStub
from tests.harness.client import channel_to, sample
from tests.harness.process import until
from tests.integration.cli.system import System

ARMS = [f"arm-{number:02d}" for number in range(16)]  # on all partitions
WAIT_MS = 40_000


async def report(address: str, moment: int) -> list[Position]:
    """A sample of every arm; the positions that they got."""
    async with channel_to(address) as channel:
        commands = ArmCommandServiceStub(channel)
        asked = [ReportJointPositionsRequest(sample=sample(arm, moment)) for arm in ARMS]
        return [answer.position for answer in await asyncio.gather(*map(commands.ReportJointPositions, asked))]


def newest(positions: list[Position]) -> list[Position]:
    """Of each partition."""
    return list({position.partition: position for position in sorted(positions, key=lambda p: p.offset)}.values())


async def answers(address: str, positions: list[Position]) -> dict[str, ArmPosition]:
    """Every arm, as fresh as these positions."""
    read = ReadOptions(at_least=newest(positions), max_wait_ms=WAIT_MS)
    async with channel_to(address) as channel:
        queries = ArmQueryServiceStub(channel)
        page = await queries.ListArmPositions(ListArmPositionsRequest(read=read))
        one = await queries.GetArmPosition(GetArmPositionRequest(arm_id=ARMS[0], read=read))
    assert not page.missing_partitions
    assert one.header.position.offset >= next(
        p.offset for p in newest(positions) if p.partition == one.header.position.partition
    )
    assert one.arm == page.arms[0]
    return {arm.arm_id: arm for arm in page.arms}


def counted(samples: dict[str, list[int]]) -> dict[str, ArmPosition]:
    """What the view must say, told without it."""
    found = {}
    for arm_id, times in samples.items():
        total = 0
        for time in times:
            total = (total * 31 + time) % (2**61 - 1)
        found[arm_id] = ArmPosition(arm_id=arm_id)
        found[arm_id].axes.add(position=len(times), sampled_at_us=total)
    return found


def owners(system: System, address: str) -> list[str]:
    """Of each partition, as `aorist status` shows them; empty names where nobody owns."""
    ran = system.run("status", "--json", "--address", address)
    shards = json.loads(ran.out)["shards"]
    owning = {shard["partition"]: shard["member"] for shard in shards if shard["role"] == "ROLE_OWNER"}
    return [owning.get(partition, "") for partition in range(system.partitions)]


async def test_owners_come_and_go(system: System) -> None:
    system.prepare()
    materializer = ("materializer", "--checkpoint-interval-s", "0.3", "--member")
    gateway, asked = system.start("command-gateway"), system.start("query-gateway")
    first, second = system.start(*materializer, "first"), system.start(*materializer, "second")
    commands, queries = await gateway.ready(), await asked.ready()
    await asyncio.gather(first.ready(), second.ready())

    positions = await report(commands, 0)
    assert await answers(queries, positions) == counted(system.samples())
    await until(lambda: set(owners(system, queries)) == {"first", "second"}, "both own something")

    await first.stop()
    positions = await report(commands, 1)
    assert await answers(queries, positions) == counted(system.samples())
    assert set(owners(system, queries)) == {"second"}

    positions = await report(commands, 2)
    second.kill()
    third = system.start(*materializer, "third")
    await third.ready()
    assert await answers(queries, positions) == counted(system.samples())
    assert set(owners(system, queries)) == {"third"}
    for role in (gateway, asked, third):
        await role.stop()
