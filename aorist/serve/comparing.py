"""Two builds of one partition, key by key.

Events are folded all the while. Two states can be compared where the last event in both is the same; a key for which it is not is looked
at again, in both builds, no earlier than where the later one was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping

from aorist.position import ShardName
from aorist.serve.digests import MOST_KEYS, digest_of
from aorist.serve.routing import Router
from aorist.v1 import build_pb2, position_pb2, worker_pb2

CATCH_UP_S = 5.0
"""How long a build may take to come to where the other one is."""

CALL_S = 10.0
"""How long a page of keys may take beside that."""

ROUNDS = 20
"""How often keys that are not the same yet are looked at again."""

MOST_EXAMPLES = 5

Digests = Mapping[bytes, worker_pb2.KeyDigest]
Position = position_pb2.Position


async def look(
    router: Router,
    shard: ShardName,
    at_least: Position | None,
    *,
    after: bytes = b"",
    limit: int = 1,
    keys: Iterable[bytes] = (),
) -> worker_pb2.DigestResponse:
    """What its owner has, no earlier than `at_least`. Raises NoOwnerError, UnreachableError, RelayedError."""
    request = worker_pb2.DigestRequest(
        view=shard.view,
        partition=shard.partition,
        after_key=after,
        limit=limit,
        keys=keys,
        at_least=at_least,
        timeout_ms=int(CATCH_UP_S * 1000),
    )
    return await router.owner(shard).digest(request, CATCH_UP_S + CALL_S)


async def digests(router: Router, shard: ShardName) -> tuple[int, int]:
    """Of all keys, and of all keys with their states: sums, so that the order does not matter."""
    keys = states = 0
    async for page in _pages(router, shard):
        for one in page.keys:
            keys += digest_of(one.key)
            states += digest_of(one.key, one.digest.to_bytes(8, "big"))
    return keys % 2**64, states % 2**64


async def _pages(router: Router, shard: ShardName) -> AsyncIterator[worker_pb2.DigestResponse]:
    after, more = b"", True
    while more:
        page = await look(router, shard, None, after=after, limit=MOST_KEYS)
        yield page
        after, more = page.last_key, page.more


async def compare(router: Router, before: ShardName, now: ShardName) -> build_pb2.Difference:
    """Raises what `look` does."""
    difference = build_pb2.Difference(partition=now.partition)
    after, more = b"", True
    while more:
        pages = await asyncio.gather(
            look(router, before, None, after=after, limit=MOST_KEYS),
            look(router, now, None, after=after, limit=MOST_KEYS),
        )
        # Beyond the end of the shorter page nothing is known of that build yet.
        frontier = min((page.last_key for page in pages if page.more), default=None)
        here, there = ({k.key: k for k in page.keys if frontier is None or k.key <= frontier} for page in pages)
        difference.keys_before += len(here)
        difference.keys_now += len(there)
        unlike = _unlike(here.keys() | there.keys(), here, there)
        if unlike:
            reached = max((page.position for page in pages), key=lambda at: at.offset)
            await _settle(router, before, now, unlike, reached, difference)
        more = frontier is not None
        after = frontier or b""
    return difference


def _unlike(keys: Iterable[bytes], here: Digests, there: Digests) -> list[bytes]:
    return sorted(key for key in keys if here.get(key) != there.get(key))


async def _settle(
    router: Router,
    before: ShardName,
    now: ShardName,
    unlike: list[bytes],
    reached: Position,
    difference: build_pb2.Difference,
) -> None:
    """Looks at these keys again until they are the same, or often enough; counts those that are not."""
    here: Digests = {}
    there: Digests = {}
    for look_no in range(ROUNDS):
        pieces = [unlike[start : start + MOST_KEYS] for start in range(0, len(unlike), MOST_KEYS)]
        here, there = {}, {}
        for piece in pieces:
            old, new = await asyncio.gather(
                look(router, before, reached, keys=piece), look(router, now, reached, keys=piece)
            )
            here |= {one.key: one for one in old.keys}
            there |= {one.key: one for one in new.keys}
            reached = max((old.position, new.position), key=lambda at: at.offset)
        unlike = _unlike(unlike, here, there)
        # From the second look on both are past all that was seen in either: the rest differs, whatever comes.
        if look_no and not any(_moves(here.get(key), there.get(key)) for key in unlike):
            break
    for key in unlike:
        old_one, new_one = here.get(key), there.get(key)
        difference.only_before += new_one is None
        difference.only_now += old_one is None
        moves = _moves(old_one, new_one)
        difference.unsettled += moves
        difference.other_states += not moves and old_one is not None and new_one is not None
    difference.examples.extend(unlike[: MOST_EXAMPLES - len(difference.examples)])


def _moves(here: worker_pb2.KeyDigest | None, there: worker_pb2.KeyDigest | None) -> bool:
    return here is not None and there is not None and here.offset != there.offset
