"""Routing: from a question to the worker that owns its shard, and again when ownership moves meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import structlog
from grpc_status import rpc_status

from aorist.errors import AoristError, HaltedError, NoOwnerError, OverloadedError, StaleError, UnreachableError
from aorist.ports import Claim, Ownership, OwnershipRegistry
from aorist.position import NOTHING, ShardName
from aorist.serve.errors import RelayedError, is_transient, reason_of
from aorist.v1 import position_pb2, read_pb2, status_pb2, status_pb2_grpc, worker_pb2, worker_pb2_grpc

IN_FLIGHT = 4
"""Calls to one worker at once: the next batch gathers meanwhile."""

BATCH = 128
"""Questions in one call."""

MOST_WAITING = 20_000
"""Questions waiting for one worker before new ones are refused."""

GRACE_S = 0.5
"""How much longer than its questions a call to a worker may take before the worker counts as unreachable."""

AGAIN_S = 0.02
"""Rest before a question is asked again when nothing has changed in the registry."""

log = structlog.get_logger()


class Worker:
    """One worker as the gateway sees it. Questions that wait together travel together."""

    def __init__(self, address: str) -> None:
        self.address = address
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        self._channel = grpc.aio.insecure_channel(address, options=options)
        self._stub = worker_pb2_grpc.WorkerServiceStub(self._channel)
        self._status = status_pb2_grpc.StatusServiceStub(self._channel)
        self._waiting: deque[tuple[worker_pb2.Question, asyncio.Future[worker_pb2.Answer]]] = deque()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._loop = asyncio.get_running_loop()

    async def ask(self, question: worker_pb2.Question) -> worker_pb2.Answer:
        """Its answer, which may be an error. Raises OverloadedError, UnreachableError.

        None waits at the worker in company, where it would hold up the others: one that is too early there is asked again alone.
        """
        if not _may_wait(question):
            return await self._ask_in_company(question)
        at_once = worker_pb2.Question()
        at_once.CopyFrom(question)
        at_once.timeout_ms, at_once.read.on_stale = 0, read_pb2.ON_STALE_FAIL
        answer = await self._ask_in_company(at_once)
        if reason_of(answer.error) in (StaleError.reason, HaltedError.reason):  # may be good enough for `on_stale`
            alone: asyncio.Future[worker_pb2.Answer] = self._loop.create_future()
            await self._send([(question, alone)])
            return await alone
        return answer

    def _ask_in_company(self, question: worker_pb2.Question) -> asyncio.Future[worker_pb2.Answer]:
        if len(self._waiting) >= MOST_WAITING:
            raise OverloadedError(f"{MOST_WAITING} questions wait for {self.address} already: ask again later")
        future: asyncio.Future[worker_pb2.Answer] = self._loop.create_future()
        self._waiting.append((question, future))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pump)
        return future

    def _pump(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._in_flight) < IN_FLIGHT:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            task = self._loop.create_task(self._send(batch))
            self._in_flight.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if self._waiting:
            self._pump()

    async def _send(self, batch: list[tuple[worker_pb2.Question, asyncio.Future[worker_pb2.Answer]]]) -> None:
        request = worker_pb2.AskRequest(questions=[question for question, _ in batch])
        try:
            timeout_s = max(question.timeout_ms for question, _ in batch) / 1000 + GRACE_S
            response = await self._stub.Ask(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(
                        UnreachableError(f"worker {self.address}: {error.code().name}: {error.details()}")
                    )
            return
        for (_, future), answer in zip(batch, response.answers, strict=True):
            if not future.done():
                future.set_result(answer)

    def watch(self, request: worker_pb2.WatchRequest) -> AsyncIterator[worker_pb2.WatchResponse]:
        """The stream as the worker gives it; raises grpc.aio.AioRpcError."""
        return self._stub.Watch(request)  # type: ignore[return-value]  # a call is an async iterator

    async def status(self, timeout_s: float) -> status_pb2.GetStatusResponse:
        return await self._status.GetStatus(status_pb2.GetStatusRequest(), timeout=timeout_s)

    async def close(self) -> None:
        await self._channel.close()


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
            self.ownership = ownership
            self._informed.set()
            self._changed.set()
            self._changed = asyncio.Event()
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
            question.timeout_ms = max(0, int((deadline - time.monotonic()) * 1000))
            try:
                claim = self._claim(shard)
                answer = await self._worker(claim).ask(question)
                if answer.WhichOneof("result") != "error" and answer.epoch >= claim.epoch:
                    return answer
                failure: AoristError = (
                    RelayedError(answer.error) if answer.HasField("error") else NoOwnerError(f"{shard} has moved on")
                )
                if answer.HasField("error") and not is_transient(answer.error):
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
            changed = self._changed
            question.timeout_ms = max(0, int((deadline - time.monotonic()) * 1000))
            try:
                worker = self._worker(self._claim(shard))
                async for answer in worker.watch(
                    worker_pb2.WatchRequest(question=question, min_interval_ms=min_interval_ms)
                ):
                    if answer.epoch >= epoch and (answer.offset > offset or offset == NOTHING):
                        offset, epoch = answer.offset, answer.epoch
                        yield answer.response
                    deadline = time.monotonic() + patience_s
                failure: AoristError = UnreachableError(f"{shard}: the stream ended")
            except grpc.aio.AioRpcError as error:
                failure = _relayed(error, worker.address)
                if isinstance(failure, RelayedError) and not is_transient(failure.status):
                    raise failure from None
            except NoOwnerError as error:
                failure = error
            if not await _before(deadline, changed):
                raise failure
            # the next owner answers from where this one was, or waits until it is there
            seen = position_pb2.Position(topic=question.topic, partition=shard.partition, offset=offset)
            if offset != NOTHING:
                del question.read.at_least[:]
                question.read.at_least.append(seen)

    async def status(self, timeout_s: float) -> list[tuple[str, str, Any]]:
        """(member, address, its answer or the error) of every member."""

        async def one(name: str, address: str) -> tuple[str, str, Any]:
            try:
                return name, address, await self._worker_at(address).status(timeout_s)
            except grpc.aio.AioRpcError as error:
                return name, address, UnreachableError(f"{error.code().name}: {error.details()}")

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


def _may_wait(question: worker_pb2.Question) -> bool:
    read = question.read
    return question.timeout_ms > 0 and (bool(read.at_least) or read.HasField("max_staleness_ms"))


async def _before(deadline: float, changed: asyncio.Event) -> bool:
    """Waits for a change of ownership, or a little; False once `deadline` has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        return False
    with suppress(TimeoutError):  # ask again all the same: not everything that changes is in the registry
        await asyncio.wait_for(changed.wait(), min(AGAIN_S, left))
    return True


def _relayed(error: grpc.aio.AioRpcError, address: str) -> AoristError:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # an error is a call
    if status is not None:
        return RelayedError(status)
    return UnreachableError(f"worker {address}: {error.code().name}: {error.details()}")
