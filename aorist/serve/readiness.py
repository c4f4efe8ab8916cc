"""Readiness: whether a process should be sent anything, which is more than being alive. Health means progress."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import structlog

from aorist.engine.materializer import Materializer
from aorist.engine.ownership import Owner
from aorist.position import ShardName
from aorist.serve.transport import Listener

RISKY = 0.5
"""Share of the time that the log keeps events after which a shard without a newer checkpoint is told."""

LOOK_S = 0.5
"""How often is looked."""

MOST_NAMED = 5
"""Shards named in one problem; `aorist status` shows all."""

log = structlog.get_logger()


class Problem(NamedTuple):
    """A reason not to be ready. `about`: what it is about, the same for as long as it lasts. `text`: as it is now."""

    about: str
    text: str


Look = Callable[[], Iterable[Problem]]


class Readiness:
    """What `look` finds, shown as the gRPC health of `listeners`: SERVING while it finds nothing."""

    def __init__(self, look: Look, *listeners: Listener) -> None:
        self.problems: Sequence[Problem] = (Problem("start", "it is starting"),)
        self.listeners = list(listeners)
        self._look = look
        self._was_ready = False

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Looks now. The log has what has changed, once."""
        before, self.problems = self.problems, tuple(self._look())
        if {p.about for p in before} != {p.about for p in self.problems}:
            if not self.problems:
                log.info("ready")
            elif self._was_ready:
                log.warning("not ready any more", problems=[p.text for p in self.problems])
            else:
                log.info("not ready yet", problems=[p.text for p in self.problems])
        self._was_ready |= not self.problems
        for listener in self.listeners:
            await listener.set_serving(serving=not self.problems)


class WorkerLook:
    """Of a worker: it owns what it should, none of that stands still or is late, and its threads move.

    Takes no lock of a shard: a fold that hangs may hold it.
    """

    def __init__(self, owner: Owner, materializer: Materializer, max_lag_ms: int) -> None:
        self._owner, self._materializer, self._max_lag_ms = owner, materializer, max_lag_ms
        self._late: set[ShardName] = set()  # at the last look

    def __call__(self) -> Iterator[Problem]:
        if self._owner.leaving:
            yield Problem("leaving", "it is leaving: others take its shards")
        if not self._owner.is_member():
            yield Problem("membership", "it is no member: it could not join, or not renew its lease")
        elif missing := self._owner.missing():
            yield Problem("ownership", f"it does not own yet what it should: {_named(missing)}")
        for thread in self._materializer.threads():
            if thread.stands_still():
                text = f"thread `{thread.name}` has not turned for {thread.still_s:g} s"
                yield Problem(thread.name, text)
        for problem in self._materializer.problems():
            yield Problem(problem, problem)
        yield from self._at_risk()
        if late := self._late_twice():
            yield Problem("lag", f"above max_lag_ms, {self._max_lag_ms}: {_named(late)}")

    def _at_risk(self) -> Iterator[Problem]:
        """Shards whose events the log may forget before they are in any row: a restart would have to refuse to go on."""
        now_ms = time.time_ns() // 1_000_000
        for shard in list(self._materializer.shards.values()):
            taken, keeps_ms = shard.checkpoint, shard.view.schema.topic.retention_ms
            if not shard.owned or keeps_ms is None or taken is None or taken.next_offset >= shard.next_offset:
                continue
            age_ms = now_ms - taken.time_us // 1000
            if age_ms > RISKY * keeps_ms:
                text = f"{shard.name}: its last checkpoint is {age_ms // 1000} s old, and the log keeps events for {keeps_ms // 1000} s"
                todo = "once they are gone no restart can go on from it: see why the snapshot store takes none"
                yield Problem(f"retention {shard.name}", f"{text}; {todo}")

    def _late_twice(self) -> list[ShardName]:
        """Shards owned that were late at the last look, too: on a quiet partition the first new event is, for a moment."""
        shards = list(self._materializer.shards.values())
        before = self._late
        self._late = {shard.name for shard in shards if shard.owned and shard.lag().ms > self._max_lag_ms}
        return sorted(before & self._late)


def _named(shards: Sequence[ShardName]) -> str:
    named = ", ".join(map(str, shards[:MOST_NAMED]))
    return named if len(shards) <= MOST_NAMED else f"{named} and {len(shards) - MOST_NAMED} more"
