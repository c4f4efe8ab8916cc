"""`aorist.v1.BuildService` at a gateway: which builds there are, what one has that another has not, and which of them answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from aorist.errors import (
    AoristError,
    BuildChangedError,
    BuildNotReadyError,
    BuildsDifferError,
    InvalidRequestError,
    Violation,
)
from aorist.ports import Answering, OwnershipRegistry
from aorist.position import ShardName, build_name, view_and_build
from aorist.serve.comparing import compare, digests, look
from aorist.serve.differences import differs, in_words
from aorist.serve.routing import Router
from aorist.serve.transport import Listener
from aorist.v1 import build_pb2, read_pb2, status_pb2

STATUS_S = 2.0
"""How long a worker may take to say how far its shards are."""

MOST_BEHIND = 1_000
"""Events that a build may lack where nobody can say how far the one that answers is."""

AT_ONCE = 4
"""Shards compared at the same time: every key of both builds is looked at."""

MOST_TOLD = 5
"""Partitions of which an error tells."""

log = structlog.get_logger()


def serve_builds(
    listener: Listener, router: Router, registry: OwnershipRegistry, partitions: Mapping[str, int]
) -> None:
    """Adds it to a gateway's `listener`. `partitions`: of each view."""
    builds = Builds(router, registry, partitions)
    listener.add(
        "aorist.v1.BuildService",
        {
            "ListBuilds": listener.unary(builds.list_builds, build_pb2.ListBuildsRequest),
            "Promote": listener.unary(builds.promote, build_pb2.PromoteRequest),
            "Rollback": listener.unary(builds.rollback, build_pb2.RollbackRequest),
            "Drop": listener.unary(builds.drop, build_pb2.DropRequest),
        },
    )


