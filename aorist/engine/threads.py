"""Threads whose end is noticed: one that dies takes the process with it, instead of leaving it healthy and idle; and whether they move."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable

import structlog

STILL_S = 10.0
"""How late a turn of a thread may be before it counts as standing still."""

log = structlog.get_logger()


class Fate:
    """Where threads report that they died. Made on the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._died: asyncio.Future[None] = self._loop.create_future()

    def report(self, error: BaseException) -> None:
        """From the thread that dies."""
        self._loop.call_soon_threadsafe(self._settle, error)

    def _settle(self, error: BaseException) -> None:
        if not self._died.done():
            self._died.set_exception(error)

    async def watch(self) -> None:
        """Raises what the first thread died of."""
        await self._died


class Thread(threading.Thread):
    """Runs `work` until it returns; reports to `fate` when it raises instead. `work` calls `turn` again and again."""

    def __init__(self, name: str, work: Callable[[], None], fate: Fate, still_s: float = STILL_S) -> None:
        super().__init__(name=name, daemon=True)
        self.still_s = still_s
        self._work, self._fate = work, fate
        self._due_at = math.inf  # when it is to turn next

    def turn(self, rest_s: float = 0.0) -> None:
        """It moves; it may now rest so long."""
        self._due_at = max(self._due_at, time.monotonic() + rest_s)

    def stands_still(self) -> bool:
        """It was started, has not ended, and has not turned for `still_s` when it was to."""
        return time.monotonic() > self._due_at + self.still_s

    def run(self) -> None:
        self._due_at = time.monotonic()
        try:
            self._work()
            self._due_at = math.inf
        except BaseException as error:
            log.critical("a thread died; the process ends", thread=self.name, exc_info=error)
            self._fate.report(error)
            raise
