"""The main job from end to end on separate processes: recordings of real arms in, positions out, one materializer killed in between.

`aorist replay` sends them, real grpcurl asks, and what the topic holds is told by Kafka's own console consumer: it shares no code with us,
and its output is parsed by protobuf alone.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from fleet.arms.v1.events_pb2 import ArmEvent
from stack.jvm import java
from stack.tools import grpcurl, kafka_classpath
from tests.cluster.system import Cluster, Process, until_owned
from tests.e2e.test_recordings import ANCHOR, ANCHOR_US, IN_MOTION, Expected, check_last, expectations, run
from tests.harness.log_file import TOPIC
from tests.harness.places import AORIST, PATIENCE_S, ROOT, recordings
from tests.harness.process import until
from tests.integration.cli.system import Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")

ESCAPED = re.compile(rb"\\x([0-9A-F]{2})")


class Real(Cluster):
    """The real project."""

    project = ROOT

    @property
    def environment(self) -> dict[str, str]:
        return {name: value for name, value in super().environment.items() if not name.startswith("TESTED_")}


class Replayed(NamedTuple):
    cluster: Real
    expected: dict[str, Expected]
    queries: str
    ran: subprocess.CompletedProcess[str]
    tokens: list[dict[str, Any]]
    """Of everything in the log."""


class Counted(NamedTuple):
    """What the console consumer shows. `samples`: how often each (arm, sample time) is there."""

    samples: Counter[tuple[str, int]]
    events: dict[int, int]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replayed(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Replayed]:
    """All recordings, as fast as they were taken; a materializer that owned shards was killed when a third of them was in."""
    files = recordings()
    cluster = Real(servers, tmp_path_factory.mktemp("recordings"), topic=TOPIC, partitions=8)
    environment = {"AORIST_KEYSPACE": "recordings", "AORIST_ETCD_PREFIX": "/recordings"}
    await prepare(cluster, environment)
    try:
        yield await replay(cluster, files, environment)
    except BaseException as error:
        error.add_note(cluster.told())
        raise
    finally:
        for role in cluster.roles:
            role.kill()
        delete_topic(servers.kafka.address)


async def prepare(cluster: Real, environment: dict[str, str]) -> None:
    for command in ("topics", "schema"):
        done = await asyncio.to_thread(
            subprocess.run,
            [str(AORIST), command, "apply"],
            cwd=ROOT,
            env=cluster.environment | environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done
        assert "created: 1" in done.stdout or "made" in done.stdout, f"left by somebody else: {done}"


async def replay(cluster: Real, files: dict[str, Path], environment: dict[str, str]) -> Replayed:
    gateway = cluster.role("commands", "command-gateway", **environment)
    asked = cluster.role("queries", "query-gateway", **environment)
    staying, dying = (cluster.materializer(member, **environment) for member in ("finn", "ada"))
    commands, queries = await gateway.ready(), await asked.ready()
    await asyncio.gather(staying.ready(), dying.ready())
    await until_owned(queries, cluster.partitions, "finn", "ada")

    expected = await asyncio.to_thread(expectations, files)
    third = sum(one.rows for one in expected.values()) // 3
    paths = [str(path) for path in files.values()]
    sending = asyncio.create_task(
        run(str(AORIST), "replay", *paths, "--speed", "0", "--anchor", ANCHOR, address=commands)
    )
    with closing(Consumer({"bootstrap.servers": cluster.servers.kafka.address, "group.id": "plain"})) as plain:
        await until(lambda: sending.done() or sum(ends(plain)) >= third, "a third of the rows in the log")
        assert not sending.done(), "all was sent before a third of it was seen"
        dying.kill()
        ran = await sending
        numbered = enumerate(ends(plain))
    tokens = [{"topic": TOPIC, "partition": partition, "offset": end - 1} for partition, end in numbered if end]
    return Replayed(cluster, expected, queries, ran, tokens)


def ends(consumer: Consumer) -> list[int]:
    """Of every partition."""
    return [consumer.get_watermark_offsets(TopicPartition(TOPIC, number), timeout=10)[1] for number in range(8)]


def delete_topic(address: str) -> None:
    """Its name is that of the real one: others of this run may want it."""
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    admin.delete_topics([TOPIC])[TOPIC].result(PATIENCE_S)


async def curl(replayed: Replayed, method: str, request: dict[str, Any]) -> Any:
    read = {"at_least": replayed.tokens, "max_wait_ms": int(PATIENCE_S * 1000)}
    asked = await run(
        str(grpcurl()),
        "-plaintext",
        "-d",
        json.dumps(request | {"read": read}),
        replayed.queries,
        f"fleet.arms.v1.{method}",
    )
    assert asked.returncode == 0, asked.stderr + replayed.cluster.told()
    return json.loads(asked.stdout)


def console_consumer(address: str, folder: Path, count: int) -> Counted:
    """The whole topic by Kafka's own tool. It writes what is not plain text as hexadecimal numbers after a backslash and x."""
    plain = "org.apache.kafka.common.serialization.BytesDeserializer"
    shown = {
        "print.partition": "true",
        "print.offset": "true",
        "print.key": "true",
        "key.deserializer": plain,
        "value.deserializer": plain,
    }
    command = [*java(folder, 256, "-XX:TieredStopAtLevel=1"), "-cp", kafka_classpath()]
    command += ["org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", address, "--topic", TOPIC]
    command += ["--from-beginning", "--isolation-level", "read_committed", "--max-messages", str(count)]
    for name, setting in shown.items():
        command += ["--formatter-property", f"{name}={setting}"]
    done = subprocess.run(command, capture_output=True, timeout=2 * PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr.decode()
    samples, events, newest = Counter[tuple[str, int]](), dict[int, int](), dict[str, int]()
    output: bytes = done.stdout
    for line in output.splitlines():
        partition, offset, key, value = line.split(b"\t")
        changed = ArmEvent.FromString(unescaped(value)).joint_positions_changed
        assert unescaped(key) == changed.arm_id.encode()
        number = int(partition.removeprefix(b"Partition:"))
        events[number] = events.get(number, 0) + 1
        assert int(offset.removeprefix(b"Offset:")) == events[number] - 1  # in order, without gaps
        assert changed.sampled_at_us > newest.get(changed.arm_id, 0), f"{changed.arm_id}: older than the one before"
        newest[changed.arm_id] = changed.sampled_at_us
        samples[changed.arm_id, changed.sampled_at_us] += 1
    return Counted(samples, events)


def unescaped(text: bytes) -> bytes:
    return ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), text)


