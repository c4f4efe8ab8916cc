"""Folding: the loop that moves events from the log into states."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from google.protobuf.message import DecodeError, Message

from aorist.declare.view import View
from aorist.engine.shard import Entry, Phase, Shard
from aorist.engine.threads import Fate, Thread
from aorist.errors import AoristError, LogTruncatedError, LogUnavailableError, UnfoldableError, UnknownTopicError
from aorist.failpoints import failpoint
from aorist.ports import NO_LEADER, Fetched, LogReader, Record
from aorist.position import Partition

SLICE = 200
"""Events folded under one hold of a shard's lock: ~0.5 ms, the most that a query waits for it."""

POLL = 1_000
"""Events taken from the log at a time. Larger batches fall out of the processor's cache and are slower."""

MOST_BEYOND = 10_000_000
"""Events folded beyond the last durable checkpoint before a shard pauses."""

ONE_BYTE = 0x80
"""Below it, protobuf writes a tag or a length in one byte."""

POLL_S = 0.05
"""How long a poll waits when nothing comes: the longest that an order to hold or drop a shard waits."""

AGAIN_S = 0.2
"""Rest after the log could not be read."""

log = structlog.get_logger()
Fold = Callable[[Shard, Sequence[Record]], None]


def compile_fold(view: View[Any]) -> Fold:
    """The fold of `view` as one flat function: everything that can be decided beforehand is.

    It folds records, in order, into a shard whose lock is held. Raises UnfoldableError at the first event that cannot be folded: all
    before it are folded then, and the key it was about is taken out, since it may be half-changed.
    """
    parse: Callable[[bytes], Message] = view.schema.envelope.FromString
    handlers, new_state, ignored, bare = view.handlers, view.state, view.ignored, _bare_events(view)

    def fold(shard: Shard, records: Sequence[Record]) -> None:
        entries, dirty = shard.entries, shard.dirty
        for offset, key, value in records:
            entry = entries.get(key)
            if entry is not None and offset <= entry.offset:
                continue  # already in the row that this key was restored from
            try:
                known = bare.get(value[:1])  # type: ignore[index]  # None, a tombstone, raises
                if known is not None and value[1] == len(value) - 2 < ONE_BYTE:  # type: ignore[index,arg-type]
                    parse_event, handler = known
                    event = parse_event(value[2:])  # type: ignore[index]
                else:
                    envelope = parse(value)  # type: ignore[arg-type]
                    field = envelope.WhichOneof("event")
                    if field not in handlers:  # None: of a newer version
                        shard.unknown_events += field not in ignored
                        continue
                    handler, event = handlers[field], getattr(envelope, field)
                if entry is None:
                    entry = Entry(new_state(), offset)
                    handler(entry.state, event)
                    entries[key] = entry
                    shard.new_key(key)
                else:
                    handler(entry.state, event)
                    entry.offset = offset
                dirty.add(key)
            except Exception as error:  # whatever domain code raises: the shard stops here, loudly
                problem = _problem(view, shard, offset, key, value, error)
                if key in entries:  # else it was its first event, and the key stays unknown
                    shard.take_out(key, problem)
                raise UnfoldableError(problem, offset=offset) from error

    return fold


def _bare_events(view: View[Any]) -> dict[bytes, tuple[Callable[[bytes], Message], Callable[[Any, Any], None]]]:
    """The fast path for an envelope that holds nothing but one short event, as stateless commands publish it.

    Its bytes are the field's tag, a length of one byte, and the event's own, which is parsed by itself: a sixth of the fold is saved.
    By tag.
    """
    fields = view.schema.envelope.DESCRIPTOR.fields_by_name
    tags = {event: fields[name].number << 3 | 2 for event, name in view.schema.events.items() if name in view.handlers}
    return {
        bytes([tag]): (event.FromString, view.handlers[view.schema.events[event]])
        for event, tag in tags.items()
        if tag < ONE_BYTE
    }


def _problem(view: View[Any], shard: Shard, offset: int, key: bytes, value: bytes | None, error: Exception) -> str:
    where = f"{shard.partition}@{offset}, key {key!r}"
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


