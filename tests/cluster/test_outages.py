"""Each server killed and started again, and stopped for a while, while robots send and readers ask.

What a role cannot do meanwhile it says, in its log and to its callers, and does by itself afterwards; everything else goes on. Nothing
that was acknowledged is lost, and no answer is wrong.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from confluent_kafka import Producer
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from aorist.v1.read_pb2 import ON_STALE_FAIL, ROLE_STANDBY, ReadOptions
from aorist.v1.status_pb2 import GetStatusRequest, MemberStatus, ShardStatus
from aorist.v1.status_pb2_grpc import StatusServiceStub
from fleet.arms.v1.events_pb2 import ArmEvent, JointPositionsChanged
from fleet.arms.v1.queries_pb2 import GetArmPositionRequest, GetArmPositionResponse
from fleet.arms.v1.queries_pb2_grpc import ArmQueryServiceStub
from stack.server import Server
from tests.chaos.counting import counted
from tests.cluster.load import Load, check_final
from tests.cluster.oracle import Failure
from tests.cluster.system import STOPPED_S, Cluster, Process, until_owned, until_status
from tests.harness.client import channel_to, refusal_of, retry_ms_of
from tests.harness.places import PATIENCE_S

LINES_A_SECOND = 5
"""That a role may write while something is away. Clients left alone write forty."""

WITHOUT_STORE_S = 2 * STOPPED_S if os.environ.get("AORIST_SOAK") else STOPPED_S
"""How long nobody can write a snapshot."""


@dataclass
class Running:
    """A system under load. What is in `failures` before an outage is not of it."""

    cluster: Cluster
    load: Load
    gateway: Process
    asked: Process
    folding: list[Process]
    began: float

    async def outage(self, end: Callable[[], Awaitable[None]], *, commands: bool, queries: bool) -> list[Failure]:
        """What failed during one, until both ends live again. `commands`, `queries`: go on meanwhile."""
        before = len(self.load.failures)
        if commands and queries:
            await self.load.progress()
        await end()
        await self.load.progress()
        failures = self.load.failures[before:]
        for failure in failures:
            assert failure.code is grpc.StatusCode.UNAVAILABLE or failure.code is grpc.StatusCode.OK, failure
            assert failure.retry_ms > 0 or failure.code is grpc.StatusCode.OK, failure
        assert not (commands and [f for f in failures if f.call in ("report", "stream")]), failures
        assert not (queries and [f for f in failures if f.call in ("get", "list")]), failures
        return failures

    def said(self, process: Process, text: str) -> None:
        assert process.lines(text), f"{text!r} is not in {process.output()[-4000:]}"


@asynccontextmanager
async def running(cluster: Cluster, **environment: str) -> AsyncIterator[Running]:
    """Two materializers and both gateways under load. In the end everything is held against the log. `environment`: of the former."""
    gateway, asked = cluster.gateways()
    folding = [cluster.materializer("finn", **environment), cluster.materializer("ada", **environment)]
    try:
        commands, queries = await gateway.ready(), await asked.ready()
        await asyncio.gather(*(role.ready() for role in folding))
        began = time.monotonic()
        async with Load(cluster.topic, commands=commands, queries=queries) as load:
            await until_owned(queries, cluster.partitions, "finn", "ada")
            await load.progress()
            yield Running(cluster, load, gateway, asked, folding, began)
            await until_owned(queries, cluster.partitions, "finn", "ada")
            await load.progress()
        log = await cluster.log()
        load.check(log)
        log.check_snapshots(counted)
        await check_final(load, log)
        cluster.check_quiet()
        for role in (*folding, gateway, asked):
            checkpoints = len(role.lines("no checkpoint; trying again with the next"))  # says every one of these
            lines = len(role.output().splitlines()) - checkpoints
            assert lines < 50 + LINES_A_SECOND * (time.monotonic() - began), role.output()
            await role.stop()
        log = await cluster.log()
        log.check_snapshots(counted)
        assert {p: saved.next_offset for p, saved in log.checkpoints.items()} == log.ends
        print(load.summary())  # noqa: T201
    except BaseException as error:
        error.add_note(cluster.told())
        raise


Meanwhile = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """Is done meanwhile."""


async def dies(server: Server, meanwhile: Meanwhile = nothing) -> None:
    """And is started again."""
    server.kill()
    try:
        await meanwhile()
    finally:
        await asyncio.to_thread(server.start)


async def stands_still(server: Server, meanwhile: Meanwhile = nothing, for_s: float = STOPPED_S) -> None:
    """For a while."""
    server.pause()
    try:
        until = time.monotonic() + for_s
        await meanwhile()
        await asyncio.sleep(max(0.0, until - time.monotonic()))
    finally:
        server.resume()


async def test_kafka(cluster: Cluster) -> None:
    """Commands wait. Queries that take what there is are answered; those that ask for what cannot be known are told so."""
    async with running(cluster) as system:
        (broker,) = cluster.servers.kafka.brokers

        async def meanwhile() -> None:
            arm = next(iter(system.load.newest))
            await refused_for(system.load, arm, ReadOptions(max_staleness_ms=300, max_wait_ms=100), "STALE")
            answer = await ask(system.load, arm, ReadOptions(max_wait_ms=100))
            assert answer.header.lag_ms > 0

        await system.outage(lambda: dies(broker, meanwhile), commands=False, queries=False)
        for role in (system.gateway, *system.folding):
            system.said(role, "kafka ")
        await system.outage(lambda: stands_still(broker, meanwhile), commands=False, queries=False)


async def test_a_worker_without_kafka_is_not_ready(cluster: Cluster) -> None:
    """It answers still; but nobody should count on it, and it says why, until what it knows is fresh again."""
    worker, asked = cluster.materializer("finn", AORIST_MAX_LAG_MS="1000"), cluster.gateways()[1]
    address, queries = await worker.ready(), await asked.ready()
    await until_health(address, HealthCheckResponse.SERVING)
    (broker,) = cluster.servers.kafka.brokers
    broker.pause()
    try:
        await until_health(address, HealthCheckResponse.NOT_SERVING)
        (member,) = await members(queries)
        assert (member.member, member.address) == ("finn", address)
        assert [problem.split(":")[0] for problem in member.problems] == ["above max_lag_ms, 1000"]
    finally:
        broker.resume()
    await until_health(address, HealthCheckResponse.SERVING)
    assert not (await members(queries))[0].problems
    assert len(worker.lines("not ready any more")) == 1
    cluster.check_quiet()


async def test_a_command_gateway_without_kafka_is_not_ready(cluster: Cluster) -> None:
    gateway = cluster.gateways()[0]
    commands = await gateway.ready()
    await until_health(commands, HealthCheckResponse.SERVING)
    (broker,) = cluster.servers.kafka.brokers
    broker.pause()
    try:
        await until_health(commands, HealthCheckResponse.NOT_SERVING)
    finally:
        broker.resume()
    await until_health(commands, HealthCheckResponse.SERVING)
    assert len(gateway.lines("not ready any more")) == len(gateway.lines("ready again")) == 1
    cluster.check_quiet()


async def test_a_query_gateway_without_etcd_is_ready_while_a_worker_answers(cluster: Cluster) -> None:
    worker, asked = cluster.materializer("finn"), cluster.gateways()[1]
    await worker.ready()
    queries = await asked.ready()
    await until_owned(queries, cluster.partitions, "finn")
    cluster.servers.etcd.pause()
    try:
        await asked.says("ownership stands as last seen: waiting for etcd")
        await worker.says("membership over")
        assert [member.member for member in await members(queries)] == ["finn"]
        assert not asked.lines("not ready any more")
        worker.kill()
        await until_health(queries, HealthCheckResponse.NOT_SERVING)
        assert len(asked.lines("not ready any more")) == 1
        assert "none of the 1 workers known answers" in asked.output()
    finally:
        cluster.servers.etcd.resume()
    await until_health(queries, HealthCheckResponse.SERVING)
    cluster.check_quiet()


async def test_cassandra(cluster: Cluster) -> None:
    """Nobody notices but those who write snapshots: answers stay fresh."""
    async with running(cluster) as system:
        server = cluster.servers.cassandra

        async def meanwhile() -> None:
            await system.load.progress(200, 200)

        await system.outage(lambda: dies(server, meanwhile), commands=True, queries=True)
        for role in system.folding:
            system.said(role, "cassandra is away")
            system.said(role, "no checkpoint; trying again with the next")
            await role.says("cassandra answers again")
        await system.outage(lambda: stands_still(server, meanwhile, WITHOUT_STORE_S), commands=True, queries=True)


async def test_cassandra_for_longer_than_may_be_folded_without_it(cluster: Cluster) -> None:
    """Folding stops at the bound and says so; what there is can be asked for; with Cassandra it goes on by itself."""
    everything = set(range(cluster.partitions))

    def paused(shards: list[ShardStatus]) -> bool:
        return all("paused" in shard.problem for shard in shards) and {s.partition for s in shards} == everything

    async with running(cluster, AORIST_MAX_UNCHECKPOINTED_EVENTS="1000") as system:

        async def meanwhile() -> None:
            await asyncio.to_thread(fill, cluster, 1_500)
            shards = await until_status(system.load.queries, paused, "all are paused")
            assert all(shard.phase == "SERVING" for shard in shards)
            arm = next(iter(system.load.newest))
            before = await ask(system.load, arm, ReadOptions(max_wait_ms=100))
            await system.load.progress(100, 0)
            newer = system.load.options(system.load.newest[arm], 100)
            newer.on_stale = ON_STALE_FAIL
            await refused_for(system.load, arm, newer, "STALE")
            after = await ask(system.load, arm, ReadOptions(max_wait_ms=100))
            assert after.header.lag_ms > before.header.lag_ms > 0
            assert after.header.position == before.header.position

        for end in (dies, stands_still):
            await system.outage(partial(end, cluster.servers.cassandra, meanwhile), commands=True, queries=False)
            for role in system.folding:
                system.said(role, "shard paused")
                await role.says("shard goes on")
            await until_status(
                system.load.queries, lambda shards: not any(shard.problem for shard in shards), "no trouble is left"
            )


def fill(cluster: Cluster, count: int) -> None:
    """So many events of one more arm in each partition."""
    producer = Producer({"bootstrap.servers": cluster.servers.kafka.address, "log_level": 0})
    started = int(time.time() * 1e6)
    for partition in range(cluster.partitions):
        arm = f"filling-{partition}"
        for number in range(count):
            changed = JointPositionsChanged(arm_id=arm, sampled_at_us=started + number)
            event = ArmEvent(joint_positions_changed=changed)
            producer.produce(cluster.topic, event.SerializeToString(), arm.encode(), partition)
    assert producer.flush(PATIENCE_S) == 0


async def test_etcd(cluster: Cluster) -> None:
    """Commands need no owner. Without a lease nobody answers as the owner: who wants it is refused, all others get a copy's answer."""
    async with running(cluster) as system:
        server = cluster.servers.etcd
        await system.outage(lambda: dies(server), commands=True, queries=False)

        async def meanwhile() -> None:
            arm = next(iter(system.load.newest))
            await refused_for(system.load, arm, ReadOptions(max_wait_ms=100, on_stale=ON_STALE_FAIL), "NO_OWNER")
            answer = await ask(system.load, arm, ReadOptions(max_wait_ms=100))
            assert (answer.header.role, answer.header.stale) == (ROLE_STANDBY, True)

        await system.outage(lambda: stands_still(server, meanwhile), commands=True, queries=False)
        for role in (system.asked, *system.folding):
            system.said(role, "etcd at ")
        for role in system.folding:
            system.said(role, "membership over")


