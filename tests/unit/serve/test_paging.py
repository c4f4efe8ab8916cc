"""Lists: page by page over all partitions, every key once and in order, whatever the page size and whatever is left out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aorist.engine.shard import Shard
from aorist.errors import AoristError, HaltedError, InvalidRequestError, NoOwnerError, StaleError
from aorist.position import ShardName
from aorist.serve import worker as workers
from aorist.serve.errors import RelayedError, status_of
from aorist.serve.query_gateway import Gateway, Limits, _decode_token, _encode_token, _merge
from aorist.v1 import worker_pb2
from tests.unit.serve.things import PARTITIONS, World, world

WORLD = world()
LIMITS = Limits(max_wait_ms=2000, max_wait_limit_ms=60_000, default_page_size=100, max_page_size=1000)

KEYS = st.dictionaries(
    st.text(st.sampled_from("ab/~ä"), min_size=1, max_size=4),
    st.tuples(st.integers(0, PARTITIONS - 1), st.sampled_from([0, 1, 1, 2])),
    max_size=60,
)
"""Key -> its partition, and what it holds; 0 is left out of lists."""


class Shards:
    """A router whose workers are all here. A partition may have an error instead."""

    def __init__(self, world: World, shards: dict[int, Shard | AoristError]) -> None:
        self._world, self._shards = world, shards
        self.asked: list[worker_pb2.Question] = []

    async def ask(self, question: worker_pb2.Question, deadline: float) -> worker_pb2.Answer:
        self.asked.append(question)
        shard = self._shards[question.partition]
        if isinstance(shard, AoristError):
            raise shard
        query = self._world.view.queries[question.request_type]
        ask = query.shape.request.FromString(question.request)
        return worker_pb2.Answer(page=workers._page(shard, query, ask, question, stale=False), epoch=1)


def gateway(router: Any, made: World = WORLD, limits: Limits = LIMITS) -> Gateway:
    return Gateway(made.list_shape, made.view.schema, router, limits)


def spread(keys: dict[str, tuple[int, int]], made: World = WORLD) -> dict[int, Shard | AoristError]:
    return {p: made.shard(p, {key: at for key, (place, at) in keys.items() if place == p}) for p in range(PARTITIONS)}


async def pages(gateway: Gateway, size: int, most: int = 200) -> list[Any]:
    request, found = WORLD.contract.ListThingsRequest(page_size=size), []
    for _ in range(most):
        response: Any = await gateway.list(request)
        found.append(response)
        if not response.next_page_token:
            return found
        request.page_token = response.next_page_token
    raise AssertionError("no last page")


@settings(deadline=None, max_examples=150)
@given(KEYS, st.integers(1, 70), st.integers(1, 5), st.integers(1, 4))
def test_each_key_comes_once_and_in_order(keys: dict[str, tuple[int, int]], size: int, chunk: int, chunks: int) -> None:
    """Also where a worker holds its lock for few keys at a time, and gives up a page after few that are left out."""

    async def run() -> None:
        found = await pages(gateway(Shards(WORLD, spread(keys))), size)
        ids = [thing.id for page in found for thing in page.things]
        assert ids == sorted((key for key, (_, at) in keys.items() if at), key=str.encode)
        assert all(len(page.things) <= size for page in found)
        assert all(len(page.headers) == PARTITIONS for page in found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "CHUNK", chunk)
        patch.setattr(workers, "MOST_EXAMINED", chunk * chunks)
        asyncio.run(run())


@settings(deadline=None, max_examples=100)
@given(KEYS.filter(bool), st.integers(1, 5))
def test_pages_are_full_where_nothing_is_left_out(keys: dict[str, tuple[int, int]], size: int) -> None:
    full = {key: (partition, 1) for key, (partition, _) in keys.items()}

    async def run() -> None:
        found = await pages(gateway(Shards(WORLD, spread(full))), size)
        assert [len(page.things) for page in found[:-1]] == [size] * (len(found) - 1)
        assert len(found) == -(-len(full) // size)

    asyncio.run(run())


async def test_a_list_of_nothing_is_one_empty_page() -> None:
    (page,) = await pages(gateway(Shards(WORLD, spread({}))), 10)
    assert (list(page.things), page.next_page_token) == ([], "")


async def test_keys_that_come_while_pages_are_read_do_not_disturb_the_others() -> None:
    shards = spread({name: (n % PARTITIONS, 1) for n, name in enumerate("bdfhj")})
    asking = gateway(Shards(WORLD, shards))
    request = WORLD.contract.ListThingsRequest(page_size=2)
    first: Any = await asking.list(request)
    shard = shards[0]
    assert isinstance(shard, Shard)
    for name in (b"a", b"e"):
        shard.entries[name] = shard.entries[b"b"]
        shard.new_key(name)
    request.page_token = first.next_page_token
    second: Any = await asking.list(request)
    assert [thing.id for page in (first, second) for thing in page.things] == ["b", "d", "e", "f"]


def entries(*keys: bytes) -> list[worker_pb2.Entry]:
    return [worker_pb2.Entry(key=key) for key in keys]


def test_a_page_that_has_more_speaks_only_for_keys_up_to_its_last() -> None:
    short = worker_pb2.Page(entries=entries(b"a"), more=True, last_key=b"c")
    long = worker_pb2.Page(entries=entries(b"b", b"x"), last_key=b"x")
    taken, after = _merge([short, long], 10)
    assert [entry.key for entry in taken] == [b"a", b"b"]
    assert after == b"c"


def test_a_full_page_goes_on_after_its_own_last_key() -> None:
    taken, after = _merge([worker_pb2.Page(entries=entries(b"a", b"b", b"c"), last_key=b"c")], 2)
    assert [entry.key for entry in taken] == [b"a", b"b"]
    assert after == b"b"


# --- partitions that cannot answer ---


async def test_a_partition_that_cannot_answer_is_named_and_the_others_are_there() -> None:
    shards = spread({"a": (0, 1), "b": (1, 1), "c": (2, 1)})
    shards[1] = NoOwnerError("nobody owns thing/1 right now")
    shards[2] = RelayedError(status_of(HaltedError("thing/2 stands still")))
    response: Any = await gateway(Shards(WORLD, shards)).list(WORLD.contract.ListThingsRequest())
    assert [thing.id for thing in response.things] == ["a"]
    assert [(m.partition, m.reason, m.message) for m in response.missing] == [
        (1, "NO_OWNER", "nobody owns thing/1 right now"),
        (2, "HALTED", "thing/2 stands still"),
    ]
    assert [header.position.partition for header in response.headers] == [0, 3]


async def test_one_that_is_staler_than_allowed_fails_the_call() -> None:
    shards = spread({"a": (0, 1)})
    shards[3] = RelayedError(status_of(StaleError("thing/3 is late")))
    with pytest.raises(RelayedError, match="thing/3 is late"):
        await gateway(Shards(WORLD, shards)).list(WORLD.contract.ListThingsRequest())


async def test_when_none_can_answer_the_call_fails() -> None:
    shards: dict[int, Shard | AoristError] = {p: NoOwnerError(f"nobody owns {p}") for p in range(PARTITIONS)}
    with pytest.raises(NoOwnerError):
        await gateway(Shards(WORLD, shards)).list(WORLD.contract.ListThingsRequest())


# --- what is asked for ---


async def test_page_size_has_a_default_and_a_limit() -> None:
    router = Shards(WORLD, spread({}))
    limits = Limits(2000, 60_000, default_page_size=7, max_page_size=9)
    asking = gateway(router, limits=limits)
    await asking.list(WORLD.contract.ListThingsRequest())
    await asking.list(WORLD.contract.ListThingsRequest(page_size=9))
    assert [question.limit for question in router.asked] == [7] * PARTITIONS + [9] * PARTITIONS
    with pytest.raises(InvalidRequestError, match="page_size: is 10, at most 9 are given at once"):
        await asking.list(WORLD.contract.ListThingsRequest(page_size=10))


async def test_a_wait_has_a_limit() -> None:
    request = WORLD.contract.ListThingsRequest()
    request.read.max_wait_ms = 60_001
    with pytest.raises(InvalidRequestError, match=r"read\.max_wait_ms: is 60001, at most 60000 are waited"):
        await gateway(Shards(WORLD, spread({}))).list(request)


async def test_every_partition_is_asked_once_with_what_the_caller_reads() -> None:
    router = Shards(WORLD, spread({}))
    request = WORLD.contract.ListThingsRequest()
    request.read.max_staleness_ms = 5
    await gateway(router).list(request)
    assert [ShardName(q.view, q.partition) for q in router.asked] == [ShardName("thing", p) for p in range(PARTITIONS)]
    assert all(q.read.max_staleness_ms == 5 and q.topic == "things" for q in router.asked)


# --- tokens ---


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_a_token_gives_its_key_back(key: bytes) -> None:
    assert _decode_token(_encode_token(key)) == key


def test_no_token_begins_at_the_beginning() -> None:
    assert _decode_token("") == b""


@pytest.mark.parametrize("token", ["x", "arm-1", "a2!", "äöü", "====", "AAAA", "a", _encode_token(b"k")[1:]])
async def test_a_token_of_somebody_else_is_refused(token: str) -> None:
    with pytest.raises(
        InvalidRequestError, match="page_token: is not a token of this service: pass on next_page_token"
    ):
        await gateway(Shards(WORLD, spread({}))).list(WORLD.contract.ListThingsRequest(page_token=token))
