"""Ownership: one winner for each claim, epochs that only grow, and watchers that never miss the last state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from aorist.errors import SettingError
from aorist.ports import Answering, Claim, Member, Ownership
from aorist.position import ShardName
from tests.contract.harness import PATIENCE_S, RegistryHarness

SHARD = ShardName("view@1", 0)
OTHER = ShardName("view@1", 1)


def _member(name: str) -> Member:
    return Member(name, f"{name}.example:7000", ("view@1", "other@1"))


async def _until(watch: AsyncIterator[Ownership], reached: Callable[[Ownership], bool]) -> Ownership:
    async with asyncio.timeout(PATIENCE_S):
        async for state in watch:
            if reached(state):
                return state
    pytest.fail("the watch ended")


async def _now(registries: RegistryHarness) -> Ownership:
    return await _until(registries.registry.watch(), lambda _: True)


async def test_a_member_is_seen_until_it_leaves(registries: RegistryHarness) -> None:
    watch = registries.registry.watch()
    session = await registries.registry.join(_member("a"))
    joined = await _until(watch, lambda state: "a" in state.members)
    assert joined.members["a"] == _member("a")
    assert session.valid_until() > time.monotonic()
    await session.leave()
    left = await _until(watch, lambda state: "a" not in state.members)
    assert left.revision > joined.revision


async def test_the_name_of_a_living_member_is_refused(registries: RegistryHarness) -> None:
    session = await registries.registry.join(_member("a"))
    with pytest.raises(SettingError, match="'a'"):
        await registries.registry.join(_member("a"))
    await session.leave()
    again = await registries.registry.join(_member("a"))
    assert again.valid_until() > time.monotonic()


async def test_an_unclaimed_shard_is_taken_by_one(registries: RegistryHarness) -> None:
    first = await registries.registry.join(_member("a"))
    second = await registries.registry.join(_member("b"))
    epoch = await first.claim(SHARD, 0)
    assert epoch is not None
    assert await second.claim(SHARD, 0) is None
    assert (await _until(registries.registry.watch(), lambda state: SHARD in state.claims)).claims == {
        SHARD: Claim("a", epoch)
    }


async def test_a_claim_is_passed_on_by_the_epoch_seen(registries: RegistryHarness) -> None:
    first = await registries.registry.join(_member("a"))
    second = await registries.registry.join(_member("b"))
    epoch = await first.claim(SHARD, 0)
    assert epoch is not None
    assert await second.claim(SHARD, epoch + 1) is None
    taken = await second.claim(SHARD, epoch)
    assert taken is not None
    assert taken > epoch
    assert await first.claim(SHARD, epoch) is None  # what it saw is over
    assert (await _now(registries)).claims == {SHARD: Claim("b", taken)}


async def test_a_claim_of_what_is_unclaimed_by_an_old_epoch_fails(registries: RegistryHarness) -> None:
    session = await registries.registry.join(_member("a"))
    epoch = await session.claim(SHARD, 0)
    assert epoch is not None
    assert await session.release(SHARD, epoch)
    assert await session.claim(SHARD, epoch) is None
    assert await session.claim(SHARD, 0) is not None


async def test_among_many_claimants_one_wins(registries: RegistryHarness) -> None:
    sessions = [await registries.registry.join(_member(f"m{number}")) for number in range(12)]
    seen = 0
    for _ in range(5):
        epochs = await asyncio.gather(*(session.claim(SHARD, seen) for session in sessions))
        won = [epoch for epoch in epochs if epoch is not None]
        assert len(won) == 1
        assert won[0] > seen
        seen = won[0]
        winner = f"m{epochs.index(seen)}"
        assert (await _now(registries)).claims[SHARD] == Claim(winner, seen)


async def test_epochs_grow_over_all_shards(registries: RegistryHarness) -> None:
    session = await registries.registry.join(_member("a"))
    epochs = [await session.claim(ShardName("view@1", number), 0) for number in range(10)]
    grown = [epoch for epoch in epochs if epoch is not None]
    assert len(grown) == 10
    assert grown == sorted(set(grown))
    assert (await _now(registries)).revision >= grown[-1]


async def test_only_the_holder_releases_and_only_once(registries: RegistryHarness) -> None:
    first = await registries.registry.join(_member("a"))
    second = await registries.registry.join(_member("b"))
    epoch = await first.claim(SHARD, 0)
    assert epoch is not None
    assert not await second.release(SHARD, epoch)
    assert not await first.release(SHARD, epoch - 1)
    assert not await first.release(OTHER, epoch)
    assert (await _now(registries)).claims == {SHARD: Claim("a", epoch)}
    assert await first.release(SHARD, epoch)
    assert not await first.release(SHARD, epoch)
    assert (await _now(registries)).claims == {}


async def test_a_stale_release_leaves_the_new_owner_alone(registries: RegistryHarness) -> None:
    first = await registries.registry.join(_member("a"))
    second = await registries.registry.join(_member("b"))
    old = await first.claim(SHARD, 0)
    assert old is not None
    new = await second.claim(SHARD, old)
    assert new is not None
    assert not await first.release(SHARD, old)
    await first.leave()
    assert (await _now(registries)).claims == {SHARD: Claim("b", new)}


async def test_leaving_frees_what_was_held(registries: RegistryHarness) -> None:
    leaving = await registries.registry.join(_member("a"))
    staying = await registries.registry.join(_member("b"))
    held = await leaving.claim(SHARD, 0)
    kept = await staying.claim(OTHER, 0)
    assert held is not None
    assert kept is not None
    await leaving.leave()
    state = await _until(registries.registry.watch(), lambda state: "a" not in state.members)
    assert state.claims == {OTHER: Claim("b", kept)}
    epoch = await staying.claim(SHARD, 0)
    assert epoch is not None
    assert epoch > held


async def test_who_retires_is_seen_to_be_leaving_and_keeps_its_claims(registries: RegistryHarness) -> None:
    leaving = await registries.registry.join(_member("a"))
    staying = await registries.registry.join(_member("b"))
    held = await leaving.claim(SHARD, 0)
    assert held is not None
    await leaving.retire()
    state = await _until(registries.registry.watch(), lambda state: state.members["a"].leaving)
    assert state.members["a"] == replace(_member("a"), leaving=True)
    assert state.claims == {SHARD: Claim("a", held)}
    assert leaving.valid_until() > time.monotonic()
    assert await leaving.claim(OTHER, 0) is not None  # its fence has moved with it
    taken = await staying.claim(SHARD, held)
    assert taken is not None
    await leaving.leave()
    state = await _until(registries.registry.watch(), lambda state: "a" not in state.members)
    assert state.claims == {SHARD: Claim("b", taken)}
    await leaving.retire()  # of who has left, nobody hears
    assert set((await _now(registries)).members) == {"b"}


async def test_who_has_left_can_do_nothing(registries: RegistryHarness) -> None:
    gone = await registries.registry.join(_member("a"))
    held = await gone.claim(SHARD, 0)
    assert held is not None
    await gone.leave()
    successor = await registries.registry.join(_member("a"))  # its name, another session
    epoch = await successor.claim(SHARD, 0)
    assert epoch is not None
    assert gone.valid_until() <= time.monotonic()
    assert await gone.claim(OTHER, 0) is None
    assert not await gone.release(SHARD, epoch)
    await gone.leave()
    state = await _now(registries)
    assert (set(state.members), dict(state.claims)) == ({"a"}, {SHARD: Claim("a", epoch)})


async def test_a_slow_watcher_sees_the_last_state(registries: RegistryHarness) -> None:
    watch = registries.registry.watch()
    before = await _until(watch, lambda _: True)
    session = await registries.registry.join(_member("a"))
    epoch = 0
    for _ in range(50):  # nobody looks meanwhile
        taken = await session.claim(SHARD, epoch)
        assert taken is not None
        epoch = taken
    revisions = [before.revision]

    def last(state: Ownership) -> bool:
        revisions.append(state.revision)
        return state.claims.get(SHARD) == Claim("a", epoch)

    await _until(watch, last)
    assert revisions == sorted(set(revisions))


async def test_all_watchers_see_the_same_end(registries: RegistryHarness) -> None:
    sessions = [await registries.registry.join(_member(f"m{number}")) for number in range(4)]
    done = ShardName("done@1", 0)
    watchers = [
        asyncio.create_task(_until(registries.registry.watch(), lambda state: done in state.claims)) for _ in range(5)
    ]

    async def claim_all(session_number: int) -> None:
        for number in range(10):
            await sessions[session_number].claim(ShardName("view@1", number), 0)

    await asyncio.gather(*(claim_all(number) for number in range(4)))
    assert await sessions[0].claim(done, 0) is not None
    ends = await asyncio.gather(*watchers)
    assert all(end == ends[0] for end in ends)
    assert len(ends[0].claims) == 11


async def test_a_state_once_seen_does_not_change(registries: RegistryHarness) -> None:
    session = await registries.registry.join(_member("a"))
    seen = await _now(registries)
    assert registries.registry.problem() == ""
    assert await session.claim(SHARD, 0) is not None
    await session.leave()
    assert (set(seen.members), dict(seen.claims)) == ({"a"}, {})


async def test_revisions_never_go_back_over_a_restart(registries: RegistryHarness) -> None:
    session = await registries.registry.join(_member("a"))
    epoch = await session.claim(SHARD, 0)
    assert epoch is not None
    last = await _now(registries)
    await registries.restart()
    first = await _now(registries)
    assert first.revision >= last.revision
    again = await registries.registry.join(_member("b"))
    higher = await again.claim(OTHER, 0)
    assert higher is not None
    assert higher > epoch


async def test_closing_ends_watches_and_sessions(registries: RegistryHarness) -> None:
    session = await registries.registry.join(_member("a"))

    async def watch_to_the_end() -> int:
        return len([state async for state in registries.registry.watch()])

    watching = asyncio.create_task(watch_to_the_end())
    await _now(registries)
    await registries.registry.close()
    assert await asyncio.wait_for(watching, PATIENCE_S) >= 1
    assert session.valid_until() <= time.monotonic()


async def test_a_session_says_when_it_has_ended(registries: RegistryHarness) -> None:
    left = await registries.registry.join(_member("a"))
    ended = asyncio.create_task(left.ended())
    await asyncio.sleep(0)
    assert not ended.done()
    await left.leave()
    await asyncio.wait_for(ended, PATIENCE_S)
    closed = await registries.registry.join(_member("b"))
    await registries.restart()
    await asyncio.wait_for(closed.ended(), PATIENCE_S)


# --- which build of a view answers ---


async def test_a_build_is_named_once_and_then_by_what_was_seen(registries: RegistryHarness) -> None:
    registry = registries.registry
    assert await registry.let_answer("view", Answering(3, 0, 0), None)
    assert not await registry.let_answer("view", Answering(4, 0, 0), None)
    first = (await _until(registry.watch(), lambda state: "view" in state.answering)).answering["view"]
    assert first[:2] == (3, 0)
    assert await registry.let_answer("view", first.promoting(4), first)
    assert not await registry.let_answer("view", first.promoting(5), first)  # what it saw is over
    state = await _until(registry.watch(), lambda state: state.answering["view"] != first)
    assert state.answering == {"view": Answering(4, 3, state.revision)}
    assert state.revision > first.revision
    assert await registry.let_answer("view", state.answering["view"].promoting(3), state.answering["view"])
    again = (await _until(registry.watch(), lambda state: state.answering["view"].build == 3)).answering["view"]
    assert again.before == 4
    assert not await registry.let_answer(
        "view", first.promoting(4), first
    )  # the same build, named anew: not what it saw


async def test_a_dropped_build_is_remembered_and_is_not_the_one_before(registries: RegistryHarness) -> None:
    registry = registries.registry
    said = Answering(2, 1, 0)
    assert await registry.let_answer("view", said, None)
    for dropped in ({1}, {1, 4}):
        seen = (await _until(registry.watch(), lambda state: "view" in state.answering)).answering["view"]
        said = seen.dropping(max(dropped))
        assert await registry.let_answer("view", said, seen)
        state = await _until(registry.watch(), lambda state: len(state.answering["view"].dropped) == len(dropped))  # noqa: B023
        assert state.answering["view"] == Answering(2, 0, state.revision, frozenset(dropped))
    assert state.answering["view"].promoting(5)[:2] == (5, 2)
    assert state.answering["view"].promoting(5).dropped == {1, 4}


async def test_among_many_who_name_a_build_one_wins(registries: RegistryHarness) -> None:
    named = await asyncio.gather(
        *(registries.registry.let_answer("view", Answering(build, 0, 0), None) for build in range(1, 9))
    )
    assert sum(named) == 1
    answering = (await _now(registries)).answering["view"]
    assert answering.build == named.index(True) + 1


async def test_the_build_that_answers_outlives_all_members(registries: RegistryHarness) -> None:
    session = await registries.registry.join(_member("a"))
    assert await registries.registry.let_answer("view", Answering(2, 0, 0), None)
    assert await session.claim(SHARD, 0) is not None
    await session.leave()
    state = await _until(registries.registry.watch(), lambda state: "a" not in state.members)
    assert (state.answering["view"].build, state.claims) == (2, {})
