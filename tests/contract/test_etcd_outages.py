"""Ownership on etcd while etcd, or the way to it, is away: nothing is guessed, and everything goes on by itself."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from aorist.adapters.etcd import EtcdOwnershipRegistry, client
from aorist.adapters.etcd.session import EtcdSession
from aorist.errors import RegistryUnavailableError
from aorist.ports import Claim, Ownership
from aorist.position import ShardName
from stack.etcd import Etcd
from tests.contract.etcd import PATIENCE_S, Proxy, compact, member, until
from tests.harness import process

SHARD = ShardName("view@1", 0)
OTHER = ShardName("view@1", 1)

NewRegistry = Callable[..., EtcdOwnershipRegistry]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """A server that tests of this file may stop, kill and compact."""
    with Etcd(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd


@pytest.fixture
def etcd(running: Etcd) -> Iterator[Etcd]:
    yield running
    if running.running:
        running.resume()
    else:
        running.start()


@pytest.fixture
async def proxy(etcd: Etcd) -> AsyncIterator[Proxy]:
    async with Proxy(etcd.address) as proxy:
        yield proxy


@pytest.fixture
async def new_registry(etcd: Etcd, proxy: Proxy) -> AsyncIterator[NewRegistry]:
    """By the endpoints given, else straight to the server."""
    prefix = f"/{uuid4().hex}"
    made: list[EtcdOwnershipRegistry] = []

    def make(*endpoints: str) -> EtcdOwnershipRegistry:
        made.append(EtcdOwnershipRegistry(endpoints or [etcd.address], prefix))
        return made[-1]

    yield make
    proxy.mend()
    if etcd.running:
        etcd.resume()
    await asyncio.gather(*(registry.close() for registry in made))


async def _now(registry: EtcdOwnershipRegistry) -> Ownership:
    return await until(registry.watch(), lambda _: True)


async def _renewed(session: EtcdSession) -> None:
    """Returns after a keepalive sent after this call was answered."""
    then = session.valid_until()
    async with asyncio.timeout(PATIENCE_S):
        while session.valid_until() < then + session.lease.ttl_s / 2:
            assert not session.lease.over
            await asyncio.sleep(0.01)


async def test_a_session_ends_by_its_own_clock_while_etcd_stands_still(etcd: Etcd, new_registry: NewRegistry) -> None:
    registry = new_registry()
    session = await registry.join(member("a"))
    epoch = await session.claim(SHARD, 0)
    watch = registry.watch()
    before = await until(watch, lambda state: SHARD in state.claims)
    etcd.pause()
    stopped = time.monotonic()
    await asyncio.wait_for(session.ended(), PATIENCE_S)
    assert time.monotonic() - stopped < session.lease.ttl_s
    assert session.valid_until() < time.monotonic()
    assert await session.claim(OTHER, 0) is None
    assert not await session.release(SHARD, epoch or 0)
    etcd.resume()
    again = await asyncio.wait_for(registry.join(member("a")), PATIENCE_S)
    assert session.lease.over  # for good
    taken = await again.claim(SHARD, 0)
    after = await until(watch, lambda state: state.claims == {SHARD: Claim("a", taken or 0)})
    assert after.revision > before.revision


async def test_after_a_kill_of_etcd_watches_go_on_and_members_come_back(etcd: Etcd, new_registry: NewRegistry) -> None:
    registry = new_registry()
    session = await registry.join(member("a"))
    epoch = await session.claim(SHARD, 0)
    watch = registry.watch()
    revisions = [(await until(watch, lambda state: SHARD in state.claims)).revision]
    etcd.kill()
    with capture_logs() as logs:
        await asyncio.wait_for(session.ended(), PATIENCE_S)
        with pytest.raises(RegistryUnavailableError, match=rf"cannot join as 'a': etcd at {etcd.address} is away: "):
            await asyncio.wait_for(registry.join(member("a")), PATIENCE_S)
    assert {"lease not renewed", "ownership stands as last seen: waiting for etcd"} <= {log["event"] for log in logs}
    await asyncio.to_thread(etcd.start)
    again = await asyncio.wait_for(registry.join(member("a")), PATIENCE_S)
    taken = await again.claim(SHARD, 0)
    assert taken is not None
    assert epoch is not None
    assert taken > epoch

    def back(state: Ownership) -> bool:
        revisions.append(state.revision)
        return state.claims == {SHARD: Claim("a", taken)}

    await until(watch, back)
    assert revisions == sorted(set(revisions))


async def test_a_registry_says_while_it_is_not_heard(etcd: Etcd, new_registry: NewRegistry) -> None:
    """What watches have shown may be old then."""

    async def until_problem(text: str) -> None:
        await process.until(lambda: bool(re.fullmatch(text, registry.problem())), f"problem {text!r}")

    registry = new_registry()
    await _now(registry)
    assert registry.problem() == ""
    etcd.pause()
    await until_problem(f"etcd at {etcd.address} is away: .*")
    etcd.resume()
    await until_problem("")


async def test_a_claim_whose_answer_is_lost_is_known_to_be_ours(proxy: Proxy, new_registry: NewRegistry) -> None:
    session = await new_registry(proxy.address).join(member("a"))
    direct = new_registry()
    watch = direct.watch()
    await until(watch, lambda state: "a" in state.members)
    proxy.hold_answers()
    claiming = asyncio.create_task(session.claim(SHARD, 0))
    claim = (await until(watch, lambda state: SHARD in state.claims)).claims[SHARD]
    assert not claiming.done()
    proxy.cut()
    proxy.mend()
    epoch = await asyncio.wait_for(claiming, PATIENCE_S)
    assert claim == Claim("a", epoch or 0)
    assert (await _now(direct)).claims == {SHARD: claim}


async def test_a_claim_that_was_lost_and_taken_over_is_known_not_to_be_ours(
    proxy: Proxy, new_registry: NewRegistry
) -> None:
    session = await new_registry(proxy.address).join(member("a"))
    direct = new_registry()
    taker = await direct.join(member("b"))
    watch = direct.watch()
    proxy.hold_answers()
    claiming = asyncio.create_task(session.claim(SHARD, 0))
    claim = (await until(watch, lambda state: SHARD in state.claims)).claims[SHARD]
    taken = await taker.claim(SHARD, claim.epoch)
    proxy.cut()
    proxy.mend()
    assert await asyncio.wait_for(claiming, PATIENCE_S) is None
    assert (await _now(direct)).claims == {SHARD: Claim("b", taken or 0)}


async def test_a_claim_that_never_arrived_is_made_when_etcd_is_back(proxy: Proxy, new_registry: NewRegistry) -> None:
    session = await new_registry(proxy.address).join(member("a"))
    direct = new_registry()
    rival = await direct.join(member("b"))
    proxy.cut()
    claims = [asyncio.create_task(session.claim(shard, 0)) for shard in (SHARD, OTHER)]
    rivals = await rival.claim(OTHER, 0)  # meanwhile
    proxy.mend()
    won, lost = await asyncio.wait_for(asyncio.gather(*claims), PATIENCE_S)
    assert lost is None
    assert (await _now(direct)).claims == {SHARD: Claim("a", won or 0), OTHER: Claim("b", rivals or 0)}


async def test_a_release_whose_answer_is_lost_is_known(proxy: Proxy, new_registry: NewRegistry) -> None:
    session = await new_registry(proxy.address).join(member("a"))
    direct = new_registry()
    taker = await direct.join(member("b"))
    epochs = [await session.claim(shard, 0) or 0 for shard in (SHARD, OTHER)]
    watch = direct.watch()
    await until(watch, lambda state: len(state.claims) == 2)
    proxy.hold_answers()
    assert await taker.claim(OTHER, epochs[1]) is not None
    releases = [asyncio.create_task(session.release(*held)) for held in zip((SHARD, OTHER), epochs, strict=True)]
    await until(watch, lambda state: SHARD not in state.claims)
    assert not releases[0].done()
    proxy.cut()
    proxy.mend()
    assert await asyncio.wait_for(asyncio.gather(*releases), PATIENCE_S) == [True, False]


async def test_a_claim_that_outlasts_its_session_says_that_etcd_is_away(
    proxy: Proxy, new_registry: NewRegistry
) -> None:
    session = await new_registry(proxy.address).join(member("a"))
    proxy.cut()
    with pytest.raises(RegistryUnavailableError, match="is away"):
        await asyncio.wait_for(session.claim(SHARD, 0), PATIENCE_S)
    assert session.valid_until() < time.monotonic()


@pytest.mark.parametrize("trouble", [Proxy.cut, Proxy.hold_answers])
async def test_another_endpoint_takes_over(
    etcd: Etcd, proxy: Proxy, new_registry: NewRegistry, trouble: Callable[[Proxy], None]
) -> None:
    registry = new_registry(proxy.address, etcd.address)
    session = await registry.join(member("a"))
    watch = registry.watch()
    await until(watch, lambda state: "a" in state.members)
    trouble(proxy)
    await _renewed(session)
    epoch = await session.claim(SHARD, 0)
    assert (await until(watch, lambda state: SHARD in state.claims)).claims == {SHARD: Claim("a", epoch or 0)}


async def test_a_server_that_stands_still_is_left_also_without_pings(
    etcd: Etcd, proxy: Proxy, new_registry: NewRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "OPTIONS", ())
    watch = new_registry(proxy.address, etcd.address).watch()
    await until(watch, lambda _: True)
    proxy.hold_answers()
    session = await new_registry().join(member("a"))
    assert (await until(watch, lambda state: "a" in state.members)).members == {"a": member("a")}
    assert session.valid_until() > time.monotonic()


async def test_a_session_survives_a_connection_that_breaks(proxy: Proxy, new_registry: NewRegistry) -> None:
    session = await new_registry(proxy.address).join(member("a"))
    for _ in range(3):
        proxy.cut()
        proxy.mend()
        await _renewed(session)


async def test_a_watch_that_was_cut_off_misses_no_change_that_was_compacted(
    etcd: Etcd, proxy: Proxy, new_registry: NewRegistry
) -> None:
    watcher, direct = new_registry(proxy.address), new_registry()
    session = await direct.join(member("a"))
    watch = watcher.watch()
    await until(watch, lambda state: "a" in state.members)
    proxy.cut()
    epochs = [await session.claim(ShardName("view@1", number), 0) for number in range(10)]
    assert await session.release(SHARD, epochs[0] or 0)
    compact(etcd, (await _now(direct)).revision)
    proxy.mend()
    state = await until(watch, lambda state: len(state.claims) == 9)
    assert state == await _now(direct)


async def test_a_watch_from_a_compacted_revision_reads_anew(
    etcd: Etcd, proxy: Proxy, new_registry: NewRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher, direct = new_registry(proxy.address), new_registry()
    session = await direct.join(member("a"))
    watch = watcher.watch()
    await until(watch, lambda state: "a" in state.members)
    follow = watcher._feed._watch
    epochs: list[int] = []

    async def too_late() -> None:  # between reading and watching: changes, which are compacted
        if not epochs:
            epochs.append(await session.claim(SHARD, 0) or 0)
            epochs.append(await session.claim(SHARD, epochs[-1]) or 0)
            epochs.append(await session.claim(SHARD, epochs[-1]) or 0)
            compact(etcd, epochs[-1])
        await follow()

    monkeypatch.setattr(watcher._feed, "_watch", too_late)
    with capture_logs() as logs:
        proxy.cut()
        proxy.mend()
        state = await until(watch, lambda state: SHARD in state.claims)
    assert state.claims == {SHARD: Claim("a", epochs[-1])}
    (told,) = [log for log in logs if log["event"].startswith("watch of ownership ended by etcd")]
    assert told["compacted"] == epochs[-1]


async def test_an_etcd_that_has_lost_revisions_is_not_believed(new_registry: NewRegistry) -> None:
    registry = new_registry()
    before = await _now(registry)
    registry._feed.now = Ownership(before.revision + 1_000)
    with pytest.raises(
        RegistryUnavailableError, match=rf"revision {before.revision}, and was at .* before: .*lost data"
    ):
        await registry._feed._read()
