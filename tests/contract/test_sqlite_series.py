"""Time series of the embedded mode: what has expired is gone at once for readers and soon from the file, which may be an old one."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from uuid import uuid4

import pytest

from aorist.adapters.sqlite import Database, SqliteEventLog, SqliteSeriesStore
from aorist.adapters.sqlite.upkeep import PIECE_EVENTS
from aorist.ports import LATEST_US, SeriesRows, SeriesSpec, WindowRow

SPECS = [SeriesSpec("view", 1, 60), SeriesSpec("view", 60, 3_600)]
ROWS = [WindowRow(b"k", number * 60_000_000, b"totals", number) for number in range(3)]


class Clock:
    now_us = 1_000_000_000

    def __call__(self) -> int:
        return self.now_us


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: Database, clock: Clock) -> SqliteSeriesStore:
    return SqliteSeriesStore(database, SPECS, clock)


@pytest.fixture
def series() -> SeriesRows:
    return SeriesRows("view", 1, uuid4(), 1)


def _read(store: SqliteSeriesStore, series: SeriesRows) -> list[WindowRow]:
    return list(store.read_windows(series, [b"k"], 0, LATEST_US, 100_000).get(b"k", ()))


def _left(database: Database) -> int:
    with database.reading() as connection:
        (count,) = connection.execute("SELECT count(*) FROM windows").fetchone()
    return int(count)


def test_each_length_has_its_own_time(store: SqliteSeriesStore, series: SeriesRows, clock: Clock) -> None:
    minutes = series._replace(window_s=60)
    for one in (series, minutes):
        store.write_windows(one, ROWS)
    clock.now_us += 60_000_000 - 1
    assert _read(store, series) == _read(store, minutes) == ROWS
    clock.now_us += 1
    assert _read(store, series) == []
    assert _read(store, minutes) == ROWS


def test_the_time_counts_from_the_last_writing(store: SqliteSeriesStore, series: SeriesRows, clock: Clock) -> None:
    store.write_windows(series, ROWS)
    clock.now_us += 40_000_000
    store.write_windows(series, [ROWS[1], ROWS[2]._replace(offset=1)])  # the last is behind what is there: nothing new
    clock.now_us += 40_000_000
    assert _read(store, series) == [ROWS[1]]


def test_upkeep_removes_what_has_expired(
    database: Database, log: SqliteEventLog, store: SqliteSeriesStore, series: SeriesRows, clock: Clock
) -> None:
    many = [WindowRow(b"%d" % number, 0, b"totals", 1) for number in range(2 * PIECE_EVENTS + 10)]
    store.write_windows(series, many)
    store.write_windows(series._replace(window_s=60), ROWS)
    log.maintain(clock.now_us + 60_000_000 - 1)
    assert _left(database) == len(many) + len(ROWS)
    log.maintain(clock.now_us + 60_000_000)
    assert _left(database) == len(ROWS)
    log.maintain(clock.now_us + 3_600_000_000)
    assert _left(database) == 0


def test_a_file_from_before_there_were_series_gets_their_tables(path: Path, clock: Clock, series: SeriesRows) -> None:
    Database(path).close()
    with sqlite3.connect(path) as connection:
        connection.executescript("DROP TABLE series; DROP TABLE windows")
    connection.close()
    for _ in range(2):
        database = Database(path)
        store = SqliteSeriesStore(database, SPECS, clock)
        store.write_windows(series, ROWS)
        assert _read(store, series) == ROWS
        database.close()
