"""Composition root: the only file that names both a port and an adapter. One function for each way to run aorist."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from aorist.adapters.etcd import EtcdOwnershipRegistry
from aorist.adapters.local import LocalOwnershipRegistry
from aorist.adapters.sqlite import Database, SqliteEventLog, SqliteSeriesStore, SqliteSnapshotStore
from aorist.declare.project import Project
from aorist.engine.materializer import Materializer
from aorist.engine.ownership import Owner
from aorist.errors import SettingError
from aorist.ports import EventLog, Member, OwnershipRegistry, SeriesSpec, SeriesStore, SnapshotStore
from aorist.serve.builds import serve_builds
from aorist.serve.command_gateway import serve_commands
from aorist.serve.metrics import Source, of_listener, of_router, of_worker
from aorist.serve.peers import Peers, serve_heartbeats
from aorist.serve.quarantine import relay_quarantine, serve_quarantine
from aorist.serve.query_gateway import Limits, serve_queries, serve_status
from aorist.serve.readiness import Readiness, WorkerLook
from aorist.serve.routing import Router
from aorist.serve.running import GatewayLook, LogLook, RoutesLook, Watched, as_declared, stay_ready
from aorist.serve.transport import Listener
from aorist.serve.worker import serve_worker
from aorist.settings import Settings

if TYPE_CHECKING:
    from aorist.adapters.cassandra import CassandraSnapshotStore
    from aorist.adapters.kafka import KafkaEventLog
    from aorist.adapters.kafka.topics import KafkaTopics

SWITCH_S = 0.0005
"""How long the fold thread keeps the interpreter while the loop wants it: the default of 5 ms would be each query's delay."""

COLLECT_AFTER = (100_000, 10, 10)
"""Python looks for cycles after every 700 new objects, at a gateway every few calls, among what is in flight and holds none; while a
worker restores, among all that it has read so far. Cycles are rare here (errors with their tracebacks, ended streams). A process that
makes nothing but cycles of 1 kB, some of them kept for a while, swings by 75 MB and does not grow."""

MOST_STALLED = 1024
"""Threads at hand for what blocks, made when needed. The native transport blocks one for each stream whose client does not read (for a
watch: at the gateway and at the worker). With Python's default of a few, claims, checkpoints and a stop would wait for such clients."""

log = structlog.get_logger()
OnReady = Callable[[str], None]


async def serve_dev(project: Project, settings: Settings, on_ready: OnReady, stop: asyncio.Event) -> None:
    """All roles in one process on one SQLite file, until `stop` is set. `on_ready` gets the public host:port once everything answers.

    Raises AoristError when it cannot start; so do all below.
    """
    set_up_process()
    if not project.topics():
        raise SettingError(
            f"{project.root.name} declares nothing to serve: name its role folders under [roles] of aorist.toml"
        )
    async with AsyncExitStack() as stack:
        database = Database(settings.db)
        stack.callback(database.close)
        events, store = SqliteEventLog(database), SqliteSnapshotStore(database)
        series = SqliteSeriesStore(database, project.series())
        stack.callback(events.close)
        registry = LocalOwnershipRegistry(database.next_revision)
        stack.push_async_callback(registry.close)
        for topic in project.topics():
            events.create(topic)
        watched = Watched(stop)
        owner, materializer, readiness, _ = await stack.enter_async_context(
            _worker(project, list(project.views), settings, (events, store, series, registry), watched)
        )
        listener = _listener(settings)
        _add_commands(listener, project, settings, events)
        router = await stack.enter_async_context(_queries(listener, project, settings, registry, watched))
        address = await listener.start()
        stack.push_async_callback(listener.stop, settings.drain_s)
        sources = [
            of_worker(owner, materializer, readiness),
            of_listener(listener),
            of_router(router, _partitions(project)),
        ]
        stack.enter_context(_metrics(settings, sources))
        if await watched.unless_stopped(_settled(owner, materializer)):
            readiness.listeners.append(listener)
            await readiness.look()
            on_ready(address)
            await watched.until_stopped()
            log.info("stopping: draining, then a last checkpoint")


async def serve_command_gateway(project: Project, settings: Settings, on_ready: OnReady, stop: asyncio.Event) -> None:
    """Command services on Kafka. Any number of them may run side by side."""
    set_up_process()
    async with AsyncExitStack() as stack:
        events = open_log(settings)
        stack.callback(events.close)
        listener = _listener(settings)
        _add_commands(listener, project, settings, events)
        stack.enter_context(_metrics(settings, [of_listener(listener)]))
        topics = [commands.schema.topic for commands in project.commands]
        gateway = _Gateway(listener, partial(as_declared, events, topics), LogLook(events, topics))
        await _serve(stack, gateway, settings, on_ready, Watched(stop))


