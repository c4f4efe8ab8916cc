"""Who owns what: every member computes the same placement from the same registry and claims its part. No leader.

A member holds the shards that it should own or stand by for, and folds them all. It claims one that nobody has as soon as it can answer
for it; one that another has, once it is warm, if it is the better place, or if the other is suspected to be dead: the two may both answer
for a moment, which is harmless, since what they say of one position is the same. Whoever loses a shard folds on. Whoever leaves says so
first, and serves until the shards have been taken.

Each build of a view has members and shards of its own. The first member ever that folds a view names its own build as the one that
answers; after that only people do (`aorist view promote`).
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import structlog

from aorist.engine.materializer import Materializer
from aorist.engine.shard import Phase
from aorist.errors import NoOwnerError, SettingError, UnavailableError
from aorist.ports import Answering, Claim, Member, Ownership, OwnershipRegistry, Session
from aorist.position import ShardName, view_and_build

MOVE_S = 0.05
"""Least time between two shards that a member takes over from living ones: not all at once."""

YIELD_S = 0.3
"""How long a standby leaves a free shard to the member that it should go to."""

TAKEOVERS = ("free", "planned", "suspected")
"""Kinds of claims: of what nobody had, of what a living member had, of what a member had that seems to be dead."""

AGAIN_S = (0.1, 2.0)
"""First and longest rest between attempts to reach the registry."""

log = structlog.get_logger()


def placement(shard: ShardName, members: Iterable[Member]) -> list[str]:
    """Names of the members that can fold `shard`, the one that should own it first, then its standbys in turn.

    Rendezvous hashing: a member that comes or goes moves only the shards it gets or had.
    """

    def weight(member: Member) -> bytes:
        return hashlib.blake2b(f"{shard}@{member.name}".encode(), digest_size=8).digest()

    return [m.name for m in sorted((m for m in members if _can_own(m, shard)), key=weight, reverse=True)]


def _can_own(member: Member, shard: ShardName) -> bool:
    return shard.view in member.views and not member.leaving


class Owner:
    """Keeps one process's shards in step with the registry."""

    def __init__(
        self,
        registry: OwnershipRegistry,
        member: Member,
        partitions: Mapping[str, int],
        materializer: Materializer,
        standbys: int,
    ) -> None:
        """`partitions`: of the topic of each of the member's views. `standbys`: members that hold each shard warm beside its owner."""
        self._registry, self._member, self._materializer, self._standbys = registry, member, materializer, standbys
        self._shards: Sequence[ShardName] = [
            ShardName(view, index) for view in member.views for index in range(partitions[view])
        ]
        self._ownership = Ownership(revision=0)
        self._session: Session | None = None
        self._epochs: dict[ShardName, int] = {}  # of what we own
        self._wake = asyncio.Event()
        self._next_move = 0.0
        self._free_since: dict[ShardName, float] = {}
        self._suspects: dict[str, int] = {}  # and the revision of the registry when they became so
        self._closing: dict[ShardName, asyncio.Task[None]] = {}
        self.takeovers = dict.fromkeys(TAKEOVERS, 0)
        self._moved = asyncio.Event()  # what we own, or who could take it, has changed
        self.settled = asyncio.Event()
        """Set once every shard that should be ours is, or cannot be."""
        self.on_members: Callable[[Mapping[str, Member]], None] = lambda _: None
        """Called on the loop with the members whenever the registry has changed."""
        materializer.on_change = self._wake.set

    def suspect(self, member: str) -> None:
        """It seems to be dead, though the registry has it: its shards are free to whoever holds them warm."""
        self._suspects[member] = self._ownership.revision
        self._wake.set()

    def trust(self, member: str) -> None:
        """It is alive, or none of ours any more."""
        self._suspects.pop(member, None)
        self._wake.set()

    async def run(self) -> None:
        """Follows the registry, and joins it again whenever the lease was lost, until cancelled."""
        watching = asyncio.create_task(self._watch())
        try:
            while True:
                self._session = await self._join()
                await self._follow(self._session, watching)
                log.warning("lease lost: nothing is ours any more; joining again", member=self._member.name)
                self._disown(list(self._epochs))
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        async for ownership in self._registry.watch():
            self._ownership = ownership
            for claim in ownership.claims.values():
                if claim.epoch > self._suspects.get(claim.member, claim.epoch):
                    del self._suspects[claim.member]  # whoever claims is alive, even if we two cannot hear each other
            for shard, epoch in self._epochs.items():
                if shard in self._materializer.shards:  # its build may be the one that answers only since now
                    self._materializer.shards[shard].epoch = ownership.epoch(shard, epoch)
            self.on_members(ownership.members)
            self._moved.set()
            self._wake.set()

    async def _join(self) -> Session:
        rest = AGAIN_S[0]
        while True:
            try:
                return await self._registry.join(self._member)
            except UnavailableError as error:
                log.warning("not joined; trying again", member=self._member.name, problem=str(error), rest_s=rest)
                await asyncio.sleep(rest)
                rest = min(rest * 2, AGAIN_S[1])

    async def _follow(self, session: Session, watching: asyncio.Task[None]) -> None:
        """Until the session has ended."""
        ended = asyncio.create_task(session.ended())
        try:
            while not ended.done():
                self._wake.clear()
                again_s = await self._look_at_all(session)
                waking = asyncio.create_task(self._wake.wait())
                await asyncio.wait((waking, ended, watching), timeout=again_s, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                if watching.done():
                    watching.result()  # raises
        finally:
            ended.cancel()

    async def _look_at_all(self, session: Session) -> float | None:
        """Every shard, by what the registry says now. Returns after how long to look again though nothing changed."""
        if self._member.name not in self._ownership.members:
            return None  # the registry as we know it is from before we joined
        self._check_not_dropped()
        if not await self._name_answering():
            return AGAIN_S[0]
        again = await asyncio.gather(*(self._look_at(shard, session) for shard in self._shards))
        if all(self._has_settled(shard) for shard in self._shards):
            self.settled.set()
        return min((seconds for seconds in again if seconds is not None), default=None)

    def _check_not_dropped(self) -> None:
        """Raises SettingError: rows of another code under the same number would be taken for ours."""
        for view, build in map(view_and_build, self._member.views):
            answering = self._ownership.answering.get(view)
            if answering is not None and build in answering.dropped:
                raise SettingError(
                    f"build {build} of {view} was dropped, and a number is never used twice: give its View a build above "
                    f"{max(answering.build, *answering.dropped)}"
                )

    async def _name_answering(self) -> bool:
        """Where no build of a view of ours was ever named as the one that answers, ours is. Says whether one is that we know of."""
        for view, build in map(view_and_build, self._member.views):
            if view in self._ownership.answering:
                continue
            try:
                if not await self._registry.let_answer(view, Answering(build, 0, 0), None):
                    return False  # another was faster: which, is to be seen yet
                log.info("build answers: the first of its view", view=view, build=build)
            except UnavailableError as error:
                log.warning("no build named; trying again", view=view, build=build, problem=str(error))
                return False
        return True

    async def _look_at(self, shard: ShardName, session: Session) -> float | None:
        ownership, me = self._ownership, self._member.name
        order = placement(shard, ownership.members.values())
        claim, held = ownership.claims.get(shard), self._epochs.get(shard)
        if held is not None and (claim is None or claim.epoch != held) and ownership.revision >= held:
            log.info("shard passed on", shard=str(shard), epoch=held, to=claim.member if claim else None)
            self._disown([shard])
            held = None
        wanted = me in order[: 1 + self._standbys]
        if shard in self._closing:
            return None  # its end wakes us
        if not wanted and held is None:
            if self._materializer.holds(shard):
                self._close(shard)
            return None
        if not self._materializer.holds(shard):
            view, _ = view_and_build(shard.view)
            beside = view in ownership.answering and shard.view != ownership.answers(
                view
            )  # else ours was named just now
            self._materializer.open(shard, beside=beside)
        if held is not None:
            return None
        self._show_owner(shard, claim)
        return await self._claim_if_due(shard, session, claim, [m for m in order if m not in self._suspects])

    def _close(self, shard: ShardName) -> None:
        """Beside all else: its last look at the store may take long."""

        def closed(_: object) -> None:
            del self._closing[shard]
            self._wake.set()

        self._closing[shard] = asyncio.create_task(self._materializer.close(shard))
        self._closing[shard].add_done_callback(closed)

    async def _claim_if_due(
        self, shard: ShardName, session: Session, claim: Claim | None, order: Sequence[str]
    ) -> float | None:
        """Claims it when it is free and we can answer for it, or when another has it but it is better placed with us.

        `order`: of the members that are not suspected.
        """
        here, me, now = self._materializer.shards.get(shard), self._member.name, time.monotonic()
        if here is None or here.phase is not Phase.SERVING or me not in order:
            return None  # its change wakes us
        kind = "free"
        if claim is not None and claim.member in self._ownership.members and claim.member != me:
            self._free_since.pop(shard, None)
            if order[0] != me or not here.warm:
                return None
            kind = "suspected" if claim.member in self._suspects else "planned"
            if kind == "suspected":
                self._next_move = now  # nobody answers for it
            if now < self._next_move:
                return self._next_move - now
            self._next_move = now + MOVE_S
        elif order[0] != me:
            since = self._free_since.setdefault(shard, now)
            if now < since + YIELD_S:
                return since + YIELD_S - now
        try:
            epoch = await session.claim(shard, claim.epoch if claim else 0)
        except UnavailableError as error:
            log.warning("not claimed; trying again", shard=str(shard), problem=str(error))
            return AGAIN_S[0]
        if epoch is not None:
            self._epochs[shard] = epoch
            self.takeovers[kind] += 1
            self._materializer.own(here, self._ownership.epoch(shard, epoch))
            log.info("shard owned", shard=str(shard), epoch=epoch, instead_of=claim.member if claim else None)
        return None

    def _show_owner(self, shard: ShardName, claim: Claim | None) -> None:
        here = self._materializer.shards.get(shard)
        if here is not None and not here.owned:
            here.stand_by(claim.epoch if claim else 0)

    def _disown(self, shards: Iterable[ShardName]) -> None:
        for shard in shards:
            del self._epochs[shard]
            self._moved.set()
            if shard in self._materializer.shards:
                self._materializer.shards[shard].stand_by(0)

    def _has_settled(self, shard: ShardName) -> bool:
        if shard in self._epochs or placement(shard, self._ownership.members.values())[:1] != [self._member.name]:
            return True
        here = self._materializer.shards.get(shard)
        return here is not None and here.phase is Phase.HALTED

    @property
    def leaving(self) -> bool:
        return self._member.leaving

    def is_member(self) -> bool:
        """The registry has it, and its lease has not run out by its own clock."""
        return self._member.name in self._ownership.members and self._holds_lease()

    def missing(self) -> list[ShardName]:
        """Shards that should be ours, and are not yet."""
        return [shard for shard in self._shards if not self._has_settled(shard)]

    def _holds_lease(self) -> bool:
        return self._session is not None and time.monotonic() < self._session.valid_until()

    def check_lease(self) -> None:
        """After an owner's answer was built, before it leaves: raises NoOwnerError once the lease may have run out meanwhile."""
        if not self._holds_lease():
            raise NoOwnerError(f"{self._member.name} could not renew its lease: another may own its shards by now")

    async def retire(self, patience_s: float) -> None:
        """Says that it is leaving, and serves on until others have taken what it owns; no longer than `patience_s`."""
        self._member = replace(self._member, leaving=True)
        await self._quietly(self._session.retire() if self._session else None)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while any(placement(shard, self._ownership.members.values()) for shard in self._epochs):
                    self._moved.clear()
                    await self._moved.wait()

    async def leave(self) -> None:
        """Checkpoints and gives up what it still owns, then leaves the registry."""
        for shard, epoch in list(self._epochs.items()):
            await self._materializer.close(shard)
            await self._quietly(self._session.release(shard, epoch) if self._session else None)
        self._epochs.clear()
        await asyncio.gather(*self._closing.values())
        await self._quietly(self._session.leave() if self._session else None)

    async def _quietly(self, farewell: Awaitable[object] | None) -> None:
        """The lease ends what could not be ended in order."""
        try:
            if farewell is not None:
                await farewell
        except UnavailableError as error:
            log.warning("left without a word: the lease will end it", member=self._member.name, problem=str(error))
