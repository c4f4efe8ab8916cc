"""Three brokers: each is killed in turn under load, and a log that has lost its end is not taken for the one that was.

Topics are on all three, or on two of them where an election may lose events on purpose.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from aorist.adapters.kafka import KafkaEventLog
from aorist.errors import LogTruncatedError
from aorist.position import Partition
from fleet.arms.v1.events_pb2 import ArmEvent, JointPositionsChanged
from stack.cluster import KafkaCluster
from stack.jvm import QUICK
from tests.chaos.counting import counted
from tests.cluster.load import REPORTING, STREAMING, Load, check_final
from tests.cluster.plain import cassandra_tables
from tests.cluster.system import STOPPED_S, Cluster, until_owned, until_status
from tests.harness.client import BASE_US
from tests.harness.places import PATIENCE_S
from tests.integration.cli.system import Servers
from tests.servers import shared_cassandra, shared_etcd

PARTITIONS = 4
LOST = (30, 30, 30, 0)
SINCE = (0, 10, 60, 10)
"""Of each partition: events that the next leader lacks, and what is written to it since. The last partition has lost nothing."""


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    quick = {
        "unclean.leader.election.interval.ms": "500",  # 5 minutes by default
        # A broker that dies is fenced, and its partitions get other leaders, after 2 s instead of 9.
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "500",
    }
    kafka = KafkaCluster(tmp_path_factory.mktemp("three"), brokers=3, settings=quick, jvm=QUICK)
    kafka.start()
    yield kafka
    kafka.kill()  # nobody needs what it stored


@pytest.fixture
def replicated(three: KafkaCluster, tmp_path: Path) -> Iterator[Cluster]:
    """With keyspace and tables; the topic is up to the test."""
    own = Cluster(Servers(three, shared_cassandra(), shared_etcd()), tmp_path)
    ran = own.run("schema", "apply")
    assert ran.code == 0, ran
    yield own
    for role in own.roles:
        role.kill()
    for broker in three.brokers:
        if not broker.running:
            broker.start()


async def test_each_broker_in_turn_is_killed_under_load(replicated: Cluster, three: KafkaCluster) -> None:
    async def meanwhile(load: Load) -> None:
        for broker in three.brokers:
            broker.kill()
            await load.progress(200, 100)
            await asyncio.to_thread(broker.start)
            await asyncio.to_thread(three.wait_in_sync)

    await under_load(replicated, meanwhile)


async def test_a_leader_stands_still_under_load(replicated: Cluster, three: KafkaCluster) -> None:
    async def meanwhile(load: Load) -> None:
        leading = await _leaders(three, replicated.topic)
        stopped = next(broker for broker in three.brokers if broker.node.id in leading)
        stopped.pause()
        began = time.monotonic()
        try:
            await load.progress(200, 100)
            await asyncio.sleep(max(0.0, began + STOPPED_S - time.monotonic()))
        finally:
            stopped.resume()
        await load.progress()
        await asyncio.to_thread(three.wait_in_sync)

    await under_load(replicated, meanwhile)


async def under_load(replicated: Cluster, meanwhile: Callable[[Load], Awaitable[None]]) -> None:
    """Nothing acknowledged is missing, each arm's samples are in order, every answer and row is what the events make."""
    ran = replicated.run("topics", "apply", "--replicas", "3")
    assert ran.code == 0, ran
    gateway, asked = replicated.gateways()
    folding = [replicated.materializer("finn"), replicated.materializer("ada")]
    try:
        commands, queries = await gateway.ready(), await asked.ready()
        # Half of the arms, on all partitions: a broker starts on what processor time they leave.
        async with Load(
            replicated.topic, commands=commands, queries=queries, reporting=REPORTING[::2], streaming=STREAMING[:4]
        ) as load:
            await asyncio.gather(*(role.ready() for role in folding))
            await until_owned(load.queries, PARTITIONS, "finn", "ada")
            await load.progress()
            await meanwhile(load)
        log = await replicated.log()
        load.check(log)
        log.check_snapshots(counted)
        await check_final(load, log)
        for role in (*folding, gateway, asked):
            await role.stop()
        log = await replicated.log()
        assert {p: saved.next_offset for p, saved in log.checkpoints.items()} == log.ends
        replicated.check_quiet()
        print(load.summary())  # noqa: T201
    except BaseException as error:
        error.add_note(replicated.told())
        raise


async def test_topics_are_described_though_the_broker_that_was_asked_is_dead(
    replicated: Cluster, three: KafkaCluster
) -> None:
    ran = replicated.run("topics", "apply", "--replicas", "3")
    assert ran.code == 0, ran
    log = KafkaEventLog(three.address)
    topic = log.describe(replicated.topic)
    controller = log._admin.list_topics(timeout=PATIENCE_S).controller_id
    broker = next(broker for broker in three.brokers if broker.node.id == controller)
    broker.kill()
    try:
        assert await asyncio.to_thread(log.describe, replicated.topic) == topic
    finally:
        await asyncio.to_thread(broker.start)
        await asyncio.to_thread(three.wait_in_sync)
        log.close()