async def serve_query_gateway(project: Project, settings: Settings, on_ready: OnReady, stop: asyncio.Event) -> None:
    """Query services, routed by etcd. Any number of them may run side by side."""
    set_up_process()
    async with AsyncExitStack() as stack:
        registry = open_registry(settings)
        stack.push_async_callback(registry.close)
        watched, listener = Watched(stop), _listener(settings)
        router = await stack.enter_async_context(_queries(listener, project, settings, registry, watched))
        stack.enter_context(_metrics(settings, [of_listener(listener), of_router(router, _partitions(project))]))
        gateway = _Gateway(listener, router.informed, RoutesLook(registry, router))
        await _serve(stack, gateway, settings, on_ready, watched)


async def serve_materializer(
    project: Project, views: Sequence[str], settings: Settings, on_ready: OnReady, stop: asyncio.Event
) -> None:
    """A worker for `views` on Kafka, Cassandra and etcd. `on_ready` gets its address once it answers for all that it should own."""
    set_up_process()
    async with AsyncExitStack() as stack:
        events, store = open_log(settings, readers=len(views)), open_store(settings)
        stack.callback(events.close)
        stack.callback(store.close)
        registry = open_registry(settings)
        stack.push_async_callback(registry.close)
        watched = Watched(stop)
        owner, materializer, readiness, address = await stack.enter_async_context(
            _worker(project, views, settings, (events, store, open_series(store), registry), watched)
        )
        stack.enter_context(_metrics(settings, [of_worker(owner, materializer, readiness)]))
        topics = [project.views[view].schema.topic for view in views]

        async def settled() -> None:
            await as_declared(events, topics)
            await _settled(owner, materializer)

        if await watched.unless_stopped(settled()):
            on_ready(address)
            await watched.until_stopped()
            log.info("stopping: draining, then a last checkpoint")


def set_up_process() -> None:
    """Threads and garbage of the running loop and its process. Everything is imported and declared by now."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    sys.setswitchinterval(SWITCH_S)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(MOST_STALLED, "aorist"))


def open_log(settings: Settings, readers: int = 1) -> KafkaEventLog:
    """The event log that the settings name, for so many readers at a time."""
    with _extra("kafka"):
        from aorist.adapters.kafka import KafkaEventLog
    fetch_bytes = settings.fetch_memory_mb * 2**20 // readers
    return KafkaEventLog(_needed(settings, "kafka"), replicas=settings.replicas, fetch_bytes=fetch_bytes)


def open_store(settings: Settings) -> CassandraSnapshotStore:
    """The snapshot store that the settings name."""
    with _extra("cassandra"):
        from aorist.adapters.cassandra import CassandraSnapshotStore
    return CassandraSnapshotStore(_needed(settings, "cassandra").split(","), settings.keyspace)


def open_series(store: CassandraSnapshotStore) -> SeriesStore:
    """The store of time series beside it, over the same connections, which close with it."""
    return store.series()


def open_registry(settings: Settings) -> EtcdOwnershipRegistry:
    """The ownership registry that the settings name. For the loop that it is used on."""
    return EtcdOwnershipRegistry(_needed(settings, "etcd").split(","), settings.etcd_prefix, settings.lease_s)


@contextmanager
def reading_log(settings: Settings) -> Iterator[EventLog]:
    """For tools: Kafka where it is set, else the file of the embedded mode, which nobody else may have open. Makes neither."""
    with ExitStack() as stack:
        events: EventLog
        if settings.kafka:
            events = open_log(settings)
        else:
            if not Path(settings.db).is_file():
                raise SettingError(
                    f"no kafka is set, and there is no file {settings.db}: give --kafka HOST:PORT or AORIST_KAFKA, or --db PATH"
                )
            database = Database(settings.db)
            stack.callback(database.close)
            events = SqliteEventLog(database)
        stack.callback(events.close)
        yield events


def open_topics(settings: Settings) -> KafkaTopics:
    """The topics of the log that the settings name, to be compared with what is declared."""
    with _extra("kafka"):
        from aorist.adapters.kafka.topics import KafkaTopics
    return KafkaTopics(_needed(settings, "kafka"), settings.replicas)


def apply_schema(settings: Settings, specs: Sequence[SeriesSpec]) -> list[str]:
    """Makes what the stores of snapshots and `specs` lack. Blocks. Returns what it did. Raises StoreUnavailableError, SettingError."""
    with _extra("cassandra"):
        from aorist.adapters import cassandra
    return cassandra.apply_schema(
        _needed(settings, "cassandra").split(","), settings.keyspace, settings.replicas, specs
    )


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """The embedded mode does without the clients of Kafka and Cassandra: they are extras of the package."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise SettingError(f"{error.name} is not installed: install aorist[{name}]") from None


def _needed(settings: Settings, name: str) -> str:
    value: str = getattr(settings, name)
    if not value:
        raise SettingError(
            f"no {name} is set: give --{name} HOST:PORT or AORIST_{name.upper()}, or run `aorist dev`, which needs none"
        )
    return value


