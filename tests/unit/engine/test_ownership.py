"""Who claims what: the better place when it is warm, standbys of whoever is suspected, nobody who leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, cast

import pytest

from aorist.adapters.local import LocalOwnershipRegistry
from aorist.engine.materializer import Materializer
from aorist.engine.ownership import Owner, placement
from aorist.engine.shard import Phase
from aorist.ports import Member, Session
from aorist.position import ShardName
from tests.harness.places import PATIENCE_S
from tests.harness.process import until

SHARDS = [ShardName("view@1", partition) for partition in range(8)]
MEMBERS = {name: Member(name, f"{name}:1", ("view@1",)) for name in ("ada", "ben", "cleo")}


class Held:
    """A shard as the owner sees it."""

    def __init__(self) -> None:
        self.phase, self.warm, self.owned, self.epoch = Phase.SERVING, True, False, 0

    def own(self, epoch: int) -> None:
        self.epoch, self.owned = epoch, True

    def stand_by(self, epoch: int) -> None:
        self.epoch, self.owned = epoch, False


class Shards:
    """In the place of a materializer: shards are there at once, warm unless said otherwise."""

    def __init__(self) -> None:
        self.shards: dict[ShardName, Held] = {}
        self.beside = False
        self.on_change: Callable[[], None] = lambda: None
        self.cold: set[ShardName] = set()
        self.blocked = asyncio.Event()
        self.blocked.set()

    def holds(self, name: ShardName) -> bool:
        return name in self.shards

    def open(self, name: ShardName, *, beside: bool) -> None:
        self.beside = beside
        self.shards[name] = Held()
        self.shards[name].warm = name not in self.cold

    @staticmethod
    def own(shard: Held, epoch: int) -> None:
        shard.own(epoch)

    async def close(self, name: ShardName) -> None:
        await self.blocked.wait()  # the store is away
        del self.shards[name]

    def warm_up(self) -> None:
        self.cold.clear()
        for shard in self.shards.values():
            shard.warm = True
        self.on_change()


class Fleet:
    """Members on one registry, in this process."""

    def __init__(self) -> None:
        numbers = count(1)
        self.registry = LocalOwnershipRegistry(lambda: next(numbers))
        self.owners: dict[str, Owner] = {}
        self.shards: dict[str, Shards] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, *, cold: bool = False) -> None:
        self.shards[name] = shards = Shards()
        shards.cold = set(SHARDS) if cold else set()
        self.owners[name] = Owner(self.registry, MEMBERS[name], {"view@1": 8}, cast("Materializer", shards), standbys=1)
        self._tasks[name] = asyncio.create_task(self.owners[name].run())

    def die(self, name: str) -> None:
        """As by SIGKILL: the registry has it still."""
        self._tasks[name].cancel()

    def claims(self) -> dict[ShardName, str]:
        return {shard: claim.member for shard, claim in self.registry.now.claims.items()}

    async def until(self, condition: Callable[[], bool]) -> None:
        """Looks after every change of the registry."""
        async with asyncio.timeout(PATIENCE_S):
            async for _ in self.registry.watch():
                if condition():
                    return

    async def placed(self, *names: str) -> None:
        """Every shard is where it should be, with these members."""
        wanted = {shard: placement(shard, [MEMBERS[name] for name in names])[0] for shard in SHARDS}
        await self.until(lambda: self.claims() == wanted)

    async def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self.registry.close()


@asynccontextmanager
async def fleet(*names: str) -> AsyncIterator[Fleet]:
    made = Fleet()
    try:
        for name in names:
            made.start(name)
        await made.placed(*names)
        yield made
    finally:
        await made.stop()


async def test_shards_go_where_they_belong_once_they_are_warm_there() -> None:
    async with fleet("ada") as system:
        system.start("ben", cold=True)
        await system.until(lambda: "ben" in system.registry.now.members)
        await asyncio.sleep(0.2)  # longer than it takes to move them all
        assert set(system.claims().values()) == {"ada"}
        system.shards["ben"].warm_up()
        await system.placed("ada", "ben")


async def test_of_a_suspect_its_standbys_take_all_at_once() -> None:
    async with fleet("ada", "ben", "cleo") as system:
        before = system.claims()
        owned = [shard for shard, member in before.items() if member == "ada"]
        assert owned
        system.die("ada")
        loop = asyncio.get_running_loop()
        began = loop.time()
        for name in ("ben", "cleo"):
            system.owners[name].suspect("ada")
        await system.until(lambda: "ada" not in system.claims().values())
        assert loop.time() - began < 0.05 * max(2, len(owned))  # not one by one, as between the living
        assert {shard: member for shard, member in system.claims().items() if shard not in owned} == {
            shard: member for shard, member in before.items() if shard not in owned
        }
        for shard in owned:
            assert system.claims()[shard] == placement(shard, [MEMBERS["ben"], MEMBERS["cleo"]])[0]


async def test_who_was_suspected_wrongly_gets_its_shards_back() -> None:
    """The two may not hear each other for long: claiming them anew shows that it lives, and nobody takes them again and again."""
    async with fleet("ada", "ben") as system:
        before = {shard: claim.epoch for shard, claim in system.registry.now.claims.items()}
        owned = system.owners["ada"]._epochs.keys()
        system.owners["ben"].suspect("ada")
        await system.until(
            lambda: any(claim.epoch > max(before.values()) for claim in system.registry.now.claims.values())
        )
        await system.placed("ada", "ben")
        settled = dict(system.registry.now.claims)
        assert all(shard in owned for shard, claim in settled.items() if claim.epoch != before[shard])
        await asyncio.sleep(0.2)
        assert dict(system.registry.now.claims) == settled
        assert not system.owners["ben"]._suspects


async def test_a_cold_standby_does_not_take_from_a_suspect() -> None:
    async with fleet("ada") as system:
        system.start("ben", cold=True)
        await system.until(lambda: "ben" in system.registry.now.members)
        system.die("ada")
        system.owners["ben"].suspect("ada")
        await asyncio.sleep(0.1)
        assert set(system.claims().values()) == {"ada"}
        system.shards["ben"].warm_up()
        await system.until(lambda: set(system.claims().values()) == {"ben"})


async def test_who_retires_serves_until_all_is_taken() -> None:
    async with fleet("ada", "ben", "cleo") as system:
        await asyncio.wait_for(system.owners["ada"].retire(PATIENCE_S), PATIENCE_S)
        assert "ada" not in system.claims().values()
        await system.placed("ben", "cleo")
        await system.owners["ada"].leave()
        assert set(system.registry.now.members) == {"ben", "cleo"}


async def test_who_retires_alone_does_not_wait() -> None:
    async with fleet("ada") as system:
        await asyncio.wait_for(system.owners["ada"].retire(600), PATIENCE_S)
        assert set(system.claims().values()) == {"ada"}
        await system.owners["ada"].leave()
        assert system.claims() == {}


async def test_all_may_retire_at_once() -> None:
    async with fleet("ada", "ben") as system:
        retiring = (owner.retire(600) for owner in system.owners.values())
        await asyncio.wait_for(asyncio.gather(*retiring), PATIENCE_S)


async def test_a_shard_that_is_slow_to_close_holds_up_no_claim() -> None:
    async with fleet("ada", "ben") as system:
        for shards in system.shards.values():
            shards.blocked.clear()
        system.start("cleo")
        await system.placed("ada", "ben", "cleo")  # what is not wanted any more waits for the store
        system.die("ada")
        for name in ("ben", "cleo"):
            system.owners[name].suspect("ada")
        await system.until(lambda: "ada" not in system.claims().values())
        for shards in system.shards.values():
            shards.blocked.set()


async def test_a_claim_that_somebody_else_got_first_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fleet("ada", "ben") as system:
        session = cast("Session", system.owners["ben"]._session)
        claim: Any = session.claim
        asked = asyncio.Event()

        async def late(shard: ShardName, seen_epoch: int) -> int | None:
            asked.set()
            return cast("int | None", await claim(shard, seen_epoch - 1))  # as if it had been passed on since

        monkeypatch.setattr(session, "claim", late)
        before = system.claims()
        system.owners["ben"].suspect("ada")
        await asyncio.wait_for(asked.wait(), PATIENCE_S)
        await asyncio.sleep(0.05)
        assert system.claims() == before


async def test_the_first_member_names_its_build_and_later_ones_leave_it_at_that() -> None:
    async with fleet("ada") as system:
        named = system.registry.now.answering["view"]
        assert (named.build, named.before) == (1, 0)
        later, name = Shards(), Member("dora", "dora:1", ("view@2",))
        owner = Owner(system.registry, name, {"view@2": 8}, cast("Materializer", later), standbys=1)
        joining = asyncio.create_task(owner.run())
        try:
            await system.until(
                lambda: sum(claim.member == "dora" for claim in system.registry.now.claims.values()) == 8
            )
            assert system.registry.now.answering["view"] == named
            assert (later.beside, system.shards["ada"].beside) == (True, False)
            assert {shard for shard, member in system.claims().items() if member == "ada"} == set(SHARDS)
            claimed = max(claim.epoch for claim in system.registry.now.claims.values())
            assert await system.registry.let_answer("view", named.promoting(2), named)
            await until(
                lambda: all(held.epoch > claimed for held in later.shards.values()), "epochs of the build named"
            )
        finally:
            joining.cancel()