async def test_replay_has_sent_everything_and_says_so(replayed: Replayed) -> None:
    assert replayed.ran.returncode == 0, replayed.ran.stderr
    for count in ("2,501", "45,000", "8,022", "256"):
        assert f": {count} sent, {count} acknowledged, 0 refused" in replayed.ran.stdout, replayed.ran.stdout


async def test_kafkas_own_consumer_counts_every_row_once(replayed: Replayed, tmp_path: Path) -> None:
    """Distinct (arm, sample time), each arm's in order, and no event beyond them: gateways were not touched."""
    address = replayed.cluster.servers.kafka.address
    told = {token["partition"]: token["offset"] + 1 for token in replayed.tokens}
    counted = await asyncio.to_thread(console_consumer, address, tmp_path, sum(told.values()))
    assert counted.events == told
    assert Counter(arm for arm, _ in counted.samples) == {name: one.rows for name, one in replayed.expected.items()}
    assert set(counted.samples.values()) == {1}


async def test_grpcurl_reads_every_arms_last_row_back(replayed: Replayed) -> None:
    for name, expected in replayed.expected.items():
        got = await curl(replayed, "ArmQueryService/GetArmPosition", {"arm_id": name})
        assert got["arm"]["arm_id"] == name
        check_last(got["arm"], expected)


async def test_grpcurl_tells_how_long_each_arm_was_in_motion(replayed: Replayed) -> None:
    for name, expected in replayed.expected.items():
        recorded = {"from_us": ANCHOR_US, "upto_us": expected.last_us}
        got = await curl(replayed, "ArmMotionQueryService/GetMotion", {"arm_id": name, "range": recorded})
        assert got["motion"].get("utilisation", 0.0) == pytest.approx(IN_MOTION[name], abs=0.001)
        seen_us = sum(int(got["motion"].get(part, 0)) for part in ("moving_us", "still_us"))
        assert seen_us == expected.last_us - ANCHOR_US


async def test_grpcurl_lists_them_all_page_by_page(replayed: Replayed) -> None:
    arms, token = dict[str, Any](), ""
    while True:
        page = await curl(replayed, "ArmQueryService/ListArmPositions", {"page_size": 4, "page_token": token})
        assert "missing_partitions" not in page
        arms |= {arm["arm_id"]: arm for arm in page["arms"]}
        token = page.get("next_page_token", "")
        if not token:
            break
    assert sorted(arms) == sorted(replayed.expected)
    for name, expected in replayed.expected.items():
        check_last(arms[name], expected)


async def test_the_survivor_owns_everything_and_all_end_in_order(replayed: Replayed) -> None:
    """The last of this file."""
    await until_owned(replayed.queries, replayed.cluster.partitions, "finn")
    for role in replayed.cluster.roles:
        assert isinstance(role, Process)
        if role.alive():
            await role.stop()
    replayed.cluster.check_quiet()
