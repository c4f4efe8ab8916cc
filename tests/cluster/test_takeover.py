"""Three owners, each shard with a warm standby, under load: one dies, leaves or stands still, and nobody's call fails.

Who wants the owner alone waits for the next one; who does not may be told by a copy, flagged. Nothing that is told is untrue, and of no
key that exists is it ever said that it is not known: arms are made, and asked for at once, all the time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from aorist.v1.read_pb2 import ON_STALE_FAIL, ON_STALE_RETURN, ROLE_OWNER, ROLE_STANDBY, ROLE_STORE, Role
from aorist.v1.status_pb2 import ShardStatus
from fleet.arms.v1.queries_pb2_grpc import ArmQueryServiceStub
from tests.chaos.counting import counted
from tests.cluster.direct import ask_directly
from tests.cluster.load import REPORTING, Load, check_final
from tests.cluster.oracle import Failure, Token
from tests.cluster.system import STOPPED_S, Cluster, Process, owners, until_owned, until_status
from tests.cluster.test_outages import stands_still
from tests.cluster.witnesses import LEFT_OUT, RETURN, NewArms, Watches
from tests.harness.client import channel_to
from tests.harness.places import PATIENCE_S
from tests.harness.process import until

if TYPE_CHECKING:
    from fleet.arms.v1.queries_pb2_grpc import ArmQueryServiceAsyncStub

MEMBERS = ("finn", "ada", "cleo")

KILLS = 5 if os.environ.get("AORIST_SOAK") else 1
"""At each failpoint."""

PASSINGS = {"after_poll": 600, "after_apply": 600, "after_rows": 60, "after_checkpoint": 60, "after_commit": 60}
"""Some seconds' worth: by then it owns shards, and others hold them warm."""

LEASE_S = 5
"""Where a takeover must not be the work of a lease that ended: it is over in half of that."""

SOON_S = 5.0
"""For a refusal after 0.2 s, on a machine that is busy."""

INSISTS = "on the owner, now"


@dataclass
class System:
    """Under load. `folding`: by member."""

    cluster: Cluster
    load: Load
    folding: dict[str, Process]
    lease_s: int

    def start(self, member: str, failpoints: str = "") -> None:
        self.folding[member] = self.cluster.materializer(
            member, failpoints=failpoints, AORIST_LEASE_S=str(self.lease_s)
        )

    async def settled(self) -> None:
        """Every member owns some shards, and every shard has a standby."""
        await self.owned_by(*MEMBERS)
        await until_status(self.load.queries, self._is_held_twice, "each shard held twice")

    def _is_held_twice(self, shards: list[ShardStatus]) -> bool:
        held = [(shard.role, shard.partition) for shard in shards if shard.phase == "SERVING"]
        wanted = [(role, number) for role in (ROLE_OWNER, ROLE_STANDBY) for number in range(self.cluster.partitions)]
        return sorted(held) == sorted(wanted)

    async def owned_by(self, *members: str) -> None:
        await until_owned(self.load.queries, self.cluster.partitions, *members)

    def failures(self, *tolerant: str) -> list[Failure]:
        """Of all calls, or of those named so."""
        return [failure for failure in self.load.failures if not tolerant or failure.call in tolerant]


@asynccontextmanager
async def running(cluster: Cluster, lease_s: int = 2) -> AsyncIterator[System]:
    """All settled. In the end everything that was told is held against the log."""
    gateway, asked = cluster.gateways()
    load = Load(cluster.topic, commands=await gateway.ready(), queries=await asked.ready())
    system = System(cluster, load, {}, lease_s)
    try:
        for member in MEMBERS:
            system.start(member)
        await system.settled()  # before the load: how long processes take to start is no matter of takeovers
        async with Watches(load, REPORTING[:4]) as watches:
            async with load, NewArms(load):
                await load.progress()
                yield system
                await system.settled()
                await load.progress()
            log = await cluster.log()
            await watches.saw_the_end(log)
        load.check(log)
        log.check_snapshots(counted)
        await check_final(load, log)
        cluster.check_quiet()
        assert not [failure for failure in load.failures if failure.code is grpc.StatusCode.NOT_FOUND]
        for role in (*system.folding.values(), gateway, asked):
            await role.stop()
        print(load.summary(), f"{load.others} by copies, {load.stale} stale")  # noqa: T201
    except BaseException as error:
        error.add_note(cluster.told())
        raise


async def test_owners_killed_at_each_failpoint(cluster: Cluster) -> None:
    async with running(cluster) as system:
        for number, place in enumerate(list(PASSINGS) * KILLS):
            victim = MEMBERS[number % len(MEMBERS)]
            await system.folding[victim].stop()
            system.start(victim, failpoints=f"{place}={PASSINGS[place]}")
            await system.folding[victim].died()
            (await cluster.log()).check_snapshots(counted)
            assert system.folding[victim].lines("shard owned"), system.folding[victim].output()
            await system.owned_by(*(member for member in MEMBERS if member != victim))
            await system.load.progress()
            system.start(victim)
            await system.settled()
            assert not system.failures(), system.failures()


