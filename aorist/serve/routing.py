"""Routing: from a question to the worker that owns its shard, and again when ownership moves meanwhile.

A question is about a view. Which build of it answers is looked up at each attempt: one that is promoted meanwhile gives the answer.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

import grpc

from aorist.engine.ownership import placement
from aorist.errors import AoristError, HaltedError, NoOwnerError, OverloadedError, UnreachableError
from aorist.ports import Claim, Ownership, OwnershipRegistry
from aorist.position import NOTHING, ShardName, view_and_build
from aorist.serve.errors import RelayedError, is_transient, reason_of
from aorist.serve.links import Worker, answer_of
from aorist.v1 import read_pb2, worker_pb2

OWNER_FIRST_S = 0.05
"""How long an owner that does not answer is waited for before a copy is asked: most moves are over by then."""

COPY_S = 0.2
"""How long a copy may take to be as fresh as asked for, before the owner is looked for again."""

STORE_S = 1.0
"""How long a worker may take to read the last durable snapshot."""

COPY_WATCHED_S = 1.0
"""How long a copy is watched before the owner is looked for again: it may be back under the same claim."""

MOST_COPIES = 3
"""Members asked for a copy, beside the one that is said to be the owner."""

AGAIN_S = 0.02
"""Rest before a question is asked again when nothing has changed in the registry."""


class Router:
    """The gateway's picture of who owns what, kept up by the registry's watch."""

    def __init__(self, registry: OwnershipRegistry) -> None:
        self._registry = registry
        self.ownership = Ownership(revision=0)
        self._workers: dict[str, Worker] = {}
        self._changed = asyncio.Event()
        self._informed = asyncio.Event()

    async def informed(self) -> None:
        """Returns once the registry has been read for the first time."""
        await self._informed.wait()

    async def run(self) -> None:
        """Follows the registry until cancelled."""
        async for ownership in self._registry.watch():
            before, self.ownership = self.ownership, ownership
            self._informed.set()
            self._changed.set()
            self._changed = asyncio.Event()
            for shard, claim in before.claims.items():
                was = before.members.get(claim.member)
                if ownership.claims.get(shard) != claim and was is not None and was.address in self._workers:
                    self._workers[was.address].give_up(shard)
            gone = set(self._workers) - {member.address for member in ownership.members.values()}
            for address in gone:
                await self._workers.pop(address).close()

    async def close(self) -> None:
        for worker in self._workers.values():
            await worker.close()

    async def ask(self, question: worker_pb2.Question, deadline: float) -> worker_pb2.Answer:
        """The owner's answer, or that of a copy while there is none. Asks again until `deadline` (`time.monotonic()`).

        Raises NoOwnerError, UnreachableError, OverloadedError, or RelayedError: what the worker said.
        """
        view, owner, owner_until = question.view, None, 0.0
        while True:
            changed, shard = self._changed, self._answering(view, question.partition)
            question.view = shard.view
            if owner != (shard, self.ownership.claims.get(shard)):
                owner, owner_until = (shard, self.ownership.claims.get(shard)), time.monotonic() + OWNER_FIRST_S
            try:
                claim, worker = self._owner(shard)
                answer = await worker.ask(shard, question, deadline)
                failed = answer.HasField("error")
                if not failed and answer.epoch >= claim.epoch:
                    return answer
                failure: AoristError = RelayedError(answer.error) if failed else NoOwnerError(f"{shard} has moved on")
                outdated = 0 < answer.epoch < claim.epoch  # also that a key is not known
                if failed and not is_transient(answer.error) and not outdated:
                    raise failure
            except (NoOwnerError, UnreachableError) as error:
                failure = error
            now = time.monotonic()
            late = now >= deadline
            in_vain = late or (now >= owner_until and owner == (shard, self.ownership.claims.get(shard)))
            if in_vain and (late or _copy_will_do(question)):
                copied = await self._ask_copies(shard, question, stored=late)
                if copied is not None and copied.HasField("error"):
                    failure = RelayedError(copied.error)
                elif copied is not None and _copy_will_do(question):
                    return copied
            if late:
                raise failure
            await _before(deadline, changed)

    async def _ask_copies(
        self, shard: ShardName, question: worker_pb2.Question, *, stored: bool
    ) -> worker_pb2.Answer | None:
        """Of the first member that has one fresh enough; an error, if a shard stands still: that is why nobody owns it.

        `stored`: else from the last durable snapshot, if any freshness will do.
        """
        halted = None
        copies = self._copies(shard)
        asked = [(worker, _asking(question, standby_will_do=True)) for worker in copies]
        if stored and question.key and question.read.on_stale == read_pb2.ON_STALE_RETURN:
            asked += [(worker, _asking(question, store_will_do=True)) for worker in copies]
        for worker, about in asked:
            patience_s = STORE_S if about.store_will_do else COPY_S
            with suppress(NoOwnerError, UnreachableError, OverloadedError):
                answer = await worker.ask(shard, about, time.monotonic() + patience_s)
                if not answer.HasField("error"):
                    return answer
                if reason_of(answer.error) == HaltedError.reason:
                    halted = answer
        return halted

    def _copies(self, shard: ShardName) -> list[Worker]:
        """Who may have a copy: standbys, and last the owner, which is one while it cannot renew its lease."""
        members, claim = self.ownership.members, self.ownership.claims.get(shard)
        owner = claim.member if claim is not None else ""
        names = [name for name in placement(shard, members.values()) if name != owner][:MOST_COPIES]
        return [self._worker_at(members[name].address) for name in [*names, owner] if name in members]

    async def watch(
        self, question: worker_pb2.Question, min_interval_ms: int, patience_s: float
    ) -> AsyncIterator[bytes]:
        """Answers about one key, now and whenever it changes, across changes of owner and build: positions never go back.

        While there is no owner, a copy is watched. Raises what `ask` raises, when nobody has answered for `patience_s`. What another build
        makes of the same events is told though the position is the same.
        """
        view, told_by = question.view, ""
        deadline, offset, parked = time.monotonic() + patience_s, NOTHING, False
        while True:
            changed, answered, shard = self._changed, False, self._answering(view, question.partition)
            question.view = shard.view
            question.timeout_ms = max(0, int((deadline - time.monotonic()) * 1000))
            request = worker_pb2.WatchRequest(question=question, min_interval_ms=min_interval_ms)
            try:
                async with aclosing(self._watch_once(shard, request)) as answers:
                    async for answer in answers:
                        answered = True
                        rebuilt = told_by not in ("", shard.view) and answer.offset >= offset
                        if answer.offset > offset or offset == NOTHING or rebuilt or (answer.parked and not parked):
                            offset, parked, told_by = max(offset, answer.offset), answer.parked, shard.view
                            yield answer.response
                failure: AoristError = NoOwnerError(f"{shard} has moved on")
            except (NoOwnerError, UnreachableError, RelayedError) as error:
                if isinstance(error, RelayedError) and not is_transient(error.status):
                    raise
                failure = error
            if answered:
                deadline = time.monotonic() + patience_s  # it counts from when the answers stopped
            if not await _before(deadline, changed):
                raise failure
            if offset != NOTHING:  # the next owner answers from where this one was, or waits until it is there
                del question.read.at_least[:]
                question.read.at_least.add(topic=question.topic, partition=shard.partition, offset=offset)

    async def _watch_once(
        self, shard: ShardName, request: worker_pb2.WatchRequest
    ) -> AsyncGenerator[worker_pb2.WatchResponse, None]:
        """What the owner says until it is none any more; then, for a while, what a copy says. Raises what the owner did."""
        try:
            claim, worker = self._owner(shard)
            async with aclosing(self._until_moved(shard, worker, request)) as answers:
                async for answer in answers:
                    if answer.epoch < claim.epoch:
                        return  # it has not heard yet what it answers as, and would say more only when the key changes: asked again
                    yield answer
        except (NoOwnerError, UnreachableError, RelayedError) as error:
            if not _copy_will_do(request.question) or (
                isinstance(error, RelayedError) and not is_transient(error.status)
            ):
                raise
            async with aclosing(self._watch_copies(shard, request)) as answers:
                async for answer in answers:
                    yield answer
            raise

    async def _watch_copies(
        self, shard: ShardName, request: worker_pb2.WatchRequest
    ) -> AsyncGenerator[worker_pb2.WatchResponse, None]:
        """What the first member says that has one."""
        asked = worker_pb2.WatchRequest(
            question=_asking(request.question, standby_will_do=True), min_interval_ms=request.min_interval_ms
        )
        asked.question.timeout_ms = int(COPY_S * 1000)
        for worker in self._copies(shard):
            answered, until = False, time.monotonic() + COPY_WATCHED_S
            with suppress(NoOwnerError, UnreachableError, RelayedError):
                async with aclosing(self._until_moved(shard, worker, asked, until)) as answers:
                    async for answer in answers:
                        answered = True
                        yield answer
            if answered:
                return

    async def _until_moved(
        self, shard: ShardName, worker: Worker, request: worker_pb2.WatchRequest, until: float = math.inf
    ) -> AsyncGenerator[worker_pb2.WatchResponse, None]:
        """What `worker` says, until another one owns the shard, another build answers, or `until` (`time.monotonic()`).

        Raises NoOwnerError, UnreachableError, RelayedError.
        """
        view, _ = view_and_build(shard.view)
        claim = self.ownership.claims.get(shard)
        stream = worker.watch(request)
        coming = asyncio.ensure_future(stream.read())
        try:
            while (self._answering(view, shard.partition), self.ownership.claims.get(shard)) == (shard, claim):
                moving = asyncio.create_task(self._changed.wait())
                left_s = None if until == math.inf else max(0, until - time.monotonic())
                await asyncio.wait((coming, moving), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                moving.cancel()
                if coming.done():
                    answer = answer_of(coming, worker.address)
                    if answer is None:
                        return
                    yield answer
                    coming = asyncio.ensure_future(stream.read())
                elif time.monotonic() >= until:
                    return
        finally:
            stream.cancel()
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    async def status(self, timeout_s: float) -> list[tuple[str, str, Any]]:
        """(member, address, its answer or the error) of every member."""

        async def one(name: str, address: str) -> tuple[str, str, Any]:
            try:
                return name, address, await self._worker_at(address).status(timeout_s)
            except grpc.aio.AioRpcError as error:
                return name, address, UnreachableError(f"{error.code().name}: {error.details()}")
            except grpc.aio.UsageError:
                return name, address, UnreachableError("it has left")
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                return name, address, UnreachableError("it has left")  # its channel was closed meanwhile

        return list(await asyncio.gather(*(one(m.name, m.address) for m in self.ownership.members.values())))

    def workers(self) -> dict[str, Worker]:
        """All members, by name."""
        return {member.name: self._worker_at(member.address) for member in self.ownership.members.values()}

    def owner(self, shard: ShardName) -> Worker:
        """Raises NoOwnerError."""
        return self._owner(shard)[1]

    def _answering(self, view: str, partition: int) -> ShardName:
        return ShardName(self.ownership.answers(view), partition)

    def _owner(self, shard: ShardName) -> tuple[Claim, Worker]:
        """The claim with the epoch that answers have at least: no lower than that of any answer before, of another build either."""
        ownership = self.ownership
        claim = ownership.claims.get(shard)
        if claim is None or claim.member not in ownership.members:
            raise NoOwnerError(f"nobody owns {shard} right now")
        epoch = ownership.epoch(shard, claim.epoch)
        return Claim(claim.member, epoch), self._worker_at(ownership.members[claim.member].address)

    def _worker_at(self, address: str) -> Worker:
        worker = self._workers.get(address)
        if worker is None:
            worker = self._workers[address] = Worker(address)
        return worker


def _copy_will_do(question: worker_pb2.Question) -> bool:
    return question.read.on_stale != read_pb2.ON_STALE_FAIL


def _asking(
    question: worker_pb2.Question, *, standby_will_do: bool = False, store_will_do: bool = False
) -> worker_pb2.Question:
    """The same question, to others than the owner."""
    asked = worker_pb2.Question(standby_will_do=standby_will_do, store_will_do=store_will_do)
    asked.MergeFrom(question)
    return asked


async def _before(deadline: float, changed: asyncio.Event) -> bool:
    """Waits for a change of ownership, or a little; False once `deadline` has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        return False
    with suppress(TimeoutError):  # ask again all the same: not everything that changes is in the registry
        await asyncio.wait_for(changed.wait(), min(AGAIN_S, left))
    return True
