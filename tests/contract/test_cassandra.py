"""Rows in Cassandra: the server itself keeps the furthest, whoever writes, and a row is one cell."""
# ruff: noqa: S608  # keyspaces and tables cannot be bound as values; these have names of our own making

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4
from zlib import crc32

import pytest
from cassandra.cluster import Session
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aorist.adapters.cassandra import CassandraSnapshotStore
from aorist.adapters.cassandra.batches import BATCH_BYTES, BATCH_ROWS, batches
from aorist.adapters.cassandra.pages import BUCKETS_AT_ONCE
from aorist.errors import StoreUnavailableError
from aorist.ports import Checkpoint, ShardRows, SnapshotRow
from tests.contract.cassandra import cql_client, opened, shared_keyspace
from tests.servers import shared_cassandra

EVERY_ORDER = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""The keyspace is shared by all tests and examples; each writes under a topic id of its own."""


@pytest.fixture
def address() -> str:
    return shared_cassandra().address


@pytest.fixture
def keyspace(address: str) -> str:
    return shared_keyspace(address)


@pytest.fixture
def store(address: str, keyspace: str) -> Iterator[CassandraSnapshotStore]:
    with opened(address, keyspace) as store:
        yield store


@pytest.fixture
def other_store(address: str, keyspace: str) -> Iterator[CassandraSnapshotStore]:
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
    rows = [row for piece in store.read_rows(shard) for row in piece]
    assert len({row.key for row in rows}) == len(rows)
    return {row.key: row for row in rows}


def _write_by_cql(cql: Session, keyspace: str, shard: ShardRows, row: SnapshotRow) -> None:
    """As the record of decisions describes a row, put together by hand."""
    where = f"{shard.view!r}, {shard.build}, {shard.topic_id}, {shard.partition}, {crc32(row.key) % 16}"
    cell = (struct.pack(">qq", row.offset, row.epoch) + row.state).hex()
    cql.execute(
        f"INSERT INTO {keyspace}.snapshots (view_name, build, topic_id, partition, bucket_of_16, key, cell) "
        f"VALUES ({where}, 0x{row.key.hex()}, 0x{cell}) USING TIMESTAMP {row.offset + 1}"
    )


@EVERY_ORDER
@given(writes=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6)), min_size=2, max_size=8))
def test_the_furthest_row_stays_whichever_client_wrote_it(
    store: CassandraSnapshotStore,
    other_store: CassandraSnapshotStore,
    cql: Session,
    keyspace: str,
    writes: list[tuple[str, int]],
) -> None:
    shard = ShardRows("view", 1, uuid4(), 3)
    clients: Mapping[str, Callable[[SnapshotRow], None]] = {
        "a": lambda row: store.write_rows(shard, [row]),
        "b": lambda row: other_store.write_rows(shard, [row]),
        "c": lambda row: _write_by_cql(cql, keyspace, shard, row),
    }
    for client, offset in writes:
        clients[client](_row(b"k", offset))
    furthest = _row(b"k", max(offset for _, offset in writes))
    assert store.read_row(shard, b"k") == furthest
    assert _all(other_store, shard) == {b"k": furthest}


def test_every_write_is_stamped_with_its_position(
    store: CassandraSnapshotStore, cql: Session, keyspace: str, shard: ShardRows
) -> None:
    store.write_rows(shard, [_row(b"first", 0), _row(b"later", 2**40)])
    store.write_checkpoint(shard, Checkpoint(0, 1, 5))
    mine = f"topic_id = {shard.topic_id} ALLOW FILTERING"
    stamps = cql.execute(f"SELECT key, WRITETIME(cell) FROM {keyspace}.snapshots WHERE {mine}")
    assert {row[0]: row[1] for row in stamps} == {b"first": 1, b"later": 2**40 + 1}
    assert [row[0] for row in cql.execute(f"SELECT WRITETIME(cell) FROM {keyspace}.checkpoints WHERE {mine}")] == [1]
    store.write_checkpoint(shard, Checkpoint(1, 1, 6))
    assert store.read_checkpoint(shard) == Checkpoint(1, 1, 6)


def test_a_row_is_one_cell(cql: Session, keyspace: str) -> None:
    for table in ("snapshots", "checkpoints"):
        columns = cql.execute(
            "SELECT column_name, kind FROM system_schema.columns WHERE keyspace_name = %s AND table_name = %s",
            (keyspace, table),
        )
        assert [name for name, kind in columns if kind not in {"partition_key", "clustering"}] == ["cell"]


def test_no_reader_ever_sees_parts_of_two_rows(
    store: CassandraSnapshotStore, other_store: CassandraSnapshotStore, shard: ShardRows
) -> None:
    """Two owners fold the same events under their epochs; of equal offsets the later epoch's row stays, all of it."""

    def write(by: CassandraSnapshotStore, epoch: int) -> None:
        for offset in range(150):
            by.write_rows(shard, [SnapshotRow(b"k", b"%d/%d" % (offset, epoch), offset, epoch)])

    with ThreadPoolExecutor(2) as threads:
        owners = [threads.submit(write, by, epoch) for by, epoch in ((store, 5), (other_store, 6))]
        reached = -1
        while not all(owner.done() for owner in owners):
            row = store.read_row(shard, b"k")
            if row is not None:
                assert row.state == b"%d/%d" % (row.offset, row.epoch)
                assert row.offset >= reached
                reached = row.offset
        for owner in owners:
            owner.result()
    assert store.read_row(shard, b"k") == SnapshotRow(b"k", b"149/6", 149, 6)