async def test_owners_restarted_one_after_another(cluster: Cluster) -> None:
    """In order: an owner is there all the time."""
    async with running(cluster) as system:
        copied = system.load.others
        for member in MEMBERS:
            await system.folding[member].stop()
            system.start(member)
            await system.folding[member].ready()
            await system.settled()
        await system.load.progress()
        assert not system.failures(), system.failures()
        assert system.load.others == copied


async def test_owner_stands_still(cluster: Cluster) -> None:
    """Others have its shards long before its lease has ended. When it goes on it knows that it owns nothing, and gets them back."""
    async with running(cluster, LEASE_S) as system:
        load, (victim, *others) = system.load, MEMBERS
        address, stopped_one = await system.folding[victim].ready(), system.folding[victim]
        shards = await until_status(load.queries, lambda _: True, "any")
        epochs = {s.partition: s.epoch for s in shards if s.role == ROLE_OWNER}
        lost = [partition for partition, member in owners(shards).items() if member == victim]
        stopped_one.signal(signal.SIGSTOP)
        stopped, told = time.monotonic(), len(load.told)
        await until(
            lambda: all(any(t.partition == p and t.epoch > epochs[p] for t in load.told[told:]) for p in lost),
            "answers of next owners",
        )
        taken_s = time.monotonic() - stopped
        assert taken_s < LEASE_S / 2
        now = {t.partition: t.epoch for t in load.told[told:]}
        while time.monotonic() < stopped + STOPPED_S:
            await load.progress(20, 20)
        await system.owned_by(*others)
        asking = asyncio.create_task(ask_directly(address, load))  # these wait in its sockets
        await asyncio.sleep(0.2)
        stopped_one.signal(signal.SIGCONT)
        late = await asking
        assert not [answer for answer in late if answer.epoch < now[answer.partition]]
        load.told += late
        await system.settled()
        assert not system.failures(), system.failures()
        print(f"taken after {taken_s:.2f} s")  # noqa: T201


async def test_etcd_stands_still(cluster: Cluster) -> None:
    """Nobody is the owner for longer than a lease: who does not insist on one is told by copies all the time."""
    async with running(cluster) as system:
        load = system.load
        await stands_still(cluster.servers.etcd)
        await load.progress()
        assert load.others
        assert not system.failures(LEFT_OUT, RETURN, f"watch, {LEFT_OUT}", f"watch, {RETURN}", "list"), load.failures
        for failure in load.failures:
            assert failure.code is grpc.StatusCode.UNAVAILABLE, failure


async def test_all_who_hold_a_shard_die(cluster: Cluster) -> None:
    """A third member restores it. Until then the last durable snapshot answers those who take what there is.

    Etcd stands still for as long as the snapshot is asked for: nobody can take the shard meanwhile, however long that takes.
    """
    async with running(cluster) as system:
        load = system.load
        shards = await until_status(load.queries, lambda _: True, "any")
        dead = sorted({shard.member for shard in shards if shard.partition == 0})
        (living,) = set(MEMBERS) - set(dead)
        arms = [arm for arm in REPORTING if 0 in load.newest.get(arm, ())]
        async with channel_to(load.queries) as channel:
            queries = ArmQueryServiceStub(channel)
            cluster.servers.etcd.pause()
            try:
                for member in dead:
                    system.folding[member].signal(signal.SIGKILL)
                for member in dead:
                    await system.folding[member].died()
                asked = time.monotonic()
                refused = await load.ask(
                    queries, arms[0], Token(), call=INSISTS, max_wait_ms=200, on_stale=ON_STALE_FAIL
                )
                assert refused is None
                assert time.monotonic() - asked < SOON_S
                assert {await what_there_is(load, queries, arm) for arm in arms} == {ROLE_STORE}
            finally:
                cluster.servers.etcd.resume()
            while (role := await what_there_is(load, queries, arms[0])) != ROLE_OWNER:
                assert role in (ROLE_STORE, ROLE_STANDBY)
        (failure,) = system.failures(INSISTS)
        assert failure.reason in ("NO_OWNER", "UNREACHABLE", "RESTORING")
        for failure in system.failures():  # of those who wait for an owner, if it took too long for them
            assert failure.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OK), failure
        await system.owned_by(living)
        for member in dead:
            system.start(member)


async def what_there_is(load: Load, queries: ArmQueryServiceAsyncStub, arm: str) -> Role.ValueType:
    """Who answers one that takes anything. It may have to ask more than once: the stores are slow on a busy machine."""
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        answer = await load.ask(
            queries, arm, load.newest[arm], max_wait_ms=100, on_stale=ON_STALE_RETURN, call="what there is"
        )
        if answer is not None:
            return answer.header.role
    raise AssertionError(f"nobody answers for {arm}: {load.failures[-3:]}")
