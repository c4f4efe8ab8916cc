"""Owners side by side behind one gateway, to be killed, stopped and started again while clients ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import grpc

from aorist.adapters.etcd.client import Client
from aorist.adapters.etcd.keys import Keys
from aorist.adapters.etcd.v3 import rpc_pb2
from aorist.engine.ownership import placement
from aorist.ports import Member
from aorist.position import ShardName, build_name
from aorist.v1.read_pb2 import ROLE_OWNER, ROLE_STANDBY
from aorist.v1.status_pb2 import GetStatusRequest, ShardStatus
from aorist.v1.status_pb2_grpc import StatusServiceStub
from bench.fill import PARTITIONS
from bench.measure import NotMeasuredError
from bench.processes import Child
from bench.project import VIEW
from bench.rig import Rig
from stack.process import Process
from tests.chaos.counting import PROJECT

BUILD = build_name(VIEW, 1)
MEMBERS = ("finn", "bob", "kim")
"""Of eight shards they own two, three and three, and each stands by for both others."""

FRESH_MS = 1_000
"""Of lag: a shard with less follows the log."""

LOOK_S = 0.03
PATIENCE_S = 60.0


class Fleet:
    """Three materializers of the project that counts events, each shard with one standby, and both gateways; one core for all."""

    def __init__(self, rig: Rig, topic: str) -> None:
        self._rig, self.topic = rig, topic
        self._keys = Keys(f"/{topic}")
        self._environ = {"AORIST_ETCD_PREFIX": f"/{topic}", "AORIST_KEYSPACE": rig.new_keyspace()}
        self._etcd = Client(rig.environ["AORIST_ETCD"].split(","))
        self._stack = AsyncExitStack()
        self._owners: dict[str, Process] = {}
        members = [Member(name, "", (BUILD,)) for name in MEMBERS]
        self.places = {number: placement(ShardName(BUILD, number), members)[:2] for number in range(PARTITIONS)}
        """Owner and standby of each shard, while all members live."""

    async def __aenter__(self) -> Self:
        try:
            await self._start_all()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _start_all(self) -> None:
        self._stack.push_async_callback(self._etcd.close)
        gateways = [
            self._stack.enter_context(self._child("role", role)) for role in ("command-gateway", "query-gateway")
        ]
        self._nursery = self._stack.enter_context(self._child("nursery"))
        self._stack.callback(self._stop)
        for name in MEMBERS:
            await self.start(name)
        self.commands, self.queries = [await asyncio.to_thread(gateway.line, "ready") for gateway in gateways]
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(self.queries))
        self._status: Any = StatusServiceStub(channel)

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def owned_by(self, member: str) -> Sequence[int]:
        return [number for number, (owner, _) in self.places.items() if owner == member]

    async def start(self, member: str) -> None:
        self._nursery.tell(member)
        self._owners[member] = Process.of(int(await asyncio.to_thread(self._nursery.line, "started")))

    def signal(self, member: str, number: int) -> None:
        self._owners[member].signal(number)

    async def bury(self, member: str) -> None:
        """Waits for the end of its process. Its name is free then, also where it left no word: its lease is ended here."""
        if not await asyncio.to_thread(self._owners[member].ends_within, PATIENCE_S):
            raise NotMeasuredError(f"{member} goes on: {self._nursery.complaint()}")
        del self._owners[member]
        found = await self._etcd.range(rpc_pb2.RangeRequest(key=self._keys.member(member)))
        for kv in found.kvs:
            await self._etcd.revoke(rpc_pb2.LeaseRevokeRequest(id=kv.lease))

    async def settled(self) -> None:
        """Until every shard is where it should be and its standby is warm. Raises NotMeasuredError."""
        until = time.monotonic() + PATIENCE_S
        while not self._is_settled(shards := await self._shards()):
            if time.monotonic() > until:
                raise NotMeasuredError(f"not settled in {PATIENCE_S:.0f} s: {shards}; {self._nursery.complaint()}")
            await asyncio.sleep(LOOK_S)

    def _is_settled(self, shards: Sequence[ShardStatus]) -> bool:
        wanted = {
            (number, self.places[number][index]): role
            for index, role in enumerate((ROLE_OWNER, ROLE_STANDBY))
            for number in self.places
        }
        well = {(s.partition, s.member): s.role for s in shards if s.phase == "SERVING" and s.lag_ms < FRESH_MS}
        return well == wanted and len(shards) == len(wanted)

    async def _shards(self) -> Sequence[ShardStatus]:
        return list((await self._status.GetStatus(GetStatusRequest(), timeout=PATIENCE_S)).shards)

    def _stop(self) -> None:
        for owner in self._owners.values():
            owner.end(PATIENCE_S)

    def _child(self, module: str, *arguments: str) -> Child:
        return self._rig.child(module, *arguments, self.topic, PROJECT, environ=self._environ)
