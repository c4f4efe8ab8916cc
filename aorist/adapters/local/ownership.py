"""OwnershipRegistry for one process: the same claims, epochs and watches as with etcd, without leases."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace

from aorist.errors import SettingError, ShuttingDownError
from aorist.ports import Answering, Claim, Member, Ownership
from aorist.position import ShardName


class LocalOwnershipRegistry:
    """Used on one event loop. `next_revision` gives growing numbers, over restarts too; it is called off the loop."""

    def __init__(self, next_revision: Callable[[], int]) -> None:
        self._next_revision = next_revision
        self.change = asyncio.Lock()  # held from looking at a claim until its change is in force
        self._changed = asyncio.Event()
        self.closed = False
        self.sessions: set[LocalSession] = set()
        self.now = Ownership(next_revision())  # taken here too, so that a watch after a restart shows no older revision

    async def join(self, member: Member) -> LocalSession:
        async with self.change:
            if self.closed:
                raise ShuttingDownError("the ownership registry is closed")
            if other := self.now.members.get(member.name):
                raise SettingError(
                    f"member name {member.name!r} is taken by a living member at {other.address}; give each its own",
                    member=member.name,
                )
            self.become(await self.revision(), {**self.now.members, member.name: member}, self.now.claims)
            return LocalSession(self, member.name)

    async def let_answer(self, view: str, said: Answering, seen: Answering | None) -> bool:
        async with self.change:
            if self.closed:
                raise ShuttingDownError("the ownership registry is closed")
            if self.now.answering.get(view) != seen:
                return False
            revision = await self.revision()
            named = {**self.now.answering, view: said._replace(revision=revision)}
            self.now = replace(self.now, revision=revision, answering=named)
            self._tell()
            return True

    async def watch(self) -> AsyncIterator[Ownership]:
        seen: Ownership | None = None
        while True:
            if self.now is not seen:
                seen = self.now
                yield seen
            elif self.closed:
                return
            else:
                await self._changed.wait()

    def problem(self) -> str:
        return ""

    async def close(self) -> None:
        """Ends all sessions; watches end after they have shown the last state."""
        async with self.change:
            if not self.closed:
                self.closed = True
                for session in list(self.sessions):
                    session.end()
                self._tell()

    async def revision(self) -> int:
        """For sessions, which hold `change`: the revision of their next change."""
        return await asyncio.to_thread(self._next_revision)

    def become(self, revision: int, members: Mapping[str, Member], claims: Mapping[ShardName, Claim]) -> None:
        """For sessions: puts a new state in force."""
        self.now = replace(
            self.now, revision=revision, members=members, claims=claims
        )  # never changed in place: watchers hold it
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class LocalSession:
    """A member's presence; it ends with `leave` or with the registry."""

    def __init__(self, registry: LocalOwnershipRegistry, member: str) -> None:
        self._registry = registry
        self._member = member
        self._left = False
        self._ended = asyncio.Event()
        registry.sessions.add(self)

    def valid_until(self) -> float:
        return -math.inf if self._over() else math.inf

    async def claim(self, shard: ShardName, seen_epoch: int) -> int | None:
        async with self._registry.change:
            now = self._registry.now
            held = now.claims.get(shard)
            if self._over() or (held.epoch if held else 0) != seen_epoch:
                return None
            epoch = await self._registry.revision()
            self._registry.become(epoch, now.members, {**now.claims, shard: Claim(self._member, epoch)})
            return epoch

    async def release(self, shard: ShardName, epoch: int) -> bool:
        async with self._registry.change:
            now = self._registry.now
            if self._over() or now.claims.get(shard) != Claim(self._member, epoch):
                return False
            claims = {name: claim for name, claim in now.claims.items() if name != shard}
            self._registry.become(await self._registry.revision(), now.members, claims)
            return True

    async def retire(self) -> None:
        async with self._registry.change:
            if self._over():
                return
            now = self._registry.now
            leaving = replace(now.members[self._member], leaving=True)
            members = {**now.members, self._member: leaving}
            self._registry.become(await self._registry.revision(), members, now.claims)

    async def leave(self) -> None:
        async with self._registry.change:
            if self._over():
                return
            now = self._registry.now
            members = {name: member for name, member in now.members.items() if name != self._member}
            claims = {shard: claim for shard, claim in now.claims.items() if claim.member != self._member}
            self._registry.become(await self._registry.revision(), members, claims)
            self._left = True
            self.end()

    async def ended(self) -> None:
        await self._ended.wait()

    def end(self) -> None:
        """Called when the session is over, by itself or by the registry."""
        self._registry.sessions.discard(self)
        self._ended.set()

    def _over(self) -> bool:
        return self._left or self._registry.closed
