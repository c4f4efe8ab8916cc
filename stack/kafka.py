"""A Kafka broker that is its own controller (KRaft), alone or as one of several."""

import base64
import contextlib
import socket
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from stack import tools
from stack.errors import StackError, tail_of
from stack.jvm import QUICK, java
from stack.ports import free_ports
from stack.process import tied
from stack.server import Server

_FORMAT_TIMEOUT_S = 60


def new_id() -> str:
    """A UUID as Kafka writes it. Its command line would take a leading dash for an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()).startswith("-"):
        pass
    return text


@dataclass(frozen=True)
class Node:
    """What every broker must know about each of them."""

    id: int
    port: int
    controller_port: int
    directory_id: str

    @classmethod
    def new(cls, number: int) -> "Node":
        port, controller_port = free_ports(2)
        return cls(number, port, controller_port, new_id())

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def voter(self) -> str:
        return f"{self.id}@127.0.0.1:{self.controller_port}:{self.directory_id}"


class Broker(Server):
    def __init__(
        self,
        folder: Path,
        node: Node,
        nodes: Sequence[Node],
        cluster_id: str,
        *,
        settings: Mapping[str, str] | None = None,
        jvm: Sequence[str] = (),
        outlive: bool = False,
    ) -> None:
        super().__init__(f"kafka-{node.id}", folder, outlive=outlive)
        self.node = node
        self._nodes = nodes
        self._cluster_id = cluster_id
        self._settings = dict(settings or {})
        self._jvm = jvm
        self._data = self.folder / "data"

    @property
    def address(self) -> str:
        return self.node.address

    def prepare(self) -> list[str]:
        properties = self.folder / "server.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
        if not (self._data / "meta.properties").exists():
            self._format(properties)
        heap_mb = 512 if len(self._nodes) == 1 else 384
        logging = ("-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS")
        command = java(self.folder, heap_mb, *self._jvm, *logging)
        return [*command, "-cp", tools.kafka_classpath(), "kafka.Kafka", str(properties)]

    def answers(self) -> bool:
        """It knows itself as one of the cluster's brokers: registered with the controller and let in."""
        socket.create_connection(("127.0.0.1", self.node.port), timeout=1).close()
        # A new client each time, since only a client that knows one address must put its question there.
        client = AdminClient({"bootstrap.servers": self.address, "log_level": 0, "socket.timeout.ms": 1000})
        with contextlib.suppress(KafkaException):
            return self.node.id in client.list_topics(timeout=1).brokers
        return False

    def _format(self, properties: Path) -> None:
        command = java(self.folder, 128, *QUICK)
        command += ["-cp", tools.kafka_classpath(), "kafka.tools.StorageTool", "format"]
        command += ["-t", self._cluster_id, "-c", str(properties), "--ignore-formatted"]
        command += ["--initial-controllers", ",".join(node.voter for node in self._nodes)]
        with self.log.open("ab") as log:
            code = subprocess.run(
                tied(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=_FORMAT_TIMEOUT_S, check=False
            ).returncode
        if code != 0:
            raise StackError(f"cannot format the folder of {self.name} (code {code}):\n{tail_of(self.log)}")

    def _properties(self) -> dict[str, str]:
        replicas = min(3, len(self._nodes))
        in_sync = max(1, replicas - 1)
        few = "4"  # of the 50 that Kafka gives its own topics: each costs files, and time at start
        return {
            "process.roles": "broker,controller",
            "node.id": str(self.node.id),
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://127.0.0.1:{self.node.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.bootstrap.servers": ",".join(f"127.0.0.1:{n.controller_port}" for n in self._nodes),
            "log.dirs": str(self._data),
            # A misspelt topic is an error, not a topic of one partition.
            "auto.create.topics.enable": "false",
            "default.replication.factor": str(replicas),
            "min.insync.replicas": str(in_sync),
            "offsets.topic.replication.factor": str(replicas),
            "offsets.topic.num.partitions": few,
            "transaction.state.log.replication.factor": str(replicas),
            "transaction.state.log.min.isr": str(in_sync),
            "transaction.state.log.num.partitions": few,
            "share.coordinator.state.topic.replication.factor": str(replicas),
            "share.coordinator.state.topic.min.isr": str(in_sync),
            "share.coordinator.state.topic.num.partitions": few,
            "group.initial.rebalance.delay.ms": "0",
            # A killed broker is not let in again, nor another made leader in its place, before its session has ended:
            # 9 s by default.
            "broker.session.timeout.ms": "4000",
            "broker.heartbeat.interval.ms": "500",
            # A quarter of the heap by default; enough for 600,000 keys per round of compaction.
            "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
            **self._settings,
        }
