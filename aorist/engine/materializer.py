"""The shards of this process: opened when owned, folded, checkpointed, closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import structlog

from aorist.declare.view import View
from aorist.engine.checkpoint import Checkpointer
from aorist.engine.fold import MOST_BEYOND, Folder
from aorist.engine.quarantine import MOST_KEYS, Quarantine
from aorist.engine.restore import restore
from aorist.engine.series import MOST_BEYOND as MOST_BEYOND_OF_SERIES
from aorist.engine.series import ShardSeries
from aorist.engine.shard import Shard
from aorist.engine.stored import Stored, read_stored
from aorist.engine.threads import Fate, Thread
from aorist.errors import (
    AoristError,
    LogTruncatedError,
    NoOwnerError,
    StoreUnavailableError,
    UnavailableError,
    UnknownTopicError,
)
from aorist.ports import EventLog, SeriesStore, ShardRows, SnapshotStore
from aorist.position import NOTHING, Partition, ShardName

AGAIN_S = (0.1, 5.0)
"""First and longest rest between attempts to restore while log or store are away."""

TELL_EVERY_S = 5.0
"""Between two lines about the same trouble."""

log = structlog.get_logger()
T = TypeVar("T")


class Materializer:
    """Folds the shards it is told to hold. Used on the event loop; threads of its own read the log and write snapshots."""

    def __init__(
        self,
        views: Iterable[View[Any]],
        events: EventLog,
        store: SnapshotStore,
        checkpoint_interval_s: float,
        most_beyond: int = MOST_BEYOND,
        series: SeriesStore | None = None,
        most_parked_keys: int = MOST_KEYS,
    ) -> None:
        """`series`: where views that keep windows of time write them; needed where there is such a view."""
        self.views = {view.build_name: view for view in views}
        """By NAME@BUILD, as in the names of shards."""
        self.shards: dict[ShardName, Shard] = {}
        self._events, self._store, self._series = events, store, series
        self.fate = Fate()
        self.quarantine = Quarantine(store, events, most_parked_keys)
        self._folders = {
            name: Folder(view, events.reader(name), self.quarantine, self.fate, _most_beyond(view, most_beyond))
            for name, view in self.views.items()
        }
        self.checkpointer = Checkpointer(
            lambda: list(self.shards.values()),
            store,
            self._commit,
            checkpoint_interval_s,
            self.fate,
            self.quarantine.catch_up,
        )
        self._told: dict[str, float] = {}  # reason -> when
        self._opening: dict[ShardName, asyncio.Task[None]] = {}
        self._catching_up: set[asyncio.Task[None]] = set()
        self.on_change: Callable[[], None] = lambda: None
        """Called on the loop when a shard can do more, or less, than before."""

    def start(self) -> None:
        """Starts the threads."""
        for thread in self.threads():
            thread.start()

    def shard(self, name: ShardName) -> Shard:
        """Raises NoOwnerError when it is not held here."""
        shard = self.shards.get(name)
        if shard is None:
            raise NoOwnerError(f"{name} is not held here")
        return shard

    def stored(self, name: ShardName, key: bytes) -> Stored:
        """The last durable snapshot of a key, of a shard held anywhere. Blocks; raises as `read_stored`, and NoOwnerError."""
        view = self.views.get(name.view)
        if view is None:
            raise NoOwnerError(f"{name.view} is not materialized here")
        partition = Partition(view.schema.topic.name, name.partition)
        return read_stored(view, partition, key, self._store, self._events, self._series)

    def open(self, name: ShardName, *, beside: bool = False) -> None:
        """Holds a shard, as standby until `own`: restores it, then folds on. Returns at once; the shard says how far it is.

        `beside`: another build of its view answers.
        """
        self._opening[name] = asyncio.create_task(self._open(name, beside=beside))

    def own(self, shard: Shard, epoch: int) -> None:
        """One held here is ours from now on, under `epoch`. Keys that its owner before has just released follow beside."""
        shard.own(epoch)
        if shard.parked:
            task = asyncio.create_task(self._catch_up(shard))
            self._catching_up.add(task)
            task.add_done_callback(self._catching_up.discard)

    async def _catch_up(self, shard: Shard) -> None:
        try:
            await asyncio.to_thread(self.quarantine.catch_up, shard)
        except StoreUnavailableError as error:
            log.warning(
                "parked keys not compared; the next checkpoint does it", shard=str(shard.name), problem=str(error)
            )
        except Exception as error:  # a codec is domain code and may raise anything
            log.error("parked keys not compared; the next checkpoint does it", shard=str(shard.name), exc_info=error)

    def holds(self, name: ShardName) -> bool:
        """It was opened and not closed since."""
        return name in self._opening

    async def close(self, name: ShardName) -> None:
        """Lets go of a shard, with a last checkpoint. What waits for it fails with NO_OWNER."""
        opening = self._opening.pop(name, None)
        if opening is not None:
            opening.cancel()
        shard = self.shards.get(name)
        if shard is None:
            return
        await asyncio.to_thread(self.checkpointer.take, shard)
        shard.close()
        self._folders[name.view].drop(shard)
        del self.shards[name]

    async def stop(self) -> None:
        """Ends the threads. Shards still held are closed first."""
        for name in list(self._opening):
            await self.close(name)
        self.checkpointer.stop()
        for folder in self._folders.values():
            folder.stop()
        for thread in self.threads():
            await asyncio.to_thread(thread.join)

    async def _open(self, name: ShardName, *, beside: bool) -> None:
        view = self.views[name.view]
        topic = view.schema.topic.name
        described = await self._until_there(name, self._events.describe, topic)
        rows = ShardRows(view.name, view.build, described.id, name.partition)
        shard = self.shards[name] = Shard(view, Partition(topic, name.partition), rows, 0)
        shard.on_change = self.on_change
        if view.series is not None:
            assert self._series is not None, f"{view.name} keeps series: give its materializer a store for them"
            shard.series = ShardSeries(view, described.id, self._series)
        try:
            next_offset = await self._until_there(
                name, partial(restore, beside=beside), shard, self._store, self._events
            )
        except LogTruncatedError as error:
            log.error("shard refused", shard=str(name), problem=str(error))
            shard.halt(str(error))
        except Exception as error:  # a codec is domain code and may raise anything
            log.error("shard refused: its rows cannot be read", shard=str(name), exc_info=error)
            shard.halt(f"its rows cannot be read: {type(error).__name__}: {error}")
        else:
            self._folders[name.view].hold(shard, next_offset)
            log.info("restored", shard=str(name), keys=len(shard.entries), next_offset=next_offset)
            for key, queue in list(shard.parked.items()):
                text = key.decode(errors="replace")
                log.warning("key is parked", shard=str(name), key=text, offset=queue.at, problem=queue.reason)

    async def _until_there(self, name: ShardName, call: Callable[..., T], *arguments: object) -> T:
        """`call`'s result, off the loop; tries again while log or store are away, or the topic is, until closed from outside."""
        rest = AGAIN_S[0]
        while True:
            try:
                return await asyncio.to_thread(call, *arguments)
            except (UnavailableError, UnknownTopicError) as error:
                self._tell(name, error, rest)
                await asyncio.sleep(rest)
                rest = min(rest * 2, AGAIN_S[1])

    def _tell(self, name: ShardName, error: AoristError, rest_s: float) -> None:
        """Once in a while for all shards, which mostly wait for the same."""
        now = time.monotonic()
        if now - self._told.get(error.reason, -TELL_EVERY_S) >= TELL_EVERY_S:
            self._told[error.reason] = now
            waiting = sum(
                1 for shard in self._opening if shard not in self.shards or self.shards[shard].began_at == NOTHING
            )
            log.warning(
                "not restored; trying again", shard=str(name), waiting=waiting, problem=str(error), rest_s=rest_s
            )

    def _commit(self, shard: Shard, next_offset: int) -> None:
        self._folders[shard.name.view].commit(shard.partition, next_offset)

    def threads(self) -> list[Thread]:
        """All that it runs."""
        return [self.checkpointer.thread, *(folder.thread for folder in self._folders.values())]

    def problems(self) -> list[str]:
        """Of shards that stand still or cannot be snapshotted."""
        return [f"{s.name}: {s.problem or s.trouble}" for s in self.shards.values() if s.problem or s.trouble]

    async def settled(self) -> None:
        """Waits until every shard held now can answer, or stands still."""
        for shard in list(self.shards.values()):
            await shard.settled()


def _most_beyond(view: View[Any], most_beyond: int) -> int:
    return most_beyond if view.series is None else min(most_beyond, MOST_BEYOND_OF_SERIES)
