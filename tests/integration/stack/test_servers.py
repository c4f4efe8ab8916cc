"""Each server keeps what it acknowledged when it is killed, and comes back where it was."""

import time
from pathlib import Path

import pytest

from stack.cassandra import Cassandra
from stack.cluster import Stack
from stack.errors import StackError
from stack.jvm import QUICK
from stack.server import Server
from tests.integration.stack.clients import INSERT, consume, cql, create_rows, create_topic, get, produce, put


def test_kafka_keeps_records_when_killed(stack: Stack) -> None:
    broker = stack.kafka.brokers[0]
    create_topic(broker.address, "kept")
    produce(broker.address, "kept", b"before")
    _kill_and_start(broker)
    produce(broker.address, "kept", b"after")
    assert consume(broker.address, "kept", 2) == [b"before", b"after"]


def test_kafka_creates_no_topic_by_accident(stack: Stack) -> None:
    with pytest.raises(RuntimeError, match="Unknown topic"):
        produce(stack.kafka.address, "misspelt", b"lost")


def test_cassandra_keeps_rows_when_killed(stack: Stack) -> None:
    with cql(stack.cassandra.port) as session:
        create_rows(session)
        session.execute(f"{INSERT} (1, 0x01)")
    time.sleep(0.5)  # no write shows from outside when the marker behind it has been written, ten times a second
    _kill_and_start(stack.cassandra)
    with cql(stack.cassandra.port) as session:
        assert [tuple(row) for row in session.execute("SELECT key, value FROM kept.rows")] == [(1, b"\x01")]


def test_cassandra_in_batch_mode_keeps_the_row_of_a_moment_ago(tmp_path: Path) -> None:
    with Cassandra(tmp_path, commitlog_sync="batch", jvm=QUICK) as server:
        acknowledged = 0
        with cql(server.port) as session:
            create_rows(session)
            until = time.monotonic() + 1
            while time.monotonic() < until:
                session.execute(f"{INSERT} ({acknowledged}, 0x01)")
                acknowledged += 1
            server.kill()
        server.start()
        with cql(server.port) as session:
            kept = {row.key for row in session.execute("SELECT key FROM kept.rows")}
    assert kept == set(range(acknowledged))


def test_etcd_keeps_keys_when_killed(stack: Stack) -> None:
    put(stack.etcd.port, "one", "1")
    _kill_and_start(stack.etcd)
    assert get(stack.etcd.port, "one") == "1"


def test_versions_are_the_pinned_ones(stack: Stack) -> None:
    with cql(stack.cassandra.port) as session:
        assert session.execute("SELECT release_version FROM system.local").one().release_version == "5.0.8"
    assert '"etcd-version":"3.7.3"' in stack.etcd.log.read_text()
    assert "Kafka version: 4.3.1" in stack.kafka.brokers[0].log.read_text()


@pytest.mark.parametrize("name", ["kafka-1", "cassandra", "etcd"])
def test_paused_server_holds_its_tongue(stack: Stack, name: str) -> None:
    server = next(server for server in stack.servers if server.name == name)
    server.pause()
    try:
        assert not _answers(server)
        assert server.running
    finally:
        server.resume()
    server.wait_ready(30)


def test_running_server_is_not_started_again(stack: Stack) -> None:
    with pytest.raises(StackError, match=f"runs already, as process {stack.etcd.pid}"):
        stack.etcd.start()


def _kill_and_start(server: Server) -> None:
    address, pid = server.address, server.pid
    server.kill()
    assert not server.running
    assert not _answers(server)
    server.start()
    assert server.address == address
    assert server.pid != pid


def _answers(server: Server) -> bool:
    try:
        return server.answers()
    except OSError:
        return False
