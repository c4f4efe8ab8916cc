"""Logs that are not what they were: cut off in front of a checkpoint, deleted, deleted and made anew. Nobody goes on as if nothing were."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import grpc
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from aorist.v1.status_pb2 import ShardStatus
from fleet.arms.v1.events_pb2 import ArmEvent, JointPositionsChanged
from fleet.arms.v1.queries_pb2 import GetArmPositionRequest
from fleet.arms.v1.queries_pb2_grpc import ArmQueryServiceStub
from tests.chaos.counting import counted
from tests.cluster.plain import cassandra_tables
from tests.cluster.system import Cluster, Process, status, until_status
from tests.harness.client import BASE_US, channel_to, refused
from tests.harness.log_file import LogFile
from tests.harness.places import PATIENCE_S
from tests.integration.cli.test_roles import ARMS, answers, report

FILLING = 50
"""Events of each arm in a topic made anew."""


def admin(cluster: Cluster) -> AdminClient:
    return AdminClient({"bootstrap.servers": cluster.servers.kafka.address, "log_level": 0})


def halted(shards: list[ShardStatus]) -> set[int]:
    return {shard.partition for shard in shards if shard.phase == "HALTED"}


def errors(process: Process) -> dict[str, str]:
    """What it says, as an error, of each shard."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in process.lines('"level": "error"')]
    return {line["shard"]: line["problem"] for line in lines}


async def all_halted(cluster: Cluster, process: Process, queries: str, word: str) -> None:
    """Every shard stands still, its status and the log say why, and who asks for more than it has is told."""
    everything = set(range(cluster.partitions))
    shards = await until_status(queries, lambda found: halted(found) == everything, "all halted")
    assert all(word in shard.problem for shard in shards), shards
    said = errors(process)
    assert set(said) == {f"arm_position@1/{number}" for number in everything}
    assert all(word in problem for problem in said.values()), said


async def test_retention_past_the_checkpoint_is_refused(cluster: Cluster) -> None:
    """While no materializer runs, events that no snapshot covers are deleted: of two partitions. The others go on."""
    gateway, asked = cluster.gateways()
    commands, queries = await gateway.ready(), await asked.ready()
    folding = cluster.materializer("ada")
    await folding.ready()
    await answers(queries, await report(commands, 0))
    await folding.stop()
    before = await cluster.log()

    await report(commands, 1)
    positions = await report(commands, 2)
    cut = {number: before.checkpoints[number].next_offset + 1 for number in (0, 2)}
    gone = [TopicPartition(cluster.topic, number, offset) for number, offset in cut.items()]
    client = admin(cluster)
    for answer in client.delete_records(gone).values():
        await asyncio.to_thread(answer.result, PATIENCE_S)

    folding = cluster.materializer("ada")
    await folding.ready()
    shards = {
        shard.partition: shard for shard in await until_status(queries, lambda s: len(halted(s)) == 2, "two halt")
    }
    assert halted(list(shards.values())) == set(cut)
    for number, offset in cut.items():
        assert "events between are lost to this view" in shards[number].problem
        assert f"holds offsets {offset} to" in shards[number].problem
        assert "lost to this view" in errors(folding)[f"arm_position@1/{number}"]
    assert set(errors(folding)) == {f"arm_position@1/{number}" for number in cut}
    there = {p.partition: p.offset for p in sorted(positions, key=lambda p: p.offset)}
    async with channel_to(queries) as channel:
        stub = ArmQueryServiceStub(channel)
        for arm, at in zip(ARMS, positions, strict=True):
            asked_for = GetArmPositionRequest(arm_id=arm)
            asked_for.read.at_least.add(topic=cluster.topic, partition=at.partition, offset=there[at.partition])
            asked_for.read.max_wait_ms = 300 if at.partition in cut else 20_000
            if at.partition in cut:
                refusal = await refused(stub.GetArmPosition(asked_for))
                assert refusal.code is grpc.StatusCode.UNAVAILABLE, refusal
                assert refusal.reason in ("HALTED", "NO_OWNER"), refusal
            else:
                assert (await stub.GetArmPosition(asked_for)).arm.axes[0].position == 3
    await folding.stop()
    checkpoints, _ = cassandra_tables(cluster.servers.cassandra.address, cluster.environment["AORIST_KEYSPACE"])
    for number in cut:
        assert checkpoints[number] == before.checkpoints[number]  # nothing was skipped
    for number in set(checkpoints) - set(cut):
        assert checkpoints[number].next_offset == there[number] + 1