def test_of_equal_positions_the_later_epoch_stays(store: CassandraSnapshotStore, shard: ShardRows) -> None:
    for epoch in (300, 7, 299):
        store.write_rows(shard, [_row(b"k", 4, epoch)])
        store.write_checkpoint(shard, Checkpoint(5, epoch, 1_000 - epoch))
    assert store.read_row(shard, b"k") == _row(b"k", 4, 300)
    assert store.read_checkpoint(shard) == Checkpoint(5, 300, 700)


def test_fifty_thousand_rows_are_read_back_whole(
    store: CassandraSnapshotStore, shard: ShardRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {b"arm-%06d" % i: SnapshotRow(b"arm-%06d" % i, b"%d" % i * 20, i, 2) for i in range(50_000)}
    store.write_rows(shard, list(rows.values()))
    asked: list[object] = []
    session = store._link.get().session
    ask = session.execute_async

    def counted(*args: Any, **kwargs: Any) -> object:
        asked.append(args)
        return ask(*args, **kwargs)

    monkeypatch.setattr(session, "execute_async", counted)
    read: dict[bytes, SnapshotRow] = {}
    for taken, piece in enumerate(store.read_rows(shard), 1):
        assert len(piece) <= 5_000
        assert len(asked) <= taken + BUCKETS_AT_ONCE, "pages are asked for before there is room for them"
        read.update((row.key, row) for row in piece)
    assert read == rows


def test_big_states_travel_in_portions(store: CassandraSnapshotStore, shard: ShardRows) -> None:
    sizes = [100_000] * 60 + [900_000] * 12 + [10] * 400 + [100_000] * 20
    rows = [SnapshotRow(b"%04d" % i, bytes([i % 251]) * size, i, 1) for i, size in enumerate(sizes)]
    sent = 0
    for batch in batches(store._link.get().write_row, 2, shard, rows):
        values = [values for _, _, values in batch._statements_and_parameters]
        assert len({value[4] for value in values}) == 1, "of two buckets"
        assert len(values) <= BATCH_ROWS
        assert len(values) == 1 or sum(len(value[5]) + len(value[6]) - 16 for value in values) <= BATCH_BYTES
        sent += len(values)
    assert sent == len(rows)
    store.write_rows(shard, rows)
    assert _all(store, shard) == {row.key: row for row in rows}


def test_nothing_reads_or_writes_after_close(store: CassandraSnapshotStore, shard: ShardRows) -> None:
    store.write_rows(shard, [_row(b"k", 1)])
    store.close()
    with pytest.raises(StoreUnavailableError, match="closed"):
        store.read_row(shard, b"k")
