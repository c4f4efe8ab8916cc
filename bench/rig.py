"""What every figure is measured on: the real servers, started once, and topics of its own."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from aorist.adapters.cassandra import apply_schema
from aorist.adapters.kafka import KafkaEventLog
from aorist.ports import Topic, TopicSpec
from bench.fill import PARTITIONS, fill
from bench.machine import Cores, pin
from bench.processes import Child, python
from stack.cluster import Stack

ADDRESSES = ("AORIST_KAFKA", "AORIST_CASSANDRA", "AORIST_ETCD")
WEEK_MS = 604_800_000
ROUNDS = 3


class Filled(NamedTuple):
    """A topic with a backlog."""

    topic: str
    events: int


class Rig:
    """`quick`: shorter measurements of smaller backlogs. `stack_start_s`: None where the servers ran already."""

    def __init__(self, environ: Mapping[str, str], *, quick: bool, pinned: bool, stack_start_s: float | None) -> None:
        self.quick, self.pinned, self.stack_start_s = quick, pinned, stack_start_s
        self.cores = Cores()
        self.until = 0.0  # `time.monotonic()` after which the figure under way begins no round
        self.ends = 0.0  # ... and at which it has had its time
        self.kafka = environ["AORIST_KAFKA"]
        self.cassandra = environ["AORIST_CASSANDRA"].split(",")
        run = uuid.uuid4().hex[:8]
        self._topics: list[str] = []
        self._prefix = f"aorist-bench-{run}"
        self._keyspaces = 0
        self._log = KafkaEventLog(self.kafka, overrides={"log_level": 0})
        self.environ = {
            **environ,
            "AORIST_LISTEN": "127.0.0.1:0",
            "AORIST_REPLICAS": "1",
            "AORIST_LOG_LEVEL": "warning",
            "AORIST_LOG_FORMAT": "human",
        }

    def rounds(self) -> Iterator[int]:
        """Three, or fewer where the machine is so slow that the time of the figure is over: at least one."""
        for number in range(ROUNDS):
            if number and time.monotonic() > self.until:
                return
            yield number

    def topic(self, name: str) -> str:
        """A new topic, of as many partitions as that of arms."""
        spec = TopicSpec(f"{self._prefix}.{name}", PARTITIONS, retention_ms=WEEK_MS)
        self._topics.append(self._log.create(spec).name)
        return spec.name

    def filled(self, name: str, *, events: int, arms: int, axes: int, rests: bool = False) -> Filled:
        topic = self.topic(name)
        return Filled(topic, fill(self.kafka, topic, events=events, arms=arms, axes=axes, rests=rests))

    def describe(self, topic: str) -> Topic:
        return self._log.describe(topic)

    def new_keyspace(self) -> str:
        """Without rows of anybody."""
        name = f"{self._prefix.replace('-', '_')}_{self._keyspaces}"
        self._keyspaces += 1
        apply_schema(self.cassandra, name, 1)
        return name

    def empty(self, topic: str) -> None:
        """Forgets the events of a topic: a command is measured against a log, not against a disk that fills."""
        client = AdminClient({"bootstrap.servers": self.kafka, "log_level": 0})
        asked = {TopicPartition(topic, number): OffsetSpec.latest() for number in range(PARTITIONS)}  # type: ignore[no-untyped-call]
        ends = [
            TopicPartition(topic, at.partition, end.result(10).offset) for at, end in client.list_offsets(asked).items()
        ]
        for deleted in client.delete_records(ends).values():
            deleted.result(10)

    def forget_application(self, name: str) -> None:
        """Deletes the topics that Kafka Streams made for an application."""
        client = AdminClient({"bootstrap.servers": self.kafka, "log_level": 0})
        own = [topic for topic in client.list_topics(timeout=10).topics if topic.startswith(name)]
        for deleted in client.delete_topics(own).values() if own else ():
            deleted.result(10)

    def child(self, module: str, *arguments: object, environ: Mapping[str, str] | None = None) -> Child:
        """A program of `bench.children`, on the server's core."""
        return Child(python(module, *arguments), self.cores.server, {**self.environ, **(environ or {})})

    def close(self) -> None:
        self._log.close()
        if self.stack_start_s is None:  # somebody else's servers are left as they were
            client = AdminClient({"bootstrap.servers": self.kafka, "log_level": 0})
            with suppress(KafkaException):
                for deleted in client.delete_topics(self._topics).values():
                    deleted.result(10)


@contextmanager
def rig(*, quick: bool) -> Iterator[Rig]:
    """On the servers that AORIST_KAFKA, AORIST_CASSANDRA and AORIST_ETCD name, or on a stack of its own."""
    logging.getLogger("cassandra").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        if all(os.environ.get(name) for name in ADDRESSES):
            made = Rig({name: os.environ[name] for name in ADDRESSES}, quick=quick, pinned=False, stack_start_s=None)
        else:
            began = time.monotonic()
            servers = stack.enter_context(Stack())
            took = time.monotonic() - began
            made = Rig(servers.environment, quick=quick, pinned=True, stack_start_s=took)
            for server in servers.servers:
                pin(server.pid, made.cores.load)
        stack.callback(made.close)
        yield made
