"""Readers that know Kafka, Cassandra and protobuf, and nothing of aorist."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from cassandra.cluster import Cluster
from confluent_kafka import Consumer, TopicPartition

from tests.harness.log_file import Event, Row, Saved

HEAD, CHECKPOINT = struct.Struct(">qq"), struct.Struct(">qqqi")


def kafka_events(brokers: str, topic: str, partitions: int) -> tuple[list[Event], dict[int, int]]:
    """Every event that is committed, by partition and offset, and where the partitions end."""
    settings: dict[str, Any] = {
        "bootstrap.servers": brokers,
        "group.id": "plain",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "log_level": 0,
    }
    events: list[Event] = []
    with closing(Consumer(settings)) as consumer:
        consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        ends: dict[int, int] = {}
        while len(ends) < partitions:
            for message in consumer.consume(1000, 0.2):
                number, offset, value = message.partition(), message.offset(), message.value()
                assert number is not None
                assert offset is not None
                if message.error() is not None:
                    ends.setdefault(number, offset)
                elif number not in ends:
                    key = message.key()
                    assert isinstance(key, bytes)
                    assert value is not None
                    events.append(Event(number, offset, key, value))
    return sorted(events), ends


@contextmanager
def cassandra_session(address: str) -> Iterator[Any]:
    host, _, port = address.rpartition(":")
    cluster = Cluster([host], port=int(port), protocol_version=5)
    try:
        yield cluster.connect()
    finally:
        cluster.shutdown()


def cassandra_tables(address: str, keyspace: str) -> tuple[dict[int, Saved], list[Row]]:
    """Every checkpoint, then every row. Each is stamped with its position, else a write from long ago could hide it."""
    with cassandra_session(address) as session:
        checkpoints = {}
        for partition, cell, stamp in session.execute(
            f"SELECT partition, cell, WRITETIME(cell) FROM {keyspace}.checkpoints"  # noqa: S608  # our own name
        ):
            next_offset, epoch, _, _ = CHECKPOINT.unpack(cell)
            assert stamp == next_offset + 1
            checkpoints[partition] = Saved(next_offset, epoch)
        rows = []
        for partition, key, cell, stamp in session.execute(
            f"SELECT partition, key, cell, WRITETIME(cell) FROM {keyspace}.snapshots"  # noqa: S608
        ):
            offset, epoch = HEAD.unpack_from(cell)
            assert stamp == offset + 1
            rows.append(Row(partition, key, cell[HEAD.size :], offset, epoch))
    return checkpoints, rows
