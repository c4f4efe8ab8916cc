"""A bound on what is in flight: whoever wants more waits, and that is the back pressure."""

from __future__ import annotations

import asyncio
from collections import deque


class Budget:
    """Bytes in flight at once, at most `limit`. First come, first served; more than all of it may pass alone. For one event loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Waits until there is room, in turn."""
        if not self._waiting and self._fits(size):
            self._taken += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # given a moment before
                self.give(size)
            raise

    def give(self, size: int) -> None:
        """Gives back what was taken; wakes whose turn it is."""
        self._taken -= size
        while self._waiting and (self._waiting[0][1].done() or self._fits(self._waiting[0][0])):
            size, turn = self._waiting.popleft()
            if not turn.done():  # done: cancelled while it waited
                self._taken += size
                turn.set_result(None)

    def _fits(self, size: int) -> bool:
        return self._taken == 0 or self._taken + size <= self._limit