async def test_an_unclean_election_is_noticed(replicated: Cluster, three: KafkaCluster) -> None:
    """By those who read on and by those who come later, whether fewer events were written since, or more, than were lost."""
    leader, follower, _ = three.brokers
    _create_lossy(three, replicated.topic)
    asked = replicated.role("queries", "query-gateway")
    queries = await asked.ready()
    folding = replicated.materializer("ada")
    try:
        await folding.ready()
        await asyncio.to_thread(_write, replicated, 0, (50,) * PARTITIONS)
        await _covered(replicated, (50,) * PARTITIONS)
        follower.kill()
        await _until(lambda: _state(three, replicated.topic) == ({leader.node.id}, {1}), "the leader alone in sync")
        await asyncio.to_thread(_write, replicated, 100, LOST)
        await _covered(replicated, tuple(50 + lost for lost in LOST))
        leader.kill()
        await asyncio.to_thread(follower.start)
        await _until(lambda: _led(three, replicated.topic) == {follower.node.id}, "the follower leads")
        await asyncio.to_thread(_write, replicated, 1000, SINCE)
        await _only_the_last_goes_on(queries)
        folding.kill()
        again = replicated.materializer("ada")
        await _only_the_last_goes_on(queries)
        errors = [json.loads(line) for line in again.lines('"level": "error"')]
        assert {error["shard"] for error in errors} == {f"arm_position@1/{number}" for number in range(PARTITIONS - 1)}
        await _covered(replicated, (80, 80, 80, 60))
        await asyncio.to_thread(_refused_by_a_client_in_use, three, replicated.topic)
    except BaseException as error:
        error.add_note(replicated.told())
        raise


def _refused_by_a_client_in_use(kafka: KafkaCluster, topic: str) -> None:
    """By one that reads the topic already, and hears of no new leader, as by a process that takes over one more shard."""
    log = KafkaEventLog(kafka.address)
    reader = log.reader("in use")
    reader.assign(Partition(topic, PARTITIONS - 1), 0)
    reached, give_up = 0, time.monotonic() + PATIENCE_S
    refused: dict[int, bool] = {}
    while reached < 60:
        assert time.monotonic() < give_up
        reached = max([reached, *(fetched.next_offset for fetched in reader.poll(1000, 0.2))])
    for number in range(PARTITIONS - 1):
        reader.assign(Partition(topic, number), 80, 0)
    while len(refused) < PARTITIONS - 1:
        assert time.monotonic() < give_up, refused
        try:
            assert not [fetched for fetched in reader.poll(1000, 0.2) if fetched.partition.number < PARTITIONS - 1]
        except LogTruncatedError as error:
            refused[error.partition.number] = error.replaced
            reader.unassign(error.partition)
    assert all(refused.values())
    reader.close()
    log.close()


async def _only_the_last_goes_on(queries: str) -> None:
    def noticed(shards: list[Any]) -> bool:
        phases = {shard.partition: shard.phase for shard in shards}
        return phases == dict.fromkeys(range(PARTITIONS - 1), "HALTED") | {PARTITIONS - 1: "SERVING"}

    shards = await until_status(queries, noticed, "all but the last refuse")
    assert all(shard.problem for shard in shards if shard.phase == "HALTED")


async def _until(condition: Callable[[], object], what: str) -> None:
    """As `until`, for conditions that block."""
    give_up = time.monotonic() + PATIENCE_S
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < give_up, f"not within {PATIENCE_S:g} s: {what}"


def _create_lossy(kafka: KafkaCluster, topic: str) -> None:
    """Led by the first broker; the second may take over though it lacks events."""
    config = {"min.insync.replicas": "1", "unclean.leader.election.enable": "true"}
    assignment = [[broker.node.id for broker in kafka.brokers[:2]]] * PARTITIONS
    new = NewTopic(topic, num_partitions=PARTITIONS, replica_assignment=assignment, config=config)
    admin = _admin(kafka)  # its answers end with it
    admin.create_topics([new])[topic].result(PATIENCE_S)


def _admin(kafka: KafkaCluster) -> AdminClient:
    """A new one each time: one that knows a dead broker may wait for it."""
    return AdminClient({"bootstrap.servers": kafka.address, "log_level": 0})


def _state(kafka: KafkaCluster, topic: str) -> tuple[set[int], set[int]]:
    """Who leads partitions, -1: nobody, and how many are in sync. Nothing while no broker can be asked."""
    try:
        found = _admin(kafka).list_topics(topic, timeout=5).topics[topic]
    except KafkaException:
        return set(), set()
    partitions = found.partitions.values()
    return {partition.leader for partition in partitions}, {len(partition.isrs) for partition in partitions}


def _led(kafka: KafkaCluster, topic: str) -> set[int]:
    return _state(kafka, topic)[0]


async def _leaders(kafka: KafkaCluster, topic: str) -> set[int]:
    """Who leads any partition, as soon as somebody can be asked."""
    found: set[int] = set()

    def known() -> bool:
        found.update(_led(kafka, topic) - {-1})
        return bool(found)

    await _until(known, "somebody leads")
    return found


def _write(cluster: Cluster, first: int, counts: tuple[int, ...]) -> None:
    """So many events of one arm in each partition."""
    producer = Producer({"bootstrap.servers": cluster.servers.kafka.address, "acks": "1", "log_level": 0})
    for partition, count in enumerate(counts):
        arm = f"arm-of-{partition}"
        for number in range(first, first + count):
            changed = JointPositionsChanged(arm_id=arm, sampled_at_us=BASE_US + number)
            event = ArmEvent(joint_positions_changed=changed)
            producer.produce(cluster.topic, event.SerializeToString(), arm.encode(), partition)
    assert producer.flush(PATIENCE_S) == 0


async def _covered(cluster: Cluster, ends: tuple[int, ...]) -> None:
    """Checkpoints hold everything up to here."""

    def covered() -> bool:
        checkpoints, _ = cassandra_tables(cluster.servers.cassandra.address, cluster.environment["AORIST_KEYSPACE"])
        return {partition: saved.next_offset for partition, saved in checkpoints.items()} == dict(enumerate(ends))

    await _until(covered, f"checkpoints at {ends}")
