"""Topics, and appends that wait for their acknowledgement."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from confluent_kafka import IsolationLevel, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from aorist.adapters.kafka.client import COMMON, FETCH_BYTES, REQUEST_S, describe, fetching, result, uuid_of
from aorist.adapters.kafka.producer import Producing
from aorist.adapters.kafka.reader import KafkaLogReader
from aorist.errors import AoristError, LogUnavailableError, PartitionCountError, UnknownTopicError
from aorist.ports import TOMBSTONES_KEPT_MS, Bounds, NewRecord, Topic, TopicSpec
from aorist.position import Partition

ACKNOWLEDGED_WITHIN_S = 30.0
"""How long an append waits: for its turn, for room, and for Kafka. What the client has by then may be written yet, in its place."""

AGAIN_S = 0.02
FIRST: Any = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LAST: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]


def topic_config(spec: TopicSpec, replicas: int) -> dict[str, str]:
    """What a topic is made with. min.insync.replicas is one less than `replicas`: one broker may be away."""
    kept = {"cleanup.policy": "compact", "delete.retention.ms": str(TOMBSTONES_KEPT_MS)}
    if not spec.compacted:
        kept = {"cleanup.policy": "delete", "retention.ms": str(spec.retention_ms)}
    return kept | {"min.insync.replicas": str(max(1, replicas - 1))}


class _Failure(NamedTuple):
    at: float
    error: AoristError


class KafkaEventLog:
    """The `EventLog` on Kafka.

    brokers: "host:port,..." replicas: of topics made here. fetch_bytes: what each reader may hold in memory. overrides: settings of
    librdkafka that win over ours.
    """

    def __init__(
        self,
        brokers: str,
        *,
        replicas: int = 1,
        fetch_bytes: int = FETCH_BYTES,
        overrides: dict[str, Any] | None = None,
    ) -> None:
        self._brokers, self._replicas, self._overrides = brokers, replicas, overrides or {}
        self._fetching = fetching(fetch_bytes)
        self._admin = AdminClient({**COMMON, "bootstrap.servers": brokers, **self._overrides})
        self._producing: Producing | None = None
        self._known: dict[str, Topic] = {}  # topics that were appended to
        self._unknown: dict[str, _Failure] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._closed = False

    def create(self, spec: TopicSpec) -> Topic:
        config = topic_config(spec, self._replicas)
        new = NewTopic(spec.name, num_partitions=spec.partitions, replication_factor=self._replicas, config=config)
        future = self._admin.create_topics([new], operation_timeout=REQUEST_S, request_timeout=REQUEST_S)[spec.name]
        try:
            result(future, f"creating topic {spec.name} at {self._brokers}")
        except LogUnavailableError as error:
            code = getattr(error.__cause__, "args", [None])[0]
            if not (isinstance(code, KafkaError) and code.code() == KafkaError.TOPIC_ALREADY_EXISTS):
                raise
        topic = self._settled(spec.name)
        if topic.partitions != spec.partitions:
            raise PartitionCountError(
                f"topic {spec.name!r} has {topic.partitions} partitions but is declared with {spec.partitions}: "
                f"keys would move between partitions; declare {topic.partitions}, or use a new topic",
                topic=spec.name,
                partitions=topic.partitions,
            )
        return topic

    def _settled(self, name: str) -> Topic:
        """A topic just made is not known to every broker at once."""
        until = time.monotonic() + REQUEST_S
        while True:
            try:
                return self.describe(name)
            except UnknownTopicError:
                if time.monotonic() >= until:
                    raise
                time.sleep(AGAIN_S)

    def describe(self, name: str) -> Topic:
        described = describe(self._admin, name, f"describing topic {name} at {self._brokers}")
        return Topic(name, uuid_of(described.topic_id), len(described.partitions))

    def bounds(self, partition: Partition) -> Bounds:
        """`end` is the last stable offset: what a reader of committed events can reach."""
        what, until = f"looking at {partition}", time.monotonic() + REQUEST_S
        while True:
            try:
                return Bounds(self._offset(partition, what, FIRST), self._offset(partition, what, LAST))
            except LogUnavailableError as error:
                # Kafka calls a partition without leader and one that does not exist alike; a new one has none for a moment.
                if partition.number >= self.describe(partition.topic).partitions:
                    raise UnknownTopicError(
                        f"{what}: the topic has no such partition", topic=partition.topic
                    ) from error
                if time.monotonic() >= until:
                    raise

    def _offset(self, partition: Partition, what: str, spec: Any) -> int:
        where = TopicPartition(*partition)
        asked = self._admin.list_offsets(
            {where: spec}, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REQUEST_S
        )
        offset = int(result(asked[where], what, partition.topic).offset)
        if offset < 0:  # a starved broker has answered so: taken at its word, the log would seem to have lost its end
            raise LogUnavailableError(f"{what}: Kafka fails: it answers offset {offset}")
        return offset

    async def append(self, topic: str, records: Sequence[NewRecord]) -> Sequence[int]:
        if not records:
            return []
        came = time.monotonic()
        try:
            async with asyncio.timeout(ACKNOWLEDGED_WITHIN_S):
                async with self._turns[topic]:  # first come, first written, whatever each of them has to wait for
                    await self._check_known(topic, records, came)
                    acknowledged = await self._producer().hand_over(topic, records)
                return await asyncio.shield(acknowledged)
        except TimeoutError:
            late = f"not acknowledged within {ACKNOWLEDGED_WITHIN_S:g} s"
            raise LogUnavailableError(
                f"appending to {topic}: {late}: whether it is durable is not known, send it again"
            ) from None

    async def _check_known(self, topic: str, records: Sequence[NewRecord], came: float) -> None:
        """The client would wait for an unknown topic until its events time out. All who came before a look at it failed, fail with it."""
        if topic not in self._known:
            failed = self._unknown.get(topic)
            if failed is not None and failed.at >= came:
                raise failed.error
            try:
                self._known[topic] = await asyncio.to_thread(self.describe, topic)
            except AoristError as error:
                self._unknown[topic] = _Failure(time.monotonic(), error)
                raise
        partitions = self._known[topic].partitions
        if any(record.partition >= partitions for record in records):
            raise UnknownTopicError(f"topic {topic!r} has {partitions} partitions, from 0", topic=topic)

    def _producer(self) -> Producing:
        if self._closed:
            raise LogUnavailableError("the log is closed")
        if self._producing is None or self._producing.broken:
            self._producing = Producing(self._brokers, self._overrides, asyncio.get_running_loop())
        return self._producing

    def reader(self, group: str) -> KafkaLogReader:
        return KafkaLogReader(self._brokers, group, self._fetching | self._overrides, self._admin)

    def close(self) -> None:
        self._closed = True
        if self._producing is not None:
            self._producing.close()
