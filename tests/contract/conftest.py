"""The ports' adapters under test, each in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from aorist.adapters.sqlite import Database, SqliteEventLog
from aorist.ports import TopicSpec
from tests.contract.harness import (
    LOGS,
    REGISTRIES,
    RETENTION_MS,
    SERIES,
    STORES,
    LogHarness,
    RegistryHarness,
    SeriesHarness,
    StoreHarness,
)


@pytest.fixture(params=LOGS)
async def logs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LogHarness]:
    async with LOGS[request.param](tmp_path) as harness:
        yield harness


@pytest.fixture(params=STORES)
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StoreHarness]:
    async with STORES[request.param](tmp_path) as harness:
        yield harness


@pytest.fixture(params=SERIES)
async def series_stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SeriesHarness]:
    async with SERIES[request.param](tmp_path) as harness:
        yield harness


@pytest.fixture(params=REGISTRIES)
async def registries(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RegistryHarness]:
    async with REGISTRIES[request.param](tmp_path) as harness:
        yield harness


@pytest.fixture
def topic() -> str:
    """A name of its own for every test: servers are shared between tests."""
    return f"topic-{uuid4().hex}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of an embedded database, for what only that adapter promises."""
    return tmp_path / "aorist.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = Database(path)
    yield database
    database.close()


@pytest.fixture
def log(database: Database) -> SqliteEventLog:
    """With a topic `topic` of two partitions."""
    log = SqliteEventLog(database)
    log.create(TopicSpec("topic", 2, retention_ms=RETENTION_MS))
    return log
