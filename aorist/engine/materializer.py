"""The shards of this process: opened when owned, folded, checkpointed, closed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import structlog

from aorist.declare.view import View
from aorist.engine.checkpoint import Checkpointer
from aorist.engine.fold import Folder
from aorist.engine.restore import refold, restore
from aorist.engine.shard import Shard
from aorist.engine.threads import Fate
from aorist.errors import LogTruncatedError, NoOwnerError, UnavailableError
from aorist.ports import EventLog, ShardRows, SnapshotStore
from aorist.position import Partition, ShardName

AGAIN_S = (0.1, 5.0)
"""First and longest rest between attempts to restore while log or store are away."""

log = structlog.get_logger()


class Materializer:
    """Folds the shards it is told to hold. Used on the event loop; threads of its own read the log and write snapshots."""

    def __init__(
        self, views: Iterable[View[Any]], events: EventLog, store: SnapshotStore, checkpoint_interval_s: float
    ) -> None:
        self.views = {view.name: view for view in views}
        self.shards: dict[ShardName, Shard] = {}
        self._events, self._store = events, store
        self.fate = Fate()
        self._folders = {
            name: Folder(view, events.reader(name), self._repair, self.fate) for name, view in self.views.items()
        }
        self._checkpointer = Checkpointer(
            lambda: list(self.shards.values()), store, self._commit, checkpoint_interval_s, self.fate
        )
        self._restoring: dict[ShardName, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Starts the threads."""
        for folder in self._folders.values():
            folder.thread.start()
        self._checkpointer.thread.start()

    def shard(self, name: ShardName) -> Shard:
        """Raises NoOwnerError when it is not held here."""
        shard = self.shards.get(name)
        if shard is None:
            raise NoOwnerError(f"{name} is not held here")
        return shard

    def open(self, name: ShardName, epoch: int) -> None:
        """Holds a shard owned under `epoch`: restores it, then folds on. Returns at once; the shard says how far it is."""
        view = self.views[name.view]
        topic = view.schema.topic.name
        described = self._events.describe(topic)
        shard = Shard(
            view,
            Partition(topic, name.partition),
            ShardRows(view.name, view.build, described.id, name.partition),
            epoch,
        )
        self.shards[name] = shard
        self._restoring[name] = asyncio.create_task(self._restore(shard))

    async def close(self, name: ShardName) -> None:
        """Lets go of a shard, with a last checkpoint. What waits for it fails with NO_OWNER."""
        shard = self.shards.get(name)
        if shard is None:
            return
        restoring = self._restoring.pop(name, None)
        if restoring is not None:
            restoring.cancel()
        await asyncio.to_thread(self._checkpointer.take, shard)
        self._folders[name.view].drop(shard)
        shard.close()
        del self.shards[name]

    async def stop(self) -> None:
        """Ends the threads. Shards still held are closed first."""
        for name in list(self.shards):
            await self.close(name)
        self._checkpointer.stop()
        for folder in self._folders.values():
            folder.stop()
        for thread in (self._checkpointer.thread, *(folder.thread for folder in self._folders.values())):
            await asyncio.to_thread(thread.join)

    async def _restore(self, shard: Shard) -> None:
        rest = AGAIN_S[0]
        while True:  # until restored, halted, or closed from outside
            try:
                next_offset = await asyncio.to_thread(restore, shard, self._store, self._events)
                break
            except LogTruncatedError as error:
                log.error("shard refused", shard=str(shard.name), problem=str(error))
                shard.halt(str(error))
                return
            except Exception as error:  # a codec is domain code and may raise anything
                if not isinstance(error, UnavailableError):
                    log.error("shard refused: its rows cannot be read", shard=str(shard.name), exc_info=error)
                    shard.halt(f"its rows cannot be read: {type(error).__name__}: {error}")
                    return
                log.warning("not restored; trying again", shard=str(shard.name), problem=str(error), rest_s=rest)
                await asyncio.sleep(rest)
                rest = min(rest * 2, AGAIN_S[1])
        self._folders[shard.view.name].hold(shard, next_offset)
        log.info("restored", shard=str(shard.name), epoch=shard.epoch, keys=len(shard.entries), next_offset=next_offset)

    def _commit(self, shard: Shard, next_offset: int) -> None:
        self._folders[shard.view.name].commit(shard.partition, next_offset)

    def _repair(self, shard: Shard, upto: int) -> None:
        reader = self._events.reader(f"{shard.view.name}-repair")
        try:
            refold(shard, upto, self._store, reader)
        finally:
            reader.close()

    def problems(self) -> list[str]:
        """Why this process is not healthy: shards that stand still or cannot be snapshotted."""
        return [f"{s.name}: {s.problem or s.trouble}" for s in self.shards.values() if s.problem or s.trouble]

    async def settled(self) -> None:
        """Waits until every shard held now can answer, or stands still."""
        for shard in list(self.shards.values()):
            await shard.settled()
