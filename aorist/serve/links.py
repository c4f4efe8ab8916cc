"""The gateway's side of one worker: questions that wait together travel together."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable
from itertools import chain
from typing import Any, TypeAlias

import grpc
from grpc_status import rpc_status

from aorist.errors import HaltedError, NoOwnerError, OverloadedError, QuarantinedError, StaleError, UnreachableError
from aorist.position import ShardName
from aorist.serve.errors import RelayedError, reason_of
from aorist.v1 import quarantine_pb2_grpc, read_pb2, status_pb2, status_pb2_grpc, worker_pb2, worker_pb2_grpc

IN_FLIGHT = 4
"""Calls to one worker at once: the next batch gathers meanwhile."""

BATCH = 128
"""Questions in one call."""

MOST_WAITING = 20_000
"""Questions waiting for one worker before new ones are refused."""

GRACE_S = 0.5
"""How much longer than its questions a call to a worker may take before the worker counts as unreachable."""

STORE_S = 10.0
"""How much longer than its wait for freshness a question about a range of time may take: the store is read for it."""

Answering: TypeAlias = "asyncio.Future[worker_pb2.Answer]"
Asked: TypeAlias = tuple[ShardName, worker_pb2.Question, float, Answering]
"""About which shard, what, until when (`time.monotonic()`) an answer is of use, where it goes. A plain tuple: one for every query."""

Watching: TypeAlias = "grpc.aio.UnaryStreamCall[worker_pb2.WatchRequest, worker_pb2.WatchResponse]"


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
        self._quarantine = quarantine_pb2_grpc.QuarantineServiceStub(self._channel)
        self._status = status_pb2_grpc.StatusServiceStub(self._channel)
        self._waiting: deque[Asked] = deque()
        self._in_flight: dict[asyncio.Task[None], list[Asked]] = {}
        self._alone: dict[asyncio.Task[None], list[Asked]] = {}
        self._scheduled = False
        self._loop = asyncio.get_running_loop()

    def ask(self, shard: ShardName, question: worker_pb2.Question, deadline: float) -> Awaitable[worker_pb2.Answer]:
        """Its answer, which may be an error; NoOwnerError after `give_up`. Raises OverloadedError, UnreachableError."""
        if question.over_range:
            question.timeout_ms = max(0, int((deadline - time.monotonic()) * 1000))
            return self._ask_alone(shard, question, max(deadline, time.monotonic()) + STORE_S)
        if question.HasField("read") and _asks_much(question.read):
            return self._ask_patiently(shard, question, deadline)
        return self._enqueue((shard, question, deadline, self._loop.create_future()))

    async def _ask_patiently(
        self, shard: ShardName, question: worker_pb2.Question, deadline: float
    ) -> worker_pb2.Answer:
        """None waits at the worker in company, where it would hold up the others: one that is too early there is asked again alone."""
        question.timeout_ms = max(0, int((deadline - time.monotonic()) * 1000))
        if question.timeout_ms == 0:
            return await self._enqueue((shard, question, 0, self._loop.create_future()))
        at_once = worker_pb2.Question()
        at_once.CopyFrom(question)
        at_once.timeout_ms, at_once.read.on_stale = 0, read_pb2.ON_STALE_FAIL
        answer = await self._enqueue((shard, at_once, 0, self._loop.create_future()))
        if reason_of(answer.error) not in (StaleError.reason, HaltedError.reason, QuarantinedError.reason):
            return answer
        return await self._ask_alone(shard, question, deadline)  # what there is may be good enough for `on_stale`

    async def _ask_alone(self, shard: ShardName, question: worker_pb2.Question, deadline: float) -> worker_pb2.Answer:
        if len(self._alone) >= MOST_WAITING:
            raise OverloadedError(f"{MOST_WAITING} questions wait at {self.address} already: ask again later")
        answer: Answering = self._loop.create_future()
        alone = (shard, question, deadline, answer)
        sending = self._loop.create_task(self._send([alone]))
        self._alone[sending] = [alone]
        try:
            return await answer
        finally:
            del self._alone[sending]
            sending.cancel()

    def give_up(self, shard: ShardName) -> None:
        """Another owns the shard now: what waits for an answer about it here raises NoOwnerError, to be asked there."""
        for about, _, _, answer in chain(self._waiting, *self._in_flight.values(), *self._alone.values()):
            if about == shard and not answer.done():
                answer.set_exception(NoOwnerError(f"{shard} has moved on from {self.address}"))

    def _enqueue(self, asked: Asked) -> Answering:
        if len(self._waiting) >= MOST_WAITING:
            raise OverloadedError(f"{MOST_WAITING} questions wait for {self.address} already: ask again later")
        self._waiting.append(asked)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pump)
        return asked[-1]

    def _pump(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._in_flight) < IN_FLIGHT:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            batch = [asked for asked in batch if not asked[-1].done()]  # done: given up
            if not batch:
                continue
            task = self._loop.create_task(self._send(batch))
            self._in_flight[task] = batch
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        del self._in_flight[task]
        if self._waiting:
            self._pump()

    async def _send(self, batch: list[Asked]) -> None:
        request = worker_pb2.AskRequest(questions=[question for _, question, _, _ in batch])
        patience_s = max(0, max(deadline for _, _, deadline, _ in batch) - time.monotonic())
        try:
            response = await self._stub.Ask(request, timeout=patience_s + GRACE_S)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.CancelledError) as error:  # the last two: by `close`
            failed = (
                f"{error.code().name}: {error.details()}" if isinstance(error, grpc.aio.AioRpcError) else "it has left"
            )
            for *_, answer in batch:
                if not answer.done():
                    answer.set_exception(UnreachableError(f"worker {self.address}: {failed}"))
            return
        for (_, _, _, answer), given in zip(batch, response.answers, strict=True):
            if not answer.done():
                answer.set_result(given)

    def watch(self, request: worker_pb2.WatchRequest) -> Watching:
        """The stream, to be read. Raises UnreachableError."""
        try:
            return self._stub.Watch(request)
        except grpc.aio.UsageError:  # closed meanwhile
            raise UnreachableError(f"worker {self.address}: it has left") from None

    async def status(self, timeout_s: float) -> status_pb2.GetStatusResponse:
        return await self._status.GetStatus(status_pb2.GetStatusRequest(), timeout=timeout_s)

    async def quarantine(self, method: str, request: Any, timeout_s: float) -> Any:
        """What it says to a call of the quarantine. Raises RelayedError, UnreachableError."""
        return await self._call(getattr(self._quarantine, method), request, timeout_s)

    async def digest(self, request: worker_pb2.DigestRequest, timeout_s: float) -> worker_pb2.DigestResponse:
        """Raises RelayedError, UnreachableError."""
        answer: worker_pb2.DigestResponse = await self._call(self._stub.Digest, request, timeout_s)
        return answer

    async def _call(self, method: Any, request: Any, timeout_s: float) -> Any:
        try:
            return await method(request, timeout=timeout_s)
        except grpc.aio.UsageError:  # closed meanwhile
            raise UnreachableError(f"worker {self.address}: it has left") from None
        except grpc.aio.AioRpcError as error:
            status = rpc_status.from_call(error)  # type: ignore[arg-type]  # an error is a call
            if status is not None:
                raise RelayedError(status) from None
            raise UnreachableError(f"worker {self.address}: {error.code().name}: {error.details()}") from None

    async def close(self) -> None:
        await self._channel.close()


def _asks_much(read: read_pb2.ReadOptions) -> bool:
    return bool(read.at_least) or read.HasField("max_staleness_ms")


def answer_of(coming: asyncio.Future[Any], address: str) -> worker_pb2.WatchResponse | None:
    """What has come; None: the stream has ended. Raises what the worker said, or UnreachableError."""
    try:
        answer = coming.result()
    except asyncio.CancelledError:
        raise UnreachableError(f"worker {address}: it has left") from None  # its channel was closed
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # an error is a call
        if status is not None:
            raise RelayedError(status) from None
        raise UnreachableError(f"worker {address}: {error.code().name}: {error.details()}") from None
    return answer if isinstance(answer, worker_pb2.WatchResponse) else None
