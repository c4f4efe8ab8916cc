"""Events of poison keys, held back: a queue for each key, in the order of the log, and what folding it gives."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.message import DecodeError

from aorist.declare.view import View
from aorist.errors import QuarantineFullError
from aorist.ports import ParkedEvent, ParkedState, Record
from aorist.position import NOTHING, Partition

if TYPE_CHECKING:
    from aorist.engine.shard import Shard

MOST_PARKED = 1_000
"""Events held back for one key. They are kept in memory and read by every restore; a key that needs more is not an accident."""

MOST_BYTES = 64 * 1024 * 1024
"""Of the events held back in one shard."""


class Parked:
    """The events of one key from the one on that could not be folded. Touched under the shard's lock."""

    __slots__ = ("events", "saved_upto", "size")

    def __init__(self, events: Sequence[ParkedEvent], saved_upto: int = NOTHING) -> None:
        """`saved_upto`: offset of the last one that is durable."""
        self.events = {event.offset: event for event in events}
        self.saved_upto = saved_upto
        self.size = sum(len(event.value or b"") for event in events)

    def hold(self, event: ParkedEvent) -> None:
        """One more behind the last."""
        self.events[event.offset] = event
        self.size += len(event.value or b"")

    def let_go(self, upto: int) -> list[ParkedEvent]:
        """Takes out those up to an offset."""
        gone = [event for event in self.events.values() if event.offset <= upto]
        for event in gone:
            del self.events[event.offset]
            self.size -= len(event.value or b"")
        return gone

    @property
    def at(self) -> int:
        """Offset of the first one: the key's state is that before it."""
        return next(iter(self.events))

    @property
    def last(self) -> int:
        return next(reversed(self.events))

    @property
    def reason(self) -> str:
        """Why the first that is not skipped could not be folded."""
        waiting = (event for event in self.events.values() if event.state is not ParkedState.SKIPPED)
        return next(waiting, self.events[self.at]).reason

    def unsaved(self) -> list[ParkedEvent]:
        return [event for event in self.events.values() if event.offset > self.saved_upto]


def counts(event: ParkedEvent, row_offset: int) -> bool:
    """Whether a record is of an event that is held back: what is at or below the offset of its key's row is in the state."""
    return event.state is not ParkedState.RELEASED and event.offset > row_offset


class Folded(NamedTuple):
    """What a queue made of a state. `failed`: the event that could not be folded, with the new reason; the state is that before it."""

    state: Any
    offset: int
    failed: ParkedEvent | None = None


def hold_back(shard: Shard, records: Sequence[Record]) -> tuple[Sequence[Record], QuarantineFullError | None]:
    """Queues the events of parked keys, under the lock. Returns all others, and what is to be raised once they are folded."""
    parked, free = shard.parked, []
    size = sum(queue.size for queue in parked.values())
    for record in records:
        offset, key, value = record
        queue = parked.get(key)
        if queue is None or offset < queue.at:
            free.append(record)
        elif offset > queue.last:
            size += len(value or b"")
            if len(queue.events) >= MOST_PARKED or size > MOST_BYTES:
                return free, QuarantineFullError(_full(shard.partition, queue, record), record)
            queue.hold(ParkedEvent(key, offset, value, f"waits behind offset {queue.at}", now_us()))
    return free, None


def _full(partition: Partition, queue: Parked, record: Record) -> str:
    return (
        f"{partition}@{record[0]}, key {record[1]!r}: {len(queue.events)} events of it are parked, and at most {MOST_PARKED} a key and "
        f"{MOST_BYTES} bytes a shard are; replay or skip them with `aorist quarantine`, and restart. The first: {queue.reason}"
    )


def fold_parked(
    view: View[Any], partition: Partition, state: Any, offset: int, events: Sequence[ParkedEvent]
) -> Folded:
    """Folds `events` into `state`, which is at `offset` and nobody else's, until one fails; passes over those that are skipped."""
    encode, decode = view.codec.encode, view.codec.decode
    parse, handlers, good = view.schema.envelope.FromString, view.handlers, encode(state)
    for event in events:
        if event.state is not ParkedState.SKIPPED:
            try:
                envelope = parse(event.value)  # type: ignore[arg-type]  # None, a tombstone, raises
                field = envelope.WhichOneof("event")
                if field in handlers:
                    handlers[field](state, view.taken(field, getattr(envelope, field)))
                good = encode(state)
            except Exception as error:  # noqa: BLE001  # whatever domain code raises
                reason = problem_of(view, partition, (event.offset, event.key, event.value), error)
                later_us = max(now_us(), event.time_us + 1)  # or the old reason would stay
                return Folded(decode(good), offset, event._replace(reason=reason, time_us=later_us))
        offset = event.offset
    return Folded(state, offset)


def problem_of(view: View[Any], partition: Partition, record: Record, error: Exception) -> str:
    """Position, key, place in the code and cause, in a sentence."""
    offset, key, value = record
    where = f"{partition}@{offset}, key {key!r}"
    if value is None:
        return f"{where}: a tombstone, on a topic whose keys are never deleted"
    cut_short = (
        isinstance(error, IndexError) and error.__traceback__ is not None and error.__traceback__.tb_next is None
    )
    if isinstance(error, DecodeError) or cut_short:
        return f"{where}: not a {view.schema.envelope.DESCRIPTOR.full_name}: {error}"
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code if traceback else None
    at = f"{code.co_filename}:{traceback.tb_lineno} {code.co_name}" if code and traceback else view.name
    return f"{where}: {at} raised {type(error).__name__}: {error}"


def now_us() -> int:
    return time.time_ns() // 1000