@asynccontextmanager
async def _worker(
    project: Project,
    views: Sequence[str],
    settings: Settings,
    ports: tuple[EventLog, SnapshotStore, SeriesStore, OwnershipRegistry],
    watched: Watched,
) -> AsyncIterator[tuple[Owner, Materializer, Readiness, str]]:
    """A worker: folds, answers gateways at the address given, owns its part. Leaves with a checkpoint of everything."""
    events, store, series, registry = ports
    name = settings.member or f"{socket.gethostname()}-{os.getpid()}"
    folded = [project.views[view] for view in views]
    partitions = {view.build_name: view.schema.topic.partitions for view in folded}
    materializer = Materializer(
        folded,
        events,
        store,
        settings.checkpoint_interval_s,
        settings.max_uncheckpointed_events,
        series,
        settings.max_quarantined_keys,
    )
    listener = Listener(settings.transport, settings.worker_listen, settings.max_message_bytes)
    owner: Owner
    readiness: Readiness

    # Its address, and with it the owner, is known once it is bound.
    serve_worker(listener, materializer, lambda: owner.check_lease(), lambda: readiness.problems, name)  # noqa: PLW0108
    serve_quarantine(listener, materializer, lambda: owner.check_lease())  # noqa: PLW0108
    serve_heartbeats(listener)
    bound = await listener.start()
    member = Member(name, settings.advertise or bound, tuple(partitions))
    owner = Owner(registry, member, partitions, materializer, settings.standbys)
    peers = Peers(name, settings.heartbeat_s, settings.suspect_after_s, owner.suspect, owner.trust)
    owner.on_members = peers.follow
    readiness = Readiness(WorkerLook(owner, materializer, settings.max_lag_ms), listener)
    materializer.start()
    following = [watched.run(owner.run()), watched.run(materializer.fate.watch())]
    try:
        following.append(watched.run(readiness.run()))
        yield owner, materializer, readiness, bound
    finally:
        await owner.retire(settings.drain_s)
        peers.close()
        for task in following:
            task.cancel()
        await owner.leave()
        await listener.stop(settings.drain_s)
        await materializer.stop()


def _metrics(settings: Settings, sources: Sequence[Source]) -> AbstractContextManager[None]:
    """Metrics at the address that the settings name, if they name one."""
    if not settings.metrics_listen:
        return nullcontext()
    with _extra("metrics"):
        from aorist.serve.scraping import scraped
    return scraped(settings.metrics_listen, sources)


def _partitions(project: Project) -> dict[str, int]:
    return {view.name: view.schema.topic.partitions for view in project.views.values()}


def _listener(settings: Settings) -> Listener:
    return Listener(settings.transport, settings.listen, settings.max_message_bytes)


def _add_commands(listener: Listener, project: Project, settings: Settings, events: EventLog) -> None:
    for commands in project.commands:
        serve_commands(listener, commands, events, settings.max_skew_ms, settings.max_unacknowledged_bytes)


@asynccontextmanager
async def _queries(
    listener: Listener, project: Project, settings: Settings, registry: OwnershipRegistry, watched: Watched
) -> AsyncIterator[Router]:
    """Adds the query services of the project to `listener`, which the caller starts and stops."""
    router = Router(registry)
    limits = Limits(
        settings.max_wait_ms, settings.max_wait_limit_ms, settings.default_page_size, settings.max_page_size
    )
    for queries in project.queries:
        serve_queries(listener, queries, router, limits)
    serve_status(listener, router, _partitions(project))
    relay_quarantine(listener, router)
    serve_builds(listener, router, registry, _partitions(project))
    following = watched.run(router.run())
    try:
        yield router
    finally:
        following.cancel()
        await router.close()


class _Gateway(NamedTuple):
    """`prepare`: until it is done, health says that it does not serve; what is called anyway fails in its own way. `look`: afterwards."""

    listener: Listener
    prepare: Callable[[], Coroutine[Any, Any, None]]
    look: GatewayLook


async def _serve(
    stack: AsyncExitStack, gateway: _Gateway, settings: Settings, on_ready: OnReady, watched: Watched
) -> None:
    """A gateway, until stopped."""
    listener = gateway.listener
    address = await listener.start()
    stack.push_async_callback(listener.stop, settings.drain_s)
    if await watched.unless_stopped(gateway.prepare()):
        await listener.set_serving(serving=True)
        staying = watched.run(stay_ready(gateway.look, listener))
        stack.callback(staying.cancel)
        on_ready(address)
        await watched.until_stopped()
        log.info("stopping: draining")


async def _settled(owner: Owner, materializer: Materializer) -> None:
    """Until every shard that is ours can answer, or stands still."""
    await owner.settled.wait()
    await materializer.settled()
