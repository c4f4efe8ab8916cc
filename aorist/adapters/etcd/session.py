"""A member's presence in etcd: its lease, its key, and the claims made under both.

The fence. A claim whose answer was lost may be carried out yet, long after. So every claim requires the member's own key to be as it
was last put: that shows that the session lives (the key goes with the lease), and whoever has to know what became of a lost claim first
puts the key anew. After that the claim either was carried out, which is read in the same transaction, or never will be.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from dataclasses import replace

import structlog

from aorist.adapters.etcd.client import PAUSE_S, Client
from aorist.adapters.etcd.keys import Keys, claim_value, member_value
from aorist.adapters.etcd.lease import Lease
from aorist.adapters.etcd.outage import Outage
from aorist.adapters.etcd.v3 import rpc_pb2 as pb
from aorist.errors import RegistryUnavailableError, UnavailableError
from aorist.ports import Member
from aorist.position import ShardName

log = structlog.get_logger()

MOD, LEASE = pb.Compare.TARGET_MOD, pb.Compare.TARGET_LEASE


class EtcdSession:
    """Made by `EtcdOwnershipRegistry.join`. A call to `claim` or `release` that is cancelled may still take effect."""

    def __init__(self, client: Client, keys: Keys, member: Member, lease: Lease) -> None:
        self.lease = lease
        self._client, self._keys, self._member = client, keys, member
        self._key = keys.member(member.name)
        self._fence = 0  # revision at which the member's key was last put
        self._attempts = itertools.count(1)
        self._outage = Outage("changes of ownership wait for etcd", member=member.name)

    def valid_until(self) -> float:
        return self.lease.valid_until

    async def ended(self) -> None:
        await self.lease.ended.wait()

    async def announce(self) -> pb.KeyValue | None:
        """For the registry: puts the member's key. Returns the one that is there already, if it is another session's."""
        request = pb.TxnRequest(compare=[self._unchanged()], success=[self._put_member()], failure=[_read(self._key)])
        while True:
            try:
                answer = await self._txn(request)
            except RegistryUnavailableError:
                if self.lease.over:
                    raise
                await asyncio.sleep(PAUSE_S)
                continue
            if answer.succeeded:
                self._fence = answer.header.revision
                return None
            other = _only(answer.responses[0])
            if other.lease != self.lease.id:
                return other
            self._fence = other.mod_revision  # put by an attempt whose answer was lost
            return None

    async def claim(self, shard: ShardName, seen_epoch: int) -> int | None:
        """Waits out an etcd that is away, as long as the session lasts.

        Raises RegistryUnavailableError when the session has ended meanwhile: if the claim was carried out, it goes with the lease.
        """
        value = claim_value(self._member.name, next(self._attempts))
        lost: RegistryUnavailableError | None = None
        while not self.lease.over:
            try:
                # Step 1. Claim: one transaction.
                answer = await self._txn(self._claiming(shard, seen_epoch, value))
                if answer.succeeded:
                    return answer.header.revision
            except RegistryUnavailableError as error:
                # Step 2. Without an answer: fence off what may be under way, and read what there is.
                lost = error
                settled = await self._settle(shard)
                if settled is None:
                    break
                answer = settled
            # Step 3. Tell a claim of ours, one of another, and a fence that was moved meanwhile from each other.
            self._notice(answer)
            held = _only(answer.responses[-1])
            if held.value == value and held.lease == self.lease.id:
                return held.mod_revision
            if held.mod_revision != seen_epoch:
                return None
        if lost is not None:
            raise lost
        return None

    async def release(self, shard: ShardName, epoch: int) -> bool:
        """As `claim`, waits out an etcd that is away, and raises RegistryUnavailableError."""
        key = self._keys.claim(shard)
        request = pb.TxnRequest(
            compare=[
                pb.Compare(target=MOD, key=key, mod_revision=epoch),
                pb.Compare(target=LEASE, key=key, lease=self.lease.id),
            ],
            success=[pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))],
            failure=[_read(key)],
        )
        lost: RegistryUnavailableError | None = None
        while not self.lease.over:
            try:
                answer = await self._txn(request)
            except RegistryUnavailableError as error:
                lost = error
                await asyncio.sleep(PAUSE_S)
                continue
            # A claim that was passed on was put over, and keeps the revision of its creation; one that was deleted does not. (Deleted by
            # an attempt whose answer was lost; or, out of sight, by one who took it meanwhile and is gone again.)
            return answer.succeeded or (
                lost is not None and not 0 < _only(answer.responses[0]).create_revision <= epoch
            )
        if lost is not None:
            raise lost
        return False

    async def retire(self) -> None:
        """Waits out an etcd that is away, as long as the session lasts."""
        self._member = replace(self._member, leaving=True)
        request = pb.TxnRequest(
            compare=[pb.Compare(target=LEASE, key=self._key, lease=self.lease.id)], success=[self._put_member()]
        )
        while not self.lease.over:
            try:
                answer = await self._txn(request)
            except RegistryUnavailableError:
                await asyncio.sleep(PAUSE_S)
                continue
            if answer.succeeded:
                self._fence = max(self._fence, answer.header.revision)
            return

    async def leave(self) -> None:
        self.lease.end()
        try:
            await self._client.revoke(pb.LeaseRevokeRequest(id=self.lease.id))
        except UnavailableError as error:
            log.warning(
                "left unheard: the shards are free when the lease ends", member=self._member.name, error=str(error)
            )

    async def _txn(self, request: pb.TxnRequest) -> pb.TxnResponse:
        """One attempt. Whoever makes the next one is silent meanwhile: said here, if it takes long."""
        try:
            answer = await self._client.txn(request)
        except RegistryUnavailableError as error:
            self._outage.goes_on(error)
            raise
        self._outage.is_over()
        return answer

    async def _settle(self, shard: ShardName) -> pb.TxnResponse | None:
        """Moves the fence. The answer ends with the claim as it is now; None: the session has ended."""
        while not self.lease.over:
            await asyncio.sleep(PAUSE_S)
            request = pb.TxnRequest(
                compare=[self._unchanged()],
                success=[self._put_member(), _read(self._key), _read(self._keys.claim(shard))],
                failure=[_read(self._key), _read(self._keys.claim(shard))],
            )
            with suppress(RegistryUnavailableError):
                return await self._txn(request)
        return None

    def _claiming(self, shard: ShardName, seen_epoch: int, value: bytes) -> pb.TxnRequest:
        key = self._keys.claim(shard)
        return pb.TxnRequest(
            compare=[pb.Compare(target=MOD, key=key, mod_revision=seen_epoch), self._unchanged()],
            success=[pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=self.lease.id))],
            failure=[_read(self._key), _read(key)],
        )

    def _notice(self, answer: pb.TxnResponse) -> None:
        """Takes over where the fence is now, read as the last but one. Without the member's key the session is over."""
        own = _only(answer.responses[-2])
        if own.lease != self.lease.id:
            self.lease.lost("etcd has ended the lease")
        self._fence = max(self._fence, own.mod_revision)  # answers may overtake each other

    def _unchanged(self) -> pb.Compare:
        return pb.Compare(target=MOD, key=self._key, mod_revision=self._fence)

    def _put_member(self) -> pb.RequestOp:
        put = pb.PutRequest(key=self._key, value=member_value(self._member), lease=self.lease.id)
        return pb.RequestOp(request_put=put)


def _read(key: bytes) -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key))


def _only(answer: pb.ResponseOp) -> pb.KeyValue:
    """What was read of one key; all zeros where it is not there."""
    kvs = answer.response_range.kvs
    return kvs[0] if kvs else pb.KeyValue()
