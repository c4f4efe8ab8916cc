"""Who dies or stands still is suspected, who is heard again is trusted, and who was never heard is left to the lease."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from aorist.ports import Member
from aorist.serve.peers import Peers, serve_heartbeats
from aorist.serve.transport import Listener
from aorist.v1 import peer_pb2, peer_pb2_grpc
from tests.harness.places import PATIENCE_S
from tests.harness.process import until

SILENCE_S = 0.3


class Heard:
    """What was said of members, in order."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self._news = asyncio.Event()

    def suspect(self, name: str) -> None:
        self._say("suspect", name)

    def trust(self, name: str) -> None:
        self._say("trust", name)

    def _say(self, what: str, name: str) -> None:
        self.said.append((what, name))
        self._news.set()

    async def until(self, *said: tuple[str, str]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.said != list(said):
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[Peers, Heard]]:
    heard = Heard()
    peers = Peers("me", 0.02, SILENCE_S, heard.suspect, heard.trust)
    try:
        yield peers, heard
    finally:
        peers.close()


@asynccontextmanager
async def beating(transport: str, address: str = "127.0.0.1:0") -> AsyncIterator[tuple[Listener, str]]:
    """A member that lives until the end of the block, and its address."""
    listener = Listener(transport, address, 1 << 20)
    serve_heartbeats(listener)
    bound = await listener.start()
    try:
        yield listener, bound
    finally:
        await listener.stop(0.0)


async def until_listened_to(listener: Listener, address: str) -> None:
    await until(lambda: bool(listener._calls), "a call for its heartbeats", PATIENCE_S)
    async with grpc.aio.insecure_channel(address) as channel:  # who calls later hears a few beats: so has the other one
        beats = peer_pb2_grpc.PeerServiceStub(channel).Heartbeat(peer_pb2.HeartbeatRequest(interval_ms=20))
        for _ in range(5):
            await beats.read()
        beats.cancel()


class Moody:
    """Beats as long as `alive` is set; keeps its connections when it is not, as a process does that is stopped."""

    def __init__(self) -> None:
        self.alive, self.beats = asyncio.Event(), 0
        self.alive.set()

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """Its address."""
        listener = Listener("grpcio", "127.0.0.1:0", 1 << 20)

        async def heartbeat(_: peer_pb2.HeartbeatRequest) -> AsyncIterator[Any]:
            while True:
                await self.alive.wait()
                yield peer_pb2.HeartbeatResponse()
                self.beats += 1
                await asyncio.sleep(0.02)

        handlers = {"Heartbeat": listener.server_stream(heartbeat, peer_pb2.HeartbeatRequest)}
        listener.add("aorist.v1.PeerService", handlers)
        try:
            yield await listener.start()
        finally:
            await listener.stop(0.0)

    async def heard(self) -> None:
        """Some more beats have gone out."""
        goal = self.beats + 3
        await until(lambda: self.beats >= goal, "beats", PATIENCE_S)


@pytest.mark.parametrize("transport", ["native", "grpcio"])
async def test_a_member_that_goes_away_is_suspect_and_trusted_when_it_is_back(transport: str) -> None:
    async with listening() as (peers, heard):
        async with beating(transport) as (listener, address):
            peers.follow({"me": Member("me", "127.0.0.1:1", ()), "other": Member("other", address, ("v",))})
            await until_listened_to(listener, address)
            assert heard.said == []
        await heard.until(("suspect", "other"))
        async with beating(transport, address):
            await heard.until(("suspect", "other"), ("trust", "other"))


async def test_a_member_that_falls_silent_is_suspect_and_the_next_time_later() -> None:
    moody = Moody()
    async with listening() as (peers, heard), moody.served() as address:
        peers.follow({"other": Member("other", address, ())})
        await moody.heard()
        assert heard.said == []
        moody.alive.clear()
        await heard.until(("suspect", "other"))
        moody.alive.set()
        await heard.until(("suspect", "other"), ("trust", "other"))
        await moody.heard()
        moody.alive.clear()
        silent = time.monotonic()
        await heard.until(("suspect", "other"), ("trust", "other"), ("suspect", "other"))
        assert time.monotonic() - silent >= 1.5 * SILENCE_S  # having been wrong once, it waits longer


async def test_of_a_member_that_was_never_heard_nothing_is_said_until_it_leaves() -> None:
    moody = Moody()
    moody.alive.clear()
    async with listening() as (peers, heard), moody.served() as address:
        never, silent = Member("never", "127.0.0.1:1", ()), Member("silent", address, ())
        peers.follow({"never": never, "silent": silent})
        await asyncio.sleep(2 * SILENCE_S)  # two limits of silence, and no word of it
        assert heard.said == []
        peers.follow({"silent": silent})
        assert heard.said == [("trust", "never")]


async def test_a_suspect_that_leaves_is_suspect_no_more() -> None:
    async with listening() as (peers, heard):
        async with beating("grpcio") as (listener, address):
            peers.follow({"other": Member("other", address, ())})
            await until_listened_to(listener, address)
        await heard.until(("suspect", "other"))
        peers.follow({})
        assert heard.said[-1] == ("trust", "other")
        assert not peers._listening
