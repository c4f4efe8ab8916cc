"""Silence on the real Kafka: of a partition that is known to have more, the client gives nothing, and says nothing."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from aorist.adapters.kafka import KafkaEventLog, reader
from aorist.ports import NewRecord, TopicSpec
from aorist.position import Partition
from tests.harness.places import PATIENCE_S
from tests.servers import shared_kafka


class Silent:
    """A client that gives nothing of one partition until that is assigned anew."""

    def __init__(self, client: Consumer, number: int) -> None:
        self._client, self._number = client, number

    def poll(self, timeout: float) -> Message | None:
        message = self._client.poll(timeout)
        return None if message is None or message.partition() == self._number else message

    def consume(self, count: int, timeout: float) -> list[Message]:
        return [message for message in self._client.consume(count, timeout) if message.partition() != self._number]

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self._number = -1
        self._client.incremental_assign(partitions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


async def test_a_silent_partition_is_asked_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside one that gives something all the time. No event is missing, none comes twice."""
    monkeypatch.setattr(reader, "SILENT_S", 0.5)
    log = KafkaEventLog(shared_kafka().address)
    topic = log.create(TopicSpec(f"silence-{uuid4().hex[:8]}", 2, retention_ms=3_600_000)).name
    silent, busy = Partition(topic, 0), Partition(topic, 1)
    reading = log.reader("silence")
    values: list[bytes | None] = []

    async def read_until(count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(values) < count:
                await log.append(topic, [NewRecord(busy.number, b"key", b"busy")])
                for fetched in await asyncio.to_thread(reading.poll, 100, 0.5):
                    if fetched.partition == silent:
                        values.extend(value for _, _, value in fetched.records)

    reading.assign(silent, 0)
    reading.assign(busy, 0)
    await log.append(topic, [NewRecord(silent.number, b"key", b"%d" % number) for number in range(3)])
    await read_until(3)
    monkeypatch.setattr(reading, "_consumer", Silent(reading._consumer, silent.number))
    await log.append(topic, [NewRecord(silent.number, b"key", b"%d" % number) for number in range(3, 6)])
    await read_until(6)
    assert values == [b"%d" % number for number in range(6)]
    reading.close()
    log.close()
