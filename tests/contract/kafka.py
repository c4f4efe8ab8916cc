"""The contract suite's way to a real broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from aorist.adapters.kafka import KafkaEventLog
from aorist.ports import Record
from aorist.position import Partition
from tests.servers import shared_kafka

PATIENCE_S = 60.0


class KafkaHarness:
    """A log on a broker that all tests share; topics have names of their own."""

    def __init__(self, brokers: str) -> None:
        self._brokers = brokers
        self._admin = AdminClient({"bootstrap.servers": brokers})
        self.log = KafkaEventLog(brokers)

    async def reopen(self) -> None:
        self.log.close()
        self.log = KafkaEventLog(self._brokers)

    def delete_topic(self, name: str) -> None:
        """Returns once the broker knows: its controller does a moment before."""
        self._admin.delete_topics([name], operation_timeout=10.0)[name].result()
        until = time.monotonic() + PATIENCE_S
        while name in self._admin.list_topics(timeout=PATIENCE_S).topics:
            assert time.monotonic() < until, f"{name} is deleted and still there"

    def force_retention(self, topic: str) -> None:
        """As if all were too old: the start moves to the end."""
        partitions = [Partition(topic, n) for n in range(self.log.describe(topic).partitions)]
        everything = {TopicPartition(*p, self.log.bounds(p).end) for p in partitions}
        for future in self._admin.delete_records(list(everything)).values():
            future.result()

    def force_compaction(self, topic: str) -> None:
        """Has the cleaner take everything.

        The segment being written is never cleaned, and a segment ends only when something is written after its time: an aborted
        transaction, of which readers see nothing but a gap.
        """
        self._configure(topic, {"segment.ms": "50", "min.cleanable.dirty.ratio": "0.001", "max.compaction.lag.ms": "1"})
        keys = sum(len({key for _, key, _ in records}) for records in self._read(topic).values())
        time.sleep(0.1)  # the age that ends a segment: nothing to wait for but time
        producer = Producer({"bootstrap.servers": self._brokers, "transactional.id": f"end-{topic}"})
        producer.init_transactions(PATIENCE_S)
        producer.begin_transaction()
        for partition in range(self.log.describe(topic).partitions):
            producer.produce(topic, b"", b"never seen", partition)
        producer.flush(PATIENCE_S)
        producer.abort_transaction(PATIENCE_S)
        until = time.monotonic() + PATIENCE_S
        while sum(map(len, self._read(topic).values())) > keys:
            assert time.monotonic() < until, "the cleaner does not come round"

    def _read(self, topic: str) -> dict[int, list[Record]]:
        reader = self.log.reader("contract")
        found: dict[int, list[Record]] = {n: [] for n in range(self.log.describe(topic).partitions)}
        left = set(found)
        for number in found:
            reader.assign(Partition(topic, number), self.log.bounds(Partition(topic, number)).start)
        while left:
            for fetched in reader.poll(1000, 0.5):
                found[fetched.partition.number].extend(fetched.records)
                if fetched.next_offset >= fetched.end_offset:
                    left.discard(fetched.partition.number)
        reader.close()
        return found

    def _configure(self, topic: str, settings: dict[str, str]) -> None:
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in settings.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        for future in self._admin.incremental_alter_configs([resource]).values():
            future.result()


@asynccontextmanager
async def kafka(_: Path) -> AsyncIterator[KafkaHarness]:
    harness = KafkaHarness((await asyncio.to_thread(shared_kafka)).address)
    yield harness
    harness.log.close()
