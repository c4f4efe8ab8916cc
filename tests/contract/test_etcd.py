"""What ownership on etcd promises beyond the contract: leases end here before they end there, and no claim is in doubt."""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from aorist.adapters.etcd import EtcdOwnershipRegistry
from aorist.adapters.etcd.keys import claim_value
from aorist.adapters.etcd.lease import SAFE
from aorist.adapters.etcd.session import EtcdSession
from aorist.adapters.etcd.v3 import rpc_pb2 as pb
from aorist.errors import RegistryUnavailableError, SettingError
from aorist.ports import Claim, Ownership
from aorist.position import ShardName
from stack.etcd import Etcd
from tests.contract.etcd import PATIENCE_S, member, until
from tests.servers import shared_etcd

SHARD = ShardName("view@2/x", 0)
SHARDS = [ShardName("view@1", number) for number in range(20)]

VICTIM = """
import asyncio, sys
from aorist.adapters.etcd import EtcdOwnershipRegistry
from stack.etcd import Etcd
from tests.contract.etcd import member
from tests.contract.test_etcd import SHARDS

async def main():
    session = await EtcdOwnershipRegistry([sys.argv[1]], sys.argv[2]).join(member("victim"))
    print(*[await session.claim(shard, 0) for shard in SHARDS], flush=True)
    await session.ended()

asyncio.run(main())
"""

NewRegistry = Callable[[], EtcdOwnershipRegistry]


@pytest.fixture
def prefix() -> str:
    return f"/{uuid4().hex}"


@pytest.fixture
async def new_registry(prefix: str) -> AsyncIterator[NewRegistry]:
    """Another process's, as far as etcd can tell."""
    address = (await asyncio.to_thread(shared_etcd)).address
    made: list[EtcdOwnershipRegistry] = []

    def make() -> EtcdOwnershipRegistry:
        made.append(EtcdOwnershipRegistry([address], prefix))
        return made[-1]

    yield make
    await asyncio.gather(*(registry.close() for registry in made))


@asynccontextmanager
async def _victim(prefix: str) -> AsyncIterator[tuple[Process, list[int]]]:
    """A process that has joined and claimed; and the epochs."""
    address = (await asyncio.to_thread(shared_etcd)).address
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", VICTIM, address, prefix, stdout=PIPE)
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)
        yield process, [int(epoch) for epoch in line.split()]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _stop_keepalives(session: EtcdSession) -> float:
    """As if the process stood still. Returns until when the session may act."""
    session.lease._keeping.cancel()
    return session.valid_until()


async def test_a_killed_process_frees_its_shards_all_at_once(prefix: str, new_registry: NewRegistry) -> None:
    survivor = new_registry()
    session = await survivor.join(member("survivor"))
    async with _victim(prefix) as (process, epochs):
        assert len(epochs) == len(SHARDS)
        watch = survivor.watch()
        await until(watch, lambda state: set(state.claims) == set(SHARDS))
        process.kill()

        def gone(state: Ownership) -> bool:
            assert ("victim" in state.members) == (len(state.claims) == len(SHARDS))
            return not state.claims

        await until(watch, gone)
    taken = await session.claim(SHARDS[0], 0)
    assert taken is not None
    assert taken > max(epochs)


async def test_the_name_of_a_killed_process_is_free_when_its_lease_has_ended(
    prefix: str, new_registry: NewRegistry
) -> None:
    registry = new_registry()
    async with _victim(prefix) as (process, _):
        with pytest.raises(SettingError, match=r"'victim' is taken by a living member at victim\.example:7000"):
            await registry.join(member("victim"))
        process.kill()
        session = await asyncio.wait_for(registry.join(member("victim")), PATIENCE_S)
    assert session.valid_until() > time.monotonic()
    assert (await until(registry.watch(), lambda _: True)).claims == {}


async def test_a_session_whose_keepalives_stop_is_over_before_others_get_its_shards(new_registry: NewRegistry) -> None:
    still, other = new_registry(), new_registry()
    sessions = [await still.join(member(f"m{number}")) for number in range(len(SHARDS))]
    for session, shard in zip(sessions, SHARDS, strict=True):
        assert await session.claim(shard, 0) is not None
    taker = await other.join(member("taker"))
    watch = other.watch()
    await until(watch, lambda state: set(state.claims) == set(SHARDS))
    valid_until = {shard: _stop_keepalives(session) for session, shard in zip(sessions, SHARDS, strict=True)}
    left = dict(valid_until)

    def all_free(state: Ownership) -> bool:
        for shard in [shard for shard in left if shard not in state.claims]:
            # Not earlier than the whole lease after its last keepalive was sent.
            assert time.monotonic() >= left.pop(shard) + (1 - SAFE) * taker.lease.ttl_s
        return not left

    await until(watch, all_free)
    for session, shard in zip(sessions, SHARDS, strict=True):
        await asyncio.wait_for(session.ended(), PATIENCE_S)
        assert session.valid_until() < time.monotonic()
        assert await session.claim(shard, 0) is None
        assert await taker.claim(shard, 0) is not None


async def test_an_answer_that_comes_too_late_revives_nothing(new_registry: NewRegistry) -> None:
    session = await new_registry().join(member("a"))
    session.lease._valid_until = time.monotonic()  # long before the timer looks, and keepalives are still answered
    assert session.lease.over
    await asyncio.wait_for(session.ended(), PATIENCE_S)
    assert session.lease.over


