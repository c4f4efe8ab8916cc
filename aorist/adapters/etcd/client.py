"""The calls to etcd, on whichever of its endpoints answers. Each has a deadline; streams are watched by those who hold them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar, cast

import grpc
import grpc.aio

from aorist.adapters.etcd.v3 import rpc_pb2 as pb
from aorist.errors import RegistryUnavailableError, SettingError, ShuttingDownError

ATTEMPT_S = 1.0
"""For one answer from one endpoint: a thousand times the usual, and short enough for a second try within the least lease."""

CALL_S = 3.0
"""For an answer from any of them, where asking again does no harm."""

PAUSE_S = 0.05
"""Between attempts: a refused connection fails at once."""

REFUSALS = frozenset(
    {
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""Answers of an etcd that is well. Any other error leaves open whether the call was carried out."""

OPTIONS = (
    # Pings notice a server that has stopped; calls and streams do so sooner, by their own deadlines, and this ends the connection under
    # them. etcd takes more than one ping in 5 s for abuse. grpcio acts on a missing answer only with all three.
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 1_000),
    ("grpc.http2.ping_timeout_ms", 1_000),
    # Without it pings stop where only the server talks, as on a quiet watch.
    ("grpc.http2.max_pings_without_data", 0),
    # A server that is back is seen within a second, not within the default two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # The registry in one answer, or many changes in one, pass the default of 4 MiB at some ten thousand shards.
    ("grpc.max_receive_message_length", -1),
)

LEADER = (("hasleader", "true"),)
"""Makes a member that has lost its leader fail calls and end streams, instead of keeping them in the dark."""

BROKEN = (grpc.aio.AioRpcError, TimeoutError, EOFError, asyncio.InvalidStateError)
"""How a stream ends: with an error, in silence, in good order, or before what is being written."""

Q = TypeVar("Q")
A = TypeVar("A")
Unary = grpc.aio.UnaryUnaryMultiCallable
Streams = grpc.aio.StreamStreamMultiCallable
Stream = grpc.aio.StreamStreamCall


class Endpoint:
    """One member of etcd, or one name for several."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        self.range: Unary[pb.RangeRequest, pb.RangeResponse] = channel.unary_unary(
            "/etcdserverpb.KV/Range", pb.RangeRequest.SerializeToString, pb.RangeResponse.FromString
        )
        self.txn: Unary[pb.TxnRequest, pb.TxnResponse] = channel.unary_unary(
            "/etcdserverpb.KV/Txn", pb.TxnRequest.SerializeToString, pb.TxnResponse.FromString
        )
        self.grant: Unary[pb.LeaseGrantRequest, pb.LeaseGrantResponse] = channel.unary_unary(
            "/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest.SerializeToString, pb.LeaseGrantResponse.FromString
        )
        self.revoke: Unary[pb.LeaseRevokeRequest, pb.LeaseRevokeResponse] = channel.unary_unary(
            "/etcdserverpb.Lease/LeaseRevoke",
            pb.LeaseRevokeRequest.SerializeToString,
            pb.LeaseRevokeResponse.FromString,
        )
        self.keep_alive: Streams[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse] = channel.stream_stream(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            pb.LeaseKeepAliveRequest.SerializeToString,
            pb.LeaseKeepAliveResponse.FromString,
        )
        self.watch: Streams[pb.WatchRequest, pb.WatchResponse] = channel.stream_stream(
            "/etcdserverpb.Watch/Watch", pb.WatchRequest.SerializeToString, pb.WatchResponse.FromString
        )


class Client:
    """Used on one event loop. Stays with one endpoint until that fails, then goes on to the next."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        if not endpoints:
            raise SettingError("no etcd endpoint is set: give at least one host:port")
        self._endpoints = [Endpoint(address) for address in endpoints]
        self._closed = False

    @property
    def endpoint(self) -> Endpoint:
        """The one to ask."""
        if self._closed:
            raise ShuttingDownError("the ownership registry is closed")
        return self._endpoints[0]

    def leave(self, endpoint: Endpoint) -> None:
        """Turns from one that does not answer well to the next, unless somebody did already."""
        if self._endpoints[0] is endpoint:
            self._endpoints.append(self._endpoints.pop(0))

    async def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        """A linearizable read. Raises RegistryUnavailableError."""
        return await self._insist(lambda endpoint: endpoint.range, request)

    async def txn(self, request: pb.TxnRequest) -> pb.TxnResponse:
        """Tries once: after RegistryUnavailableError the transaction may have been carried out, or may be yet."""
        return await self._attempt(lambda endpoint: endpoint.txn, request)

    async def grant(self, request: pb.LeaseGrantRequest) -> pb.LeaseGrantResponse:
        """A new lease. One whose answer was lost ends by itself. Raises RegistryUnavailableError."""
        return await self._insist(lambda endpoint: endpoint.grant, request)

    async def revoke(self, request: pb.LeaseRevokeRequest) -> None:
        """Ends a lease and deletes what is bound to it, unless that has happened. Raises RegistryUnavailableError."""
        try:
            await self._insist(lambda endpoint: endpoint.revoke, request)
        except SettingError as refusal:
            if refusal.metadata["code"] != grpc.StatusCode.NOT_FOUND.name:
                raise

    @asynccontextmanager
    async def stream(self, method: Callable[[Endpoint], Streams[Q, A]]) -> AsyncIterator[Stream[Q, A]]:
        """A stream to one endpoint, to be read with `hear`. Whatever breaks it raises RegistryUnavailableError."""
        endpoint = self.endpoint
        call = method(endpoint)(metadata=LEADER)
        try:
            yield call
        except BROKEN as error:
            self.leave(endpoint)
            raise unavailable(endpoint, error) from error
        finally:
            call.cancel()

    async def close(self) -> None:
        """Calls still under way raise ShuttingDownError."""
        self._closed = True
        for endpoint in self._endpoints:
            await endpoint.channel.close()

    async def _insist(self, method: Callable[[Endpoint], Unary[Q, A]], request: Q) -> A:
        deadline = time.monotonic() + CALL_S
        while True:
            try:
                return await self._attempt(method, request)
            except RegistryUnavailableError:
                if time.monotonic() + PAUSE_S >= deadline:
                    raise
            await asyncio.sleep(PAUSE_S)

    async def _attempt(self, method: Callable[[Endpoint], Unary[Q, A]], request: Q) -> A:
        endpoint = self.endpoint
        try:
            return await method(endpoint)(request, timeout=ATTEMPT_S, metadata=LEADER)
        except grpc.aio.AioRpcError as error:
            if error.code() in REFUSALS:
                raise SettingError(
                    f"etcd at {endpoint.address} refuses: {error.details()}", code=error.code().name
                ) from error
            self.leave(endpoint)
            raise unavailable(endpoint, error) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and not (
                task and task.cancelling()
            ):  # not the caller was cancelled, but the call, by `close`
                raise ShuttingDownError("the ownership registry is closed") from None
            raise


async def hear(call: Stream[Q, A], timeout_s: float) -> A:
    """The next message of a stream. Without one in time the stream is over."""
    async with asyncio.timeout(timeout_s):
        answer = await call.read()
    if answer is grpc.aio.EOF:
        raise EOFError("the stream has ended")
    return cast("A", answer)


def unavailable(endpoint: Endpoint, error: Exception) -> RegistryUnavailableError:
    """What to tell of a call or stream that broke or took too long."""
    why = str(error) or "no answer in time"
    if isinstance(error, grpc.aio.AioRpcError):
        why = error.details() or error.code().name
    return RegistryUnavailableError(f"etcd at {endpoint.address} is away: {why}", endpoint=endpoint.address)
