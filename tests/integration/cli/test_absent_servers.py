"""Roles that are started before their servers: they stay, say what they wait for, and are ready once it is there."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.integration.cli.system import System
from tests.integration.cli.test_roles import answers, counted, report


@pytest.fixture
def nothing_runs(system: System) -> Iterator[System]:
    """A system that is prepared, and whose servers are killed. They run again in the end."""
    system.prepare()
    everything = (*system.servers.kafka.brokers, system.servers.cassandra, system.servers.etcd)
    for server in everything:
        server.kill()
    yield system
    for server in everything:
        if not server.running:
            server.start()


async def test_each_server_is_waited_for(nothing_runs: System) -> None:
    system, servers = nothing_runs, nothing_runs.servers
    began = time.monotonic()
    gateway, asked, folding = (system.start(role) for role in ("command-gateway", "query-gateway", "materializer"))
    for role, missing in (
        (gateway, servers.kafka),
        (asked, servers.etcd),
        (folding, servers.etcd),
        (folding, servers.kafka),
    ):
        await role.says(missing.address)

    servers.kafka.start()
    commands = await gateway.ready()
    positions = await report(commands, 0)
    assert not asked.is_ready()

    servers.etcd.start()
    queries = await asked.ready()
    await folding.says(servers.cassandra.address)
    assert not folding.is_ready()

    servers.cassandra.start()
    await folding.ready()
    assert await answers(queries, positions) == counted(system.samples())
    for role in (gateway, asked, folding):
        assert "Traceback" not in role.output()
        assert len(role.output().splitlines()) < 50 + 5 * (time.monotonic() - began), (
            role.output()
        )  # clients would say 40 a second
        await role.stop()
