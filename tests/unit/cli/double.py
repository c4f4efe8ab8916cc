"""Doubles: a gateway that answers what a test tells it to, over real gRPC; a server that only says that it is ready."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import status_pb2
from grpc_status import rpc_status

from aorist.settings import Settings
from aorist.v1 import position_pb2, read_pb2
from aorist.v1 import status_pb2 as shards_pb2
from aorist.v1 import status_pb2_grpc as shards_grpc
from fleet.arms.v1 import queries_pb2, queries_pb2_grpc

TOPIC = "fleet.arms.v1"

PATIENCE_S = 20
"""For what should take no time: so that a fault fails a test instead of holding it."""

Context = grpc.ServicerContext


def arm(arm_id: str, *positions: float) -> queries_pb2.ArmPosition:
    """An arm with axes 0, 1, ... at these positions."""
    axes = [queries_pb2.AxisReading(axis=i, position=p, sampled_at_us=1_000_000 + i) for i, p in enumerate(positions)]
    return queries_pb2.ArmPosition(arm_id=arm_id, axes=axes)


def header(partition: int = 0, offset: int = 41, lag_ms: int = 7, role: int = read_pb2.ROLE_OWNER) -> Any:
    position = position_pb2.Position(topic=TOPIC, partition=partition, offset=offset)
    return read_pb2.ReadHeader(position=position, lag_events=2, lag_ms=lag_ms, epoch=5, role=role)  # type: ignore[arg-type]


def refuse(context: Context, code: grpc.StatusCode, message: str, *details: Any) -> None:
    """Ends a call as gateways do: a google.rpc.Status with details."""
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    context.abort_with_status(rpc_status.to_status(status))


class Arms(queries_pb2_grpc.ArmQueryServiceServicer, shards_grpc.StatusServiceServicer):
    """Answers come from the functions that a test puts in; `asked` has every request. `gone`: set to end open streams."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.gone = threading.Event()
        self.get: Callable[[Any, Context], Any] = self._unexpected
        self.list: Callable[[Any, Context], Any] = self._unexpected
        self.watch: Callable[[Any, Context], Iterator[Any]] = self._unexpected
        self.shards: list[shards_pb2.ShardStatus] = []
        self.members: list[shards_pb2.MemberStatus] = []

    @staticmethod
    def _unexpected(request: Any, context: Context) -> Any:
        refuse(context, grpc.StatusCode.INTERNAL, f"the test expects no {type(request).__name__}")

    def GetArmPosition(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.asked.append(request)
        return self.get(request, context)

    def ListArmPositions(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.asked.append(request)
        return self.list(request, context)

    def WatchArmPosition(self, request: Any, context: Context) -> Iterator[Any]:  # noqa: N802
        self.asked.append(request)
        yield from self.watch(request, context)

    def GetStatus(self, request: Any, context: Context) -> Any:  # noqa: N802
        return shards_pb2.GetStatusResponse(shards=self.shards, members=self.members)


class Gateway:
    """Where `arms` is served."""

    def __init__(self, arms: Arms) -> None:
        self.arms = arms
        self._server = grpc.server(ThreadPoolExecutor(4))
        queries_pb2_grpc.add_ArmQueryServiceServicer_to_server(arms, self._server)
        shards_grpc.add_StatusServiceServicer_to_server(arms, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self.arms.gone.set()
        self._server.stop(None).wait()


@dataclass
class Server:
    """In place of the composition root. `serves`: runs once ready; without it, waits to be stopped. `views`: of a materializer."""

    address: str = "127.0.0.1:4711"
    settings: list[Settings] = field(default_factory=list)
    views: list[str] = field(default_factory=list)
    stopped: bool = False
    serves: Callable[[asyncio.Event], Awaitable[None]] | None = None

    async def serve_dev(
        self, project: Any, settings: Settings, on_ready: Callable[[str], None], stop: asyncio.Event
    ) -> None:
        self.settings.append(settings)
        on_ready(self.address)
        if self.serves is not None:
            await self.serves(stop)
        async with asyncio.timeout(PATIENCE_S):
            await stop.wait()
        self.stopped = True

    serve_command_gateway = serve_query_gateway = serve_dev

    async def serve_materializer(
        self,
        project: Any,
        views: Sequence[str],
        settings: Settings,
        on_ready: Callable[[str], None],
        stop: asyncio.Event,
    ) -> None:
        self.views = list(views)
        await self.serve_dev(project, settings, on_ready, stop)
