"""Composition root: the only file that names both a port and an adapter. One function for each way to run aorist."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog

from aorist.adapters.local import LocalOwnershipRegistry
from aorist.adapters.sqlite import Database, SqliteEventLog, SqliteSnapshotStore
from aorist.declare.project import Project
from aorist.engine.materializer import Materializer
from aorist.engine.ownership import Owner
from aorist.ports import EventLog, Member, OwnershipRegistry, SnapshotStore
from aorist.serve.command_gateway import serve_commands
from aorist.serve.query_gateway import Limits, serve_queries, serve_status
from aorist.serve.routing import Router
from aorist.serve.transport import Listener
from aorist.serve.worker import serve_worker
from aorist.settings import Settings

SWITCH_S = 0.0005
"""How long the fold thread keeps the interpreter while the loop wants it: the default of 5 ms would be each query's delay."""

MOST_STALLED = 1024
"""Threads at hand for what blocks, made when needed. The native transport blocks one for each stream whose client does not read (for a
watch: at the gateway and at the worker). With Python's default of a few, claims, checkpoints and a stop would wait for such clients."""

log = structlog.get_logger()


async def serve_dev(project: Project, settings: Settings, on_ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """All roles in one process on one SQLite file, until `stop` is set. `on_ready` gets the public host:port once everything answers.

    Raises AoristError when it cannot start.
    """
    sys.setswitchinterval(SWITCH_S)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(MOST_STALLED, "aorist"))
    async with AsyncExitStack() as stack:
        database = Database(settings.db)
        stack.callback(database.close)
        events, store = SqliteEventLog(database), SqliteSnapshotStore(database)
        stack.callback(events.close)
        registry = LocalOwnershipRegistry(database.next_revision)
        stack.push_async_callback(registry.close)
        for schema in [d.schema for d in project.views.values()] + [d.schema for d in project.commands]:
            events.create(schema.topic)
        watched = Watched(stop)
        owner, materializer = await stack.enter_async_context(
            _worker(project, settings, events, store, registry, watched)
        )
        listener = await stack.enter_async_context(_gateways(project, settings, events, registry, watched))
        address = await listener.start()
        stack.push_async_callback(listener.stop, settings.drain_s)
        if await watched.unless_stopped(_settled(owner, materializer)):
            await listener.set_serving(serving=not materializer.problems())
            on_ready(address)
            await watched.until_stopped()
        log.info("stopping: draining, then a last checkpoint")


@asynccontextmanager
async def _worker(
    project: Project,
    settings: Settings,
    events: EventLog,
    store: SnapshotStore,
    registry: OwnershipRegistry,
    watched: Watched,
) -> AsyncIterator[tuple[Owner, Materializer]]:
    """A worker for all views of the project: folds what it owns and answers gateways. Leaves with a checkpoint of everything."""
    name = settings.member or f"{socket.gethostname()}-{os.getpid()}"
    materializer = Materializer(project.views.values(), events, store, settings.checkpoint_interval_s)
    listener = Listener(settings.transport, settings.worker_listen, settings.max_message_bytes)
    partitions = {view.name: view.schema.topic.partitions for view in project.views.values()}
    member: Member

    def check_lease() -> None:
        owner.check_lease()

    serve_worker(listener, materializer, check_lease, name)
    bound = await listener.start()
    member = Member(name, settings.advertise or bound, tuple(project.views))
    owner = Owner(registry, member, partitions, materializer)
    materializer.start()
    following = [watched.run(owner.run()), watched.run(materializer.fate.watch())]
    try:
        await listener.set_serving(serving=True)
        yield owner, materializer
    finally:
        for task in following:
            task.cancel()
        await owner.leave()
        await listener.stop(settings.drain_s)
        await materializer.stop()


@asynccontextmanager
async def _gateways(
    project: Project, settings: Settings, events: EventLog, registry: OwnershipRegistry, watched: Watched
) -> AsyncIterator[Listener]:
    """Command and query services of the project on one listener, which the caller starts and stops."""
    listener = Listener(settings.transport, settings.listen, settings.max_message_bytes)
    router = Router(registry)
    limits = Limits(
        settings.max_wait_ms, settings.max_wait_limit_ms, settings.default_page_size, settings.max_page_size
    )
    for commands in project.commands:
        serve_commands(listener, commands, events, settings.max_skew_ms, settings.max_unacknowledged_bytes)
    for queries in project.queries:
        serve_queries(listener, queries, router, limits)
    serve_status(listener, router, {view.name: view.schema.topic.partitions for view in project.views.values()})
    following = watched.run(router.run())
    try:
        yield listener
    finally:
        following.cancel()
        await router.close()


async def _settled(owner: Owner, materializer: Materializer) -> None:
    """Until every shard that is ours can answer, or stands still."""
    await owner.in_step.wait()
    await materializer.settled()


class Watched:
    """Tasks that must not end before the process does: when one fails, the process stops and says why."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._failure: BaseException | None = None

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self._stop.set()

    async def unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Waits for `work`; False, and it is cancelled, when stopped before it is done. Raises as `until_stopped`."""
        working, stopping = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self._failure is not None:
            raise self._failure
        if not working.done():
            working.cancel()
            return False
        working.result()
        return True

    async def until_stopped(self) -> None:
        """Returns when stopped from outside; raises what made a task fail."""
        await self._stop.wait()
        if self._failure is not None:
            raise self._failure
