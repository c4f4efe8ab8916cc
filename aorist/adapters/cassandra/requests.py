"""Many requests of one caller, a bounded number of them under way."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from cassandra.cluster import ResponseFuture, ResultSet, Session
from cassandra.query import Statement

T = TypeVar("T")


class Requests:
    """Sends at most `most` at a time, over all threads that use it."""

    def __init__(self, most: int, answer_timeout_s: float) -> None:
        self._slots = threading.BoundedSemaphore(most)
        self._answer_timeout_s = answer_timeout_s

    def answers(self, session: Session, requests: Iterable[tuple[T, Statement]]) -> Iterator[tuple[T, ResultSet]]:
        """Sends each statement once there is room. Yields the answers as they come, with what stood beside their statement.

        Raises what the driver raises, and queue.Empty; the rest may then still be under way. `requests` is gone through once. The
        statements must not be of many pages.
        """
        arrived: SimpleQueue[tuple[T, ResponseFuture]] = SimpleQueue()
        unanswered = 0
        for tag, statement in requests:
            self._send(session, tag, statement, arrived)
            unanswered += 1
            while not arrived.empty():
                unanswered -= 1
                yield _result(arrived.get())
        for _ in range(unanswered):
            yield _result(arrived.get(timeout=self._answer_timeout_s))

    def _send(
        self, session: Session, tag: T, statement: Statement, arrived: SimpleQueue[tuple[T, ResponseFuture]]
    ) -> None:
        if not self._slots.acquire(timeout=self._answer_timeout_s):
            raise Empty
        try:
            future = session.execute_async(statement)
        except BaseException:
            self._slots.release()
            raise

        def answered(_: object) -> None:  # on a thread of the driver
            self._slots.release()
            arrived.put((tag, future))

        future.add_callbacks(answered, answered)


def _result(answer: tuple[T, ResponseFuture]) -> tuple[T, Any]:
    tag, future = answer
    return tag, future.result()
