"""LogReader on the embedded database."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from aorist.adapters.sqlite.database import Database
from aorist.errors import LogTruncatedError, LogUnavailableError, UnknownTopicError
from aorist.ports import NO_LEADER, Fetched, Record
from aorist.position import Partition

POLL_BYTES = 8_000_000
STEP_ROWS = 64
"""A poll stops about here, whatever number of records was asked for; looked at after each step."""

_logger = logging.getLogger(__name__)

_BOUNDS = 'SELECT no, "start", "end" FROM partitions WHERE no IN (SELECT value FROM json_each(?))'
_EVENTS = "SELECT offset, key, value FROM events WHERE partition_no = ? AND offset >= ? ORDER BY offset LIMIT ?"
_PLACE = "SELECT no, id FROM partitions JOIN topics ON name = topic WHERE topic = ? AND idx = ?"
_TIME = "SELECT time_us FROM events WHERE partition_no = ? AND offset = ?"
_COMMIT = """
INSERT INTO committed (reader_group, topic, idx, next_offset) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset
"""


class Bell:
    """Wakes readers after something was appended."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._rung = 0
        self.closed = False

    def rung(self) -> int:
        return self._rung

    def ring(self) -> None:
        with self._condition:
            self._rung += 1
            self._condition.notify_all()

    def wait(self, rung: int, timeout_s: float) -> bool:
        """Until it was rung after it had been rung `rung` times; False after `timeout_s`."""
        with self._condition:
            return self._condition.wait_for(lambda: self._rung != rung or self.closed, timeout_s)

    def close(self) -> None:
        with self._condition:
            self.closed = True
            self._condition.notify_all()


@dataclass(slots=True, eq=False)
class _Place:
    """Where reading of a partition goes on. `end_told`: a poll has said since `assign` that the end was reached."""

    partition: Partition
    no: int
    next_offset: int
    end_told: bool = False


class SqliteLogReader:
    """Used by one thread at a time."""

    def __init__(self, database: Database, bell: Bell, group: str) -> None:
        self._database = database
        self._bell = bell
        self._group = group
        self._places: dict[Partition, _Place] = {}  # in the order in which they get their turn

    def assign(
        self,
        partition: Partition,
        offset: int,
        leader_epoch: int = NO_LEADER,  # noqa: ARG002  # it has no leaders
        topic_id: UUID | None = None,
    ) -> None:
        with self._database.reading(LogUnavailableError) as connection:
            row = connection.execute(_PLACE, partition).fetchone()
        if topic_id is not None and (row is None or row[1] != topic_id.bytes):
            raise LogTruncatedError(
                f"{partition}: its topic was deleted, or deleted and made anew; rebuild the view",
                partition,
                replaced=True,
            )
        if row is None:
            raise UnknownTopicError(
                f"the log has no partition {partition}; create the topic first", topic=partition.topic
            )
        self._places[partition] = _Place(partition, row[0], offset)

    def unassign(self, partition: Partition) -> None:
        self._places.pop(partition, None)

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Fetched]:
        until = time.monotonic() + timeout_s
        while True:
            if self._bell.closed:
                raise LogUnavailableError("the log is closed")
            rung = self._bell.rung()
            fetched, news = self._look(max_records)
            if news or not self._bell.wait(rung, until - time.monotonic()):
                return fetched

    def commit(self, partition: Partition, next_offset: int) -> None:
        self._database.write_unseen(
            lambda connection: connection.execute(_COMMIT, (self._group, *partition, next_offset))
        )

    def close(self) -> None:
        self._places.clear()

    def _look(self, max_records: int) -> tuple[list[Fetched], bool]:
        """What is there, and whether it is worth returning before the time is up."""
        places = list(self._places.values())
        try:
            with self._database.reading(LogUnavailableError) as connection:
                bounds = _bounds(connection, places)
                if all(_readable(place, bounds) for place in places):
                    return self._fetch(connection, places, bounds, max_records)
        except LogUnavailableError as error:  # none could be looked at, so none appears; the time is waited out
            if not self._bell.closed:
                _logger.warning("poll: %s", error)
            return [], False
        raise _truncated(next(place for place in places if not _readable(place, bounds)), bounds)

    def _fetch(
        self, connection: sqlite3.Connection, places: list[_Place], bounds: dict[int, tuple[int, int]], max_records: int
    ) -> tuple[list[Fetched], bool]:
        fetched: list[Fetched] = []
        news = False
        records_left, bytes_left = max_records, POLL_BYTES
        busy_left = sum(place.next_offset < bounds[place.no][1] for place in places)
        for place in places:
            end = bounds[place.no][1]
            records: list[Record] = []
            time_us = 0
            if place.next_offset < end:
                share = -(-records_left // busy_left)  # what others leave over is shared by those after them
                busy_left -= 1
                if share <= 0 or bytes_left <= 0:
                    continue  # its turn comes with the next poll: those served now are put behind it
                records, size, all_read = _read(connection, place, share, bytes_left)
                records_left -= len(records)
                bytes_left -= size
                if records:
                    (time_us,) = connection.execute(_TIME, (place.no, records[-1][0])).fetchone()
                place.next_offset = end if all_read else records[-1][0] + 1
                self._places[place.partition] = self._places.pop(place.partition)
                news = True
            elif not place.end_told:
                news = True
            place.end_told = place.end_told or place.next_offset == end
            fetched.append(Fetched(place.partition, records, place.next_offset, end, time_us))
        return fetched, news


def _bounds(connection: sqlite3.Connection, places: list[_Place]) -> dict[int, tuple[int, int]]:
    numbers = f"[{','.join(str(place.no) for place in places)}]"
    return {no: (start, end) for no, start, end in connection.execute(_BOUNDS, (numbers,)).fetchall()}


def _readable(place: _Place, bounds: dict[int, tuple[int, int]]) -> bool:
    start, end = bounds.get(place.no, (0, -1))
    return start <= place.next_offset <= end


def _truncated(place: _Place, bounds: dict[int, tuple[int, int]]) -> LogTruncatedError:
    if place.no not in bounds:
        return LogTruncatedError(f"{place.partition} was deleted while it was read", place.partition, replaced=True)
    start, end = bounds[place.no]
    message = f"{place.partition} cannot be read from {place.next_offset}: the log holds offsets {start} to {end}"
    return LogTruncatedError(message, place.partition, replaced=place.next_offset > end)


def _read(
    connection: sqlite3.Connection, place: _Place, max_records: int, max_bytes: int
) -> tuple[list[Record], int, bool]:
    """Events in order, their bytes, and whether these were all up to the end."""
    records: list[Record] = []
    size = 0
    rows = connection.execute(_EVENTS, (place.no, place.next_offset, max_records))
    while step := rows.fetchmany(STEP_ROWS):
        records += step
        size += sum(len(key) + len(value or b"") for _, key, value in step)
        if size >= max_bytes:
            break
    rows.close()  # an unfinished statement would keep the view of the file open
    return records, size, len(records) < max_records and size < max_bytes
