"""Appending: one producer, one thread that serves its delivery reports, one wake-up of the loop per batch of reports."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from aorist.adapters.kafka.client import PRODUCER, Complaints, problem
from aorist.budget import Budget
from aorist.errors import AoristError, LogUnavailableError, RecordTooLargeError
from aorist.ports import MAX_RECORD_BYTES, NewRecord

MAX_IN_FLIGHT_BYTES = 64_000_000
"""What was handed to `append` and is not acknowledged yet; further appends wait."""

OVERHEAD_BYTES = 128
"""What a record in flight costs beside key and value."""

POLL_S = 0.1
CLOSE_S = 5.0

log = structlog.get_logger()


class _Pending:
    """One append under way, until all of its records are reported."""

    __slots__ = ("_done", "_left", "_offsets", "_records", "error", "future", "size")

    def __init__(
        self,
        future: asyncio.Future[Sequence[int]],
        records: Sequence[NewRecord],
        size: int,
        done: Callable[[_Pending], None],
    ) -> None:
        self.future, self.size, self._records, self._done = future, size, records, done
        self._left = len(records)
        self._offsets: dict[int, list[int]] = {}  # by partition, in the order of its records: as reports come
        self.error: AoristError | None = None

    def reported(self, error: KafkaError | None, message: Message) -> None:
        """Called for each record, on the thread that polls. One function for all of them: to make one for each costs a microsecond."""
        if error is not None:
            self.count(1, problem(error, f"appending to {message.topic()}", message.topic()))
            return
        self._offsets.setdefault(message.partition(), []).append(message.offset())  # type: ignore[arg-type]  # it has both
        self._left -= 1
        if not self._left:
            self._done(self)

    def count(self, records: int, error: AoristError) -> None:
        """That many of them failed."""
        self.error = self.error or error
        self._left -= records
        if not self._left:
            self._done(self)

    def settle(self) -> None:
        """On the loop: an offset for each record, or the first error."""
        if self.future.done():
            return  # cancelled
        if self.error is not None:
            self.future.set_exception(self.error)
        elif len(self._offsets) == 1:
            self.future.set_result(next(iter(self._offsets.values())))
        else:
            following = {partition: iter(offsets) for partition, offsets in self._offsets.items()}
            self.future.set_result([next(following[partition]) for partition, _, _ in self._records])


class Producing:
    """A producer on one event loop. `broken`: it has failed for good, and the next append needs a new one."""

    def __init__(self, brokers: str, overrides: dict[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        self._complaints = Complaints("kafka producer")
        settings = {**PRODUCER, "bootstrap.servers": brokers, "error_cb": self._on_error, **overrides}
        self._producer = Producer(settings)
        self._loop = loop
        self._budget = Budget(MAX_IN_FLIGHT_BYTES)
        self._done: deque[_Pending] = deque()  # filled by reports, on the thread that polls
        self._refused: deque[tuple[_Pending, int, AoristError]] = (
            deque()
        )  # what the client did not take; counted on that thread, too
        self.broken = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="kafka delivery reports", daemon=True)
        self._thread.start()

    async def hand_over(self, topic: str, records: Sequence[NewRecord]) -> asyncio.Future[Sequence[int]]:
        """To the client, when there is room. The future tells their offsets. Whoever stops waiting for it takes nothing back."""
        size = _size(topic, records)
        await self._budget.take(size)
        pending = _Pending(self._loop.create_future(), records, size, self._done.append)
        produce, reported = self._producer.produce, pending.reported
        for index, (partition, key, value) in enumerate(records):
            try:
                produce(topic, value, key, partition, reported)
            except (BufferError, KafkaException) as error:
                self._refused.append((pending, len(records) - index, _refusal(error, topic)))
                break
        pending.future.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may wait any more
        return pending.future

    # --- on the thread that polls ---

    def _poll(self) -> None:
        while not self._stopped.is_set():
            self._producer.poll(POLL_S)
            self._hand_over()

    def _hand_over(self) -> None:
        while self._refused:
            pending, count, error = self._refused.popleft()
            pending.count(count, error)
        if self._done and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._settle, [self._done.popleft() for _ in range(len(self._done))])

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self.broken = True
            log.error("the producer failed for good; the next append makes a new one", problem=error.str())
        else:
            self._complaints(error)

    # --- on the loop ---

    def _settle(self, done: Sequence[_Pending]) -> None:
        for pending in done:
            self._budget.give(pending.size)
            pending.settle()

    def close(self) -> None:
        """Waits a while for what is in flight; what is not acknowledged by then fails."""
        self._stopped.set()
        self._thread.join()  # from here on this thread polls
        self._producer.flush(CLOSE_S)
        self._producer.purge()
        self._producer.flush(1.0)  # reports what was purged
        self._hand_over()


def _size(topic: str, records: Sequence[NewRecord]) -> int:
    """What they count for in flight. Raises RecordTooLargeError."""
    total = 0
    for _, key, value in records:
        size = len(key) + len(value or b"")
        if size > MAX_RECORD_BYTES:
            raise RecordTooLargeError(
                f"an event of {size} bytes is above the {MAX_RECORD_BYTES} a log takes; send less in one event",
                topic=topic,
                bytes=size,
            )
        total += size + OVERHEAD_BYTES
    return total


def _refusal(error: BufferError | KafkaException, topic: str) -> AoristError:
    if isinstance(error, KafkaException):
        return problem(error, f"appending to {topic}", topic)
    return LogUnavailableError(f"appending to {topic}: the producer's queue is full")
