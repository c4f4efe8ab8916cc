"""One SQLite file: a writer's thread, short-lived readers, a revision counter."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path

from aorist.adapters.sqlite.schema import FileLock, connect, prepare
from aorist.adapters.sqlite.writer import Job, T, Write, Writer
from aorist.errors import StoreUnavailableError, UnavailableError


def wall_clock_us() -> int:
    return time.time_ns() // 1000


class Database:
    """Owns the file; log, stores and revision counter write through it."""

    def __init__(self, path: str | PathLike[str]) -> None:
        """Opens or makes the file. Raises SettingError for one that is in use, newer than this aorist, or not ours."""
        self.path = Path(path)
        self._lock = FileLock(self.path)
        try:
            self._writer = Writer(self.path, prepare(self.path))
        except BaseException:
            self._lock.release()
            raise
        self._idle: deque[sqlite3.Connection] = deque()
        self._closed = False

    def write(self, run: Write[T], unavailable: type[UnavailableError] = StoreUnavailableError) -> T:
        """Runs it in the writer's transaction and returns its result once that is durable. Blocks; from any thread.

        Raises what `run` raises, which then has left nothing behind; `unavailable` when it is not known whether it is
        durable.
        """
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._writer.submit(Job(run, future, unavailable))
        return future.result()

    def write_soon(
        self, run: Write[T], unavailable: type[UnavailableError], after: Callable[[], None] | None = None
    ) -> asyncio.Future[T]:
        """As `write`, on the event loop. Cancelling the future does not stop the work.

        `after` is called in the writer's thread after the commit, once for all of a group with the same `after`.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._writer.submit(Job(run, future, unavailable, after))
        return future

    def write_unseen(self, run: Write[object]) -> None:
        """Best effort: neither waits nor raises."""
        with suppress(StoreUnavailableError):
            self._writer.submit(Job(run, None, StoreUnavailableError))

    def every(self, interval_s: float, run: Write[bool]) -> None:
        """Has the writer do it now and then, a bounded piece at a time; True: there is more, go on after what waits."""
        self._writer.every(interval_s, run)

    @contextmanager
    def reading(self, unavailable: type[UnavailableError] = StoreUnavailableError) -> Iterator[sqlite3.Connection]:
        """A view of the file as of one moment. Keep it short: it keeps the write-ahead log from being folded back."""
        if self._is_closed():
            raise unavailable(f"{self.path} is closed")
        connection: sqlite3.Connection | None = None
        try:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = connect(self.path)
                connection.execute("PRAGMA query_only = 1")
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, sqlite3.Error):
                raise unavailable(f"{self.path}: {error}") from error
            raise
        self._idle.append(connection)
        if self._is_closed():  # meanwhile
            self._close_idle()

    def next_revision(self) -> int:
        """Grows with every call, over restarts too: durable before it is returned. Blocks for a commit."""
        return self.write(_next_revision)

    def close(self) -> None:
        """What waits is not written and fails. The file may then be opened again, by whomever."""
        if self._closed:
            return
        self._closed = True
        self._writer.close()
        self._close_idle()
        self._lock.release()

    def _is_closed(self) -> bool:
        return self._closed

    def _close_idle(self) -> None:
        with suppress(IndexError):
            while True:
                self._idle.pop().close()


def _next_revision(connection: sqlite3.Connection) -> int:
    (revision,) = connection.execute("UPDATE registry SET revision = revision + 1 RETURNING revision").fetchone()
    return int(revision)
