"""Restore: a shard as its snapshots have it, and where in the log to go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator

import structlog

from aorist.engine.parked import Parked, counts
from aorist.engine.seeding import seed
from aorist.engine.shard import Entry, Shard
from aorist.errors import LogTruncatedError, LogUnavailableError
from aorist.ports import (
    TOMBSTONES_KEPT_MS,
    Bounds,
    Checkpoint,
    EventLog,
    LogReader,
    ParkedEvent,
    Record,
    SnapshotStore,
)
from aorist.position import NOTHING

TOMBSTONES_SEEN_MS = TOMBSTONES_KEPT_MS - 3_600_000
"""A checkpoint of a compacted topic may be so old: an hour is for clocks that differ, and for reading on from there."""

PAGE = 1_000
PATIENCE = 30
"""Polls of a second without any event before giving up."""

log = structlog.get_logger()
_decoding = threading.Lock()
"""Held for a page by the shard whose rows are decoded. The interpreter runs one thread at a time anyway: were all shards of a worker to ask
for it, those that bring the pages, fold and answer would each time wait behind them all."""


def restore(shard: Shard, store: SnapshotStore, events: EventLog, *, beside: bool = False) -> int:
    """Fills `shard`, which nobody folds yet, and returns the offset to fold from. Blocks; not for the event loop.

    `beside`: another build of the view answers, and holds what the log may have forgotten.

    Step 1. Read the checkpoint, before any row: rows written meanwhile can only be newer than it.
    Step 2. Read the parked events: those below the checkpoint are in no row, nor will the log give them again.
    Step 3. Read the rows. They may be ahead of the checkpoint; each says how far it is, and events up to there are passed over.
    Step 4. Make sure that the log still reaches back to the checkpoint, and as far as the rows; a compacted one, that it still has all
            tombstones since then.

    Raises LogTruncatedError when it does not (events would be skipped, new ones taken for those in the rows), StoreUnavailableError,
    LogUnavailableError; and what `seed` does.
    """
    # Step 1.
    checkpoint = store.read_checkpoint(shard.rows)
    if checkpoint is None and shard.view.seeded_from is not None:
        seed(shard, store)
        checkpoint = store.read_checkpoint(shard.rows)
    # Step 2.
    parked = store.read_parked(shard.rows)
    # Step 3.
    entries, decode, series = shard.entries, shard.view.codec.decode, shard.series
    for page in store.read_rows(shard.rows):
        with _decoding:
            for key, state, offset, _ in page:
                entry = entries[key] = Entry(decode(state), offset)
                if series is not None and series.windows(entry.state).closed:
                    shard.dirty.add(
                        key
                    )  # nobody may have written them yet, and no event may come that would mark the key
    shard.row_offset = max((entry.offset for entry in entries.values()), default=NOTHING)
    shard.checkpoint = checkpoint
    restore_parked(shard, parked)
    # Step 4.
    bounds = events.bounds(shard.partition)
    if shard.row_offset >= bounds.end:
        raise LogTruncatedError(
            f"{shard.partition} ends at offset {bounds.end}, but a row of {shard.name} already holds event {shard.row_offset}: the log "
            "lost its end, and new events would be taken for old ones; rebuild the view under a new build, or restore the log",
            shard.partition,
        )
    if checkpoint is None:
        if beside and bounds.start > 0:
            _check_reaches_back(shard, bounds.start)
        return bounds.start
    if not bounds.start <= checkpoint.next_offset <= bounds.end:
        raise LogTruncatedError(
            f"{shard.partition} holds offsets {bounds.start} to {bounds.end}, but the checkpoint of {shard.name} goes on at "
            f"{checkpoint.next_offset}: events between are lost to this view; rebuild it under a new build, or restore the log",
            shard.partition,
        )
    _check_tombstones(shard, checkpoint, bounds)
    shard.leader_epoch = checkpoint.leader_epoch
    return checkpoint.next_offset


def _check_tombstones(shard: Shard, checkpoint: Checkpoint, bounds: Bounds) -> None:
    """A compacted topic drops a tombstone once it is old enough: its key would stay in the view for ever, and nothing would say so."""
    age_ms = time.time_ns() // 1_000_000 - checkpoint.time_us // 1000
    if not shard.view.schema.topic.compacted or checkpoint.next_offset == bounds.end or age_ms < TOMBSTONES_SEEN_MS:
        return
    raise LogTruncatedError(
        f"the checkpoint of {shard.name} is {age_ms // 3_600_000} h old, and the compacted {shard.partition} keeps tombstones for "
        f"{TOMBSTONES_KEPT_MS // 3_600_000} h: keys deleted since then may not be told of any more; rebuild the view under a new build",
        shard.partition,
    )


def _check_reaches_back(shard: Shard, start: int) -> None:
    """Raises LogTruncatedError where a new build would lack what older events have made. A compacted log has what matters of them."""
    if shard.view.schema.topic.compacted or shard.view.partial:
        return
    raise LogTruncatedError(
        f"{shard.partition} begins at offset {start}: what older events have made is only in the build of {shard.view.name} that "
        f"answers, and {shard.name} would lack it; keep that build, or declare the new one with partial=True, and accept the "
        "difference when you promote it",
        shard.partition,
    )


def restore_parked(shard: Shard, events: Iterable[ParkedEvent]) -> None:
    """Of the records of a shard whose rows are read, those that count."""
    queues: dict[bytes, list[ParkedEvent]] = {}
    for event in events:
        entry = shard.entries.get(event.key)
        if counts(event, entry.offset if entry else NOTHING):
            queues.setdefault(event.key, []).append(event)
    for key, queue in queues.items():
        shard.parked[key] = Parked(queue, queue[-1].offset)


def refold(shard: Shard, upto: int, store: SnapshotStore, reader: LogReader) -> None:
    """Brings back every key taken out of `shard`: from its row and the log, as it was before offset `upto`. Blocks.

    Raises LogUnavailableError, LogTruncatedError, StoreUnavailableError; the key then stays out, with the reason why it is.
    """
    handlers, parse = shard.view.handlers, shard.view.schema.envelope.FromString
    # Before the row, as in `restore`: a checkpoint that ends meanwhile may only make the row newer.
    start = shard.checkpoint.next_offset if shard.checkpoint else shard.began_at
    for key in list(shard.broken):
        row = store.read_row(shard.rows, key)
        entry = Entry(shard.view.codec.decode(row.state), row.offset) if row else Entry(shard.view.state(), NOTHING)
        for offset, record_key, value in _between(reader, shard, start, upto):
            if record_key == key and offset > entry.offset and value is not None:
                envelope = parse(value)
                field = envelope.WhichOneof("event")
                if field in handlers:
                    handlers[field](entry.state, shard.view.taken(field, getattr(envelope, field)))
                    entry.offset = offset
        shard.put_back(key, entry)
        log.info(
            "key is back as it was before the event",
            shard=str(shard.name),
            key=key.decode(errors="replace"),
            offset=entry.offset,
        )


def _between(reader: LogReader, shard: Shard, start: int, upto: int) -> Iterator[Record]:
    """The events from `start` up to before `upto`."""
    reader.assign(shard.partition, start)
    reached, silent = start, 0
    while reached < upto:
        before = reached
        for fetched in reader.poll(PAGE, 1.0):
            yield from (record for record in fetched.records if record[0] < upto)
            reached = fetched.next_offset
        silent = silent + 1 if reached == before else 0
        if silent == PATIENCE:
            raise LogUnavailableError(f"{shard.partition} gives no events below {upto} any more")