async def until_health(address: str, wanted: int) -> None:
    """By the health service of a process, as Kubernetes asks for it."""
    async with asyncio.timeout(PATIENCE_S), channel_to(address) as channel:
        health: Any = HealthStub(channel)
        async for answer in health.Watch(HealthCheckRequest()):
            if answer.status == wanted:
                return


async def members(queries: str) -> list[MemberStatus]:
    """As a query gateway has them."""
    async with channel_to(queries) as channel:
        return list((await StatusServiceStub(channel).GetStatus(GetStatusRequest(), timeout=PATIENCE_S)).members)


async def ask(load: Load, arm: str, read: ReadOptions) -> GetArmPositionResponse:
    async with channel_to(load.queries) as channel:
        return await ArmQueryServiceStub(channel).GetArmPosition(GetArmPositionRequest(arm_id=arm, read=read))


async def refused_for(load: Load, arm: str, read: ReadOptions, reason: str) -> None:
    """Asks until that is refused, with this reason and a word on when to try again."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        try:
            await ask(load, arm, read)
        except grpc.aio.AioRpcError as error:
            refusal, retry_ms = refusal_of(error), retry_ms_of(error)
            assert (refusal.code, refusal.reason, retry_ms > 0) == (grpc.StatusCode.UNAVAILABLE, reason, True)
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"was not refused as {reason}: {read}")
