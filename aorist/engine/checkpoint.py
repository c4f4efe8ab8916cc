"""Checkpoints: states become durable rows, then the log is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import structlog

from aorist.declare.series import Closed
from aorist.engine.series import ShardSeries
from aorist.engine.shard import Entry, Phase, Shard
from aorist.engine.threads import Fate, Thread
from aorist.errors import StoreUnavailableError
from aorist.failpoints import failpoint
from aorist.ports import Checkpoint, SnapshotRow, SnapshotStore
from aorist.position import NOTHING, ShardName

SLICE = 100
"""States serialised under one hold of a shard's lock."""

ANEW_S = 3600.0
"""After so long a checkpoint of a compacted topic is taken again though nothing has come: a restore refuses one that is older than the
topic's tombstones."""

AT_END_MS = 10_000
"""Only while the end of the log is in sight."""

STILL_S = 30.0
"""How late a turn of the checkpointer may be: a store that is away takes up to 24 s to say so, and is no reason to call the thread hung."""

WRITE = 2_000
"""Rows handed to the store at a time: it makes batches by bucket, which pay only when they are full."""

log = structlog.get_logger()


def checkpoint(
    shard: Shard, store: SnapshotStore, commit: Callable[[Shard, int], None], moved: Callable[[], None] = lambda: None
) -> Checkpoint | None:
    """Writes what changed since the last one. Blocks. None: there was nothing to write, or not now. `moved`: called as rows are written.

    Step 1. Note position P and take the set of changed keys, in one moment.
    Step 2. Serialise their states, in slices. A state may by then hold events beyond P: its row says how far it is.
            Of a view with series, write their closed windows before: only then may a row be without them.
    Step 3. Write the events of parked keys, then the rows; all are durable when the calls return.
    Step 4. Write the checkpoint row: every event below P is in durable rows. It is the authority for a restore.
    Step 5. Commit P to the log, for lag tools only.

    Raises StoreUnavailableError: the keys count as changed again, and the next checkpoint covers them.
    """
    try:
        return _checkpoint(shard, store, commit, moved)
    except _TakenOutError:
        return None  # an event broke a key meanwhile: P covers events of it that would be in no row


