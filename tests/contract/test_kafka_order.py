"""Order on the real Kafka: what nobody waits for any more keeps its place, so that what is sent again comes behind it."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from aorist.adapters.kafka import KafkaEventLog
from aorist.adapters.kafka import log as kafka_log
from aorist.errors import LogUnavailableError
from aorist.ports import NewRecord, TopicSpec
from aorist.position import Partition
from tests.harness.places import PATIENCE_S
from tests.servers import shared_kafka


async def test_what_was_given_up_is_written_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker stands still. One sender gives up on the first of two events, sends it again, then the second."""
    kafka = shared_kafka()
    (broker,) = kafka.brokers
    log = KafkaEventLog(kafka.address)
    topic = log.create(TopicSpec(f"order-{uuid4().hex[:8]}", 1, retention_ms=3_600_000))

    async def append(value: bytes) -> int:
        (offset,) = await log.append(topic.name, [NewRecord(0, b"key", value)])
        return offset

    assert await append(b"0") == 0
    monkeypatch.setattr(kafka_log, "ACKNOWLEDGED_WITHIN_S", 0.5)
    broker.pause()
    try:
        for value in (b"1", b"2"):
            with pytest.raises(LogUnavailableError, match="not known, send it again"):
                await append(value)
    finally:
        broker.resume()
    monkeypatch.setattr(kafka_log, "ACKNOWLEDGED_WITHIN_S", PATIENCE_S)
    assert [await append(value) for value in (b"1", b"2", b"3")] == [3, 4, 5]
    reader = log.reader("order")
    reader.assign(Partition(topic.name, 0), 0)
    values: list[bytes | None] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(values) < 6:
            for fetched in await asyncio.to_thread(reader.poll, 100, 0.5):
                values += [value for _, _, value in fetched.records]
    assert values == [b"0", b"1", b"2", b"1", b"2", b"3"]
    reader.close()
    log.close()
