"""Quarantine: one poison event stops one key, not its shard.

A record counts only above the offset of its key's row. So what releases a key is its row, and nothing has to be deleted: a crash
between any two of the steps below leaves the key parked as before, or released.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import structlog

from aorist.engine.parked import Folded, Parked, fold_parked, now_us
from aorist.engine.restore import refold
from aorist.engine.shard import Entry, Phase, Shard
from aorist.errors import NoOwnerError, NotParkedError, RestoringError
from aorist.failpoints import failpoint
from aorist.ports import EventLog, ParkedEvent, ParkedState, SnapshotRow, SnapshotStore
from aorist.position import NOTHING

MOST_KEYS = 10
"""Default of the setting `max_quarantined_keys`."""

log = structlog.get_logger()


class Quarantine:
    """Parks keys of this process's shards and releases them. May be used from any thread; all but `refuses` block."""

    def __init__(self, store: SnapshotStore, events: EventLog, most_keys: int = MOST_KEYS) -> None:
        """`most_keys`: parked in one shard. 0: none is, and every poison event halts its shard."""
        self.store, self._events, self._most_keys = store, events, most_keys
        self._one_at_a_time = threading.Lock()

    def refuses(self, shard: Shard, problem: str) -> str:
        """Why one more key of `shard` cannot be parked, beside `problem`; empty: it can."""
        if self._most_keys == 0:
            return problem
        if len(shard.parked) < self._most_keys:
            return ""
        return (
            f"{problem}. {len(shard.parked)} keys are parked already, as many as max_quarantined_keys allows: it is likelier the code "
            "than the events"
        )

    def park(self, shard: Shard, event: ParkedEvent) -> bool:
        """Called when the fold of the shard has stopped before `event`. It may go on behind it on return.

        Step 1. Bring the key back as it was before the event. If its row is past the event, another owner has released it: the key is then
                as in its row, and nothing is parked. Returns False.
        Step 2. Write the event, if the shard is ours. A standby only remembers it: if it becomes owner, its next checkpoint writes it.
        Step 3. From now on, events of the key queue behind.

        Raises what `refold` raises, and StoreUnavailableError: may be called again.
        """
        self.bring_back(shard, event.offset)
        row = self.store.read_row(shard.rows, event.key)
        if row is not None and row.offset >= event.offset:
            with shard.lock:
                shard.parked[event.key] = Parked([event])
                _put_in_place(shard, event.key, Folded(shard.view.codec.decode(row.state), row.offset))
                shard.row_offset = max(shard.row_offset, row.offset)
            shard.wake(event.key)
            return False
        owned = shard.owned
        if owned:
            self.store.write_parked(shard.rows, [event])
            failpoint("after_parked")
        with shard.lock:
            shard.parked[event.key] = Parked([event], event.offset if owned else NOTHING)
        return True

    def bring_back(self, shard: Shard, upto: int) -> None:
        """The keys taken out of `shard`, as they were before offset `upto`."""
        reader = self._events.reader(f"{shard.name.view}-repair")
        try:
            refold(shard, upto, self.store, reader)
        finally:
            reader.close()

    def replay(self, shard: Shard, key: bytes) -> ParkedEvent | None:
        """Folds the parked events of `key`, in order, with the code that runs now. Returns the one that failed; None: the key is free.

        Step 1. Fold a copy of the state.
        Step 2. Write its row: what it holds is released by that, durably.
        Step 3. Put the copy in place and fold what has come meanwhile. If an event failed, the key stays parked from there on.
        Step 4. Write the row again if more was folded, then what has become of the records: those are for people.

        Raises NotParkedError, NoOwnerError, StoreUnavailableError.
        """
        with self._one_at_a_time:
            return self._replay(shard, key)

    def skip(self, shard: Shard, key: bytes, offset: int, why: str) -> ParkedEvent | None:
        """Marks the first parked event of `key`, at `offset`, as never to be folded; then as `replay`.

        Step 1. Write the mark. Step 2. Replay. After a crash between them the mark stands, and the key is parked until it is replayed.
        """
        with self._one_at_a_time:
            with shard.lock:
                queue = _queue(shard, key)
                waiting = [event for event in queue.events.values() if event.state is not ParkedState.SKIPPED]
            if not waiting or waiting[0].offset != offset:
                first = f"it is offset {waiting[0].offset}" if waiting else "there is none left: replay the key"
                raise NotParkedError(f"offset {offset} is not the first parked event of {_text(key)}: {first}")
            skipped = waiting[0]._replace(
                state=ParkedState.SKIPPED, time_us=now_us(), reason=f"{why}. It was: {waiting[0].reason}"
            )
            self.store.write_parked(shard.rows, [skipped])
            failpoint("after_skipped")
            with shard.lock:
                queue.events[offset] = skipped
            log.warning("event skipped", shard=str(shard.name), key=_text(key), offset=offset, why=why)
            return self._replay(shard, key)

    def _replay(self, shard: Shard, key: bytes) -> ParkedEvent | None:
        # Step 1.
        encode, decode = shard.view.codec.encode, shard.view.codec.decode
        with shard.lock:
            queue, entry, epoch = _queue(shard, key), shard.entries.get(key), shard.epoch
            copied = encode(entry.state) if entry else None
            offset, events = entry.offset if entry else NOTHING, list(queue.events.values())
        state = shard.view.state() if copied is None else decode(copied)
        folded = fold_parked(shard.view, shard.partition, state, offset, events)
        # Step 2.
        if folded.offset > offset:
            self.store.write_rows(shard.rows, [SnapshotRow(key, encode(folded.state), folded.offset, epoch)])
            failpoint("after_replayed")
        # Step 3.
        with shard.lock:
            ours = shard.owned and shard.epoch == epoch and shard.phase is not Phase.CLOSED
            if (
                not ours or shard.parked.get(key) is not queue
            ):  # the new owner may have looked at the row before it was written
                raise NoOwnerError(f"{shard.name} has changed hands meanwhile: look at its quarantine again")
            passed, left = _put_in_place(shard, key, folded)
            now = shard.entries.get(key)
            more = now is not None and now.offset > folded.offset
            row = SnapshotRow(key, encode(now.state), now.offset, epoch) if now and more else None
        shard.wake(key)
        # Step 4.
        if row is not None:
            self.store.write_rows(shard.rows, [row])
        told = [event for event in passed if event.state is ParkedState.PARKED]
        released = [event._replace(value=None, state=ParkedState.RELEASED, time_us=now_us()) for event in told]
        self.store.write_parked(shard.rows, [*released, *([left] if left else [])])
        failpoint("after_released")
        log.info("key replayed", shard=str(shard.name), key=_text(key), folded=len(told), problem=left and left.reason)
        return left

    def catch_up(self, shard: Shard) -> bool:
        """For a standby, and for an owner that was one: takes over what the owner has released or skipped. Raises StoreUnavailableError.

        False: a row holds events that the shard has still ahead; its key stays parked until a later call.
        """
        if not shard.parked:
            return True
        with self._one_at_a_time:
            return self._catch_up(shard)

    def _catch_up(self, shard: Shard) -> bool:
        records = {(event.key, event.offset): event for event in self.store.read_parked(shard.rows)}
        whole = True
        for key in list(shard.parked):
            row = self.store.read_row(shard.rows, key)
            with shard.lock:
                queue = shard.parked.get(key)
                if queue is None:
                    continue
                for offset in queue.events:
                    known = records.get((key, offset))
                    if known is not None and known.state is ParkedState.SKIPPED:
                        queue.events[offset] = known
                if row is None or row.offset < queue.at:
                    continue
                if row.offset >= shard.next_offset:
                    whole = False  # an answer would hold more than its position says
                    continue
                _put_in_place(shard, key, Folded(shard.view.codec.decode(row.state), row.offset))
            shard.wake(key)
            log.info("key taken over as its owner has it", shard=str(shard.name), key=_text(key), offset=row.offset)
        return whole


