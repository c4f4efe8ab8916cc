"""Events of a topic one at a time, from where to where was asked: for `aorist log`."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

from aorist.errors import LogUnavailableError, SettingError
from aorist.ports import Bounds, EventLog, LogReader
from aorist.position import Partition

POLL_S = 0.2

PATIENCE_S = 30.0
"""Without a word of the log while there should be more."""

EARLIEST, LATEST = "earliest", "latest"


class Moment(NamedTuple):
    """`time_us`: microseconds since 1970, by the log's clock."""

    time_us: int


Start = str | int | Moment
"""EARLIEST, LATEST, an offset, or the first event appended then or later."""


class Read(NamedTuple):
    """One event as it lies in the log. `time_us`: when it was appended."""

    partition: Partition
    offset: int
    time_us: int
    key: bytes | None
    value: bytes | None


def read_events(events: EventLog, partitions: Sequence[Partition], start: Start, *, follow: bool) -> Generator[Read]:
    """The events of each partition in order, those of different ones as they come.

    Ends where the log ended when this began, or never with `follow`. Holds one event, beside what the reader has fetched ahead.
    Raises SettingError for an offset that a partition does not have.
    """
    with closing(events.reader("aorist log")) as reader:
        bounds = {partition: events.bounds(partition) for partition in partitions}
        starts = {partition: _offset(reader, partition, bounds[partition], start) for partition in partitions}
        ends = {
            partition: bounds[partition].end
            for partition in partitions
            if follow or starts[partition] < bounds[partition].end
        }
        for partition in ends:
            reader.assign(partition, starts[partition])
        heard = time.monotonic()
        while ends:
            for partition, event, next_offset in _polled(reader):
                heard, end = time.monotonic(), ends.get(partition)
                if end is None:
                    continue
                if event is not None and (follow or event.offset < end):
                    yield event
                if next_offset >= end and not follow:
                    reader.unassign(partition)
                    del ends[partition]
            if not follow and time.monotonic() > heard + PATIENCE_S:
                raise LogUnavailableError(f"{', '.join(map(str, ends))}: nothing heard for {PATIENCE_S:g} s; ask again")


def _polled(reader: LogReader) -> Iterator[tuple[Partition, Read | None, int]]:
    """Partition, an event or none, and where it goes on. One event at a time: the log tells the time of the last that it gave."""
    for fetched in reader.poll(1, POLL_S):
        event = None
        for offset, key, value in fetched.records:
            event = Read(fetched.partition, offset, fetched.time_us, key, value)
        yield fetched.partition, event, fetched.next_offset


def _offset(reader: LogReader, partition: Partition, bounds: Bounds, start: Start) -> int:
    """Where to begin."""
    if isinstance(start, Moment):
        return _first_since(reader, partition, bounds, start.time_us)
    if isinstance(start, int):
        if not bounds.start <= start <= bounds.end:
            raise SettingError(f"{partition} holds offsets {bounds.start} to {bounds.end}: there is no {start}")
        return start
    return bounds.start if start == EARLIEST else bounds.end


def _first_since(reader: LogReader, partition: Partition, bounds: Bounds, time_us: int) -> int:
    """By halves, as times grow along a partition; where the clocks of those who append differ, by that much beside it."""
    low, high = bounds
    while low < high:
        middle = (low + high) // 2
        event = _first_from(reader, partition, middle, bounds.end)
        if event is None or event.time_us >= time_us:
            high = middle
        else:
            low = event.offset + 1
    return low


def _first_from(reader: LogReader, partition: Partition, offset: int, end: int) -> Read | None:
    reader.assign(partition, offset)
    try:
        give_up = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up:
            for _, event, next_offset in _polled(reader):
                if event is not None or next_offset >= end:
                    return event
    finally:
        reader.unassign(partition)
    raise LogUnavailableError(f"{partition} gives no events from {offset} on; ask again")
