"""Who owns what: every member computes the same placement from the same registry and claims its part. No leader."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence

import structlog

from aorist.engine.materializer import Materializer
from aorist.errors import NoOwnerError
from aorist.ports import Member, Ownership, OwnershipRegistry, Session
from aorist.position import ShardName

log = structlog.get_logger()


def placement(shard: ShardName, members: Iterable[Member]) -> list[str]:
    """Names of the members that can fold `shard`, the one that should own it first, then its standbys in turn.

    Rendezvous hashing: a member that comes or goes moves only the shards it gets or had.
    """

    def weight(member: Member) -> bytes:
        return hashlib.blake2b(f"{shard}@{member.name}".encode(), digest_size=8).digest()

    return [m.name for m in sorted((m for m in members if shard.view in m.views), key=weight, reverse=True)]


class Owner:
    """Keeps one process's shards in step with the registry: claims what it should own, opens it, closes what it lost."""

    def __init__(
        self, registry: OwnershipRegistry, member: Member, partitions: Mapping[str, int], materializer: Materializer
    ) -> None:
        """`partitions`: of each view's topic."""
        self._registry, self._member, self._materializer = registry, member, materializer
        self._shards: Sequence[ShardName] = [
            ShardName(view, index) for view in member.views for index in range(partitions[view])
        ]
        self._session: Session | None = None
        self._epochs: dict[ShardName, int] = {}
        self.in_step = asyncio.Event()
        """Set once the registry has been followed for the first time."""

    async def run(self) -> None:
        """Joins and follows the registry until cancelled."""
        self._session = await self._registry.join(self._member)
        async for ownership in self._registry.watch():
            for shard in self._shards:
                await self._follow(shard, ownership, self._session)
            self.in_step.set()

    async def _follow(self, shard: ShardName, ownership: Ownership, session: Session) -> None:
        claim, held = ownership.claims.get(shard), self._epochs.get(shard)
        if held is not None and (claim is None or claim.epoch > held) and ownership.revision >= held:
            log.warning("ownership lost", shard=str(shard), epoch=held, owner=claim.member if claim else None)
            del self._epochs[shard]
            await self._materializer.close(shard)
            held = None
        if held is not None or placement(shard, ownership.members.values())[:1] != [self._member.name]:
            return
        if claim is not None and claim.member in ownership.members and claim.member != self._member.name:
            return  # the one who has it keeps it until it is gone
        epoch = await session.claim(shard, claim.epoch if claim else 0)
        if epoch is not None:
            self._epochs[shard] = epoch
            self._materializer.open(shard, epoch)

    def check_lease(self) -> None:
        """To be called after an answer was built, before it leaves: raises NoOwnerError once the lease may have run out meanwhile."""
        if self._session is None or time.monotonic() >= self._session.valid_until():
            raise NoOwnerError(f"{self._member.name} could not renew its lease: another may own its shards by now")

    async def leave(self) -> None:
        """Checkpoints and gives up every shard, then leaves the registry."""
        for shard, epoch in list(self._epochs.items()):
            await self._materializer.close(shard)
            if self._session is not None:
                await self._session.release(shard, epoch)
        self._epochs.clear()
        if self._session is not None:
            await self._session.leave()