class Builds:
    """Of all views of the project."""

    def __init__(self, router: Router, registry: OwnershipRegistry, partitions: Mapping[str, int]) -> None:
        self._router, self._registry, self._partitions = router, registry, partitions
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def list_builds(self, ask: build_pb2.ListBuildsRequest) -> build_pb2.ListBuildsResponse:
        """Those that answer, or that a member folds."""
        ownership = self._router.ownership
        names = {name for member in ownership.members.values() for name in member.views}
        names |= {ownership.answers(view) for view in ownership.answering}
        owned = await self._owned()
        response = build_pb2.ListBuildsResponse()
        for view, build in sorted(map(view_and_build, names)):
            if view in self._partitions and ask.view in ("", view):
                told = response.builds.add(view=view, build=build)
                answering = ownership.answering.get(view)
                told.answers = answering is not None and answering.build == build
                told.before = answering is not None and answering.before == build
                told.dropped.extend(sorted(answering.dropped) if answering is not None and told.answers else ())
                shards = [ShardName(build_name(view, build), number) for number in range(self._partitions[view])]
                told.shards.extend(
                    await asyncio.gather(
                        *(self._told(shard, owned.get(shard), digests_too=ask.digests) for shard in shards)
                    )
                )
        return response

    async def _owned(self) -> Mapping[ShardName, status_pb2.ShardStatus]:
        """As their owners say it."""
        return {
            ShardName(shard.view, shard.partition): shard
            for _, _, answer in await self._router.status(STATUS_S)
            if not isinstance(answer, AoristError)
            for shard in answer.shards
            if shard.role == read_pb2.ROLE_OWNER
        }

    async def _told(
        self, shard: ShardName, owned: status_pb2.ShardStatus | None, *, digests_too: bool
    ) -> build_pb2.BuildShard:
        if owned is None:
            return build_pb2.BuildShard(partition=shard.partition, phase="NO_OWNER", offset=-1)
        told = build_pb2.BuildShard(
            partition=shard.partition,
            member=owned.member,
            phase=owned.phase,
            offset=owned.offset,
            lag_events=owned.lag_events,
            keys=owned.keys,
            problem=owned.problem,
        )
        if digests_too:
            try:
                async with self._at_once:
                    told.key_digest, told.state_digest = await digests(self._router, shard)
            except AoristError as error:
                told.problem = told.problem or str(error)
        return told

    async def promote(self, ask: build_pb2.PromoteRequest) -> build_pb2.PromoteResponse:
        """Step 1. Compare every shard of the build with that of the one that answers, which shows that it serves and is not behind.
        Step 2. Name it, if the one that answers is still the same.
        """
        seen = self._seen(ask.view)
        if ask.build == seen.build:
            raise InvalidRequestError([Violation("build", f"{ask.build} of {ask.view} answers already")])
        shards = self._shards(ask.view, ask.build)
        compared = await asyncio.gather(*(self._compare(seen, shard) for shard in shards))
        differences = [difference for difference in compared if differs(difference)]
        if differences and not ask.accept_difference:
            raise BuildsDifferError(
                f"builds {seen.build} and {ask.build} of {ask.view} differ: {_named(differences, seen.build, ask.build)}; "
                "if that is meant, accept the difference (--accept-difference)"
            )
        await self._say(ask.view, seen.promoting(ask.build), seen)
        return build_pb2.PromoteResponse(before=seen.build, differences=differences)

    async def rollback(self, ask: build_pb2.RollbackRequest) -> build_pb2.RollbackResponse:
        """As `promote`, of the build that answered before, whatever it holds."""
        seen = self._seen(ask.view)
        if not seen.before:
            raise InvalidRequestError([Violation("view", f"no build of {ask.view} answered before build {seen.build}")])
        await asyncio.gather(*(self._look(seen, shard) for shard in self._shards(ask.view, seen.before)))
        await self._say(ask.view, seen.promoting(seen.before), seen)
        return build_pb2.RollbackResponse(build=seen.before, before=seen.build)

    async def drop(self, ask: build_pb2.DropRequest) -> build_pb2.DropResponse:
        """Its number is not used again: a member that folds it ends. Rows stay, and nobody reads them."""
        seen = self._seen(ask.view)
        if ask.build < 1 or ask.build == seen.build:
            wrong = f"{ask.build} of {ask.view} answers: promote another before" if ask.build else "is not given"
            raise InvalidRequestError([Violation("build", wrong)])
        name = build_name(ask.view, ask.build)
        folding = [member.name for member in self._router.ownership.members.values() if name in member.views]
        if folding:
            wrong = f"{ask.build} of {ask.view} is folded by {', '.join(sorted(folding))}: end what folds it before"
            raise InvalidRequestError([Violation("build", wrong)])
        await self._say(ask.view, seen.dropping(ask.build), seen)
        return build_pb2.DropResponse()

    def _seen(self, view: str) -> Answering:
        answering = self._router.ownership.answering.get(view)
        if view not in self._partitions or answering is None:
            known = ", ".join(name for name in self._partitions if name in self._router.ownership.answering)
            raise InvalidRequestError([Violation("view", f"no build of {view!r} answers; of these one does: {known}")])
        return answering

    def _shards(self, view: str, build: int) -> list[ShardName]:
        return [ShardName(build_name(view, build), number) for number in range(self._partitions[view])]

    async def _compare(self, seen: Answering, shard: ShardName) -> build_pb2.Difference:
        async with self._at_once:
            answering = _of_build(shard, seen.build)
            try:
                at = (await look(self._router, answering, None)).position
            except AoristError as error:
                problem = f"{answering} cannot be compared: {error}"
                await self._ready(shard, None)
                return build_pb2.Difference(partition=shard.partition, problem=problem)
            await self._ready(shard, at)
            try:
                return await compare(self._router, answering, shard)
            except AoristError as error:
                # That the new one is not to blame is seen first: an old one that stands still or lags is a reason to go on without it.
                await self._ready(shard, None)
                return build_pb2.Difference(
                    partition=shard.partition, problem=f"{answering} cannot be compared: {error}"
                )

    async def _look(self, seen: Answering, shard: ShardName) -> None:
        """It serves, and is not behind where the one that answers was before. Raises BuildNotReadyError."""
        try:
            at = (await look(self._router, _of_build(shard, seen.build), None)).position
        except AoristError:
            at = None  # nobody knows how far that is
        await self._ready(shard, at)

    async def _ready(self, shard: ShardName, at: object) -> None:
        try:
            await look(self._router, shard, at)  # type: ignore[arg-type]
            if at is None and (behind := (await self._owned())[shard].lag_events) > MOST_BEHIND:
                raise BuildNotReadyError(f"it is {behind} events behind the log")
        except KeyError:
            raise BuildNotReadyError(f"{shard} is not ready to answer: nobody says that it owns it") from None
        except AoristError as error:
            raise BuildNotReadyError(
                f"{shard} is not ready to answer: {error}; `aorist view status` tells how far its build is"
            ) from None

    async def _say(self, view: str, said: Answering, seen: Answering) -> None:
        if not await self._registry.let_answer(view, said, seen):
            raise BuildChangedError(f"another build of {view} was named meanwhile: look at `aorist view status {view}`")
        log.warning("builds are", view=view, answers=said.build, before=said.before, dropped=sorted(said.dropped))


def _named(differences: list[build_pb2.Difference], before: int, now: int) -> str:
    told = "; ".join(in_words(difference, before, now) for difference in differences[:MOST_TOLD])
    more = len(differences) - MOST_TOLD
    return told if more <= 0 else f"{told}; and {more} more partitions"


def _of_build(shard: ShardName, build: int) -> ShardName:
    return shard._replace(view=build_name(view_and_build(shard.view)[0], build))
