"""A lease of etcd, and the clock that ends it here before it can end there."""

from __future__ import annotations

import asyncio
import math
import time

import structlog

from aorist.adapters.etcd.client import PAUSE_S, Client, hear
from aorist.adapters.etcd.outage import Outage
from aorist.adapters.etcd.v3 import rpc_pb2 as pb
from aorist.errors import RegistryUnavailableError

SAFE = 0.9
"""Of the granted time, how much is relied on, counted from before the request for it was sent.

etcd counts from later: from when it had the request, and only then rounds up, to its next look at leases (every 0.5 s). So the rest,
0.2 s of the least lease, has to cover two things only. Clocks that run at different speed: kernels correct theirs by at most 0.05 %, so two
differ by at most 2 ms. And what comes between looking at the clock and an answer that leaves the process: a pause of garbage collection or
of the scheduler. (A whole machine that sleeps stops this clock: against that stand the epochs alone.)
"""

RENEWALS = 6
"""Keepalives in the time of a lease: one every 0.33 s of the least, so that four in a row may fail."""

ANSWERS = 4
"""Part of the time of a lease in which a keepalive has to be answered before another endpoint is tried."""

log = structlog.get_logger()


class Lease:
    """Kept alive from its grant to `end`, to its loss, or until etcd has not answered for too long: then it is over for good, even if
    etcd would still renew it. Nobody who has seen it over sees it valid again.
    """

    def __init__(self, client: Client, granted: pb.LeaseGrantResponse, sent: float, member: str) -> None:
        self.id = granted.id
        self.ended = asyncio.Event()
        self.ttl_s = granted.ttl
        self._client, self._member = client, member
        self._valid_until = sent + granted.ttl * SAFE
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(0, self._look_at_clock)
        self._keeping = self._loop.create_task(self._keep())

    @classmethod
    async def grant(cls, client: Client, ttl_s: int, member: str) -> Lease:
        """A new one, for `ttl_s` or as little more as etcd allows. Raises RegistryUnavailableError."""
        sent = time.monotonic()
        return cls(client, await client.grant(pb.LeaseGrantRequest(ttl=ttl_s)), sent, member)

    @property
    def valid_until(self) -> float:
        """By `time.monotonic()`."""
        return -math.inf if self.ended.is_set() else self._valid_until

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.valid_until

    def end(self) -> None:
        """Keeps it alive no longer, and relies on it no longer."""
        self.ended.set()
        self._timer.cancel()
        self._keeping.cancel()

    def lost(self, why: str) -> None:
        """As `end`, for what nobody here wanted."""
        if not self.ended.is_set():
            log.error("membership over, its shards are free to others", member=self._member, why=why)
            self.end()

    def _look_at_clock(self) -> None:
        left = self._valid_until - time.monotonic()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look_at_clock)
        else:
            self.lost(f"etcd has not renewed the lease of {self.ttl_s} s in time")

    async def _keep(self) -> None:
        outage = Outage("lease not renewed", member=self._member)
        while True:
            try:
                await self._renew(outage)
            except RegistryUnavailableError as error:
                outage.goes_on(error)
            await asyncio.sleep(PAUSE_S)

    async def _renew(self, outage: Outage) -> None:
        """Again and again on one stream; a new leader of etcd ends it."""
        async with self._client.stream(lambda endpoint: endpoint.keep_alive) as stream:
            while True:
                sent = time.monotonic()
                await stream.write(pb.LeaseKeepAliveRequest(id=self.id))
                answer = await hear(stream, self.ttl_s / ANSWERS)
                if answer.ttl <= 0:
                    return self.lost("etcd has ended the lease")
                if self.over:  # the answer came too late, before the timer did
                    return self._look_at_clock()
                self._valid_until = sent + answer.ttl * SAFE
                outage.is_over()
                await asyncio.sleep(self.ttl_s / RENEWALS)
