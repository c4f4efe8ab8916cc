"""The last durable snapshot of one key, for when nobody has it in memory."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from aorist.declare.view import View
from aorist.engine.parked import counts
from aorist.engine.series import ShardSeries
from aorist.errors import RestoringError
from aorist.ports import EventLog, SeriesStore, ShardRows, SnapshotStore
from aorist.position import Partition
from aorist.v1 import read_pb2


class Stored(NamedTuple):
    """A state, and how fresh it is. `series`: where the windows of time are that have left it, for a view that keeps some."""

    state: Any
    header: read_pb2.ReadHeader
    series: ShardSeries | None = None


def read_stored(
    view: View[Any],
    partition: Partition,
    key: bytes,
    store: SnapshotStore,
    events: EventLog,
    windows: SeriesStore | None = None,
) -> Stored:
    """Blocks. The checkpoint is read before the row: every event below it is in rows, and the row can only be newer. But for events that
    are held back: of a key that is parked the row is as far as the first of them.

    `windows`: the store of time series; what is read of it afterwards can only be more than had left the row.
    Raises RestoringError where there is no row (that a key is not known is for an owner to say), StoreUnavailableError,
    LogUnavailableError, UnknownTopicError.
    """
    topic = events.describe(partition.topic)
    rows = ShardRows(view.name, view.build, topic.id, partition.number)
    checkpoint, parked, row = store.read_checkpoint(rows), store.read_parked(rows), store.read_row(rows, key)
    if row is None:
        raise RestoringError(f"{view.name} has no snapshot of {key.decode(errors='replace')} yet")
    held_back = (event.offset for event in parked if event.key == key and counts(event, row.offset))
    upto = checkpoint.next_offset if checkpoint else 0
    offset = max(row.offset, min(upto, next(held_back, upto)) - 1)
    end = events.bounds(partition).end
    header = read_pb2.ReadHeader(
        epoch=row.epoch, role=read_pb2.ROLE_STORE, stale=True, lag_events=max(0, end - 1 - offset)
    )
    if checkpoint is not None:
        header.lag_ms = max(0, time.time_ns() // 1_000_000 - checkpoint.time_us // 1000)
    header.position.topic, header.position.partition, header.position.offset = *partition, offset
    series = ShardSeries(view, topic.id, windows) if view.series is not None and windows is not None else None
    return Stored(view.codec.decode(row.state), header, series)
