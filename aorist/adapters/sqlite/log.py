"""EventLog on the embedded database: topics, partitions that only grow, appends that share commits."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID, uuid4

from aorist.adapters.sqlite import upkeep
from aorist.adapters.sqlite.database import Database, wall_clock_us
from aorist.adapters.sqlite.reader import Bell, SqliteLogReader
from aorist.errors import LogUnavailableError, PartitionCountError, RecordTooLargeError, UnknownTopicError
from aorist.ports import MAX_RECORD_BYTES, TOMBSTONES_KEPT_MS, Bounds, NewRecord, Topic, TopicSpec
from aorist.position import Partition

MAX_IN_FLIGHT_BYTES = 32_000_000
"""Default bound of what was handed to `append` and is not durable yet; further appends wait."""

RECORD_OVERHEAD_BYTES = 128
"""What a waiting record costs beside key and value, so that a flood of tiny ones is bounded too."""

UPKEEP_INTERVAL_S = 60.0


class SqliteEventLog:
    """The `EventLog` of embedded mode. Appends are made on one event loop; everything else from any thread."""

    def __init__(
        self,
        database: Database,
        max_in_flight_bytes: int = MAX_IN_FLIGHT_BYTES,
        tombstones_kept_ms: int = TOMBSTONES_KEPT_MS,
        clock_us: Callable[[], int] = wall_clock_us,
    ) -> None:
        self._database = database
        self._max_in_flight_bytes = max_in_flight_bytes
        self._in_flight_bytes = 0
        self._turn = asyncio.Lock()  # gives it in the order in which appends began
        self._room: asyncio.Future[None] | None = None  # what the append whose turn it is waits for
        self._tombstones_kept_us = tombstones_kept_ms * 1000
        self._clock_us = clock_us
        self._bell = Bell()
        database.every(UPKEEP_INTERVAL_S, lambda connection: self._tidy(connection, clock_us()))

    def create(self, spec: TopicSpec) -> Topic:
        return self._database.write(lambda connection: _create(connection, spec), LogUnavailableError)

    def describe(self, name: str) -> Topic:
        with self._database.reading(LogUnavailableError) as connection:
            topic = _find(connection, name)
        if topic is None:
            raise _unknown(name)
        return topic

    def topics(self) -> Sequence[Topic]:
        """All of them, for tools."""
        with self._database.reading(LogUnavailableError) as connection:
            rows = connection.execute("SELECT name, id, partitions FROM topics ORDER BY name").fetchall()
        return [Topic(name, UUID(bytes=id_), partitions) for name, id_, partitions in rows]

    def delete(self, name: str) -> None:
        """Drops the topic and its events; not part of the port. A topic made anew under this name is another one."""
        self._database.write(lambda connection: _delete(connection, name), LogUnavailableError)
        self._bell.ring()

    def bounds(self, partition: Partition) -> Bounds:
        with self._database.reading(LogUnavailableError) as connection:
            row = connection.execute(
                'SELECT "start", "end" FROM partitions WHERE topic = ? AND idx = ?', partition
            ).fetchone()
        if row is None:
            raise _unknown(partition.topic, partition.number)
        return Bounds(*row)

    async def append(self, topic: str, records: Sequence[NewRecord]) -> Sequence[int]:
        size = _size(topic, records)
        if not records:
            return []
        async with self._turn:
            while self._in_flight_bytes and self._in_flight_bytes + size > self._max_in_flight_bytes:
                self._room = asyncio.get_running_loop().create_future()
                await self._room
            if self._bell.closed:
                raise LogUnavailableError("the log is closed")
            future = self._database.write_soon(
                lambda connection: _append(connection, topic, records, self._clock_us()),
                LogUnavailableError,
                self._bell.ring,
            )
            self._in_flight_bytes += size
        future.add_done_callback(lambda _: self._make_room(size))
        return await asyncio.shield(future)  # who stops waiting does not make room: the writer does

    def _make_room(self, size: int) -> None:
        self._in_flight_bytes -= size
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def reader(self, group: str) -> SqliteLogReader:
        return SqliteLogReader(self._database, self._bell, group)

    def committed(self, group: str) -> Mapping[Partition, int]:
        """What readers of this group said to `commit`; for lag tools."""
        with self._database.reading(LogUnavailableError) as connection:
            rows = connection.execute(
                "SELECT topic, idx, next_offset FROM committed WHERE reader_group = ?", (group,)
            ).fetchall()
        return {Partition(topic, index): next_offset for topic, index, next_offset in rows}

    def maintain(self, now_us: int) -> None:
        """Retention, compaction and removal of what is old as of `now_us`, to the end, in pieces between which others write.

        The writer does a piece about once a minute, and goes on while there is more.
        """
        while self._database.write(lambda connection: self._tidy(connection, now_us), LogUnavailableError):
            pass

    def close(self) -> None:
        """Ends appends and polls. The database belongs to whoever opened it."""
        self._bell.close()

    def _tidy(self, connection: sqlite3.Connection, now_us: int) -> bool:
        return upkeep.tidy(connection, now_us, self._tombstones_kept_us)


def _unknown(topic: str, index: int | None = None) -> UnknownTopicError:
    what = f"topic {topic!r}" if index is None else f"partition {index} of topic {topic!r}"
    return UnknownTopicError(f"the log has no {what}; create it with `aorist topics apply`", topic=topic)


def _find(connection: sqlite3.Connection, name: str) -> Topic | None:
    row = connection.execute("SELECT id, partitions FROM topics WHERE name = ?", (name,)).fetchone()
    return Topic(name, UUID(bytes=row[0]), row[1]) if row else None


def _create(connection: sqlite3.Connection, spec: TopicSpec) -> Topic:
    there = _find(connection, spec.name)
    if there is None:
        there = Topic(spec.name, uuid4(), spec.partitions)
        connection.execute(
            "INSERT INTO topics (name, id, partitions, retention_ms, compacted) VALUES (?, ?, ?, ?, ?)",
            (spec.name, there.id.bytes, spec.partitions, spec.retention_ms, spec.compacted),
        )
        connection.executemany(
            "INSERT INTO partitions (topic, idx) VALUES (?, ?)",
            [(spec.name, index) for index in range(spec.partitions)],
        )
    elif there.partitions != spec.partitions:
        raise PartitionCountError(
            f"topic {spec.name!r} has {there.partitions} partitions but is declared with {spec.partitions}: "
            f"keys would move between partitions; declare {there.partitions}, or use a new topic",
            topic=spec.name,
            partitions=there.partitions,
        )
    return there


def _delete(connection: sqlite3.Connection, name: str) -> None:
    if _find(connection, name) is None:
        raise _unknown(name)
    connection.execute("INSERT INTO dropped SELECT no FROM partitions WHERE topic = ?", (name,))
    connection.execute("DELETE FROM partitions WHERE topic = ?", (name,))
    connection.execute("DELETE FROM committed WHERE topic = ?", (name,))
    connection.execute("DELETE FROM topics WHERE name = ?", (name,))


def _size(topic: str, records: Sequence[NewRecord]) -> int:
    size = 0
    for _, key, value in records:
        bytes_ = len(key) + len(value or b"")
        if bytes_ > MAX_RECORD_BYTES:
            raise RecordTooLargeError(
                f"an event of {bytes_} bytes is above the {MAX_RECORD_BYTES} a log takes; send less in one event",
                topic=topic,
                bytes=bytes_,
            )
        size += bytes_ + RECORD_OVERHEAD_BYTES
    return size


def _append(connection: sqlite3.Connection, topic: str, records: Sequence[NewRecord], time_us: int) -> list[int]:
    """The hot path: one statement per partition touched to take the offsets, one for all events."""
    numbers: dict[int, int] = {}
    ends: dict[int, int] = {}
    for index, count in Counter([partition for partition, _, _ in records]).items():
        row = connection.execute(
            'UPDATE partitions SET "end" = "end" + ? WHERE topic = ? AND idx = ? RETURNING no, "end"',
            (count, topic, index),
        ).fetchone()
        if row is None:
            raise _unknown(topic, index)
        numbers[index] = row[0]
        ends[index] = row[1] - count
    offsets: list[int] = []
    rows: list[tuple[int, int, int, bytes, bytes | None]] = []
    for index, key, value in records:
        offset = ends[index]
        ends[index] = offset + 1
        offsets.append(offset)
        rows.append((numbers[index], offset, time_us, key, value))
    connection.executemany(
        "INSERT INTO events (partition_no, offset, time_us, key, value) VALUES (?, ?, ?, ?, ?)", rows
    )
    return offsets
