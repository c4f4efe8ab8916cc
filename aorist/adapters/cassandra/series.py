"""SeriesStore on Cassandra: one table for each length of windows of a view; a row is one cell, and vanishes by itself.

A key's windows lie in spans, of SPAN_WINDOWS each, which are Cassandra's partitions. A range is read span by span.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from cassandra.query import BatchStatement, BatchType, Statement

from aorist.adapters.cassandra.batches import BATCH_ROWS
from aorist.adapters.cassandra.failures import FAILURES, Place
from aorist.adapters.cassandra.link import Link
from aorist.adapters.cassandra.requests import Requests
from aorist.adapters.cassandra.rows import (
    SPAN_WINDOWS,
    Values,
    look_values,
    parse_windows,
    range_values,
    span_of,
    span_values,
    window_values,
)
from aorist.adapters.cassandra.statements import SeriesStatements, Statements, bound, prepare_series
from aorist.ports import LATEST_US, SeriesRows, WindowRow

WRITES_IN_FLIGHT, READS_IN_FLIGHT = 32, 64
"""Over all threads, of each kind: queries do not wait for a checkpoint. More than batches of snapshots, as they are small."""

LOOKED_AT = 128
"""Spans looked at in one statement, which says of each whether it has anything. To a node an empty one is next to nothing."""

AGAIN = "whether these windows are durable is not known, and writing them again is harmless"
READ_AGAIN = "nothing is lost by reading again"


@dataclass(slots=True)
class _Reading:
    """How far the range of one key has been read."""

    key: bytes
    span: int
    looking: bool = False
    """For the next span that has anything: after an empty one, the range may be empty for years."""
    rows: list[WindowRow] = field(default_factory=list)

    def found(self, spans: list[int]) -> None:
        self.span = min(spans, default=self.span + LOOKED_AT)
        self.looking = not spans

    def read(self, rows: list[WindowRow]) -> None:
        self.rows += rows
        self.span += 1
        self.looking = not rows


class CassandraSeriesStore:
    """Shares the connections of a snapshot store, and is used as that is: see `CassandraSnapshotStore.series`."""

    def __init__(self, link: Link[Statements], place: Place, answer_timeout_s: float) -> None:
        self._link, self._place = link, place
        self._writes = Requests(WRITES_IN_FLIGHT, answer_timeout_s)
        self._reads = Requests(READS_IN_FLIGHT, answer_timeout_s)

    def write_windows(self, series: SeriesRows, rows: Sequence[WindowRow]) -> None:
        statements = self._link.get()
        try:
            prepared = self._prepared(statements, series)
            sent = ((None, statement) for statement in _writes(prepared, series, rows))
            for _ in self._writes.answers(statements.session, sent):
                pass
        except FAILURES as error:
            raise self._link.failed(error, AGAIN) from error
        self._link.worked()

    def read_windows(
        self, series: SeriesRows, keys: Sequence[bytes], from_us: int, upto_us: int, limit: int
    ) -> dict[bytes, Sequence[WindowRow]]:
        first_us, end_us = max(from_us, 0), min(upto_us, LATEST_US)
        if first_us >= end_us or limit < 1:
            return {}
        readings = [_Reading(key, span_of(first_us, series.window_s)) for key in dict.fromkeys(keys)]
        last_span = span_of(end_us - 1, series.window_s)
        statements = self._link.get()
        try:
            prepared = self._prepared(statements, series)

            def ask(one: _Reading) -> Statement:
                if one.looking and one.span < last_span:
                    spans = range(one.span, min(one.span + LOOKED_AT, last_span + 1))
                    return bound(prepared.look, look_values(series, one.key, spans, first_us, end_us))
                one.looking = False
                most = min(limit - len(one.rows), SPAN_WINDOWS)
                of_span = span_values(series, one.key, one.span)
                return bound(prepared.read, range_values(of_span, first_us, end_us, most), fetch_size=None)  # one page

            unfinished = readings
            while unfinished:
                for one, answer in self._reads.answers(statements.session, ((one, ask(one)) for one in unfinished)):
                    if one.looking:
                        one.found([span for (span,) in answer.current_rows])
                    else:
                        one.read(parse_windows(one.key, answer.current_rows))
                unfinished = [one for one in unfinished if one.span <= last_span and len(one.rows) < limit]
        except FAILURES as error:
            raise self._link.failed(error, READ_AGAIN) from error
        self._link.worked()
        return {one.key: one.rows for one in readings if one.rows}

    def close(self) -> None:
        """Nothing of its own to end: the connections are those of the snapshot store."""

    def _prepared(self, statements: Statements, series: SeriesRows) -> SeriesStatements:
        name = series.view, series.window_s
        prepared = statements.series.get(name)
        if prepared is None:
            prepared = statements.series[name] = prepare_series(statements.session, self._place, *name)
        return prepared


def _writes(prepared: SeriesStatements, series: SeriesRows, rows: Sequence[WindowRow]) -> Iterator[Statement]:
    """Windows of one span travel together. `rows` are mostly in order; out of order they only make more of it."""
    for (key, span), together in groupby(rows, lambda row: (row.key, span_of(row.start_us, series.window_s))):
        of_span = span_values(series, key, span)
        values = [window_values(of_span, row) for row in together]
        for first in range(0, len(values), BATCH_ROWS):
            yield _write(prepared, values[first : first + BATCH_ROWS])


def _write(prepared: SeriesStatements, windows: list[Values]) -> Statement:
    if len(windows) == 1:
        return bound(prepared.write, windows[0])
    batch = BatchStatement(BatchType.UNLOGGED)  # of one Cassandra partition: see `batches`
    batch.is_idempotent = True
    for values in windows:
        batch.add(bound(prepared.write, values))
    return batch