def _checkpoint(
    shard: Shard, store: SnapshotStore, commit: Callable[[Shard, int], None], moved: Callable[[], None]
) -> Checkpoint | None:
    # Step 1.
    with shard.lock:
        next_offset, leader_epoch, changed = shard.next_offset, shard.leader_epoch, shard.dirty
        if _is_current(shard) or shard.began_at == NOTHING or shard.phase is Phase.CLOSED:
            return None
        if shard.broken:
            raise _TakenOutError
        shard.dirty = set()
        parked = [(queue, queue.unsaved()) for queue in shard.parked.values()]
    try:
        # Steps 2 and 3.
        for queue, events in parked:
            if events:
                store.write_parked(shard.rows, events)
                queue.saved_upto = events[-1].offset
        for rows in (
            _rows(shard, changed) if shard.series is None else _rows_after_windows(shard, shard.series, changed)
        ):
            store.write_rows(shard.rows, rows)
            failpoint("after_rows")
            moved()
        # Step 4.
        taken = Checkpoint(next_offset, shard.epoch, time.time_ns() // 1000, leader_epoch)
        store.write_checkpoint(shard.rows, taken)
        failpoint("after_checkpoint")
    except BaseException:
        with shard.lock:
            shard.dirty |= changed
        raise
    shard.checkpoint = taken
    # Step 5.
    commit(shard, next_offset)
    failpoint("after_commit")
    return taken


def _is_current(shard: Shard) -> bool:
    """Under the lock: whether the last checkpoint says all that a new one would. That nothing has come is said anew before it ages."""
    taken = shard.checkpoint
    if taken is None or taken.next_offset < shard.next_offset:
        return False
    may_age = shard.view.schema.topic.compacted and shard.lag().ms < AT_END_MS
    return not may_age or time.time_ns() // 1000 - taken.time_us < ANEW_S * 1_000_000


def _rows(shard: Shard, keys: Iterable[bytes]) -> Iterator[Sequence[SnapshotRow]]:
    """Rows of `keys`, WRITE at a time, serialised SLICE by SLICE."""
    encode, remaining = shard.view.codec.encode, iter(keys)
    rows: list[SnapshotRow] = []
    while piece := list(islice(remaining, SLICE)):
        with shard.lock:
            if shard.broken:
                raise _TakenOutError
            entries = [(key, shard.entries[key]) for key in piece]
            rows += [SnapshotRow(key, encode(entry.state), entry.offset, shard.epoch) for key, entry in entries]
        if len(rows) >= WRITE:
            yield rows
            rows = []
    if rows:
        yield rows


def _rows_after_windows(shard: Shard, series: ShardSeries, keys: Iterable[bytes]) -> Iterator[Sequence[SnapshotRow]]:
    """As `_rows`; windows that have closed leave the states on the way, once they are durable."""
    remaining = iter(keys)
    while group := list(islice(remaining, WRITE)):
        waiting: dict[bytes, tuple[int, Sequence[Closed]]] = {}
        for entries in _entries(shard, group):
            for key, entry in entries:
                if closed := series.windows(entry.state).closed:
                    waiting[key] = entry.offset, tuple(closed)
        series.write(waiting)
        encode = shard.view.codec.encode
        rows: list[SnapshotRow] = []
        for entries in _entries(shard, group):
            for key, entry in entries:
                if key in waiting:
                    series.windows(entry.state).acknowledged(waiting[key][1])
                rows.append(SnapshotRow(key, encode(entry.state), entry.offset, shard.epoch))
        yield rows


def _entries(shard: Shard, keys: Iterable[bytes]) -> Iterator[Sequence[tuple[bytes, Entry]]]:
    """Of `keys`, SLICE at a time, each slice with the lock held."""
    remaining = iter(keys)
    while piece := list(islice(remaining, SLICE)):
        with shard.lock:
            if shard.broken:
                raise _TakenOutError
            yield [(key, shard.entries[key]) for key in piece]


def forget_covered(shard: Shard, store: SnapshotStore) -> None:
    """For a standby: of its changed keys, forgets those that the owner's durable checkpoint covers, and no others. Blocks.

    Forgetting more, a standby that becomes owner would take checkpoints past events of keys that nobody wrote. The same goes for closed
    windows. Raises StoreUnavailableError.
    """
    taken = store.read_checkpoint(shard.rows)
    if taken is None or (shard.checkpoint is not None and shard.checkpoint.next_offset >= taken.next_offset):
        return
    with shard.lock:
        changed, shard.dirty = shard.dirty, set()
    waiting: dict[bytes, Sequence[Closed]] = {}
    remaining = iter(changed)
    while piece := list(islice(remaining, SLICE)):
        with shard.lock:
            entries = shard.entries
            beyond = {k for k in piece if k not in entries or entries[k].offset >= taken.next_offset}
            shard.dirty |= beyond
            if shard.series is not None:
                for key in entries.keys() & piece:
                    covered = key not in beyond
                    waiting[key] = shard.series.forget(key, entries[key].state, taken.next_offset, all_of_it=covered)
    if shard.series is not None:
        shard.series.note(waiting, shard.next_offset, taken.next_offset)
    shard.checkpoint = taken


class _TakenOutError(Exception):
    """A key is out of the shard after a failed apply."""


class Checkpointer:
    """Takes a checkpoint of every shard owned about every `interval_s`, and when told to. Alone writes snapshots of this process."""

    def __init__(
        self,
        shards: Callable[[], Sequence[Shard]],
        store: SnapshotStore,
        commit: Callable[[Shard, int], None],
        interval_s: float,
        fate: Fate,
        catch_up: Callable[[Shard], bool] = lambda _: True,
    ) -> None:
        """`catch_up`: takes over what another owner has released of a shard; False: not all yet. May raise StoreUnavailableError."""
        self.thread = Thread("checkpoint", self._run, fate, STILL_S)
        self.taken, self.taken_s, self.failed = (
            0,
            0.0,
            0,
        )  # checkpoints, how long they took in all, and those that failed
        self._catch_up = catch_up
        self._caught_up: dict[ShardName, int] = {}  # the epoch under which a shard of ours was
        self._shards, self._store, self._commit, self._interval_s = shards, store, commit, interval_s
        self._stopped = threading.Event()
        self._one_at_a_time = threading.Lock()

    def _run(self) -> None:
        self.thread.turn(self._interval_s)
        while not self._stopped.wait(self._interval_s):
            for shard in self._shards():
                self.take(shard)
            self.thread.turn(self._interval_s)

    def take(self, shard: Shard) -> bool:
        """A checkpoint of `shard` now. False: there is none; the log and the shard say why, and the next one tries again."""
        with self._one_at_a_time:
            self.thread.turn()
            began = time.monotonic()
            try:
                epoch, owned = shard.epoch, shard.owned
                if shard.parked and not (owned and self._caught_up.get(shard.name) == epoch):
                    whole = self._catch_up(shard)
                    self._caught_up[shard.name] = epoch if owned and whole else 0
                if owned:
                    if checkpoint(shard, self._store, self._commit, self.thread.turn) is not None:
                        self.taken, self.taken_s = self.taken + 1, self.taken_s + time.monotonic() - began
                elif shard.began_at != NOTHING:
                    forget_covered(shard, self._store)
            except StoreUnavailableError as error:
                log.warning("no checkpoint; trying again with the next", shard=str(shard.name), problem=str(error))
                self.failed += 1
                return False
            except Exception as error:  # a codec is domain code and may raise anything
                shard.trouble = f"a state cannot be serialised: {type(error).__name__}: {error}"
                log.error("no checkpoint", shard=str(shard.name), problem=shard.trouble, exc_info=error)
                self.failed += 1
                return False
        shard.trouble = ""
        return True

    def stop(self) -> None:
        """Takes no more of its own accord. Join the thread then."""
        self._stopped.set()
