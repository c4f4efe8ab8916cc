"""The embedded log and store: bounded reads, upkeep in pieces, topics that come and go."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from aorist.adapters.sqlite import Database, SqliteEventLog, SqliteSnapshotStore
from aorist.errors import LogTruncatedError
from aorist.ports import Bounds, NewRecord, ShardRows, SnapshotRow, TopicSpec
from aorist.position import Partition
from tests.contract.harness import PATIENCE_S, RETENTION_MS, Seen, poll_until, read_to_end

TOPIC = TopicSpec("topic", 2, retention_ms=RETENTION_MS)
PARTITION = Partition("topic", 0)
RECORD = NewRecord(0, b"k", b"v")


def test_a_page_of_rows_leaves_nothing_open(path: Path, database: Database) -> None:
    store = SqliteSnapshotStore(database)
    shard = ShardRows("view", 1, uuid4(), 0)
    rows = [SnapshotRow(b"%05d" % number, b"x" * 100, number, 1) for number in range(2_000)]
    store.write_rows(shard, rows)
    pages = store.read_rows(shard)
    assert len(next(pages)) < len(rows)
    store.write_rows(shard, [row._replace(offset=row.offset + 1) for row in rows])
    stranger = sqlite3.connect(path)
    busy, _, _ = stranger.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    stranger.close()
    assert busy == 0
    assert sum(len(page) for page in pages) < len(rows)


def test_a_partition_assigned_at_its_end_is_told_at_once(log: SqliteEventLog) -> None:
    """A shard that restores with nothing to catch up with must not wait for a poll's time to pass."""
    reader = log.reader("test")
    for _ in range(2):
        reader.assign(PARTITION, 0)
        with ThreadPoolExecutor(1) as thread:
            (fetched,) = thread.submit(reader.poll, 10, 10 * PATIENCE_S).result(PATIENCE_S)
        assert fetched.next_offset == fetched.end_offset == 0


async def test_a_poll_is_bounded_in_bytes(log: SqliteEventLog) -> None:
    for _ in range(100):
        await log.append("topic", [NewRecord(0, b"k", b"x" * 500_000)])
    reader = log.reader("test")
    reader.assign(PARTITION, 0)
    (first,) = reader.poll(10_000, PATIENCE_S)
    assert len(first.records) < 100
    rest = read_to_end(reader, [PARTITION]).records[PARTITION]
    assert len(first.records) + len(rest) == 100


async def test_a_topic_deleted_under_a_reader_is_not_taken_for_its_successor(log: SqliteEventLog) -> None:
    await log.append("topic", [RECORD] * 3)
    reader = log.reader("test")
    reader.assign(PARTITION, 0)
    read_to_end(reader, [PARTITION])
    log.delete("topic")
    log.create(TOPIC)
    await log.append("topic", [RECORD] * 5)
    with pytest.raises(LogTruncatedError, match="was deleted"):
        poll_until(lambda: False, lambda: reader.poll(10, 0.5))


async def test_lag_tools_see_what_was_committed(log: SqliteEventLog) -> None:
    reader = log.reader("view")
    reader.commit(PARTITION, 7)
    reader.commit(Partition("topic", 1), 2)
    await log.append("topic", [RECORD])  # work is done in the order in which it came
    assert log.committed("view") == {PARTITION: 7, Partition("topic", 1): 2}
    assert log.committed("other") == {}


