"""Tables in Cassandra: what is not ours is refused, what is missing is told; and how the driver is used."""
# ruff: noqa: S608  # keyspaces and tables cannot be bound as values; these have names of our own making

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

import pytest
from cassandra.cluster import Session
from cassandra.protocol import OverloadedErrorMessage
from cassandra.query import SimpleStatement

from aorist.adapters.cassandra import CassandraSnapshotStore, apply_schema
from aorist.adapters.cassandra.cluster import RetryOnce
from aorist.errors import SettingError, StoreUnavailableError
from aorist.ports import ShardRows, SnapshotRow
from tests.contract.cassandra import cql_client, made_keyspace, new_keyspace, opened
from tests.servers import shared_cassandra


@pytest.fixture
def address() -> str:
    return shared_cassandra().address


@pytest.fixture
def keyspace(address: str) -> str:
    return made_keyspace(address)


@pytest.fixture
def store(address: str, keyspace: str) -> Iterator[CassandraSnapshotStore]:
    with opened(address, keyspace) as store:
        yield store


@pytest.fixture
def cql(address: str) -> Iterator[Session]:
    with cql_client(address) as session:
        yield session


@pytest.fixture
def shard() -> ShardRows:
    return ShardRows("view", 1, uuid4(), 0)


def _row(key: bytes, offset: int, epoch: int = 1) -> SnapshotRow:
    return SnapshotRow(key, b"%s@%d" % (key, offset), offset, epoch)


def _all(store: CassandraSnapshotStore, shard: ShardRows) -> dict[bytes, SnapshotRow]:
    return {row.key: row for piece in store.read_rows(shard) for row in piece}


def test_the_schema_may_be_applied_again(address: str) -> None:
    name = new_keyspace()
    made = [f"keyspace {name}", f"table {name}.snapshots", f"table {name}.checkpoints"]
    assert [apply_schema([address], name, 1) for _ in range(2)] == [made, []]


def test_a_missing_keyspace_is_told_and_found_once_it_is_there(address: str, shard: ShardRows) -> None:
    name = new_keyspace()
    store = CassandraSnapshotStore([address], name)
    with pytest.raises(StoreUnavailableError, match="run `aorist schema apply`"):
        store.write_rows(shard, [_row(b"k", 1)])
    apply_schema([address], name, {"datacenter1": 1})
    store._link._refused = None  # not to wait until it looks again
    store.write_rows(shard, [_row(b"k", 1)])
    assert _all(store, shard) == {b"k": _row(b"k", 1)}
    store.close()


def test_the_number_of_buckets_is_read_from_the_table(address: str, shard: ShardRows) -> None:
    name = new_keyspace()
    apply_schema([address], name, 1, buckets=3)
    store = CassandraSnapshotStore([address], name)
    rows = {b"%d" % i: _row(b"%d" % i, i) for i in range(100)}
    store.write_rows(shard, list(rows.values()))
    assert store._link.get().buckets == 3
    assert _all(store, shard) == rows
    assert store.read_row(shard, b"42") == _row(b"42", 42)
    store.close()
    with pytest.raises(SettingError, match="made with 3 buckets, not 16, and keeps that number"):
        apply_schema([address], name, 1)


FOREIGN = (
    "CREATE TABLE {0}.snapshots (view_name text, key text, state blob, offset bigint, PRIMARY KEY (view_name, key))"
)


@pytest.mark.parametrize(
    ("change", "trouble"),
    [
        (["ALTER TABLE {0}.snapshots ADD seen bigint"], r"snapshots is not as aorist makes it: it has seen bigint"),
        (["ALTER TABLE {0}.checkpoints WITH default_time_to_live = 60"], "checkpoints .* its rows vanish after 60 s"),
        (["DROP TABLE {0}.snapshots", FOREIGN], r"snapshots .* it lacks .*key blob.* and it has .*key text"),
    ],
)
def test_a_table_of_another_shape_is_refused(
    address: str, keyspace: str, cql: Session, shard: ShardRows, change: Sequence[str], trouble: str
) -> None:
    for statement in change:
        cql.execute(statement.format(keyspace))
    with pytest.raises(SettingError, match=trouble):
        apply_schema([address], keyspace, 1)
    store = CassandraSnapshotStore([address], keyspace)
    with pytest.raises(StoreUnavailableError, match=trouble):
        store.write_rows(shard, [_row(b"k", 1)])
    store.close()
    assert not list(cql.execute(f"SELECT * FROM {keyspace}.snapshots"))


def test_another_replication_is_refused(address: str, keyspace: str) -> None:
    with pytest.raises(SettingError, match=r"has replication .*SimpleStrategy.*, not .*NetworkTopologyStrategy"):
        apply_schema([address], keyspace, {"datacenter1": 1})


def test_tables_that_are_dropped_meanwhile_are_told(
    store: CassandraSnapshotStore, address: str, keyspace: str, cql: Session, shard: ShardRows
) -> None:
    """Also when others of another number of buckets take their place: rows by the old number would not be found."""
    store.write_rows(shard, [_row(b"k", 1)])
    cql.execute(f"DROP TABLE {keyspace}.snapshots")
    with pytest.raises(StoreUnavailableError):
        store.write_rows(shard, [_row(b"k", 1)])
    apply_schema([address], keyspace, 1, buckets=5)
    store._link._refused = None  # not to wait until it looks again
    store.write_rows(shard, [_row(b"k", 1)])
    assert store.read_row(shard, b"k") == _row(b"k", 1)
    assert store._link.get().buckets == 5


@pytest.mark.parametrize("address", ["cassandra", "cassandra:", ":9042", "cassandra:port", "cassandra:99999"])
def test_what_cannot_be_a_contact_point_is_refused(address: str) -> None:
    with pytest.raises(SettingError, match="HOST:PORT"):
        CassandraSnapshotStore([address], "aorist")


@pytest.mark.parametrize("keyspace", ["", "Fleet", "fleet-1", "1fleet", "x; DROP TABLE y"])
def test_what_cannot_be_a_keyspace_is_refused(keyspace: str) -> None:
    with pytest.raises(SettingError, match="no name for a keyspace"):
        CassandraSnapshotStore(["cassandra:9042"], keyspace)


def test_a_data_center_that_is_not_there_is_told(address: str, keyspace: str, shard: ShardRows) -> None:
    store = CassandraSnapshotStore([address], keyspace, datacenter="moon")
    with pytest.raises(StoreUnavailableError, match="no node is up in data center moon"):
        store.read_checkpoint(shard)
    store.close()


def test_only_what_another_node_can_answer_is_asked_there_and_once() -> None:
    policy, statement = RetryOnce(), SimpleStatement("SELECT", is_idempotent=True)
    overloaded: Any = OverloadedErrorMessage(0x1001, "", None)
    elsewhere, given_back = (policy.RETRY_NEXT_HOST, None), (policy.RETHROW, None)
    assert policy.on_request_error(statement, None, ConnectionError(), 0) == elsewhere
    assert policy.on_request_error(statement, None, ConnectionError(), 1) == given_back
    assert policy.on_request_error(statement, None, overloaded, 0) == given_back
    assert policy.on_request_error(SimpleStatement("INSERT"), None, ConnectionError(), 0) == given_back
    assert policy.on_unavailable(statement, None, 2, 1, retry_num=0) == elsewhere
    assert policy.on_unavailable(statement, None, 2, 1, retry_num=1) == given_back
    assert policy.on_read_timeout(statement, None, 2, 1, data_retrieved=False, retry_num=0) == given_back
    assert policy.on_write_timeout(statement, None, "SIMPLE", 2, 1, retry_num=0) == given_back