def _queue(shard: Shard, key: bytes) -> Parked:
    """Under the lock."""
    if not shard.owned:
        raise NoOwnerError(f"{shard.name} is not owned here")
    queue = shard.parked.get(key)
    if queue is None:
        raise NotParkedError(f"no event of {_text(key)} is parked in {shard.name}")
    if (
        shard.next_offset <= queue.at
    ):  # events before it may still be ahead, and would be passed over as older than the state
        raise RestoringError(
            f"{shard.name} is at {shard.next_offset}, {_text(key)} is parked at {queue.at}: ask again soon"
        )
    return queue


def _put_in_place(shard: Shard, key: bytes, folded: Folded) -> tuple[Sequence[ParkedEvent], ParkedEvent | None]:
    """Under the lock: `folded` becomes the key's state, with what has queued behind. Returns events passed and the one that failed."""
    queue = shard.parked[key]
    if folded.failed is None:
        rest = [event for event in queue.events.values() if event.offset > folded.offset]
        folded = fold_parked(shard.view, shard.partition, folded.state, folded.offset, rest)
    if folded.offset != NOTHING:
        if key not in shard.entries:
            shard.new_key(key)
        shard.entries[key] = Entry(folded.state, folded.offset)
        shard.dirty.add(key)
    passed = queue.let_go(folded.offset)
    if folded.failed is not None:
        queue.events[folded.failed.offset] = folded.failed
    else:
        del shard.parked[key]
    return passed, folded.failed


def _text(key: bytes) -> str:
    return key.decode(errors="replace")
