"""`aorist log` on a real Kafka: what is there, from where to where was asked; whatever was written there."""

from __future__ import annotations

import json

import pytest

from aorist.position import partition_of
from fleet.arms.v1.events_pb2 import JointPositionsChanged
from tests.harness.client import sample
from tests.integration.cli.system import System

START_MS = 1_767_225_600_000  # 2026-01-01


def event(arm_id: str, at: int) -> bytes:
    one = sample(arm_id, at)
    body = JointPositionsChanged(arm_id=arm_id, sampled_at_us=one.sampled_at_us, axes=one.axes).SerializeToString()
    return bytes([2 << 3 | 2, len(body)]) + body


@pytest.fixture
def written(system: System) -> System:
    """Five events of arm `a`, a second apart; one of `f`; then what no gateway would write, in the partition of `a`."""
    system.retention_ms = 10**12  # Kafka itself forgets by the times given here
    assert system.run("topics", "apply").code == 0
    a, f = (partition_of(arm, system.partitions) for arm in (b"a", b"f"))
    assert a != f
    for number in range(5):
        system.produce(a, b"a", event("a", number), START_MS + 1000 * number)
    system.produce(f, b"f", event("f", 0), START_MS)
    system.produce(a, b"\xff", b"\xff\xff", START_MS + 5000)
    system.produce(a, b"c", bytes([15 << 3 | 2, 0]), START_MS + 6000)
    system.produce(a, b"d", None, START_MS + 7000)
    system.produce(a, None, b"", START_MS + 8000)
    return system


def test_what_it_shows(written: System) -> None:
    topic, a = written.topic, partition_of(b"a", written.partitions)

    ran = written.run("log", topic, "--key", "a", "--limit", "2")
    data = "{arm_id: a, sampled_at_us: 1767225600000000, axes: [{axis: 0, position: 0.5}]}"
    assert ran.code == 0, ran
    assert ran.out.splitlines()[0] == f"{topic}/{a}@0 2026-01-01T00:00:00.000Z a JointPositionsChanged {data}"
    assert len(ran.out.splitlines()) == 2

    ran = written.run("log", topic, "--json")
    assert (ran.code, ran.err) == (0, ""), ran
    found = [json.loads(line) for line in ran.out.splitlines()]
    assert sorted(one["key"] or "" for one in found) == ["", "\\xff", *"aaaaacdf"]
    in_a = [one for one in found if one["partition"] == a]
    assert [one["offset"] for one in in_a] == sorted(one["offset"] for one in in_a)
    assert in_a[0]["data"]["axes"] == [{"axis": 0, "position": 0.5}]
    problems = {one["key"]: one["problem"] for one in found if one["event"] is None}
    assert problems == {
        "\\xff": "not a tested.Envelope",
        "c": "an event this project does not know, field 15",
        "d": "a tombstone",
        None: "an envelope without event",
    }
    ran = written.run("log", topic)
    assert f'{topic}/{a}@5 2026-01-01T00:00:05.000Z "\\\\xff" (not a tested.Envelope) ffff' in ran.out


def test_where_it_begins(written: System) -> None:
    topic, a = written.topic, str(partition_of(b"a", written.partitions))

    def offsets(*arguments: str) -> list[int]:
        ran = written.run("log", topic, "--json", *arguments)
        assert ran.code == 0, ran
        return [json.loads(line)["offset"] for line in ran.out.splitlines()]

    assert offsets("--partition", a, "--from", "7") == [7, 8]
    assert offsets("--key", "a", "--from", "3") == [3, 4]
    assert offsets("--key", "a", "--from", "2026-01-01T00:00:02.5Z") == [3, 4]
    assert offsets("--key", "a", "--from", "2026-01-01T01:00:02+01:00") == [2, 3, 4]
    ran = written.run("log", topic, "--partition", a, "--from", "5000")
    assert (ran.code, ran.err.endswith("there is no 5000\n")) == (1, True), ran


async def test_following(written: System) -> None:
    reading = written.start("log", written.topic, "--follow", "--key", "f", serves=False)
    await reading.says("@0 ")
    written.produce(partition_of(b"f", written.partitions), b"f", event("f", 1), START_MS)
    await reading.says("sampled_at_us: 1767225600000001")


def test_a_topic_that_kafka_lacks(system: System) -> None:
    ran = system.run("log", system.topic)
    assert ran.code == 1
    assert f"the log has no {system.topic}; create it with `aorist topics apply`" in ran.err
