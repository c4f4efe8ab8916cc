"""A bound on what is in flight: whoever wants more waits, and that is the back pressure."""

from __future__ import annotations

import asyncio
from collections import deque


class Budget:
    """Bytes in flight at once, at most `limit`. First come, first served; more than all of it may pass alone. For one event loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()  # each stays until it runs: none overtakes it

    async def take(self, size: int) -> None:
        """Waits until there is room, in turn."""
        if self._waiting or not self._fits(size):
            waiter = size, asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter[1]
            except asyncio.CancelledError:
                self._waiting.remove(waiter)
                self._wake()
                raise
            self._waiting.popleft()
        self._taken += size
        self._wake()

    def give(self, size: int) -> None:
        """Gives back what was taken."""
        self._taken -= size
        self._wake()

    def _wake(self) -> None:
        """The first in turn, if it fits; the next is its business."""
        if self._waiting and not self._waiting[0][1].done() and self._fits(self._waiting[0][0]):
            self._waiting[0][1].set_result(None)

    def _fits(self, size: int) -> bool:
        return self._taken == 0 or self._taken + size <= self._limit
