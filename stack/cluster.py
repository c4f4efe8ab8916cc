"""The three servers together, and Kafka as more than one broker."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from stack.cassandra import Cassandra, CommitlogSync
from stack.errors import StackError
from stack.etcd import Etcd
from stack.kafka import Broker, Node, new_id
from stack.server import Server


class Servers:
    """Several servers under the verbs of one; what can go in parallel does."""

    def __init__(self, servers: Iterable[Server]) -> None:
        self.servers = tuple(servers)

    def start(self) -> None:
        """All answer, or those that run are killed and one error says what each of the others lacked."""
        try:
            self.launch()
            _together(server.wait_ready for server in self.servers)
        except BaseException:
            self.kill()
            raise

    def launch(self) -> None:
        _together(server.launch for server in self.servers)

    def stop(self) -> None:
        _together(server.stop for server in self.servers)

    def kill(self) -> None:
        _together(server.kill for server in self.servers)

    def pause(self) -> None:
        _together(server.pause for server in self.servers)

    def resume(self) -> None:
        _together(server.resume for server in self.servers)

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class KafkaCluster(Servers):
    """One broker for most tests; three for those about replication: every topic on all, acks=all means two of them."""

    def __init__(
        self,
        folder: Path,
        *,
        brokers: int = 1,
        settings: Mapping[str, str] | None = None,
        jvm: Sequence[str] = (),
        outlive: bool = False,
    ) -> None:
        nodes = [Node.new(number) for number in range(1, brokers + 1)]
        cluster_id = new_id()
        self.brokers = [
            Broker(folder / f"kafka-{node.id}", node, nodes, cluster_id, settings=settings, jvm=jvm, outlive=outlive)
            for node in nodes
        ]
        super().__init__(self.brokers)

    @property
    def address(self) -> str:
        return ",".join(broker.address for broker in self.brokers)

    def wait_in_sync(self, timeout_s: float = 60.0) -> None:
        """Until every replica of every partition has caught up: only then is killing the next broker a fair test."""
        client = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
        deadline = time.monotonic() + timeout_s
        while behind := _behind(client):
            if time.monotonic() > deadline:
                raise StackError(f"after {timeout_s:.0f} s still not in sync: {', '.join(behind)}")
            time.sleep(0.1)


class Stack(Servers):
    """Kafka, Cassandra and etcd in one folder; without one, in a temporary folder that `with` deletes at the end.

    A start that fails leaves the folder, for its logs.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        brokers: int = 1,
        commitlog_sync: CommitlogSync = "periodic",
        jvm: Sequence[str] = (),
        outlive: bool = False,
    ) -> None:
        self._temporary = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="aorist-stack-"))
        self.kafka = KafkaCluster(self.folder, brokers=brokers, jvm=jvm, outlive=outlive)
        self.cassandra = Cassandra(self.folder / "cassandra", commitlog_sync=commitlog_sync, jvm=jvm, outlive=outlive)
        self.etcd = Etcd(self.folder / "etcd", outlive=outlive)
        super().__init__([*self.kafka.brokers, self.cassandra, self.etcd])

    @property
    def environment(self) -> dict[str, str]:
        """Where clients find the servers, as the variables that aorist reads."""
        return {
            "AORIST_KAFKA": self.kafka.address,
            "AORIST_CASSANDRA": self.cassandra.address,
            "AORIST_ETCD": self.etcd.address,
        }

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)


def _together(calls: Iterable[Callable[[], None]]) -> None:
    calls = list(calls)
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(call) for call in calls]
    errors = [error for future in futures if (error := future.exception())]
    for error in errors:
        if not isinstance(error, StackError):
            raise error
    if errors:
        raise StackError("\n\n".join(dict.fromkeys(map(str, errors))))  # both JVMs miss the same java


def _behind(client: AdminClient) -> list[str]:
    try:
        topics = client.list_topics(timeout=5).topics
    except KafkaException as error:
        return [str(error)]
    return [
        f"{topic.topic}/{partition.id}"
        for topic in topics.values()
        for partition in topic.partitions.values()
        if len(partition.isrs) < len(partition.replicas)
    ]
