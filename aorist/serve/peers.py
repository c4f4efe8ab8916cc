"""Signs of life between workers: one that dies, or stands still, is noticed long before its lease ends.

A stream that breaks is seen within milliseconds of a process's death; a process that is stopped keeps its connections, and is told by
its silence. Neither is proof: who is suspected loses shards to standbys by compare-and-swap, and gets them back when it is heard again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TypeAlias

import grpc
import structlog

from aorist.ports import Member
from aorist.serve.transport import Listener
from aorist.v1 import peer_pb2, peer_pb2_grpc

AGAIN_S = 0.1
"""Rest between attempts to hear a member that does not answer."""

LATE_S = 0.05
"""What else this process may have been busy with when it heard nothing: so much later it looks once more."""

MOST_PATIENCE_S = 2.0
"""The most that is added to the silence that makes a member suspect, after suspicions that were wrong."""

CALM_S = 30.0
"""How long a member has to be heard without a gap until the wrong suspicions of it are forgotten."""

OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]

log = structlog.get_logger()
Beats: TypeAlias = "grpc.aio.UnaryStreamCall[peer_pb2.HeartbeatRequest, peer_pb2.HeartbeatResponse]"


def serve_heartbeats(listener: Listener) -> None:
    """Adds `aorist.v1.PeerService` to `listener`."""

    async def heartbeat(request: peer_pb2.HeartbeatRequest) -> AsyncIterator[peer_pb2.HeartbeatResponse]:
        interval_s = min(max(request.interval_ms, 10), 60_000) / 1000
        while True:
            yield peer_pb2.HeartbeatResponse()
            await asyncio.sleep(interval_s)

    listener.add("aorist.v1.PeerService", {"Heartbeat": listener.server_stream(heartbeat, peer_pb2.HeartbeatRequest)})


class Peers:
    """Listens to all other members, and says whom it does not hear. Used on one event loop."""

    def __init__(
        self, me: str, interval_s: float, silence_s: float, suspect: Callable[[str], None], trust: Callable[[str], None]
    ) -> None:
        """`silence_s`: without a beat for so long, a member is suspect. `suspect`, `trust`: called with its name, in turn."""
        self._me, self._interval_s, self._silence_s = me, interval_s, silence_s
        self._suspect, self._trust = suspect, trust
        self._listening: dict[Member, asyncio.Task[None]] = {}

    def follow(self, members: Mapping[str, Member]) -> None:
        """These are the members now."""
        wanted = {Member(m.name, m.address, ()) for m in members.values() if m.name != self._me}
        for member in set(self._listening) - wanted:
            self._listening.pop(member).cancel()
            self._trust(member.name)  # it is the registry's business now
        for member in wanted - set(self._listening):
            self._listening[member] = asyncio.create_task(self._listen(member))

    def close(self) -> None:
        """Listens to nobody any more."""
        for task in self._listening.values():
            task.cancel()
        self._listening.clear()

    async def _listen(self, member: Member) -> None:
        """Suspects only whom it has heard before: of others the lease decides."""
        request = peer_pb2.HeartbeatRequest(interval_ms=int(self._interval_s * 1000))
        heard, suspected, called_again, patience_s = False, False, False, 0.0
        async with grpc.aio.insecure_channel(member.address, options=OPTIONS) as channel:
            stub = peer_pb2_grpc.PeerServiceStub(channel)
            while True:
                beats, began = stub.Heartbeat(request), time.monotonic()
                try:
                    while await _beat(beats, self._silence_s + patience_s):
                        if suspected:  # wrongly
                            log.info("member is heard again", member=member.name)
                            self._trust(member.name)
                            patience_s = min(2 * patience_s + self._silence_s, MOST_PATIENCE_S)
                        elif time.monotonic() - began > CALM_S:
                            patience_s = 0.0
                        heard, suspected, called_again = True, False, False
                    why = f"silent for {self._silence_s + patience_s:g} s"
                except grpc.aio.AioRpcError as error:
                    why = f"{error.code().name}: {error.details()}"
                    if heard and not called_again:
                        called_again = True
                        continue  # a connection may break and the process live: it is called once more, at once
                finally:
                    beats.cancel()
                if heard and not suspected:
                    suspected = True
                    log.warning("member is suspect", member=member.name, problem=why)
                    self._suspect(member.name)
                await asyncio.sleep(AGAIN_S)


async def _beat(beats: Beats, limit_s: float) -> bool:
    """Waits for the next beat; False when there is none within `limit_s`. Raises AioRpcError when the stream breaks."""
    coming = asyncio.ensure_future(beats.read())
    try:
        await asyncio.wait((coming,), timeout=limit_s)
        if not coming.done():  # or it is this process that stood still: what came meanwhile is seen now
            await asyncio.wait((coming,), timeout=LATE_S)
        return coming.done() and coming.result() is not grpc.aio.EOF
    finally:
        coming.cancel()
