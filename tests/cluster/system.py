"""Systems of many processes: what those of the command line's tests have, and processes that are stopped, die, and come again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from aorist.v1.read_pb2 import ROLE_OWNER
from aorist.v1.status_pb2 import GetStatusRequest, ShardStatus
from aorist.v1.status_pb2_grpc import StatusServiceStub
from stack.process import tied
from tests.cluster.plain import cassandra_tables, kafka_events
from tests.harness.client import channel_to
from tests.harness.log_file import LogFile
from tests.harness.places import AORIST, PATIENCE_S
from tests.harness.process import until
from tests.integration.cli.system import PROJECT, Role, System

STOPPED_S = 30.0 if os.environ.get("AORIST_SOAK") else 8.0
"""How long what is stopped stands still: longer than a lease; in `make soak` also than the patience of every client."""

QUICK = {"AORIST_LEASE_S": "2", "AORIST_CHECKPOINT_INTERVAL_S": "0.1", "AORIST_DRAIN_S": "3"}


class Process(Role):
    """A role that can be stopped and die, of any project."""

    def __init__(self, folder: Path, environment: dict[str, str], project: Path, *arguments: str) -> None:
        self._log, self._port_file = folder.with_suffix(".log"), folder.with_suffix(".address")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                tied([str(AORIST), *arguments, "--port", "0", "--port-file", str(self._port_file)]),
                cwd=project,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def died(self) -> None:
        """Waits for its end at a failpoint."""
        await until(lambda: not self.alive(), "death at the failpoint", PATIENCE_S)
        assert self._process.returncode == -signal.SIGKILL, self.output()

    def lines(self, text: str) -> list[str]:
        """Of its output."""
        return [line for line in self.output().splitlines() if text in line]


class Cluster(System):
    """Its processes write to files of their own, one for each life."""

    project: ClassVar[Path] = PROJECT

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | QUICK

    def role(self, name: str, *arguments: str, **environment: str) -> Process:
        """Starts one. `environment`: for this one only."""
        file = self.folder / f"{name}-{next(self._numbers)}"
        process = Process(file, self.environment | environment, self.project, *arguments)
        self.roles.append(process)
        return process

    def gateways(self) -> tuple[Process, Process]:
        """For commands, and for queries."""
        return self.role("commands", "command-gateway"), self.role("queries", "query-gateway")

    def materializer(self, member: str, *, failpoints: str = "", **environment: str) -> Process:
        failing = {"AORIST_FAILPOINTS": failpoints} if failpoints else {}
        return self.role(member, "materializer", "--member", member, **failing, **environment)

    async def log(self) -> LogFile:
        """What is in the log and in the tables, by plain readers: checkpoints first, as what is read later can only be newer."""
        checkpoints, rows = await asyncio.to_thread(
            cassandra_tables, self.servers.cassandra.address, self.environment["AORIST_KEYSPACE"]
        )
        events, ends = await asyncio.to_thread(kafka_events, self.servers.kafka.address, self.topic, self.partitions)
        return LogFile(events, ends, rows, checkpoints, committed={}, revision=2**62)

    def told(self) -> str:
        """The end of what every process wrote."""
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-2500:]}" for file in files)

    def check_quiet(self) -> None:
        """Nothing unexpected has happened in any process: what was expected is told in a sentence."""
        for file in self.folder.glob("*.log"):
            text = file.read_text(errors="replace")
            assert "Traceback" not in text, f"{file.name}: {text[-5000:]}"


async def status(address: str) -> list[ShardStatus]:
    """Of every shard, once for each process that holds it."""
    async with channel_to(address) as channel:
        return list((await StatusServiceStub(channel).GetStatus(GetStatusRequest(), timeout=PATIENCE_S)).shards)


async def until_status(address: str, condition: Callable[[list[ShardStatus]], bool], what: str) -> list[ShardStatus]:
    """Returns the status of all shards once it meets `condition`."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition(shards := await status(address)):
        assert time.monotonic() < give_up, f"not within {PATIENCE_S:g} s: {what}; {shards}"
        await asyncio.sleep(0.05)
    return shards


def owners(shards: list[ShardStatus]) -> dict[int, str]:
    """Who answers for each partition."""
    return {shard.partition: shard.member for shard in shards if shard.role == ROLE_OWNER and shard.phase == "SERVING"}


async def until_owned(address: str, partitions: int, *members: str) -> None:
    """Every partition is owned, all of `members` own some, and nobody else does."""

    def shared(shards: list[ShardStatus]) -> bool:
        owning = owners(shards)
        return len(owning) == partitions and set(owning.values()) == set(members)

    await until_status(address, shared, f"owned by {members}")
