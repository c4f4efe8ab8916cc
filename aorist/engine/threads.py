"""Threads whose end is noticed: one that dies takes the process with it, instead of leaving it healthy and idle."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import structlog

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
    """Runs `work` until it returns; reports to `fate` when it raises instead."""

    def __init__(self, name: str, work: Callable[[], None], fate: Fate) -> None:
        super().__init__(name=name, daemon=True)
        self._work, self._fate = work, fate

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            log.critical("a thread died; the process ends", thread=self.name, exc_info=error)
            self._fate.report(error)
            raise
