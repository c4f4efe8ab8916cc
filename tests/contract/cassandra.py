"""The contract suite's way to a real Cassandra."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from cassandra.cluster import Cluster, Session

from aorist.adapters.cassandra import CassandraSnapshotStore, apply_schema
from aorist.ports import SeriesSpec
from tests.contract.series import SPECS
from tests.servers import shared_cassandra


def new_keyspace() -> str:
    """A name that nobody has."""
    return f"k{uuid4().hex}"


def made_keyspace(address: str, specs: Sequence[SeriesSpec] = ()) -> str:
    """With its tables."""
    name = new_keyspace()
    apply_schema([address], name, 1, specs)
    return name


@cache
def shared_keyspace(address: str) -> str:
    """One for all tests that look at rows alone: each has those of a topic of its own. Making a keyspace takes a second."""
    return made_keyspace(address, SPECS)


@contextmanager
def opened(address: str, keyspace: str, **options: Any) -> Iterator[CassandraSnapshotStore]:
    store = CassandraSnapshotStore([address], keyspace, **options)
    yield store
    store.close()


@contextmanager
def cql_client(address: str) -> Iterator[Session]:
    """A client that shares no code with us."""
    host, _, port = address.partition(":")
    cluster = Cluster([host], port=int(port), protocol_version=5)
    yield cluster.connect()
    cluster.shutdown()


class CassandraHarness:
    def __init__(self, address: str) -> None:
        self._address, self._keyspace = address, shared_keyspace(address)
        self._open()

    def _open(self) -> None:
        self.store = CassandraSnapshotStore([self._address], self._keyspace)
        self.series = self.store.series()

    async def reopen(self) -> None:
        self.store.close()
        self._open()


@asynccontextmanager
async def cassandra(_: Path) -> AsyncIterator[CassandraHarness]:
    address = (await asyncio.to_thread(shared_cassandra)).address
    harness = CassandraHarness(address)
    yield harness
    harness.store.close()
