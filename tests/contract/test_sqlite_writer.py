"""The embedded writer: work shares commits, bad work fails alone, a failing file is told to all and passes."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from aorist.adapters.sqlite import Database, SqliteEventLog, SqliteSnapshotStore
from aorist.errors import (
    LogUnavailableError,
    StoreUnavailableError,
    UnavailableError,
    UnknownTopicError,
)
from aorist.ports import Bounds, NewRecord, ShardRows, SnapshotRow, TopicSpec
from aorist.position import Partition
from tests.contract.harness import PATIENCE_S, RETENTION_MS, poll_until, read_to_end

TOPIC = TopicSpec("topic", 2, retention_ms=RETENTION_MS)
PARTITION = Partition("topic", 0)
RECORD = NewRecord(0, b"k", b"v")


class Held:
    """Keeps the writer in one piece of work, so that more gathers behind it."""

    def __init__(self, database: Database) -> None:
        self._started, self._go_on = threading.Event(), threading.Event()
        self._thread = ThreadPoolExecutor(1)
        self._work = self._thread.submit(database.write, self._hold)
        assert self._started.wait(PATIENCE_S)

    def _hold(self, _: sqlite3.Connection) -> None:
        self._started.set()
        assert self._go_on.wait(PATIENCE_S)

    def release(self) -> None:
        self._go_on.set()
        self._work.result(PATIENCE_S)
        self._thread.shutdown()


async def test_a_failing_piece_of_work_leaves_its_group_unharmed(database: Database, log: SqliteEventLog) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO dropped VALUES (777)")
        connection.execute("INSERT INTO dropped VALUES (777)")

    held = Held(database)
    before = [asyncio.create_task(log.append("topic", [RECORD])) for _ in range(3)]
    await asyncio.sleep(0)
    bad = database.write_soon(fail, StoreUnavailableError)
    unknown = asyncio.create_task(log.append("topic", [RECORD, NewRecord(5, b"k", b"v")]))
    after = [asyncio.create_task(log.append("topic", [RECORD])) for _ in range(3)]
    await asyncio.sleep(0)
    held.release()
    with pytest.raises(sqlite3.IntegrityError):
        await bad
    with pytest.raises(UnknownTopicError):
        await unknown
    assert [list(await task) for task in (*before, *after)] == [[offset] for offset in range(6)]
    assert log.bounds(PARTITION) == Bounds(0, 6)
    with database.reading() as connection:
        assert connection.execute("SELECT count(*) FROM dropped").fetchone() == (0,)


async def test_a_loop_is_woken_once_for_a_commit(
    database: Database, log: SqliteEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    wake_ups: list[object] = []
    wake = loop.call_soon_threadsafe

    def counted(callback: object, *args: object) -> object:
        wake_ups.append(callback)
        return wake(callback, *args)  # type: ignore[arg-type]

    held = Held(database)
    tasks = [asyncio.create_task(log.append("topic", [RECORD])) for _ in range(50)]
    await asyncio.sleep(0)
    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    held.release()
    await asyncio.gather(*tasks)
    assert 1 <= len(wake_ups) <= 5  # as many as there were groups, which end after some time


async def test_appends_wait_while_too_much_is_in_flight(database: Database) -> None:
    log = SqliteEventLog(database, max_in_flight_bytes=50_000)
    log.create(TOPIC)
    held = Held(database)
    tasks = [asyncio.create_task(log.append("topic", [NewRecord(0, b"k", b"x" * 9_000)])) for _ in range(40)]
    large = asyncio.create_task(log.append("topic", [NewRecord(0, b"k", b"x" * 100_000)]))  # passes alone
    await asyncio.sleep(0)
    assert 1 <= len(database._writer._queue) <= 5
    tasks[3].cancel()  # taken already: it is written though nobody waits
    tasks[20].cancel()  # not taken: it is not
    await asyncio.sleep(0)
    held.release()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    await large
    assert [number for number, result in enumerate(done) if isinstance(result, BaseException)] == [3, 20]
    assert [result[0] for result in done if not isinstance(result, BaseException)] == [*range(3), *range(4, 39)]
    assert log.bounds(PARTITION) == Bounds(0, 40)


async def test_a_full_disk_is_told_and_passes(database: Database, log: SqliteEventLog) -> None:
    def limit(pages: int) -> None:
        database.write(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone())

    big = NewRecord(0, b"k", b"x" * 900_000)
    limit(100)
    results = await asyncio.gather(*(log.append("topic", [big]) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [LogUnavailableError] * 3
    rows = [SnapshotRow(b"k", b"x" * 900_000, 1, 1)]
    store = SqliteSnapshotStore(database)
    shard = ShardRows("view", 1, uuid4(), 0)
    with pytest.raises(StoreUnavailableError):
        store.write_rows(shard, rows)
    limit(1_000_000)
    assert list(await log.append("topic", [RECORD])) == [0]
    store.write_rows(shard, rows)
    assert store.read_row(shard, b"k") == rows[0]


async def test_a_locked_file_is_told_to_all_and_passes(
    path: Path, database: Database, log: SqliteEventLog, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = sqlite3.connect(path, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    results = await asyncio.gather(*(log.append("topic", [RECORD]) for _ in range(10)), return_exceptions=True)
    assert {type(result) for result in results} == {LogUnavailableError}
    assert len(caplog.records) == 1, "each would wait for as long as the first"
    stranger.execute("ROLLBACK")
    stranger.close()
    assert list(await log.append("topic", [RECORD])) == [0]


async def test_closing_fails_what_waits(database: Database, log: SqliteEventLog) -> None:
    held = Held(database)
    waiting = asyncio.create_task(log.append("topic", [RECORD]))
    await asyncio.sleep(0)
    closing = asyncio.create_task(asyncio.to_thread(database.close))
    await asyncio.to_thread(poll_until, lambda: database._writer._closed, lambda: None)
    held.release()
    await closing
    with pytest.raises(LogUnavailableError):
        await waiting
    for call in (database.next_revision, lambda: log.bounds(PARTITION), lambda: log.create(TOPIC)):
        with pytest.raises(UnavailableError):
            call()


def test_a_poll_ends_with_its_log(log: SqliteEventLog) -> None:
    reader = log.reader("test")
    reader.assign(PARTITION, 0)
    read_to_end(reader, [PARTITION])
    with ThreadPoolExecutor(1) as thread:
        polling = thread.submit(reader.poll, 10, 10 * PATIENCE_S)
        log.close()
        with pytest.raises(LogUnavailableError):
            polling.result(PATIENCE_S)