async def test_a_lease_that_etcd_ends_ends_the_session(new_registry: NewRegistry) -> None:
    registry = new_registry()
    session = await registry.join(member("a"))
    await new_registry()._client.revoke(pb.LeaseRevokeRequest(id=session.lease.id))
    assert await session.claim(SHARD, 0) is None  # also before a keepalive has told
    await asyncio.wait_for(session.ended(), PATIENCE_S)
    assert session.valid_until() < time.monotonic()
    assert (await registry.join(member("a"))).valid_until() > time.monotonic()


async def test_a_rejoining_process_does_not_wait_for_its_former_lease(new_registry: NewRegistry) -> None:
    registry = new_registry()
    former = await registry.join(member("a"))
    epoch = await former.claim(SHARD, 0)
    assert epoch is not None
    former.lease.lost("the test says so")
    assert SHARD in (await until(registry.watch(), lambda _: True)).claims
    session = await registry.join(member("a"))
    assert SHARD not in (await until(registry.watch(), lambda _: True)).claims
    again = await session.claim(SHARD, 0)
    assert again is not None
    assert again > epoch


async def test_of_two_racing_claimants_one_wins_each_epoch(new_registry: NewRegistry) -> None:
    sessions = [await new_registry().join(member(name)) for name in ("a", "b")]
    seen = 0
    for _ in range(200):
        epochs = [epoch for epoch in await asyncio.gather(*(one.claim(SHARD, seen) for one in sessions)) if epoch]
        assert len(epochs) == 1
        assert epochs[0] > seen
        seen = epochs[0]


async def test_a_shard_is_taken_over_while_its_owner_lives_and_the_owner_learns_of_it(
    new_registry: NewRegistry,
) -> None:
    mine, theirs = new_registry(), new_registry()
    owner, standby = await mine.join(member("owner")), await theirs.join(member("standby"))
    epoch = await owner.claim(SHARD, 0)
    assert epoch is not None
    watch = mine.watch()
    await until(watch, lambda state: state.claims == {SHARD: Claim("owner", epoch)})
    taken = await standby.claim(SHARD, epoch)
    assert taken is not None
    state = await until(watch, lambda state: state.claims == {SHARD: Claim("standby", taken)})
    assert state.revision >= taken > epoch
    assert not await owner.release(SHARD, epoch)
    assert owner.valid_until() > time.monotonic()  # of everything else it is still the owner
    await owner.leave()
    assert (await until(theirs.watch(), lambda _: True)).claims == {SHARD: Claim("standby", taken)}


async def test_a_claim_that_comes_late_is_fenced_off(new_registry: NewRegistry) -> None:
    registry = new_registry()
    session = await registry.join(member("a"))
    late = session._claiming(SHARD, 0, claim_value("a", 99))
    settled = await session._settle(SHARD)
    assert settled is not None
    assert not (await registry._client.txn(late)).succeeded
    assert (await until(registry.watch(), lambda _: True)).claims == {}
    assert await session.claim(SHARD, 0) is not None  # its fence has moved along


async def test_claims_beside_a_moving_fence_all_succeed(new_registry: NewRegistry) -> None:
    session = await new_registry().join(member("a"))
    claims = [asyncio.create_task(session.claim(shard, 0)) for shard in SHARDS]
    fences = [asyncio.create_task(session._settle(SHARD)) for _ in range(10)]
    claims += [asyncio.create_task(session.claim(ShardName("other@1", number), 0)) for number in range(200)]
    epochs = await asyncio.gather(*claims)
    await asyncio.gather(*fences)
    assert None not in epochs
    assert len(set(epochs)) == len(claims)


async def test_what_others_put_below_the_prefix_is_left_out(prefix: str, new_registry: NewRegistry) -> None:
    registry = new_registry()
    strangers = (f"{prefix}/members/x", f"{prefix}/claims/view@1/one", f"{prefix}/claims/view@1/1", f"{prefix}/else")
    for key in strangers:
        put = pb.RequestOp(request_put=pb.PutRequest(key=key.encode(), value=b"[]"))
        await registry._client.txn(pb.TxnRequest(success=[put]))
    session = await registry.join(member("a"))
    epoch = await session.claim(SHARD, 0)
    state = await until(registry.watch(), lambda _: True)
    assert (set(state.members), set(state.claims.values())) == ({"a"}, {Claim("a", epoch or 0)})


async def test_an_etcd_that_is_not_there_yet_is_waited_for_by_watches_alone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    late = Etcd(tmp_path_factory.mktemp("late"))
    registry = EtcdOwnershipRegistry([late.address])
    try:
        with pytest.raises(
            RegistryUnavailableError, match=rf"cannot join as 'a': etcd at {late.address} is away: .*refused"
        ):
            await asyncio.wait_for(registry.join(member("a")), PATIENCE_S)
        watching = asyncio.create_task(until(registry.watch(), lambda _: True))
        await asyncio.to_thread(late.start)
        assert (await asyncio.wait_for(watching, PATIENCE_S)).revision > 0
    finally:
        await registry.close()
        late.kill()


async def test_closing_ends_a_watch_that_waits_for_etcd() -> None:
    registry = EtcdOwnershipRegistry(["127.0.0.1:1"])
    watching = asyncio.create_task(until(registry.watch(), lambda _: True))
    await asyncio.sleep(0)
    await asyncio.wait_for(registry.close(), PATIENCE_S)
    with pytest.raises(AssertionError, match="ended"):
        await asyncio.wait_for(watching, PATIENCE_S)
