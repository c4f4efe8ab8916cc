"""Listeners: gRPC servers on `native` (fast, plaintext) or `grpcio` (the fallback), with health, reflection and draining.

Handlers get parsed messages and raise AoristError; everything else about calls is here. They are registered by method, never as generic
handlers: those silently take the slow way behind the native server.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from aorist.errors import AoristError, InvalidRequestError, SettingError, ShuttingDownError, Violation
from aorist.serve.errors import RelayedError, abort, reason_of

log = structlog.get_logger()
M = TypeVar("M", bound=Message)
Unary = Callable[[Any], Awaitable[Message | bytes]]
ServerStream = Callable[[Any], AsyncIterator[Message | bytes]]
BothStream = Callable[[AsyncIterator[Any]], AsyncIterator[Message]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Counts: TypeAlias = "defaultdict[str, int]"


class BugError(AoristError):
    """Something that should not happen; the server's log has the traceback."""

    reason = "BUG"


class Listener:
    """One address, its services and the calls in flight."""

    def __init__(self, transport: str, address: str, max_message_bytes: int) -> None:
        self._address = address
        self._draining = asyncio.Event()
        self._calls = _Calls()
        self._services: list[str] = []
        self.counts: dict[tuple[str, str], Counts] = {}
        """Of metrics, by the type of the request."""
        self._health = health.aio.HealthServicer()
        options = [
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # two processes on one port would share its calls, silently
        ]
        self._server = _server(transport, options)

    def add(self, service: str, handlers: dict[str, Handler]) -> None:
        """Serves `handlers`, by method name, as `service`. Before `start`."""
        self._services.append(service)
        self._server.add_registered_method_handlers(service, handlers)

    async def start(self) -> str:
        """Returns host:port as bound. Raises SettingError when the address cannot be had."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME]
        # enable_server_reflection does not know the native server's type
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(ReflectionServicer(names), self._server)
        host = self._address.rpartition(":")[0]
        try:
            port = self._server.add_insecure_port(self._address)
            await self._server.start()
        except (RuntimeError, OSError) as error:
            raise SettingError(
                f"cannot listen on {self._address} ({error}): is another process there? choose another port, or 0 for any"
            ) from None
        await self.set_serving(serving=False)
        return f"{host}:{port}"

    async def set_serving(self, *, serving: bool) -> None:
        """What health checks see, for the server as a whole and for each service."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *self._services):
            await self._health.set(service, status)

    async def stop(self, drain_s: float) -> None:
        """NOT_SERVING; no new calls; those in flight get `drain_s` to end, streams are asked to end now; then the port is closed."""
        await self._health.enter_graceful_shutdown()
        self._draining.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._calls.ended(), drain_s)
        await self._server.stop(1.0)

    def counting(self, metric: str, request: type[Message]) -> Counts:
        """Where calls with `request` are counted, by how they ended or what became of what is in them."""
        return self.counts.setdefault((metric, request.DESCRIPTOR.full_name), defaultdict(int))

    # --- handlers ---

    def unary(self, function: Unary, request: type[Message]) -> Handler:
        """One request, one answer (a message, or its bytes)."""
        counts = self.counting("aorist_calls_total", request)

        async def call(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Message | bytes:
            with self._calls:
                try:
                    self._check_open()
                    answer = await function(_parse(request, data))
                    counts["OK"] += 1
                    return answer
                except Exception as error:  # noqa: BLE001  # whatever it is, the caller is told and the log has it
                    await _fail(context, error, counts)

        return grpc.unary_unary_rpc_method_handler(call, None, _bytes)

    def server_stream(self, function: ServerStream, request: type[Message]) -> Handler:
        """One request, many answers. Ends with SHUTTING_DOWN when the listener drains."""
        counts = self.counting("aorist_calls_total", request)

        async def call(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Message | bytes]:
            with self._calls:
                try:
                    self._check_open()
                    async for answer in self._until_draining(function(_parse(request, data))):
                        yield answer
                    self._check_open()
                    counts["OK"] += 1
                except Exception as error:  # noqa: BLE001  # whatever it is, the caller is told and the log has it
                    await _fail(context, error, counts)

        return grpc.unary_stream_rpc_method_handler(call, None, _bytes)

    def both_stream(self, function: BothStream, request: type[Message]) -> Handler:
        """Many requests, many answers. When the listener drains, requests end; the answers to what was read still go out."""
        counts = self.counting("aorist_calls_total", request)

        async def call(
            data: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
        ) -> AsyncIterator[Message]:
            async def requests() -> AsyncIterator[Message]:
                async for one in self._until_draining(data):
                    yield _parse(request, one)

            with self._calls:
                try:
                    self._check_open()
                    async for answer in function(requests()):
                        yield answer
                    self._check_open()
                    counts["OK"] += 1
                except Exception as error:  # noqa: BLE001  # whatever it is, the caller is told and the log has it
                    await _fail(context, error, counts)

        return grpc.stream_stream_rpc_method_handler(call, None, _bytes)

    def _check_open(self) -> None:
        if self._draining.is_set():
            raise ShuttingDownError("this process is shutting down: connect again, to another one or to its successor")

    async def _until_draining(self, items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """`items`, until they end or the listener drains. Whatever `items` waits for is cancelled when nobody follows any more."""
        draining = asyncio.create_task(self._draining.wait())
        coming: asyncio.Future[Any] = draining
        following = aiter(items)
        try:
            while True:
                coming = asyncio.ensure_future(anext(following))
                await asyncio.wait((coming, draining), return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    return
                try:
                    yield coming.result()
                except StopAsyncIteration:
                    return
        finally:
            draining.cancel()
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


class _Calls:
    """Counts calls in flight: entered and left around each, however it ends."""

    def __init__(self) -> None:
        self._count = 0
        self._none_left: asyncio.Future[None] | None = None

    async def ended(self) -> None:
        """Returns once none is in flight."""
        if self._count:
            self._none_left = asyncio.get_running_loop().create_future()
            await self._none_left

    def __enter__(self) -> None:
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count and self._none_left is not None and not self._none_left.done():
            self._none_left.set_result(None)


def _server(transport: str, options: Iterable[tuple[str, Any]]) -> Any:
    if transport == "grpcio":
        return grpc.aio.server(options=list(options))
    if transport == "native":
        import pygrpc_native.aio  # noqa: PLC0415  # only where it serves

        return pygrpc_native.aio.server(options=list(options))
    raise SettingError(f"transport is `{transport}`: there are `native` and `grpcio`")


def _bytes(answer: Message | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def _parse(request: type[M], data: bytes) -> M:
    try:
        return request.FromString(data)
    except DecodeError as error:
        raise InvalidRequestError([Violation("", f"not a {request.DESCRIPTOR.full_name}: {error}")]) from None


async def _fail(context: grpc.aio.ServicerContext[Any, Any], error: Exception, counts: Counts) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, AoristError):
        log.error("a call failed in a way it should not", exc_info=error)
        error = BugError(f"{type(error).__name__}: see the server's log")
    counts[reason_of(error.status) if isinstance(error, RelayedError) else error.reason] += 1
    await abort(context, error)
