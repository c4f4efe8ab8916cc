"""Appending: one producer, one thread that serves its delivery reports, one wake-up of the loop per batch of reports."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from functools import partial
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
    """One append under way: an offset for each record once all are reported, or the first error."""

    __slots__ = ("error", "future", "left", "offsets", "size")

    def __init__(self, future: asyncio.Future[Sequence[int]], count: int, size: int) -> None:
        self.future, self.left, self.size = future, count, size
        self.offsets = [0] * count
        self.error: AoristError | None = None


class Producing:
    """A producer on one event loop. `broken`: it has failed for good, and the next append needs a new one."""

    def __init__(self, brokers: str, overrides: dict[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        self._complaints = Complaints("kafka producer")
        settings = {**PRODUCER, "bootstrap.servers": brokers, "error_cb": self._on_error, **overrides}
        self._producer = Producer(settings)
        self._loop = loop
        self._budget = Budget(MAX_IN_FLIGHT_BYTES)
        self._reported: list[_Pending] = []  # filled by reports, on the thread that polls
        self._refused: deque[tuple[_Pending, int, AoristError]] = (
            deque()
        )  # what the client did not take; counted on that thread, too
        self.broken = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="kafka delivery reports", daemon=True)
        self._thread.start()

    async def append(self, topic: str, records: Sequence[NewRecord]) -> Sequence[int]:
        """As `EventLog.append`."""
        if not records:
            return []
        size = _size(topic, records)
        await self._budget.take(size)
        pending = _Pending(self._loop.create_future(), len(records), size)
        produce = self._producer.produce
        for index, (partition, key, value) in enumerate(records):
            try:
                produce(topic, value, key, partition, on_delivery=partial(self._on_delivery, pending, index))
            except (BufferError, KafkaException) as error:
                self._refused.append((pending, len(records) - index, _refusal(error, topic)))
                break
        return await asyncio.shield(pending.future)  # whoever stops waiting does not make room: the reports do

    # --- on the thread that polls ---

    def _poll(self) -> None:
        while not self._stopped.is_set():
            self._producer.poll(POLL_S)
            while self._refused:
                pending, count, error = self._refused.popleft()
                self._count(pending, count, error)
            if self._reported:
                reported, self._reported = self._reported, []
                self._loop.call_soon_threadsafe(self._settle, reported)

    def _on_delivery(self, pending: _Pending, index: int, error: KafkaError | None, message: Message) -> None:
        if error is None:
            pending.offsets[index] = message.offset()  # type: ignore[assignment]  # a report without error has one
            self._count(pending, 1, None)
        else:
            self._count(pending, 1, problem(error, f"appending to {message.topic()}", message.topic()))

    def _count(self, pending: _Pending, count: int, error: AoristError | None) -> None:
        pending.error = pending.error or error
        pending.left -= count
        if not pending.left:
            self._reported.append(pending)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self.broken = True
            log.error("the producer failed for good; the next append makes a new one", problem=error.str())
        else:
            self._complaints(error)

    # --- on the loop ---

    def _settle(self, reported: Sequence[_Pending]) -> None:
        for pending in reported:
            self._budget.give(pending.size)
            if pending.future.done():
                continue  # cancelled
            if pending.error is not None:
                pending.future.set_exception(pending.error)
            else:
                pending.future.set_result(pending.offsets)

    def close(self) -> None:
        """Waits a while for what is in flight; what is not acknowledged by then fails."""
        self._producer.flush(CLOSE_S)
        self._producer.purge()
        self._producer.flush(1.0)  # reports what was purged
        self._stopped.set()
        self._thread.join()
        reported, self._reported = self._reported, []
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._settle, reported)


def _size(topic: str, records: Sequence[NewRecord]) -> int:
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
