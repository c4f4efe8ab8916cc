"""OwnershipRegistry on etcd: leases, compare-and-swap, one watch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from aorist.adapters.etcd.client import Client
from aorist.adapters.etcd.feed import Feed
from aorist.adapters.etcd.keys import Keys, address_of, answering_value
from aorist.adapters.etcd.lease import Lease
from aorist.adapters.etcd.session import EtcdSession
from aorist.adapters.etcd.v3 import rpc_pb2 as pb
from aorist.errors import RegistryUnavailableError, SettingError, ShuttingDownError
from aorist.ports import Answering, Member, Ownership

PATIENCE_S = 1.5
"""How much longer than its time the lease of a process that died is waited for: etcd looks for ended ones every 0.5 s, then deletes."""


class EtcdOwnershipRegistry:
    """Made and used on one event loop. All with the same etcd and the same `prefix` share one registry."""

    def __init__(self, endpoints: Sequence[str], prefix: str = "/aorist", ttl_s: int = 2) -> None:
        """`endpoints`: host:port of etcd's members, or of some. `ttl_s`: how long a member that is not heard of keeps its shards; etcd
        grants no less than 1.5 of its election time-outs, 2 s with its defaults.
        """
        self._keys = Keys(prefix)
        self._client = Client(endpoints)
        self._feed = Feed(self._client, self._keys)
        self._ttl_s = ttl_s
        self._sessions: dict[int, EtcdSession] = {}  # by lease: those that etcd may know
        self._closed = False

    async def join(self, member: Member) -> EtcdSession:
        """Waits until the lease of a process that had the name, and died, has run out.

        Raises SettingError when its holder lives on, RegistryUnavailableError, ShuttingDownError.
        """
        try:
            await self._clear()
            deadline = time.monotonic() + self._ttl_s + PATIENCE_S
            while True:
                session = EtcdSession(
                    self._client, self._keys, member, await Lease.grant(self._client, self._ttl_s, member.name)
                )
                other = await self._announce(session)
                if other is None:
                    return session
                await session.leave()
                await self._outlive(member.name, other, deadline)
        except RegistryUnavailableError as error:
            raise RegistryUnavailableError(f"cannot join as {member.name!r}: {error}", **error.metadata) from error

    async def let_answer(self, view: str, said: Answering, seen: Answering | None) -> bool:
        key, value = self._keys.answering(view), answering_value(said)
        request = pb.TxnRequest(
            compare=[pb.Compare(target=pb.Compare.TARGET_MOD, key=key, mod_revision=seen.revision if seen else 0)],
            success=[pb.RequestOp(request_put=pb.PutRequest(key=key, value=value))],
        )
        try:
            return (await self._client.txn(request)).succeeded
        except RegistryUnavailableError as error:
            raise RegistryUnavailableError(
                f"cannot name the build of {view} that answers: {error}", **error.metadata
            ) from error

    async def watch(self) -> AsyncGenerator[Ownership, None]:
        """While etcd is away it waits: the state shown last is the last that is known."""
        await self._feed.catch_up()
        while self._feed.now.revision:
            seen = self._feed.now
            yield seen
            await self._feed.changed(seen)
            if self._feed.now is seen:
                return

    def problem(self) -> str:
        return self._feed.problem

    async def close(self) -> None:
        """Leaves all sessions; watches end after they have shown the last state. Takes a few seconds where etcd is away."""
        if not self._closed:
            self._closed = True
            self._feed.close()
            await asyncio.gather(*(session.leave() for session in self._sessions.values()))
            await self._client.close()

    async def _announce(self, session: EtcdSession) -> pb.KeyValue | None:
        """As `EtcdSession.announce`. A session that did not come about is not kept alive."""
        self._sessions[session.lease.id] = session
        try:
            other = await session.announce()
        except BaseException:
            session.lease.end()
            raise
        if self._closed:
            await session.leave()
            raise ShuttingDownError("the ownership registry is closed")
        return other

    async def _clear(self) -> None:
        """Ends in etcd what is over here, so that nobody, and no new session of the same name, has to wait for it."""
        for lease_id in [lease_id for lease_id, session in self._sessions.items() if session.lease.over]:
            await self._client.revoke(pb.LeaseRevokeRequest(id=lease_id))
            self._sessions.pop(lease_id, None)

    async def _outlive(self, name: str, other: pb.KeyValue, deadline: float) -> None:
        """Returns when the name is free. Raises SettingError when it is not by then, or never will be."""
        if other.lease not in self._sessions:
            try:
                async with asyncio.timeout(deadline - time.monotonic()), aclosing(self.watch()) as watch:
                    async for state in watch:
                        if name not in state.members:
                            return
            except TimeoutError:
                pass
        raise SettingError(
            f"member name {name!r} is taken by a living member at {address_of(other.value)}; give each its own",
            member=name,
        )
