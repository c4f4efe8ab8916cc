"""Routing while ownership moves: what waits is asked again where the shard went, whatever the old owner does, and watches go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import grpc
import pytest

from aorist.adapters.local import LocalOwnershipRegistry
from aorist.errors import HaltedError, NoOwnerError, UnreachableError
from aorist.ports import Answering, Member, Session
from aorist.position import ShardName
from aorist.serve.errors import RelayedError, abort, status_of
from aorist.serve.routing import Router
from aorist.v1 import read_pb2, worker_pb2, worker_pb2_grpc

SHARD = ShardName("view@1", 0)
PATIENCE_S = 30.0


class FakeWorker(worker_pb2_grpc.WorkerServiceServicer):
    """A worker on a real port, that says its name, or nothing while it is stalled."""

    def __init__(self, name: str) -> None:
        self.name, self.epoch = name, 0
        self.stalled = False
        self.has_copy = False
        self.halted = False
        self.asked = asyncio.Event()
        self.offsets = [0]
        self.parked = False
        self.at_least: list[int] = []
        self.changed = asyncio.Event()
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])

    async def start(self) -> str:
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, self.server)
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        return f"127.0.0.1:{port}"

    async def Ask(self, request: worker_pb2.AskRequest, context: Any) -> worker_pb2.AskResponse:  # noqa: N802
        self.asked.set()
        if self.stalled:
            await asyncio.Event().wait()
        return worker_pb2.AskResponse(answers=[self._answer(question) for question in request.questions])

    def _answer(self, question: worker_pb2.Question) -> worker_pb2.Answer:
        if question.store_will_do:
            return worker_pb2.Answer(response=b"stored by " + self.name.encode())
        if not question.standby_will_do:
            return worker_pb2.Answer(response=self.name.encode(), epoch=self.epoch)
        if self.halted:
            return worker_pb2.Answer(error=status_of(HaltedError("view/0 stands still: an event cannot be folded")))
        if not self.has_copy:
            return worker_pb2.Answer(error=status_of(NoOwnerError("not held here")))
        return worker_pb2.Answer(response=b"copy of " + self.name.encode())

    async def Watch(self, request: worker_pb2.WatchRequest, context: Any) -> AsyncIterator[worker_pb2.WatchResponse]:  # noqa: N802
        if request.question.standby_will_do and not self.has_copy:
            await abort(context, NoOwnerError("not held here"))
        self.at_least = [position.offset for position in request.question.read.at_least]
        self.asked.set()
        while True:
            for offset in self.offsets:
                yield worker_pb2.WatchResponse(
                    response=f"{self.name}@{offset}".encode(), offset=offset, epoch=self.epoch, parked=self.parked
                )
            self.changed.clear()
            await self.changed.wait()

    async def Digest(self, request: worker_pb2.DigestRequest, context: Any) -> worker_pb2.DigestResponse:  # noqa: N802
        raise NotImplementedError

    def tell(self, offset: int) -> None:
        self.offsets = [offset]
        self.changed.set()


class System:
    """A registry, a router that follows it, and two workers."""

    def __init__(self) -> None:
        revisions = count(1)
        self.registry = LocalOwnershipRegistry(lambda: next(revisions))
        self.router = Router(self.registry)
        self.workers = {name: FakeWorker(name) for name in ("a", "b")}
        self.sessions: dict[str, Session] = {}

    async def start(self) -> None:
        assert await self.registry.let_answer("view", Answering(1, 0, 0), None)
        for name, worker in self.workers.items():
            member = Member(name, await worker.start(), ("view@1",))
            self.sessions[name] = await self.registry.join(member)
        self.following = asyncio.create_task(self.router.run())

    async def own(self, name: str, shard: ShardName = SHARD) -> None:
        seen = self.registry.now.claims.get(shard)
        epoch = await self.sessions[name].claim(shard, seen.epoch if seen else 0)
        assert epoch is not None
        self.workers[name].epoch = epoch

    async def promote(self, build: int, name: str) -> None:
        """`name`, who owns its shard, knows of it."""
        seen = self.registry.now.answering["view"]
        assert await self.registry.let_answer("view", seen.promoting(build), seen)
        self.workers[name].epoch = self.registry.now.revision

    async def stop(self) -> None:
        self.following.cancel()
        await self.router.close()
        for worker in self.workers.values():
            await worker.server.stop(None)
        await self.registry.close()

    def ask(self, patience_s: float = PATIENCE_S, on_stale: Any = 0) -> asyncio.Task[worker_pb2.Answer]:
        question = worker_pb2.Question(view="view", partition=0, key=b"k", topic="topic")
        question.read.on_stale = on_stale
        return asyncio.create_task(self.router.ask(question, time.monotonic() + patience_s))


@pytest.fixture
async def system() -> AsyncIterator[System]:
    system = System()
    await system.start()
    yield system
    await system.stop()


async def test_a_question_waits_for_an_owner(system: System) -> None:
    asking = system.ask()
    await asyncio.sleep(0)
    await system.own("a")
    assert (await asyncio.wait_for(asking, PATIENCE_S)).response == b"a"


async def test_without_an_owner_it_fails_in_time_and_says_so(system: System) -> None:
    with pytest.raises(NoOwnerError, match="view@1/0"):
        await system.ask(patience_s=0.1)


async def test_what_waits_at_a_stalled_owner_is_asked_again_where_the_shard_went(system: System) -> None:
    await system.own("a")
    system.workers["a"].stalled = True
    asking = [system.ask() for _ in range(1000)]  # more than are on their way at once
    await asyncio.wait_for(system.workers["a"].asked.wait(), PATIENCE_S)
    before = time.monotonic()
    await system.own("b")
    answers = await asyncio.wait_for(asyncio.gather(*asking), PATIENCE_S)
    assert {answer.response for answer in answers} == {b"b"}
    assert time.monotonic() - before < PATIENCE_S / 2  # not by the time-out of the calls to the stalled one


async def test_what_waits_at_an_owner_that_leaves_is_asked_again(system: System) -> None:
    await system.own("a")
    system.workers["a"].stalled = True
    asking = system.ask()
    await asyncio.wait_for(system.workers["a"].asked.wait(), PATIENCE_S)
    await system.sessions["a"].leave()  # the router closes its channel with calls under way
    await system.own("b")
    assert (await asyncio.wait_for(asking, PATIENCE_S)).response == b"b"


async def test_an_answer_of_a_lower_epoch_is_dropped(system: System) -> None:
    await system.own("a")
    system.workers["a"].epoch -= 1  # it has not heard yet that it owns the shard
    asking = system.ask()
    await asyncio.wait_for(system.workers["a"].asked.wait(), PATIENCE_S)
    assert not asking.done()
    system.workers["a"].epoch += 1
    assert (await asyncio.wait_for(asking, PATIENCE_S)).response == b"a"


async def test_an_owner_that_nobody_reaches_is_told(system: System) -> None:
    await system.own("a")
    await system.workers["a"].server.stop(None)
    with pytest.raises(UnreachableError):
        await system.ask(patience_s=0.3)


# --- copies ---


async def test_while_the_owner_is_away_a_copy_answers_at_once(system: System) -> None:
    await system.own("a")
    await system.workers["a"].server.stop(None)
    system.workers["b"].has_copy = True
    before = time.monotonic()
    assert (await system.ask()).response == b"copy of b"
    assert time.monotonic() - before < PATIENCE_S / 2
    await system.own("b")
    assert (await system.ask()).response == b"b"


async def test_an_owner_that_says_it_is_none_may_have_a_copy(system: System) -> None:
    """As one does whose lease cannot be renewed."""
    await system.own("a")
    system.workers["a"].epoch = 0  # what it answers as the owner is dropped
    system.workers["a"].has_copy = True
    assert (await system.ask()).response == b"copy of a"


async def test_who_wants_the_owner_alone_waits_and_fails(system: System) -> None:
    await system.own("a")
    await system.workers["a"].server.stop(None)
    system.workers["b"].has_copy = True
    with pytest.raises(UnreachableError):
        await system.ask(0.3, read_pb2.ON_STALE_FAIL)


async def test_the_last_snapshot_answers_only_whom_anything_will_do_and_in_the_end(system: System) -> None:
    with pytest.raises(NoOwnerError):
        await system.ask(0.1)
    with pytest.raises(NoOwnerError):
        await system.ask(0.1, read_pb2.ON_STALE_FAIL)
    before = time.monotonic()
    assert (await system.ask(0.3, read_pb2.ON_STALE_RETURN)).response.startswith(b"stored by ")
    assert time.monotonic() - before >= 0.3  # somebody might have answered from memory


async def test_the_last_snapshot_answers_also_when_ownership_ends_at_the_last_moment(system: System) -> None:
    await system.own("a")
    assert (await system.ask()).response == b"a"
    system.workers["a"].stalled = True
    system.workers["a"].asked.clear()
    asking = system.ask(0, read_pb2.ON_STALE_RETURN)
    await system.workers["a"].asked.wait()
    await system.sessions["a"].release(SHARD, system.workers["a"].epoch)
    assert (await asking).response == b"stored by b"


@pytest.mark.parametrize("on_stale", [read_pb2.ON_STALE_FAIL, read_pb2.ON_STALE_UNSPECIFIED])
async def test_a_shard_that_nobody_owns_because_it_stands_still_says_why(system: System, on_stale: Any) -> None:
    """As one does whose log does not reach back to its checkpoint: nobody can claim it."""
    system.workers["a"].halted = True
    with pytest.raises(RelayedError, match="an event cannot be folded"):
        await system.ask(0.2, on_stale)


async def test_a_watch_goes_on_at_a_copy_until_there_is_an_owner(system: System) -> None:
    await system.own("a")
    watch = _watch(system)
    assert await anext(watch) == b"a@0"
    system.workers["b"].has_copy = True
    system.workers["b"].offsets = [3]
    await system.workers["a"].server.stop(None)
    assert await asyncio.wait_for(anext(watch), PATIENCE_S) == b"b@3"
    system.workers["b"].tell(4)
    assert await asyncio.wait_for(anext(watch), PATIENCE_S) == b"b@4"
    await system.own("b")
    system.workers["b"].tell(5)
    assert await asyncio.wait_for(anext(watch), PATIENCE_S) == b"b@5"


# --- builds ---

NEXT = ShardName("view@2", 0)


async def test_the_build_that_answers_is_looked_up_at_each_attempt(system: System) -> None:
    await system.own("b", NEXT)
    asking = system.ask()
    await asyncio.sleep(0)
    assert not asking.done()  # nobody owns build 1, which answers
    await system.promote(2, "b")
    assert (await asyncio.wait_for(asking, PATIENCE_S)).response == b"b"
    await system.own("a")
    assert (await asyncio.wait_for(system.ask(), PATIENCE_S)).response == b"b"
    await system.promote(1, "a")
    assert (await asyncio.wait_for(system.ask(), PATIENCE_S)).response == b"a"


async def test_an_owner_that_does_not_know_yet_that_its_build_answers_is_asked_again(system: System) -> None:
    """The epochs of answers never go down, from one build to the next either."""
    await system.own("b", NEXT)
    claimed = system.workers["b"].epoch
    await system.own("a")
    await system.promote(2, "b")
    system.workers["b"].epoch = claimed
    with pytest.raises(NoOwnerError):
        await system.ask(0.2, read_pb2.ON_STALE_FAIL)
    system.workers["b"].epoch = system.registry.now.revision
    assert (await asyncio.wait_for(system.ask(), PATIENCE_S)).epoch > system.workers["a"].epoch


async def test_a_watch_moves_to_the_build_that_is_promoted(system: System) -> None:
    """It is told what that build makes of the same events; positions never go back."""
    await system.own("a")
    await system.own("b", NEXT)
    watch = _watch(system)
    assert await anext(watch) == b"a@0"
    system.workers["a"].tell(7)
    assert await anext(watch) == b"a@7"
    system.workers["b"].offsets = [5, 7, 7, 9]
    await system.promote(2, "b")  # the owner of build 1 lives on, and says nothing
    assert await asyncio.wait_for(anext(watch), PATIENCE_S) == b"b@7"
    assert await asyncio.wait_for(anext(watch), PATIENCE_S) == b"b@9"
    assert system.workers["b"].at_least == [7]


async def test_a_watch_is_told_of_a_promotion_that_its_new_owner_hears_of_late(system: System) -> None:
    """Its first word comes under the old epoch; the key is quiet, and there would be no second one."""
    await system.own("a")
    await system.own("b", NEXT)
    watch = _watch(system)
    assert await anext(watch) == b"a@0"
    claimed = system.workers["b"].epoch
    system.workers["b"].offsets = [9]
    coming = asyncio.ensure_future(anext(watch))
    await system.promote(2, "b")
    named, system.workers["b"].epoch = system.workers["b"].epoch, claimed
    await asyncio.sleep(0.2)
    assert not coming.done()
    system.workers["b"].epoch = named
    assert await asyncio.wait_for(coming, PATIENCE_S) == b"b@9"


# --- watches ---


def _watch(system: System) -> AsyncIterator[bytes]:
    question = worker_pb2.Question(view="view", partition=0, key=b"k", topic="topic")
    return system.router.watch(question, 0, PATIENCE_S)


async def test_a_watch_moves_to_the_new_owner_and_positions_never_go_back(system: System) -> None:
    await system.own("a")
    watch = _watch(system)
    assert await anext(watch) == b"a@0"
    system.workers["a"].tell(7)
    assert await anext(watch) == b"a@7"
    system.workers["b"].offsets = [5, 7, 9]  # it is behind at first
    await system.own("b")  # "a" lives on, and says nothing
    assert await asyncio.wait_for(anext(watch), PATIENCE_S) == b"b@9"
    assert system.workers["b"].at_least == [7]


async def test_a_watch_is_told_once_that_its_key_is_parked_though_that_is_of_a_lower_position(system: System) -> None:
    await system.own("a")
    watch = _watch(system)
    assert await anext(watch) == b"a@0"
    system.workers["a"].tell(7)
    assert await anext(watch) == b"a@7"
    system.workers["a"].parked = True
    system.workers["a"].tell(5)
    assert await asyncio.wait_for(anext(watch), PATIENCE_S) == b"a@5"
    system.workers["a"].tell(6)  # no more than is known
    system.workers["a"].tell(8)
    assert await asyncio.wait_for(anext(watch), PATIENCE_S) == b"a@8"


async def test_a_watch_outlives_an_owner_that_dies_long_after_its_last_word(system: System) -> None:
    await system.own("a")
    question = worker_pb2.Question(view="view", partition=0, key=b"k", topic="topic")
    watch = system.router.watch(question, 0, 0.5)
    assert await anext(watch) == b"a@0"
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0.6)  # longer than its patience, which counts from when the answers stop
    system.workers["b"].offsets = [1]
    await system.workers["a"].server.stop(None)
    await system.own("b")
    assert await asyncio.wait_for(waiting, PATIENCE_S) == b"b@1"


async def test_a_watch_left_by_its_client_is_left_at_the_worker(system: System) -> None:
    await system.own("a")
    watch: Any = _watch(system)
    await anext(watch)
    await watch.aclose()
    assert not [task for task in asyncio.all_tasks() if "read" in repr(task.get_coro())]
