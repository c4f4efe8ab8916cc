"""What the contract suite needs of an adapter beside its port, and one harness for each adapter.

A new adapter joins by one entry in LOGS, STORES, SERIES or REGISTRIES.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from aorist.adapters.local import LocalOwnershipRegistry
from aorist.adapters.sqlite import Database, SqliteEventLog, SqliteSeriesStore, SqliteSnapshotStore
from aorist.ports import EventLog, Fetched, LogReader, OwnershipRegistry, Record, SeriesStore, SnapshotStore
from aorist.position import Partition
from tests.contract.cassandra import cassandra
from tests.contract.etcd import etcd
from tests.contract.kafka import kafka
from tests.contract.series import SPECS

PATIENCE_S = 30.0
"""How long a test waits for what must happen; reached only by one that fails."""

RETENTION_MS = 3_600_000
"""Of the topics whose retention a test forces."""


class LogHarness(Protocol):
    """A log, and what a test does to it that no role may."""

    @property
    def log(self) -> EventLog: ...

    async def reopen(self) -> None:
        """Closes the log and opens it again over what it stored."""
        ...

    def delete_topic(self, name: str) -> None: ...

    def force_retention(self, topic: str) -> None:
        """Returns when every event appended so far is too old and gone."""
        ...

    def force_compaction(self, topic: str) -> None:
        """Returns when of every key appended so far only the newest event is left."""
        ...


class StoreHarness(Protocol):
    @property
    def store(self) -> SnapshotStore: ...

    async def reopen(self) -> None: ...


class SeriesHarness(Protocol):
    """A store of the series of `SPECS`."""

    @property
    def series(self) -> SeriesStore: ...

    async def reopen(self) -> None: ...


class RegistryHarness(Protocol):
    @property
    def registry(self) -> OwnershipRegistry: ...

    async def restart(self) -> None:
        """Ends every session and starts the registry again over what it stored."""
        ...


class SqliteHarness:
    """All ports on one file: the embedded mode."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "aorist.db"
        self._open()

    def _open(self) -> None:
        self.database = Database(self._path)
        self.log = SqliteEventLog(self.database)
        self.store = SqliteSnapshotStore(self.database)
        self.series = SqliteSeriesStore(self.database, SPECS)
        self.registry = LocalOwnershipRegistry(self.database.next_revision)

    async def close(self) -> None:
        await self.registry.close()
        self.series.close()
        self.store.close()
        self.log.close()
        self.database.close()

    async def reopen(self) -> None:
        await self.close()
        self._open()

    async def restart(self) -> None:
        await self.reopen()

    def delete_topic(self, name: str) -> None:
        self.log.delete(name)

    def force_retention(self, topic: str) -> None:
        self.log.maintain(time.time_ns() // 1000 + 2 * RETENTION_MS * 1000)

    def force_compaction(self, topic: str) -> None:
        self.log.maintain(time.time_ns() // 1000)


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[SqliteHarness]:
    harness = SqliteHarness(folder)
    yield harness
    await harness.close()


LOGS: Mapping[str, Callable[[Path], AbstractAsyncContextManager[LogHarness]]] = {"sqlite": sqlite, "kafka": kafka}
STORES: Mapping[str, Callable[[Path], AbstractAsyncContextManager[StoreHarness]]] = {
    "sqlite": sqlite,
    "cassandra": cassandra,
}
SERIES: Mapping[str, Callable[[Path], AbstractAsyncContextManager[SeriesHarness]]] = {
    "sqlite": sqlite,
    "cassandra": cassandra,
}
REGISTRIES: Mapping[str, Callable[[Path], AbstractAsyncContextManager[RegistryHarness]]] = {
    "local": sqlite,
    "etcd": etcd,
}


class Seen:
    """What a reader has returned so far."""

    def __init__(self) -> None:
        self.records: dict[Partition, list[Record]] = {}
        self.last: dict[Partition, Fetched] = {}
        self.leader_epochs: dict[Partition, int] = {}  # of the last event

    def poll(self, reader: LogReader, max_records: int = 1000, timeout_s: float = 0.5) -> list[Fetched]:
        fetched = list(reader.poll(max_records, timeout_s))
        for one in fetched:
            self.records.setdefault(one.partition, []).extend(one.records)
            self.last[one.partition] = one
            if one.records:
                self.leader_epochs[one.partition] = one.leader_epoch
        return fetched

    def caught_up(self, partition: Partition) -> bool:
        last = self.last.get(partition)
        return last is not None and last.next_offset == last.end_offset


def read_to_end(reader: LogReader, partitions: Iterable[Partition], max_records: int = 1000) -> Seen:
    """Polls until the end of all of them was reached."""
    seen = Seen()
    poll_until(
        lambda: all(seen.caught_up(partition) for partition in partitions), lambda: seen.poll(reader, max_records)
    )
    return seen


def poll_until(reached: Callable[[], bool], step: Callable[[], object]) -> None:
    """Repeats a step that itself waits, until what must happen has happened."""
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline, "did not happen in time"
        step()