def _stored(database: Database, table: str) -> int:
    with database.reading() as connection:
        (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - a name of ours
    return int(count)


async def test_retention_stops_at_the_first_young_event(database: Database) -> None:
    now_us = 1_000_000_000_000
    log = SqliteEventLog(database, clock_us=lambda: now_us)
    log.create(TOPIC)
    await log.append("topic", [RECORD] * 3_000)
    now_us += RETENTION_MS * 1000
    await log.append("topic", [RECORD] * 10)
    log.maintain(now_us)
    assert log.bounds(PARTITION) == Bounds(0, 3_010)  # just old enough to stay
    log.maintain(now_us + 1)
    assert log.bounds(PARTITION) == Bounds(3_000, 3_010)
    assert _stored(database, "events") == 10


async def test_tombstones_are_kept_for_a_while_and_the_end_is_still_reached(database: Database) -> None:
    now_us = 1_000_000_000_000
    log = SqliteEventLog(database, tombstones_kept_ms=1_000, clock_us=lambda: now_us)
    log.create(TopicSpec("compacted", 1, compacted=True))
    partition = Partition("compacted", 0)
    await log.append("compacted", [NewRecord(0, b"k", b"v"), NewRecord(0, b"k", None)])

    def read() -> list[tuple[int, bytes, bytes | None]]:
        reader = log.reader("test")
        reader.assign(partition, 0)
        seen = read_to_end(reader, [partition], max_records=1)
        assert seen.last[partition].next_offset == 2
        return seen.records[partition]

    log.maintain(now_us)
    assert read() == [(1, b"k", None)]
    log.maintain(now_us + 999_999)
    assert read() == [(1, b"k", None)]
    log.maintain(now_us + 1_000_000)
    assert read() == []
    assert _stored(database, "newest") == 0
    assert log.bounds(partition) == Bounds(0, 2)
    assert list(await log.append("compacted", [NewRecord(0, b"k", b"again")])) == [2]
    log.maintain(now_us + 2_000_000)
    assert _read_from(log, partition, 2) == [(2, b"k", b"again")]


def _read_from(log: SqliteEventLog, partition: Partition, offset: int) -> list[tuple[int, bytes, bytes | None]]:
    reader = log.reader("test")
    reader.assign(partition, offset)
    return read_to_end(reader, [partition]).records[partition]


async def test_a_deleted_topic_leaves_nothing_behind(database: Database, log: SqliteEventLog) -> None:
    log.create(TopicSpec("compacted", 3, compacted=True))
    for index in range(3):
        await log.append("compacted", [NewRecord(index, b"%d" % number, b"v") for number in range(1_500)])
    log.maintain(0)
    log.reader("view").commit(Partition("compacted", 0), 7)
    log.delete("compacted")
    assert [topic.name for topic in log.topics()] == ["topic"]
    log.maintain(0)
    assert [_stored(database, table) for table in ("events", "newest", "dropped", "committed")] == [0, 0, 0, 0]


async def test_upkeep_lets_appends_through(database: Database) -> None:
    log = SqliteEventLog(database, clock_us=lambda: 0)
    log.create(TOPIC)
    await log.append("topic", [RECORD] * 50_000)
    upkeep = asyncio.create_task(asyncio.to_thread(log.maintain, 2 * RETENTION_MS * 1000))
    await asyncio.to_thread(poll_until, lambda: log.bounds(PARTITION).start > 0, database.next_revision)
    await log.append("topic", [NewRecord(1, b"k", b"v")])
    assert not upkeep.done()
    await upkeep
    assert log.bounds(PARTITION) == Bounds(50_000, 50_000)


def test_the_writer_does_upkeep_by_itself(database: Database) -> None:
    enough = threading.Event()
    runs: list[int] = []

    def piece(_: sqlite3.Connection) -> bool:
        runs.append(len(runs))
        if len(runs) == 5:
            enough.set()
        return len(runs) < 5

    database.every(0.01, piece)
    assert enough.wait(PATIENCE_S)
    assert database.next_revision() == 1


async def test_more_busy_partitions_than_records_asked_for_all_have_their_turn(log: SqliteEventLog) -> None:
    log.create(TopicSpec("many", 8, retention_ms=RETENTION_MS))
    partitions = [Partition("many", number) for number in range(8)]
    for partition in partitions:
        await log.append("many", [NewRecord(partition.number, b"k", b"%d" % i) for i in range(100)])
    reader = log.reader("test")
    for partition in partitions:
        reader.assign(partition, 0)
    seen = Seen()
    poll_until(
        lambda: all(seen.records.get(partition) for partition in partitions), lambda: seen.poll(reader, max_records=3)
    )
    assert max(len(seen.records[partition]) for partition in partitions) < 100


async def test_what_is_trimmed_under_a_reader_is_refused(log: SqliteEventLog) -> None:
    for number in range(100):
        await log.append("topic", [NewRecord(0, b"k", b"%d" % number)])
    reader = log.reader("test")
    reader.assign(PARTITION, 0)
    reader.poll(1, PATIENCE_S)
    log.maintain(time.time_ns() // 1000 + 2 * RETENTION_MS * 1000)
    with pytest.raises(LogTruncatedError):
        poll_until(lambda: False, lambda: reader.poll(1, 0.5))
