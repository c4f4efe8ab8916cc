"""Systems of many processes on the servers that all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.system import Cluster
from tests.integration.cli.system import Servers
from tests.servers import shared_cassandra, shared_etcd, shared_kafka


@pytest.fixture(scope="session")
def servers() -> Servers:
    with ThreadPoolExecutor() as pool:
        kafka, cassandra, etcd = pool.submit(shared_kafka), pool.submit(shared_cassandra), pool.submit(shared_etcd)
        return Servers(kafka.result(), cassandra.result(), etcd.result())


@pytest.fixture
def cluster(servers: Servers, tmp_path: Path) -> Iterator[Cluster]:
    """With its topic, keyspace and tables. What it started is killed in the end."""
    own = Cluster(servers, tmp_path)
    own.prepare()
    yield own
    for role in own.roles:
        role.kill()
