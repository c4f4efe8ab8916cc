"""`serve_dev` inside the test's own process: quick to start, and its insides can be looked at."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio

from aorist.app import serve_dev
from aorist.declare import Project, load_project
from aorist.engine.shard import Phase, Shard
from aorist.settings import Settings
from fleet.arms.v1.commands_pb2_grpc import ArmCommandServiceStub
from fleet.arms.v1.queries_pb2_grpc import ArmQueryServiceStub
from tests.harness.client import channel_to
from tests.harness.log_file import LogFile
from tests.harness.places import PATIENCE_S, ROOT

if TYPE_CHECKING:  # they exist for type checkers only
    from fleet.arms.v1.commands_pb2_grpc import ArmCommandServiceAsyncStub
    from fleet.arms.v1.queries_pb2_grpc import ArmQueryServiceAsyncStub


@cache
def project() -> Project:
    return load_project(ROOT)


@dataclass(frozen=True)
class Served:
    """A running server and a client of it."""

    address: str
    settings: Settings
    channel: grpc.aio.Channel
    commands: ArmCommandServiceAsyncStub
    queries: ArmQueryServiceAsyncStub
    stop: asyncio.Event
    serving: asyncio.Task[None]

    def log_file(self) -> LogFile:
        return LogFile.of(Path(self.settings.db))


@asynccontextmanager
async def served(folder: Path, **settings: object) -> AsyncIterator[Served]:
    """Serves the project on a file of its own until the end of the block; it must then stop without an error."""
    given = {"listen": "127.0.0.1:0", "db": str(folder / "dev.db"), "member": "tested", "drain_s": 3.0} | settings
    chosen = Settings(**given)  # type: ignore[arg-type]  # tests know the types
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    serving = asyncio.create_task(serve_dev(project(), chosen, address.set_result, stop))
    either: set[asyncio.Future[Any]] = {serving, address}
    await asyncio.wait(either, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    if not address.done():
        await serving
    try:
        async with channel_to(address.result()) as channel:
            yield Served(
                address.result(),
                chosen,
                channel,
                ArmCommandServiceStub(channel),
                ArmQueryServiceStub(channel),
                stop,
                serving,
            )
    finally:
        stop.set()
        await asyncio.wait_for(serving, PATIENCE_S)


def live_shards() -> list[Shard]:
    """Those held in this process."""
    # by type: isinstance also asks what weak proxies of other tests stand for, which may be gone
    return [o for o in gc.get_objects() if type(o) is Shard and o.phase is not Phase.CLOSED]
