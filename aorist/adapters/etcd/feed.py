"""The registry as etcd has it, followed by one watch for all who ask."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from aorist.adapters.etcd.client import BROKEN, PAUSE_S, Client, Stream, hear
from aorist.adapters.etcd.keys import Keys
from aorist.adapters.etcd.outage import Outage
from aorist.adapters.etcd.v3 import rpc_pb2 as pb
from aorist.errors import AoristError, RegistryUnavailableError
from aorist.ports import Ownership

BEAT_S = 1.0
"""How often etcd is asked on the watch for a sign of life."""

SILENCE_S = 3.0
"""Without any for so long the watch goes to another endpoint: nothing but pings would notice a member of etcd that stands still."""

LONGEST_PAUSE_S = 1.0
"""Between attempts to follow an etcd that is away."""

log = structlog.get_logger()


class Feed:
    """`now` only ever gets newer. Each state is whole: etcd sends all events of one revision in one message."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self.now = Ownership(0)
        self.closed = False
        self._client, self._keys = client, keys
        self._changed = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._outage = Outage("ownership stands as last seen: waiting for etcd")
        self._pause_s = PAUSE_S

    @property
    def problem(self) -> str:
        """Why `now` may be old; empty: it is not."""
        return self._outage.problem

    async def changed(self, seen: Ownership) -> None:
        """Returns when `now` is another than `seen`, or the feed has ended. Raises what ended it, if that was a fault."""
        while self.now is seen and not self.closed:
            await self._changed.wait()
        if self._following and self._following.done() and not self._following.cancelled():
            await self._following

    async def catch_up(self) -> None:
        """Returns when `now` shows all that happened before this call, however long that takes; or when the feed was closed."""
        if self._following is None:
            self._following = asyncio.create_task(self._follow())
            self._following.add_done_callback(lambda _: self.close())
        while not self.closed:
            try:
                await self._read()
            except AoristError as error:
                if not self.closed:
                    self._outage.goes_on(error)
                    await asyncio.sleep(PAUSE_S)
            else:
                self._outage.is_over()
                return

    def close(self) -> None:
        self.closed = True
        if self._following:
            self._following.cancel()
        self._tell()

    async def _follow(self) -> None:
        """Reads and watches, forever. Also where a watch could go on from where it broke off: reading is cheap, and nothing is missed
        that etcd has compacted away meanwhile.
        """
        while True:
            try:
                await self._read()
                await self._watch()
            except AoristError as error:
                self._outage.goes_on(error)
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    async def _read(self) -> None:
        endpoint = self._client.endpoint
        answer = await self._client.range(self._keys.all)
        if answer.header.revision < self.now.revision:
            self._client.leave(endpoint)
            raise RegistryUnavailableError(
                f"etcd is at revision {answer.header.revision}, and was at {self.now.revision} before: it has lost data, or was "
                "restored from a backup without --bump-revision, or an endpoint belongs to another cluster"
            )
        if answer.header.revision > self.now.revision:
            self._become(self._keys.snapshot(answer))

    async def _watch(self) -> None:
        """From the state at hand on. Raises RegistryUnavailableError when the watch ends."""
        every = self._keys.all
        create = pb.WatchCreateRequest(key=every.key, range_end=every.range_end, start_revision=self.now.revision + 1)
        async with self._client.stream(lambda endpoint: endpoint.watch) as stream:
            await stream.write(pb.WatchRequest(create_request=create))
            asking = asyncio.create_task(_ask_for_signs(stream))
            try:
                while True:
                    answer = await hear(stream, SILENCE_S)
                    if answer.canceled:
                        log.warning(
                            "watch of ownership ended by etcd: reading anew",
                            reason=answer.cancel_reason,
                            compacted=answer.compact_revision,
                        )
                        return
                    self._take(answer)
                    self._outage.is_over()
                    self._pause_s = PAUSE_S
            finally:
                asking.cancel()

    def _take(self, answer: pb.WatchResponse) -> None:
        events = [event for event in answer.events if event.kv.mod_revision > self.now.revision]
        if events:  # not only what was read before
            self._become(self._keys.after(self.now, events, events[-1].kv.mod_revision))

    def _become(self, new: Ownership) -> None:
        self.now = new
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


async def _ask_for_signs(stream: Stream[pb.WatchRequest, pb.WatchResponse]) -> None:
    with suppress(*BROKEN):  # the one who reads the stream hears of it
        while True:
            await asyncio.sleep(BEAT_S)
            await stream.write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
