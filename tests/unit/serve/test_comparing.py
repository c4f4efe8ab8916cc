"""Two builds of a partition are compared key by key, while events are folded in both."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from aorist.engine.shard import Entry, Shard
from aorist.position import ShardName
from aorist.serve import digests as paging
from aorist.serve.comparing import ROUNDS, compare, digests
from aorist.serve.differences import differs, in_words
from aorist.serve.digests import digest_page
from aorist.v1 import build_pb2, worker_pb2
from tests.unit.serve.things import world

WORLD = world()
OLD, NEW = ShardName("thing@1", 0), ShardName("thing@2", 0)
MANY = {f"key-{number:04d}": number for number in range(1, 400)}


class Sides:
    """The owner of each build. `before_each`: called before each look at either."""

    def __init__(self, old: dict[str, int], new: dict[str, int]) -> None:
        self.shards = {OLD: WORLD.shard(0, old), NEW: WORLD.shard(0, new)}
        self.before_each: Callable[[ShardName], None] = lambda _: None
        self.looks = 0

    def owner(self, name: ShardName) -> Any:
        async def digest(request: worker_pb2.DigestRequest, timeout_s: float) -> worker_pb2.DigestResponse:
            self.before_each(name)
            self.looks += 1
            return digest_page(self.shards[name], request)

        return SimpleNamespace(digest=digest)

    async def compare(self) -> build_pb2.Difference:
        return await compare(self, OLD, NEW)  # type: ignore[arg-type]

    async def digests(self, name: ShardName) -> tuple[int, int]:
        return await digests(self, name)  # type: ignore[arg-type]


def fold(shard: Shard, key: str, at: int, offset: int) -> None:
    with shard.lock:
        if key.encode() not in shard.entries:
            shard.new_key(key.encode())
        shard.entries[key.encode()] = Entry(WORLD.contract.Thing(at=at), offset)
        shard.next_offset = max(shard.next_offset, offset + 1)


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MOST_KEYS", 100)
    monkeypatch.setattr("aorist.serve.comparing.MOST_KEYS", 100)


async def test_equal_builds_are_equal_over_all_pages() -> None:
    sides = Sides(MANY, MANY)
    difference = await sides.compare()
    assert not differs(difference)
    assert (difference.keys_before, difference.keys_now) == (399, 399)
    assert await sides.digests(OLD) == await sides.digests(NEW)


async def test_each_kind_of_difference_is_counted_and_named() -> None:
    new = {key: at for key, at in MANY.items() if at > 250} | {"zz": 1, "key-0300": 7}
    sides = Sides(MANY, new)
    difference = await sides.compare()
    assert (difference.only_before, difference.only_now, difference.other_states, difference.unsettled) == (
        250,
        1,
        1,
        0,
    )
    assert (difference.keys_before, difference.keys_now) == (399, 150)
    said = in_words(difference, 1, 2)
    for part in ("250 keys only in build 1", "1 keys only in build 2", "1 keys in another state", "key-0001"):
        assert part in said
    old_keys, _ = await sides.digests(OLD)
    new_keys, _ = await sides.digests(NEW)
    assert old_keys != new_keys


async def test_digests_tell_keys_from_states() -> None:
    sides = Sides({"a": 1, "b": 2}, {"a": 2, "b": 1})
    (old_keys, old_states), (new_keys, new_states) = await sides.digests(OLD), await sides.digests(NEW)
    assert (old_keys == new_keys, old_states == new_states) == (True, False)


async def test_a_key_that_one_build_has_folded_further_is_looked_at_again() -> None:
    sides = Sides({"a": 1, "b": 1}, {"a": 1, "b": 1})

    def go_on(_: ShardName) -> None:
        if sides.looks < 6:
            fold(sides.shards[OLD], "b", sides.looks, sides.looks)
        elif sides.looks == 6:
            fold(sides.shards[OLD], "b", 9, 9)
            fold(sides.shards[NEW], "b", 9, 9)
            fold(sides.shards[NEW], "c", 1, 10)
            fold(sides.shards[OLD], "c", 1, 10)

    sides.before_each = go_on
    assert not differs(await sides.compare())


async def test_a_key_that_is_made_while_it_is_compared_is_no_difference() -> None:
    """It comes to one build between the looks at both: the next look is no earlier than that in either."""
    sides = Sides({"a": 1}, {"a": 1})

    def make(name: ShardName) -> None:
        if sides.looks == 1:
            fold(sides.shards[name], "new", 1, 5)
        elif sides.looks > 1:
            fold(sides.shards[OLD], "new", 1, 5)
            fold(sides.shards[NEW], "new", 1, 5)

    sides.before_each = make
    assert not differs(await sides.compare())


async def test_a_key_that_never_stands_still_is_told_after_so_many_looks() -> None:
    sides = Sides({"a": 1, "b": 1}, {"a": 1, "b": 1})
    sides.before_each = lambda name: fold(sides.shards[name], "b", 1, sides.looks)
    difference = await sides.compare()
    assert (difference.unsettled, list(difference.examples), difference.other_states) == (1, [b"b"], 0)
    assert sides.looks == 2 * (ROUNDS + 1)
    assert "1 keys changing too fast to compare" in in_words(difference, 1, 2)