async def delete(cluster: Cluster) -> None:
    await asyncio.to_thread(admin_delete, cluster)


def admin_delete(cluster: Cluster) -> None:
    client = admin(cluster)
    client.delete_topics([cluster.topic])[cluster.topic].result(PATIENCE_S)


async def recreate(cluster: Cluster) -> None:
    """The same name, another topic."""
    await delete(cluster)
    for _ in range(100):
        ran = await asyncio.to_thread(cluster.run, "topics", "apply")
        if ran.code == 0:
            return
    raise AssertionError(ran)


def made_anew_and_filled(cluster: Cluster, before: LogFile) -> None:
    """At once, with more events than the one before had."""
    admin_delete(cluster)
    client = admin(cluster)
    new = NewTopic(cluster.topic, num_partitions=cluster.partitions, replication_factor=1)
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            client.create_topics([new])[cluster.topic].result(PATIENCE_S)
            break
        except KafkaException:  # the one before is on its way out
            assert time.monotonic() < until
    partitions = {event.key: event.partition for event in before.events}
    producer = Producer({"bootstrap.servers": cluster.servers.kafka.address, "log_level": 0})
    for number in range(FILLING):
        for arm, partition in partitions.items():
            changed = JointPositionsChanged(arm_id=arm.decode(), sampled_at_us=BASE_US + 1000 + number)
            event = ArmEvent(joint_positions_changed=changed)
            producer.produce(cluster.topic, event.SerializeToString(), arm, partition)
    assert producer.flush(PATIENCE_S) == 0


async def test_a_topic_deleted_is_noticed(cluster: Cluster) -> None:
    gateway, asked = cluster.gateways()
    folding = cluster.materializer("ada")
    commands, queries = await gateway.ready(), await asked.ready()
    await folding.ready()
    await answers(queries, await report(commands, 0))
    await delete(cluster)
    await all_halted(cluster, folding, queries, "deleted")
    await gateway.says("the topics are not as declared")


async def test_a_topic_made_anew_is_noticed_while_it_is_read(cluster: Cluster) -> None:
    """Also where it holds at once more events than the one before: what may be a mixture of both is nobody told, and nowhere kept."""
    gateway, asked = cluster.gateways()
    folding = cluster.materializer("ada")
    commands, queries = await gateway.ready(), await asked.ready()
    await folding.ready()
    await answers(queries, await report(commands, 0))
    before = await cluster.log()
    await asyncio.to_thread(made_anew_and_filled, cluster, before)
    await all_halted(cluster, folding, queries, "")
    async with channel_to(queries) as channel:
        for arm in ARMS:
            refusal = await refused(ArmQueryServiceStub(channel).GetArmPosition(GetArmPositionRequest(arm_id=arm)))
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "HALTED")

    folding.kill()  # and what it wrote stays with the former topic
    again = cluster.materializer("ada")
    fresh = cluster.role("commands", "command-gateway")  # the other one knows the former topic
    anew = await fresh.ready()
    await again.ready()
    found = await answers(queries, await report(anew, 2000))
    assert found == (await cluster.log()).folded(counted)
    assert {arm.axes[0].position for arm in found.values()} == {FILLING + 1}
    assert not errors(again)


async def test_a_topic_made_anew_meanwhile_has_rows_of_its_own(cluster: Cluster) -> None:
    gateway, asked = cluster.gateways()
    folding = cluster.materializer("ada")
    commands, queries = await gateway.ready(), await asked.ready()
    await folding.ready()
    await answers(queries, await report(commands, 0))
    await folding.stop()
    await recreate(cluster)
    fresh = cluster.role("commands", "command-gateway")
    positions = await report(await fresh.ready(), 1000)
    again = cluster.materializer("ada")
    await again.ready()
    found = await answers(queries, positions)
    assert {arm.axes[0].position for arm in found.values()} == {1}
    assert {shard.keys for shard in await status(queries)} == {
        len({arm for arm, at in zip(ARMS, positions, strict=True) if at.partition == number})
        for number in range(cluster.partitions)
    }
    assert not errors(again)
