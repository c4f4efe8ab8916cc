"""The contract suite's way to a real etcd."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self
from uuid import uuid4

from aorist.adapters.etcd import EtcdOwnershipRegistry
from aorist.ports import Member, Ownership
from stack.etcd import Etcd
from tests.servers import shared_etcd

PATIENCE_S = 30.0
"""How long a test waits for what must happen; reached only by one that fails."""


def member(name: str) -> Member:
    return Member(name, f"{name}.example:7000", ("view@1", "other@1"))


class EtcdHarness:
    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd
        self._prefix = f"/{uuid4().hex}"
        self._open()

    def _open(self) -> None:
        self.registry = EtcdOwnershipRegistry([self._etcd.address], self._prefix)

    async def restart(self) -> None:
        """With the server killed: its sessions have been left, its revisions are on disk."""
        await self.registry.close()
        await asyncio.to_thread(self._etcd.kill)
        await asyncio.to_thread(self._etcd.start)
        self._open()


@asynccontextmanager
async def etcd(_: Path) -> AsyncIterator[EtcdHarness]:
    harness = EtcdHarness(await asyncio.to_thread(shared_etcd))
    yield harness
    await harness.registry.close()


async def until(watch: AsyncIterator[Ownership], reached: Callable[[Ownership], bool]) -> Ownership:
    """The first state that is as it must become."""
    async with asyncio.timeout(PATIENCE_S):
        async for state in watch:
            if reached(state):
                return state
    raise AssertionError("the watch ended")


def compact(etcd: Etcd, revision: int) -> None:
    """Has etcd forget everything before `revision`."""
    link = http.client.HTTPConnection(etcd.address, timeout=10)
    try:
        link.request("POST", "/v3/kv/compaction", json.dumps({"revision": revision, "physical": True}))
        answer = link.getresponse()
        assert answer.status == 200, answer.read()
    finally:
        link.close()


class Proxy:
    """A way to a server that can be cut, or made to swallow what one side says."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.partition(":")
        self._port = int(port)
        self._pipes: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Future[tuple[None, None]]] = set()
        self._open = asyncio.Event()
        self._answers = asyncio.Event()
        self._answers.set()
        self._server: asyncio.Server | None = None
        self.address = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._open.set()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        self._answers.set()  # what waits there ends
        await asyncio.gather(*self._serving)

    def hold_answers(self) -> None:
        """From now on the server hears, and is not heard."""
        self._answers.clear()

    def cut(self) -> None:
        """Breaks all connections, and new ones at once, until `mend`."""
        self._open.clear()
        for pipe in self._pipes:
            pipe.transport.abort()
        self._pipes.clear()

    def mend(self) -> None:
        self._answers.set()
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open.is_set():
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        self._pipes |= {writer, server_writer}
        both = asyncio.gather(self._pump(reader, server_writer, None), self._pump(server_reader, writer, self._answers))
        self._serving.add(both)
        both.add_done_callback(self._serving.discard)
        await both

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event | None
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                if gate is not None:
                    await gate.wait()
                writer.write(data)
                await writer.drain()
        writer.close()
        self._pipes.discard(writer)
