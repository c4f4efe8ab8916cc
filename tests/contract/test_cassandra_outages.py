"""Cassandra away: calls fail in bounded time, the store comes back by itself, and the second try is complete."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Generic, TypeVar, overload
from uuid import uuid4

import pytest

from aorist.adapters.cassandra import CassandraSnapshotStore, link
from aorist.errors import StoreUnavailableError
from aorist.ports import Checkpoint, SeriesRows, ShardRows, SnapshotRow, WindowRow
from stack.cassandra import Cassandra
from tests.contract.cassandra import opened, shared_keyspace
from tests.servers import shared_cassandra

PATIENCE_S = 60.0
TIMEOUT_S = 2.0
BOUND_S = 15.0
"""Of one call: twice the request's timeout and what connecting may take, on a busy machine."""

ROWS = [SnapshotRow(b"arm-%06d" % i, b"%d" % i * 20, i, 2) for i in range(20_000)]
T = TypeVar("T")


@pytest.fixture
def server() -> Iterator[Cassandra]:
    """The one that all tests share: it runs again at the end."""
    server = shared_cassandra()
    yield server
    if not server.running:
        server.start()


@pytest.fixture
def keyspace(server: Cassandra) -> str:
    return shared_keyspace(server.address)


@pytest.fixture
def store(server: Cassandra, keyspace: str) -> Iterator[CassandraSnapshotStore]:
    with opened(server.address, keyspace, request_timeout_s=TIMEOUT_S) as store:
        yield store


@pytest.fixture
def shard() -> ShardRows:
    return ShardRows("view", 1, uuid4(), 0)


def _refused(call: Callable[[], object]) -> str:
    """What it says, in bounded time."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError) as caught:
        call()
    assert time.monotonic() - began < BOUND_S
    return str(caught.value)


def _once_it_is_back(call: Callable[[], T]) -> T:
    """Calls again and again, as its users do."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except StoreUnavailableError:
            assert time.monotonic() < deadline, "did not come back in time"
            time.sleep(0.05)


def _all(store: CassandraSnapshotStore, shard: ShardRows) -> list[SnapshotRow]:
    return sorted(row for piece in store.read_rows(shard) for row in piece)


class Interrupted(Sequence[T], Generic[T]):
    """Rows in the middle of which something happens."""

    def __init__(self, rows: Sequence[T], happens: Callable[[], None]) -> None:
        self._rows, self._happens = rows, happens

    def __iter__(self) -> Iterator[T]:
        middle = len(self._rows) // 2
        yield from self._rows[:middle]
        self._happens()
        yield from self._rows[middle:]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[T]: ...
    def __getitem__(self, at: int | slice) -> T | Sequence[T]:
        return self._rows[at]


def test_killed_while_rows_are_written_and_read_and_absent_when_a_store_is_made(
    server: Cassandra, keyspace: str, store: CassandraSnapshotStore, shard: ShardRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = shard._replace(partition=1)
    store.write_rows(shard, ROWS)
    store.write_checkpoint(shard, Checkpoint(20_000, 2, 3))
    reader, newcomer = (CassandraSnapshotStore([server.address], keyspace) for _ in range(2))
    reading, session = reader.read_rows(shard), reader._link.get().session
    pieces = [next(reading)]

    assert "writing them again is harmless" in _refused(
        lambda: store.write_rows(written, Interrupted(ROWS, server.kill))
    )
    assert "nothing is lost by reading again" in _refused(lambda: pieces.extend(reading))
    assert sum(len(piece) for piece in pieces) < len(ROWS)
    assert server.address in _refused(lambda: store.write_checkpoint(written, Checkpoint(20_000, 1, 1)))
    assert "Connection refused; connecting again with the next call" in _refused(lambda: _all(newcomer, shard))
    with monkeypatch.context() as hasty:  # one of them has been without a node for so long that it begins anew
        hasty.setattr(link, "START_ANEW_AFTER_S", 0.0)
        while reader._link._session is not None:
            _refused(lambda: reader.read_checkpoint(shard))

    server.start()
    for one in (store, reader, newcomer):
        assert _once_it_is_back(partial(_all, one, shard)) == ROWS
        assert one.read_checkpoint(shard) == Checkpoint(20_000, 2, 3)
        assert one.read_checkpoint(written) is None
    assert reader._link.get().session is not session
    assert set(_all(store, written)) < set(ROWS)
    store.write_rows(written, ROWS)
    assert _all(reader, written) == ROWS
    reader.close()
    newcomer.close()


def test_stopped_for_ten_seconds(server: Cassandra, store: CassandraSnapshotStore, shard: ShardRows) -> None:
    store.write_rows(shard, ROWS[:1000])
    reading = store.read_rows(shard)
    pieces = [next(reading)]
    until = time.monotonic() + 10
    server.pause()
    try:
        assert "no answer in time" in _refused(lambda: store.write_rows(shard, ROWS))
        _refused(lambda: pieces.extend(reading))
        while time.monotonic() < until:
            _refused(lambda: store.write_checkpoint(shard, Checkpoint(1, 1, 1)))
    finally:
        server.resume()
    _once_it_is_back(lambda: store.write_rows(shard, ROWS))
    assert _all(store, shard) == ROWS


def test_killed_while_windows_are_written_and_read(server: Cassandra, monkeypatch: pytest.MonkeyPatch) -> None:
    series, unhurt = (SeriesRows("view", 1, uuid4(), 1) for _ in range(2))
    keys = [b"arm-%04d" % number for number in range(200)]
    windows = [WindowRow(key, start * 1_000_000, b"totals", start) for key in keys for start in range(10)]
    of_keys = {key: windows[10 * number : 10 * number + 10] for number, key in enumerate(keys)}
    with opened(server.address, shared_keyspace(server.address)) as snapshots:
        store = snapshots.series()
        store.write_windows(unhurt, windows)
        read = partial(store.read_windows, unhurt, keys, 0, 10_000_000, 10)

        assert "writing them again is harmless" in _refused(
            lambda: store.write_windows(series, Interrupted(windows, server.kill))
        )
        assert not server.running
        assert "nothing is lost by reading again" in _refused(read)
        with monkeypatch.context() as hasty:  # it has been without a node for so long that it begins anew
            hasty.setattr(link, "START_ANEW_AFTER_S", 0.0)
            while snapshots._link._session is not None:
                _refused(read)

        server.start()
        assert _once_it_is_back(read) == of_keys
        there = store.read_windows(series, keys, 0, 10_000_000, 10)
        assert 0 < len(there) < len(keys)
        assert all(set(rows) <= set(of_keys[key]) for key, rows in there.items())
        store.write_windows(series, windows)
        assert store.read_windows(series, keys, 0, 10_000_000, 10) == of_keys
