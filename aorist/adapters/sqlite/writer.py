"""The writer's thread: whatever waits when it comes round is committed in one transaction.

A commit costs a flush of the disk; this way all that wait share one. A piece of work that fails does so alone.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aorist.adapters.sqlite.schema import connect
from aorist.errors import StoreUnavailableError, UnavailableError

T = TypeVar("T")
Write = Callable[[sqlite3.Connection], T]
"""A piece of work inside the writer's transaction. It may be run twice, the first run undone, and so keeps nothing
outside of the file."""

GROUP_S = 0.02
"""A transaction that has run this long takes no more work in: no answer waits much longer for others' work."""

_ITS_OWN_FAULT = frozenset(
    (
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_MISUSE,
        sqlite3.SQLITE_RANGE,
    )
)
"""Primary result codes that blame the statement. All others (full, I/O, busy, corrupt) blame the file: all are hit."""

_logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Job:
    """Work with the one who waits for it. `unavailable`: how the waiter wants to hear that the file failed."""

    run: Write[Any]
    future: asyncio.Future[Any] | concurrent.futures.Future[Any] | None
    unavailable: type[UnavailableError]
    after: Callable[[], None] | None = None
    result: Any = None
    error: BaseException | None = None


@dataclass(slots=True, eq=False)
class _Chore:
    """Recurring work; `run` says whether it left something to do at once."""

    run: Write[bool]
    interval_s: float
    due: float


class Writer:
    """Owns the only connection that writes, which comes prepared.

    Its queue needs no bound: a thread waits for each of its writes, and the log bounds what its appends have in flight.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = connection
        self._queue: deque[Job] = deque()
        self._chores: list[_Chore] = []
        self._work = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="aorist-sqlite-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        with self._work:
            if self._closed:
                raise job.unavailable(f"{self._path} is closed")
            self._queue.append(job)
            self._work.notify()

    def every(self, interval_s: float, run: Write[bool]) -> None:
        with self._work:
            self._chores.append(_Chore(run, interval_s, time.monotonic() + interval_s))
            self._work.notify()

    def close(self) -> None:
        """What waits is not written and fails."""
        with self._work:
            self._closed = True
            self._work.notify()
        self._thread.join()

    def _serve(self) -> None:
        while (job := self._wait()) is not None:
            self._report(self._group(job))
        closed = list(self._queue)
        for job in closed:
            job.error = job.unavailable(f"{self._path} was closed")
        self._report([job for job in closed if job.future is not None])  # best effort ends without a word
        if self._connection is not None:
            self._connection.close()

    def _wait(self) -> Job | None:
        with self._work:
            while not self._closed:
                now = time.monotonic()
                if chore := next((chore for chore in self._chores if chore.due <= now), None):
                    self._queue.append(self._chore(chore, now))
                if self._queue:
                    return self._queue.popleft()
                self._work.wait(min((chore.due - now for chore in self._chores), default=None))
        return None

    def _chore(self, chore: _Chore, now: float) -> Job:
        def run(connection: sqlite3.Connection) -> None:
            chore.due = 0.0 if chore.run(connection) else now + chore.interval_s

        chore.due = now + chore.interval_s  # also where it fails
        return Job(run, None, StoreUnavailableError)

    def _group(self, first: Job) -> list[Job]:
        """One transaction of all that waits. If one fails, all are done again, and what fails then is undone alone."""
        group = [first]
        until = time.monotonic() + GROUP_S
        try:
            connection = self._begin()
            first.result = first.run(connection)
            while self._queue and not self._closed and time.monotonic() < until:
                job = self._queue.popleft()
                group.append(job)
                job.result = job.run(connection)
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - the thread outlives every failure; the waiters are told
            self._undo()
            if not _blames_work(error):
                self._fail(group, error)
            elif len(group) == 1:
                first.error = error
            else:
                self._group_with_savepoints(group)
        return group

    def _group_with_savepoints(self, group: list[Job]) -> None:
        try:
            connection = self._begin()
            for job in group:
                connection.execute("SAVEPOINT job")
                try:
                    job.result = job.run(connection)
                except Exception as error:
                    if not _blames_work(error):
                        raise
                    connection.execute("ROLLBACK TO job")
                    job.error = error
                connection.execute("RELEASE job")
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - the thread outlives every failure; the waiters are told
            self._undo()
            self._fail(group, error)

    def _begin(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect(self._path)
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def _undo(self) -> None:
        """After a failure the transaction may be over or not; a connection that cannot even roll back is replaced."""
        connection = self._connection
        if connection is None:
            return
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._connection = None
            with suppress(sqlite3.Error):
                connection.close()

    def _fail(self, group: list[Job], error: Exception) -> None:
        """Tells all that wait: the file is what failed, and each of them would have to find out for as long."""
        with suppress(IndexError):
            while True:
                group.append(self._queue.popleft())
        _logger.error("%s: a transaction failed, with it %d pieces of work: %s", self._path, len(group), error)
        for job in group:
            if job.error is None:
                job.error = job.unavailable(f"{self._path}: {error}; not known whether it was written, try again")
                job.error.__cause__ = error

    def _report(self, jobs: list[Job]) -> None:
        for after in {job.after for job in jobs if job.after is not None and job.error is None}:
            after()
        loops: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        for job in jobs:
            if isinstance(job.future, asyncio.Future):
                loops.setdefault(job.future.get_loop(), []).append(job)
            elif job.future is not None:
                _settle(job, job.future)
            elif job.error is not None:
                _logger.error("%s: %s", self._path, job.error)
        for loop, mine in loops.items():  # one wake-up of a loop for all of a commit
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_settle_all, mine)


def _settle_all(jobs: list[Job]) -> None:
    for job in jobs:
        if job.future is not None and not job.future.done():  # done: cancelled
            _settle(job, job.future)


def _settle(job: Job, future: asyncio.Future[Any] | concurrent.futures.Future[Any]) -> None:
    if job.error is not None:
        future.set_exception(job.error)
    else:
        future.set_result(job.result)


def _blames_work(error: Exception) -> bool:
    if not isinstance(error, sqlite3.Error):
        return True
    code = getattr(error, "sqlite_errorcode", None)  # absent where Python's module itself refused the call
    return code is None or (code & 0xFF) in _ITS_OWN_FAULT
