"""What users' programs do with the servers, in a line each."""

import http.client
import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager

from cassandra.cluster import Cluster, Session
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

INSERT = "INSERT INTO kept.rows (key, value) VALUES"

_PATIENCE_S = 60.0


def create_topic(address: str, topic: str, replicas: int = 1) -> None:
    client = AdminClient({"bootstrap.servers": address})
    client.create_topics([NewTopic(topic, 1, replicas)])[topic].result(_PATIENCE_S)


def produce(address: str, topic: str, *values: bytes) -> None:
    """Returns when Kafka has acknowledged them all; raises where it has not."""
    refused: list[str] = []
    settings = {"acks": "all", "enable.idempotence": True, "log_level": 0, "topic.metadata.propagation.max.ms": 1000}
    producer = Producer({"bootstrap.servers": address} | settings)
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: refused.append(str(error)) if error else None)
    left = producer.flush(_PATIENCE_S)
    if left or refused:
        raise RuntimeError(f"{left} unanswered, {len(refused)} refused: {refused}")


def consume(address: str, topic: str, count: int) -> list[bytes]:
    consumer = Consumer(
        {"bootstrap.servers": address, "group.id": "nobody", "enable.auto.commit": False, "log_level": 0}
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        messages = consumer.consume(count, _PATIENCE_S)
    finally:
        consumer.close()
    return [message.value() or b"" for message in messages if message.error() is None]


@contextmanager
def cql(port: int) -> Iterator[Session]:
    # Left to choose, the driver 3.30 tries versions that this server refuses, and gives up.
    cluster = Cluster(["127.0.0.1"], port=port, protocol_version=5)
    try:
        yield cluster.connect()
    finally:
        cluster.shutdown()


def create_rows(session: Session) -> None:
    session.execute("CREATE KEYSPACE kept WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}")
    session.execute("CREATE TABLE kept.rows (key int PRIMARY KEY, value blob)")


def put(port: int, key: str, value: str) -> None:
    _etcd(port, "put", {"key": _b64(key), "value": _b64(value)})


def get(port: int, key: str) -> str:
    found = _etcd(port, "range", {"key": _b64(key)})["kvs"]
    assert isinstance(found, list)
    return b64decode(found[0]["value"]).decode()


def _etcd(port: int, verb: str, body: dict[str, str]) -> dict[str, object]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        link.request("POST", f"/v3/kv/{verb}", json.dumps(body))
        answer: dict[str, object] = json.loads(link.getresponse().read())
    finally:
        link.close()
    return answer


def _b64(text: str) -> str:
    return b64encode(text.encode()).decode()
