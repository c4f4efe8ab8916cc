"""SeriesStore on the embedded database: windows of a key side by side, in order of their starts."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar

from aorist.adapters.sqlite.database import Database, wall_clock_us
from aorist.ports import LATEST_US, SeriesRows, SeriesSpec, WindowRow

PIECE_ROWS = 1_000
"""Written in one go, so that a big checkpoint does not hold up appends."""

PIECE_KEYS = 256
"""Read in one go: while it lasts, the file's write-ahead log grows."""

_WRITE = """
INSERT INTO windows (series_no, key, start_us, totals, offset, expires_us) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET totals = excluded.totals, offset = excluded.offset, expires_us = excluded.expires_us
WHERE excluded.offset >= windows.offset
"""

_READ = """
SELECT key, start_us, totals, offset FROM windows
WHERE series_no = ? AND key = ? AND start_us >= ? AND start_us < ? AND expires_us > ? ORDER BY start_us LIMIT ?
"""

T = TypeVar("T")


class SqliteSeriesStore:
    """The `SeriesStore` of embedded mode. Its methods block; call them off the event loop.

    Windows are gone for readers when their time is over. The upkeep of the log removes them some time later.
    """

    def __init__(
        self, database: Database, specs: Iterable[SeriesSpec], clock_us: Callable[[], int] = wall_clock_us
    ) -> None:
        """`specs`: every series that will be written."""
        self._database, self._clock_us = database, clock_us
        self._keep_us = {(spec.view, spec.window_s): spec.keep_s * 1_000_000 for spec in specs}

    def write_windows(self, series: SeriesRows, rows: Sequence[WindowRow]) -> None:
        keep_us = self._keep_us[series.view, series.window_s]
        for piece in _pieces(rows, PIECE_ROWS):
            expires_us = self._clock_us() + keep_us
            self._database.write(partial(_write, series=series, rows=piece, expires_us=expires_us))

    def read_windows(
        self, series: SeriesRows, keys: Sequence[bytes], from_us: int, upto_us: int, limit: int
    ) -> dict[bytes, Sequence[WindowRow]]:
        found: dict[bytes, Sequence[WindowRow]] = {}
        first_us, end_us, now_us = max(from_us, 0), min(upto_us, LATEST_US), self._clock_us()
        if first_us >= end_us:  # and a number of any size goes no further than here
            return found
        for piece in _pieces(keys, PIECE_KEYS):
            with self._database.reading() as connection:
                no = _find_series(connection, series)
                for key in piece:
                    rows = connection.execute(_READ, (no, key, first_us, end_us, now_us, limit)).fetchall()
                    if rows:
                        found[key] = [WindowRow._make(row) for row in rows]
        return found

    def close(self) -> None:
        """Nothing of its own to end: the database belongs to whoever opened it."""


def _pieces(things: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(things)
    while piece := list(islice(rest, size)):
        yield piece


def _write(connection: sqlite3.Connection, series: SeriesRows, rows: list[WindowRow], expires_us: int) -> None:
    no = _find_series(connection, series)
    if no is None:
        no = connection.execute(
            "INSERT INTO series (view, build, topic_id, window_s) VALUES (?, ?, ?, ?)", _columns(series)
        ).lastrowid
    connection.executemany(_WRITE, [(no, *row, expires_us) for row in rows])


def _find_series(connection: sqlite3.Connection, series: SeriesRows) -> int | None:
    row = connection.execute(
        "SELECT no FROM series WHERE view = ? AND build = ? AND topic_id = ? AND window_s = ?", _columns(series)
    ).fetchone()
    return int(row[0]) if row else None


def _columns(series: SeriesRows) -> tuple[str, int, bytes, int]:
    return series.view, series.build, series.topic_id.bytes, series.window_s
