"""Routing: from a question to the worker that owns its shard, and again when ownership moves meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

import grpc

from aorist.errors import AoristError, NoOwnerError, UnreachableError
from aorist.ports import Claim, Ownership, OwnershipRegistry
from aorist.position import NOTHING, ShardName
from aorist.serve.errors import RelayedError, is_transient
from aorist.serve.links import Worker, answer_of
from aorist.v1 import worker_pb2

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
        """The owner's answer. While the shard moves, asks again until `deadline` (`time.monotonic()`).

        Raises NoOwnerError, UnreachableError, OverloadedError, or RelayedError: what the worker said.
        """
        shard = ShardName(question.view, question.partition)
        while True:
            changed = self._changed
            try:
                claim = self._claim(shard)
                answer = await self._worker(claim).ask(shard, question, deadline)
                failed = answer.HasField("error")
                if not failed and answer.epoch >= claim.epoch:
                    return answer
                failure: AoristError = RelayedError(answer.error) if failed else NoOwnerError(f"{shard} has moved on")
                outdated = 0 < answer.epoch < claim.epoch  # also that a key is not known
                if failed and not is_transient(answer.error) and not outdated:
                    raise failure
            except (NoOwnerError, UnreachableError) as error:
                failure = error
            if not await _before(deadline, changed):
                raise failure

    async def watch(
        self, question: worker_pb2.Question, min_interval_ms: int, patience_s: float
    ) -> AsyncIterator[bytes]:
        """Answers about one key, now and whenever it changes, across changes of owner: positions never go back.

        Raises what `ask` raises, when nobody has answered for `patience_s`.
        """
        shard = ShardName(question.view, question.partition)
        deadline, offset, epoch = time.monotonic() + patience_s, NOTHING, 0
        while True:
            changed, answered = self._changed, False
            question.timeout_ms = max(0, int((deadline - time.monotonic()) * 1000))
            request = worker_pb2.WatchRequest(question=question, min_interval_ms=min_interval_ms)
            try:
                async with aclosing(self._until_moved(shard, request)) as answers:
                    async for answer in answers:
                        answered = True
                        if answer.epoch >= epoch and (answer.offset > offset or offset == NOTHING):
                            offset, epoch = answer.offset, answer.epoch
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

    async def _until_moved(
        self, shard: ShardName, request: worker_pb2.WatchRequest
    ) -> AsyncGenerator[worker_pb2.WatchResponse, None]:
        """What the owner says, until another one owns the shard. Raises NoOwnerError, UnreachableError, RelayedError."""
        claim = self._claim(shard)
        worker = self._worker(claim)
        stream = worker.watch(request)
        coming = asyncio.ensure_future(stream.read())
        try:
            while True:
                changed = self._changed
                if self.ownership.claims.get(shard) != claim:
                    return
                moving = asyncio.create_task(changed.wait())
                await asyncio.wait((coming, moving), return_when=asyncio.FIRST_COMPLETED)
                moving.cancel()
                if coming.done():
                    answer = answer_of(coming, worker.address)
                    if answer is None:
                        return
                    yield answer
                    coming = asyncio.ensure_future(stream.read())
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
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                return name, address, UnreachableError("it has left")  # its channel was closed meanwhile

        return list(await asyncio.gather(*(one(m.name, m.address) for m in self.ownership.members.values())))

    def _claim(self, shard: ShardName) -> Claim:
        claim = self.ownership.claims.get(shard)
        if claim is None or claim.member not in self.ownership.members:
            raise NoOwnerError(f"nobody owns {shard} right now")
        return claim

    def _worker(self, claim: Claim) -> Worker:
        return self._worker_at(self.ownership.members[claim.member].address)

    def _worker_at(self, address: str) -> Worker:
        worker = self._workers.get(address)
        if worker is None:
            worker = self._workers[address] = Worker(address)
        return worker


async def _before(deadline: float, changed: asyncio.Event) -> bool:
    """Waits for a change of ownership, or a little; False once `deadline` has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        return False
    with suppress(TimeoutError):  # ask again all the same: not everything that changes is in the registry
        await asyncio.wait_for(changed.wait(), min(AGAIN_S, left))
    return True
