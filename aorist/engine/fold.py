"""Folding: the loop that moves events from the log into states."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import structlog

from aorist.declare.view import View
from aorist.engine.compiled import compile_fold
from aorist.engine.parked import now_us
from aorist.engine.quarantine import Quarantine
from aorist.engine.shard import Phase, Shard
from aorist.engine.threads import Fate, Thread
from aorist.errors import (
    AoristError,
    LogTruncatedError,
    LogUnavailableError,
    QuarantineFullError,
    UnavailableError,
    UnfoldableError,
    UnknownTopicError,
)
from aorist.failpoints import failpoint
from aorist.ports import NO_LEADER, Fetched, LogReader, ParkedEvent
from aorist.position import Partition

SLICE = 200
"""Events folded under one hold of a shard's lock: ~0.5 ms, the most that a query waits for it."""

POLL = 1_000
"""Events taken from the log at a time. Larger batches fall out of the processor's cache and are slower."""

MOST_BEYOND = 10_000_000
"""Events folded beyond the last durable checkpoint before a shard pauses."""

POLL_S = 0.05
"""How long a poll waits when nothing comes: the longest that an order to hold or drop a shard waits."""

AGAIN_S = 0.2
"""Rest after the log could not be read."""

PARK_AGAIN_S = (0.5, 10.0)
"""First and longest rest between attempts to park."""

log = structlog.get_logger()


class _Parking:
    """An event that a shard waits in front of until it is parked. `attempt`: the one under way."""

    def __init__(self, event: ParkedEvent) -> None:
        self.event, self.again_at, self._rest_s = event, 0.0, PARK_AGAIN_S[0]
        self.attempt: Future[bool] | None = None

    def wait_longer(self) -> float:
        """Returns how long."""
        rest_s, self._rest_s = self._rest_s, min(2 * self._rest_s, PARK_AGAIN_S[1])
        self.again_at = time.monotonic() + rest_s
        return rest_s