class Folder:
    """Reads the log and folds, for all shards of one view in this process, on a thread that alone uses its reader.

    `repair`: called on that thread after a failed apply, to bring back the key as it was before the event. `most_beyond`: events folded
    beyond a shard's durable checkpoint before it pauses: with the store away, a restart must not take for ever.
    """

    def __init__(
        self,
        view: View[Any],
        reader: LogReader,
        repair: Callable[[Shard, int], None],
        fate: Fate,
        most_beyond: int = MOST_BEYOND,
    ) -> None:
        self.thread = Thread(f"fold {view.name}", self._run, fate)
        self._fold_records = compile_fold(view)
        self._reader = reader
        self._repair, self._most_beyond = repair, most_beyond
        self._paused: set[Partition] = set()
        self._shards: dict[Partition, Shard] = {}
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopped = threading.Event()

    # --- from other threads; carried out between two polls ---

    def hold(self, shard: Shard, next_offset: int) -> None:
        """Folds `shard`, which is restored, from `next_offset` on."""

        def order() -> None:
            if shard.phase is Phase.CLOSED:
                return  # dropped while this order waited for another try
            try:
                self._reader.assign(shard.partition, next_offset, shard.leader_epoch, shard.rows.topic_id)
            except LogUnavailableError as error:
                log.warning("not assigned; trying again", shard=str(shard.name), problem=str(error))
                self._stopped.wait(AGAIN_S)
                self._orders.put(order)
                return
            except AoristError as error:
                log.error("shard refused", shard=str(shard.name), problem=str(error))
                shard.halt(str(error))
                return
            self._shards[shard.partition] = shard
            shard.begin(next_offset)

        self._orders.put(order)

    def drop(self, shard: Shard) -> None:
        """Folds it no more; nothing already fetched of it is folded either."""
        self._orders.put(lambda: self._let_go(shard.partition))

    def commit(self, partition: Partition, next_offset: int) -> None:
        """Tells lag tools."""
        self._orders.put(lambda: self._reader.commit(partition, next_offset))

    def stop(self) -> None:
        """Ends after the slice at hand. Join the thread then."""
        self._stopped.set()

    # --- the loop that moves events ---

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.thread.turn()
            self._carry_out_orders()
            self._pause_and_resume()
            for fetched in self._poll():
                failpoint("after_poll")
                self._fold(fetched)
        self._carry_out_orders()
        self._reader.close()

    def _fold(self, fetched: Fetched) -> None:
        shard = self._shards.get(fetched.partition)
        if shard is None:
            return  # dropped while its events were on their way
        records = fetched.records
        try:
            for start in range(0, max(len(records), 1), SLICE):
                piece = records[start : start + SLICE]
                last = start + SLICE >= len(records)
                with shard.lock:
                    self._fold_records(shard, piece)
                    shard.folded(fetched, fetched.next_offset if last else piece[-1][0] + 1, piece)
                failpoint("after_apply")
        except UnfoldableError as error:
            self._halt_before(shard, error, fetched.end_offset)

    def _pause_and_resume(self) -> None:
        for partition, shard in list(self._shards.items()):
            beyond = shard.next_offset - (shard.checkpoint.next_offset if shard.checkpoint else shard.began_at)
            if beyond >= self._most_beyond:
                paused = f"paused: {beyond} events beyond the last checkpoint; the snapshot store does not take any"
                shard.trouble = shard.trouble or paused  # each time: a standby's goes whenever the store answers
                if partition not in self._paused:
                    log.error("shard paused", shard=str(shard.name), problem=paused)
                    self._reader.unassign(partition)
                    self._paused.add(partition)
            elif partition in self._paused:
                try:
                    self._reader.assign(partition, shard.next_offset, shard.leader_epoch, shard.rows.topic_id)
                except LogUnavailableError as error:
                    log.warning("not assigned; trying again", shard=str(shard.name), problem=str(error))
                    return
                except (LogTruncatedError, UnknownTopicError) as error:
                    self._halt(shard, error)
                    continue
                log.info("shard goes on", shard=str(shard.name), offset=shard.next_offset)
                shard.trouble = ""
                self._paused.discard(partition)

    def _poll(self) -> Sequence[Fetched]:
        try:
            if not self._shards:
                self._wait_for_orders()
                return self._reader.poll(1, 0.0)  # a client that is never asked hoards what it has to tell
            return self._reader.poll(POLL, POLL_S)
        except LogTruncatedError as error:
            self._halt(self._shards[error.partition], error)
        except LogUnavailableError as error:
            log.warning("the log cannot be read; trying again", problem=str(error))
            self._stopped.wait(AGAIN_S)
        return ()

    def _halt(self, shard: Shard, error: AoristError) -> None:
        """Stands still where it is, and says so everywhere."""
        log.error(
            "shard halted",
            shard=str(shard.name),
            problem=str(error),
            todo="mend the cause and restart; nothing was skipped",
        )
        self._let_go(shard.partition)
        shard.halt(str(error), untrue=isinstance(error, LogTruncatedError) and error.replaced)

    def _halt_before(self, shard: Shard, error: UnfoldableError, end_offset: int) -> None:
        """Stands still before the event, so as not to skip it; brings back the key that was being changed."""
        offset = int(error.metadata["offset"])
        with shard.lock:
            shard.next_offset, shard.end_offset, shard.leader_epoch = offset, end_offset, NO_LEADER
        self._halt(shard, error)
        try:
            self._repair(shard, offset)
        except Exception as failure:  # a codec is domain code and may raise anything
            log.error("the key stays out", shard=str(shard.name), problem=str(failure), exc_info=failure)

    def _let_go(self, partition: Partition) -> None:
        if self._shards.pop(partition, None) is not None:
            self._reader.unassign(partition)
            self._paused.discard(partition)

    def _carry_out_orders(self) -> None:
        for _ in range(self._orders.qsize()):
            self._orders.get()()

    def _wait_for_orders(self) -> None:
        try:
            self._orders.get(timeout=POLL_S)()
        except queue.Empty:
            return
