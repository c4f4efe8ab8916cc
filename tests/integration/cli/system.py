"""A system of one's own on the shared servers: own topic, keyspace and prefix in etcd, and the command line in its project."""

from __future__ import annotations

import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from confluent_kafka import Consumer, Producer, TopicPartition

from fleet.arms.v1.events_pb2 import JointPositionsChanged
from stack.cassandra import Cassandra
from stack.cluster import KafkaCluster
from stack.etcd import Etcd
from stack.process import tied
from tests.harness.places import AORIST, PATIENCE_S, clean_environment
from tests.harness.process import until

PROJECT = Path(__file__).with_name("project")

START_S = 60.0
"""For what takes 2 s on a machine that does nothing else."""

WEEK_MS = 604_800_000


class Servers(NamedTuple):
    """That all tests share."""

    kafka: KafkaCluster
    cassandra: Cassandra
    etcd: Etcd

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AORIST_KAFKA": self.kafka.address,
            "AORIST_CASSANDRA": self.cassandra.address,
            "AORIST_ETCD": self.etcd.address,
        }


class Ran(NamedTuple):
    code: int
    out: str
    err: str


class Role:
    """A role as a process of its own. What it writes goes to a file."""

    def __init__(self, folder: Path, environment: dict[str, str], *arguments: str, serves: bool) -> None:
        self._log, self._port_file = folder.with_suffix(".log"), folder.with_suffix(".address")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                tied(
                    [str(AORIST), *arguments, *(["--port", "0", "--port-file", str(self._port_file)] if serves else [])]
                ),
                cwd=PROJECT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def ready(self) -> str:
        """Its address, once it serves."""
        await until(lambda: self.is_ready() or not self.alive(), "serving, or dead", START_S)
        assert self.is_ready(), self.output()
        return self._port_file.read_text().strip()

    def is_ready(self) -> bool:
        return self._port_file.exists()

    async def says(self, text: str) -> None:
        """Waits until `text` is in its output."""
        await until(lambda: text in self.output() or not self.alive(), text, START_S)
        assert self.alive(), self.output()

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def alive(self) -> bool:
        return self._process.poll() is None

    async def stop(self) -> None:
        """In order; it must say that it did well."""
        self._process.send_signal(signal.SIGTERM)
        await until(lambda: not self.alive(), "the end of the process", START_S)
        assert self._process.returncode == 0, self.output()

    def kill(self) -> None:
        """As `kill -9`; it is gone on return."""
        self._process.kill()
        self._process.wait()


@dataclass
class System:
    """`topic`, `partitions`, `retention_ms` (0: compacted) are what the project declares."""

    servers: Servers
    folder: Path
    topic: str = field(default_factory=lambda: f"arms-{uuid4().hex[:8]}")
    partitions: int = 4
    retention_ms: int = WEEK_MS
    roles: list[Role] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=count)

    @property
    def environment(self) -> dict[str, str]:
        name = self.topic.replace("-", "_")
        settings = {"AORIST_REPLICAS": "1", "AORIST_KEYSPACE": name, "AORIST_ETCD_PREFIX": f"/{name}"}
        declared = {"TESTED_PARTITIONS": str(self.partitions), "TESTED_RETENTION_MS": str(self.retention_ms)}
        return clean_environment(**self.servers.environment, **settings) | declared | {"TESTED_TOPIC": self.topic}

    def run(self, *arguments: str, **environment: str) -> Ran:
        """`aorist` with these arguments, to its end."""
        done = subprocess.run(
            [str(AORIST), *arguments],
            cwd=PROJECT,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def prepare(self) -> None:
        """Topic, keyspace and tables, side by side."""
        with ThreadPoolExecutor() as pool:
            for ran in pool.map(lambda command: self.run(command, "apply"), ("topics", "schema")):
                assert ran.code == 0, ran

    def start(self, *arguments: str, serves: bool = True) -> Role:
        """`serves`: it listens, and tells where."""
        folder = self.folder / f"{arguments[0]}-{next(self._numbers)}"
        role = Role(folder, self.environment, *arguments, serves=serves)
        self.roles.append(role)
        return role

    def produce(self, partition: int, key: bytes | None, value: bytes | None, time_ms: int) -> None:
        """As somebody would who knows nothing of aorist."""
        producer = Producer({"bootstrap.servers": self.servers.kafka.address, "log_level": 0})
        producer.produce(self.topic, value, key, partition, timestamp=time_ms)
        assert producer.flush(PATIENCE_S) == 0

    def samples(self) -> dict[str, list[int]]:
        """Sample times of each arm, in the order of the log. By a reader that knows Kafka and protobuf alone."""
        settings = {"group.id": "plain", "isolation.level": "read_committed", "enable.partition.eof": True}
        consumer = Consumer({"bootstrap.servers": self.servers.kafka.address, "log_level": 0, **settings})
        consumer.assign([TopicPartition(self.topic, number, 0) for number in range(self.partitions)])
        found: dict[str, list[int]] = {}
        ended: set[int | None] = set()
        while len(ended) < self.partitions:
            for message in consumer.consume(1000, 0.2):
                if message.error() is None:
                    value = message.value()
                    assert value is not None
                    assert value[0] == 2 << 3 | 2  # field 2 of the envelope and nothing else
                    event = JointPositionsChanged.FromString(_after_length(value))
                    found.setdefault(event.arm_id, []).append(event.sampled_at_us)
                else:
                    ended.add(message.partition())
        consumer.close()
        return found


def _after_length(value: bytes) -> bytes:
    """What follows the tag and the length behind it."""
    start = 1
    while value[start] & 0x80:
        start += 1
    return value[start + 1 :]