class Folder:
    """Reads the log and folds, for all shards of one view in this process, on a thread that alone uses its reader.

    `quarantine`: takes the keys whose events cannot be folded. `most_beyond`: events folded beyond a shard's durable checkpoint before it
    pauses: with the store away, a restart must not take for ever.
    """

    def __init__(
        self,
        view: View[Any],
        reader: LogReader,
        quarantine: Quarantine,
        fate: Fate,
        most_beyond: int = MOST_BEYOND,
        parker: Executor | None = None,
    ) -> None:
        """`parker`: where keys are parked; left out: on a thread of its own."""
        self._parker = parker or ThreadPoolExecutor(1, f"park {view.build_name}")  # begins with the first one
        self.thread = Thread(f"fold {view.build_name}", self._run, fate)
        self._fold_records = compile_fold(view)
        self._reader = reader
        self._quarantine, self._most_beyond = quarantine, most_beyond
        self._parking: dict[Partition, _Parking] = {}  # shards that wait in front of an event
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
            self._park()
            for fetched in self._poll():
                failpoint("after_poll")
                self._fold(fetched)
        self._parker.shutdown(cancel_futures=True)
        self._carry_out_orders()
        self._reader.close()

    def _fold(self, fetched: Fetched) -> None:
        shard = self._shards.get(fetched.partition)
        if shard is None or fetched.partition in self._parking:
            return  # dropped, or stopped, while these were on their way
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
            self._stop_before(shard, error, fetched.end_offset)

    def _pause_and_resume(self) -> None:
        for partition, shard in list(self._shards.items()):
            if partition in self._parking:
                continue
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
                    self._halt(shard, str(error), untrue=_is_untrue(error))
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
            self._halt(self._shards[error.partition], str(error), untrue=_is_untrue(error))
        except LogUnavailableError as error:
            log.warning("the log cannot be read; trying again", problem=str(error))
            self._stopped.wait(AGAIN_S)
        return ()

    def _halt(self, shard: Shard, problem: str, *, untrue: bool = False) -> None:
        """Stands still where it is, and says so everywhere."""
        log.error(
            "shard halted",
            shard=str(shard.name),
            problem=problem,
            todo="mend the cause and restart; nothing was skipped",
        )
        self._let_go(shard.partition)
        shard.halt(problem, untrue=untrue)

    def _stop_before(self, shard: Shard, error: UnfoldableError, end_offset: int) -> None:
        """Parks the event and goes on behind it; where that must not be, stands still in front of it, so as not to skip it."""
        offset, key, value = error.record
        with shard.lock:
            shard.next_offset, shard.end_offset, shard.leader_epoch = offset, end_offset, NO_LEADER
        problem = str(error)
        refused = problem if isinstance(error, QuarantineFullError) else self._quarantine.refuses(shard, problem)
        if not refused:
            self._reader.unassign(shard.partition)
            self._parking[shard.partition] = _Parking(ParkedEvent(key, offset, value, problem, now_us()))
            self._park()
            return
        self._halt(shard, refused)
        self._parker.submit(self._bring_back, shard, offset)

    def _bring_back(self, shard: Shard, offset: int) -> None:
        """On the parker's thread: the keys of a shard that has halted answer as they were."""
        try:
            self._quarantine.bring_back(shard, offset)
        except Exception as failure:  # a codec is domain code and may raise anything
            log.error("the key stays out", shard=str(shard.name), problem=str(failure), exc_info=failure)

    def _park(self) -> None:
        """Whatever is due: log and store may take long, and no other shard waits for them."""
        for partition, parking in list(self._parking.items()):
            if parking.attempt is None:
                if time.monotonic() >= parking.again_at:
                    parking.attempt = self._parker.submit(self._quarantine.park, self._shards[partition], parking.event)
            elif parking.attempt.done():
                attempt, parking.attempt = parking.attempt, None
                self._go_on_behind(self._shards[partition], parking, attempt)

    def _go_on_behind(self, shard: Shard, parking: _Parking, attempt: Future[bool]) -> None:
        event, told = parking.event, {"shard": str(shard.name), "key": parking.event.key.decode(errors="replace")}
        try:
            parked = attempt.result()
            self._reader.assign(shard.partition, event.offset + 1, topic_id=shard.rows.topic_id)
        except UnavailableError as failure:
            rest_s = parking.wait_longer()
            log.error(
                "key not parked; the shard waits", **told, problem=event.reason, cause=str(failure), rest_s=rest_s
            )
            shard.halt(
                f"waits in front of an event that cannot be folded until it can be parked ({failure}): {event.reason}"
            )
        except (LogTruncatedError, UnknownTopicError) as failure:
            self._halt(shard, str(failure), untrue=_is_untrue(failure))
        except Exception as failure:  # a codec is domain code and may raise anything
            log.error("the key stays out", **told, problem=str(failure), exc_info=failure)
            self._halt(shard, event.reason)
        else:
            del self._parking[shard.partition]
            todo = "mend the cause and run `aorist quarantine replay`, or skip the event; all other keys go on"
            if parked:
                log.error("key parked", **told, offset=event.offset, problem=event.reason, todo=todo)
            else:
                log.info("key taken over as another owner has released it", **told, offset=event.offset)
            shard.go_on(event.offset + 1)

    def _let_go(self, partition: Partition) -> None:
        if self._shards.pop(partition, None) is not None:
            self._reader.unassign(partition)
            self._paused.discard(partition)
            parking = self._parking.pop(partition, None)
            if parking is not None and parking.attempt is not None:
                parking.attempt.cancel()  # one that has begun comes to its end, and nobody looks at it

    def _carry_out_orders(self) -> None:
        for _ in range(self._orders.qsize()):
            self._orders.get()()

    def _wait_for_orders(self) -> None:
        try:
            self._orders.get(timeout=POLL_S)()
        except queue.Empty:
            return


def _is_untrue(error: AoristError) -> bool:
    """Whether what was folded so far may be of other events than the log holds now."""
    return isinstance(error, LogTruncatedError) and error.replaced
