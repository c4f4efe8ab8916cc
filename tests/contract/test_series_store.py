"""Time series: windows in the order of their starts, read by ranges of many keys, gone after their time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aorist.ports import LATEST_US, SeriesRows, WindowRow
from tests.contract.harness import SeriesHarness, poll_until
from tests.contract.series import BRIEF_S

EVERY_RANGE = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""The store is shared by the examples of a test; each writes under a topic id of its own."""

S_US = 1_000_000
NOON_US = 1_704_110_400 * S_US
"""2024-01-01 12:00."""

PLACES = [0, 1, 2, 3, 599, 2**18 - 1, 2**18, 2**18 + 1, 5 * 2**18, 46 * 2**18, 1_704_110_400, LATEST_US // S_US - 1]
"""Starts, in seconds, among them such as an adapter may keep apart from each other."""


def _row(key: bytes, start_us: int, offset: int = 7) -> WindowRow:
    """What is written twice has equal totals, so that they follow from key and start."""
    return WindowRow(key, start_us, b"%s@%d" % (key, start_us), offset)


def _rows(key: bytes, count: int, step_us: int = S_US) -> list[WindowRow]:
    return [_row(key, NOON_US + number * step_us, number) for number in range(count)]


def _all(stores: SeriesHarness, series: SeriesRows, *keys: bytes) -> dict[bytes, Sequence[WindowRow]]:
    """From noon on, a day."""
    return stores.series.read_windows(series, keys, NOON_US, NOON_US + 86_400 * S_US, 100_000)


@pytest.fixture
def series() -> SeriesRows:
    return SeriesRows("view", 1, uuid4(), 1)


def test_a_new_series_has_nothing(series_stores: SeriesHarness, series: SeriesRows) -> None:
    assert _all(series_stores, series, b"a", b"b") == {}
    assert series_stores.series.read_windows(series, [], 0, LATEST_US, 10) == {}
    series_stores.series.write_windows(series, [])
    assert _all(series_stores, series, b"a") == {}


def test_what_was_written_is_read(series_stores: SeriesHarness, series: SeriesRows) -> None:
    rows = [
        WindowRow(bytes(range(256)), 0, b"", 0),
        WindowRow(bytes(range(256)), S_US, bytes(range(256)) * 40, 2**40),
        WindowRow(b"z", LATEST_US - S_US, b"\0", 1),
    ]
    series_stores.series.write_windows(series, rows)
    read = series_stores.series.read_windows(series, [rows[0].key, b"absent", b"z"], 0, LATEST_US, 10)
    assert read == {rows[0].key: rows[:2], b"z": rows[2:]}


def test_windows_come_in_order_whatever_the_order_of_writing(series_stores: SeriesHarness, series: SeriesRows) -> None:
    rows = {key: _rows(key, 400) for key in (b"a", b"b")}
    mixed = sorted([*rows[b"a"], *rows[b"b"]], key=lambda row: row.start_us * 7_919 % 1_000_003)
    series_stores.series.write_windows(series, mixed)
    assert _all(series_stores, series, b"b", b"a") == rows


async def test_all_is_there_after_a_restart(series_stores: SeriesHarness, series: SeriesRows) -> None:
    series_stores.series.write_windows(series, _rows(b"k", 3))
    await series_stores.reopen()
    assert _all(series_stores, series, b"k") == {b"k": _rows(b"k", 3)}


@EVERY_RANGE
@given(
    starts=st.sets(st.sampled_from(PLACES)),
    from_us=st.sampled_from(PLACES).flatmap(lambda s: st.sampled_from([s * S_US - 1, s * S_US, s * S_US + 1])),
    upto_us=st.sampled_from(PLACES).flatmap(lambda s: st.sampled_from([s * S_US - 1, s * S_US, s * S_US + 1])),
    limit=st.integers(0, len(PLACES)),
)
def test_a_range_has_its_first_windows_up_to_the_limit(
    series_stores: SeriesHarness, starts: set[int], from_us: int, upto_us: int, limit: int
) -> None:
    series = SeriesRows("view", 1, uuid4(), 1)
    rows = [_row(b"k", start * S_US) for start in sorted(starts)]
    series_stores.series.write_windows(series, [*rows, _row(b"other", from_us // S_US * S_US)])
    expected = [row for row in rows if from_us <= row.start_us < upto_us][:limit]
    found = series_stores.series.read_windows(series, [b"k"], from_us, upto_us, limit)
    assert found == ({b"k": expected} if expected else {})


def test_a_query_may_ask_for_any_range(series_stores: SeriesHarness, series: SeriesRows) -> None:
    rows = [_row(b"k", 0), _row(b"k", NOON_US), _row(b"k", LATEST_US - S_US)]
    series_stores.series.write_windows(series, rows)
    read = series_stores.series.read_windows
    assert read(series, [b"k"], -(10**30), 10**30, 10) == {b"k": rows}
    assert read(series, [b"k"], 10**30, -(10**30), 10) == {}
    assert read(series, [b"k"], LATEST_US, 2**63 - 1, 10) == {}
    assert read(series, [b"k"], NOON_US, NOON_US, 10) == {}


def test_reading_on_from_the_last_window_misses_none(series_stores: SeriesHarness, series: SeriesRows) -> None:
    rows = [_row(b"k", start * S_US) for start in PLACES]
    series_stores.series.write_windows(series, rows)
    read: list[WindowRow] = []
    while page := series_stores.series.read_windows(series, [b"k"], read[-1].start_us + 1 if read else 0, LATEST_US, 5):
        assert len(page[b"k"]) <= 5
        read += page[b"k"]
    assert read == rows


def test_the_highest_offset_stays_in_every_order(series_stores: SeriesHarness) -> None:
    for offsets in permutations([0, 5, 9]):
        series = SeriesRows("view", 1, uuid4(), 1)
        for offset in offsets:
            series_stores.series.write_windows(series, [_row(b"k", NOON_US, offset)])
        assert _all(series_stores, series, b"k") == {b"k": [_row(b"k", NOON_US, 9)]}
        together = [_row(b"together", NOON_US, offset) for offset in offsets]
        series_stores.series.write_windows(series, together)
        assert _all(series_stores, series, b"together") == {b"together": [_row(b"together", NOON_US, 9)]}


def test_writing_again_is_harmless(series_stores: SeriesHarness, series: SeriesRows) -> None:
    for count in (400, 200, 400):
        series_stores.series.write_windows(series, _rows(b"k", count))
    assert _all(series_stores, series, b"k") == {b"k": _rows(b"k", 400)}


def test_series_are_apart(series_stores: SeriesHarness, series: SeriesRows) -> None:
    several = [
        series,
        series._replace(view="Other_view"),
        series._replace(build=2),
        series._replace(topic_id=uuid4()),  # the topic was made anew
        series._replace(window_s=60),
    ]
    rows = [_row(b"k", NOON_US, number) for number in range(len(several))]
    for one, row in zip(several, rows, strict=True):
        series_stores.series.write_windows(one, [row])
    assert [_all(series_stores, one, b"k") for one in several] == [{b"k": [row]} for row in rows]


def test_many_keys_are_read_at_once(series_stores: SeriesHarness, series: SeriesRows) -> None:
    rows = {b"arm-%05d" % number: _rows(b"arm-%05d" % number, 6) for number in range(2_000)}
    series_stores.series.write_windows(series, [row for of_key in rows.values() for row in of_key])
    keys = [*rows, b"absent", *list(rows)[:10]]  # one that has none, and some twice
    read = series_stores.series.read_windows(series, keys, NOON_US + S_US, NOON_US + 5 * S_US, 3)
    assert read == {key: of_key[1:4] for key, of_key in rows.items()}


def test_many_windows_of_a_key_are_read_whole(series_stores: SeriesHarness, series: SeriesRows) -> None:
    rows = _rows(b"k", 20_000)
    series_stores.series.write_windows(series, rows)
    assert _all(series_stores, series, b"k") == {b"k": rows}


def test_writers_on_many_threads_do_not_undo_each_other(series_stores: SeriesHarness, series: SeriesRows) -> None:
    def write(number: int) -> None:
        for offset in range(number, 80, 8):
            own = _row(b"own-%d" % number, NOON_US + offset * S_US, offset)
            series_stores.series.write_windows(series, [_row(b"shared", NOON_US, offset), own])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    keys = [b"own-%d" % number for number in range(8)]
    read = _all(series_stores, series, b"shared", *keys)
    assert read.pop(b"shared") == [_row(b"shared", NOON_US, 79)]
    assert {key: len(rows) for key, rows in read.items()} == dict.fromkeys(keys, 10)


def test_windows_vanish_after_their_time(series_stores: SeriesHarness, series: SeriesRows) -> None:
    """Counted from when they are written: what they are about may be long ago."""
    brief = series._replace(view="brief")
    series_stores.series.write_windows(series, _rows(b"k", 3))
    written = time.monotonic()
    series_stores.series.write_windows(brief, _rows(b"k", 3))
    read = _all(series_stores, brief, b"k")
    if time.monotonic() < written + BRIEF_S - 1:  # Cassandra counts whole seconds
        assert read == {b"k": _rows(b"k", 3)}
    poll_until(lambda: not _all(series_stores, brief, b"k"), lambda: time.sleep(0.05))
    assert time.monotonic() >= written + BRIEF_S - 1
    assert _all(series_stores, series, b"k") == {b"k": _rows(b"k", 3)}
