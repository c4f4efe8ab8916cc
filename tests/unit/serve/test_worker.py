"""A worker answers questions in their order, and one that fails does not fail those it travels with."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from aorist.engine.parked import Parked
from aorist.engine.stored import Stored
from aorist.errors import NoOwnerError, RestoringError
from aorist.ports import ParkedEvent
from aorist.position import ShardName
from aorist.serve.errors import reason_of
from aorist.serve.worker import WorkerService
from aorist.v1 import read_pb2, worker_pb2
from tests.unit.serve.things import World, world

WORLD = world()


def question(key: str, request: Any = None, made: World = WORLD) -> worker_pb2.Question:
    request = request or made.contract.GetThingRequest(id=key)
    return worker_pb2.Question(
        view="thing@1",
        topic="things",
        request_type=request.DESCRIPTOR.full_name,
        request=request.SerializeToString(),
        key=key.encode(),
        limit=10,
    )


async def ask(
    *questions: worker_pb2.Question, owned: bool = True, check_lease: Callable[[], None] = lambda: None
) -> list[worker_pb2.Answer]:
    """Of a worker that holds partition 0 with a, b and one that raises."""
    shard = WORLD.shard(0, {"a": 1, "b": 2, "raises": -1})
    if not owned:
        shard.stand_by(7)
    shards = {shard.name: shard}

    def find(name: ShardName) -> Any:
        if name not in shards:
            raise NoOwnerError(f"{name} is not held here")
        return shards[name]

    service = WorkerService(SimpleNamespace(shards=shards, shard=find), check_lease)  # type: ignore[arg-type]
    return list((await service.ask(worker_pb2.AskRequest(questions=questions))).answers)


def _kinds(answers: list[worker_pb2.Answer]) -> list[str]:
    return [reason_of(answer.error) or str(answer.WhichOneof("result")) for answer in answers]


async def test_answers_come_in_the_order_of_questions_with_key_and_header() -> None:
    answers = await ask(question("b"), question("a"))
    responses = [WORLD.contract.GetThingResponse.FromString(answer.response) for answer in answers]
    assert [(r.thing.id, r.thing.at, r.header.epoch) for r in responses] == [("b", 2, 1), ("a", 1, 1)]


async def test_each_question_fails_by_itself() -> None:
    elsewhere, other, malformed = question("a"), question("a"), question("a")
    elsewhere.partition, other.request_type, malformed.request = 3, "no.such.Request", b"\xff"
    asked = [question("a"), question("unknown"), elsewhere, other, malformed, question("raises"), question("b")]
    assert _kinds(await ask(*asked)) == [
        "response",
        "UNKNOWN_KEY",
        "NO_OWNER",
        "INVALID",
        "BUG",
        "BUG",
        "response",
    ]


async def test_a_bug_says_what_it_was_and_nothing_of_the_insides() -> None:
    (answer,) = await ask(question("raises"))
    assert answer.error.message == "ZeroDivisionError: see the server's log"


@pytest.mark.parametrize("staleness_ms", [0, 10_000])
async def test_a_question_that_has_to_wait_and_then_raises_fails_by_itself_too(staleness_ms: int) -> None:
    late = question("raises")
    late.read.max_staleness_ms, late.read.on_stale = staleness_ms, read_pb2.ON_STALE_RETURN
    assert _kinds(await ask(late, question("b"))) == ["BUG", "response"]


async def test_an_owner_that_is_staler_than_asked_for_does_not_deny_a_key() -> None:
    """Who asks may have been told that an event of it is there."""
    asked = question("unknown")
    asked.read.at_least.add(topic="things", partition=0, offset=10_000)
    asked.read.on_stale = read_pb2.ON_STALE_RETURN
    assert _kinds(await ask(asked)) == ["STALE"]


async def test_a_standby_says_neither_what_it_knows_nor_that_it_knows_nothing() -> None:
    """Its state may be behind: that a key is not known is for the owner to say."""
    assert _kinds(await ask(question("a"), question("unknown"), owned=False)) == ["NO_OWNER", "NO_OWNER"]


async def test_a_standby_that_will_do_says_under_which_epoch_and_in_which_role() -> None:
    asked = question("a")
    asked.standby_will_do = True
    (answer,) = await ask(asked, owned=False)
    header = WORLD.contract.GetThingResponse.FromString(answer.response).header
    assert (answer.epoch, header.epoch, header.role, header.stale) == (7, 7, read_pb2.ROLE_STANDBY, True)


async def test_a_copy_does_not_deny_a_key() -> None:
    asked = question("unknown")
    asked.standby_will_do = True
    assert _kinds(await ask(asked, owned=False)) == ["RESTORING"]


async def test_an_owner_whose_lease_may_be_over_answers_as_a_copy() -> None:
    def over() -> None:
        raise NoOwnerError("the lease is over")

    asked, listed = question("a"), question("", WORLD.contract.ListThingsRequest())
    asked.standby_will_do = listed.standby_will_do = True
    answer, page = await ask(asked, listed, check_lease=over)
    header = WORLD.contract.GetThingResponse.FromString(answer.response).header
    assert (header.role, header.stale) == (read_pb2.ROLE_STANDBY, True)
    assert (page.page.header.role, page.page.header.stale) == (read_pb2.ROLE_STANDBY, True)


async def test_the_store_answers_for_a_shard_that_is_not_held() -> None:
    header = read_pb2.ReadHeader(role=read_pb2.ROLE_STORE, stale=True, lag_ms=5)

    def stored(name: ShardName, key: bytes) -> Stored:
        if name.partition == 3:
            raise RestoringError("no snapshot yet")
        return Stored(WORLD.contract.Thing(at=-1 if key == b"raises" else 9), header)

    materializer = SimpleNamespace(shards={}, stored=stored, views={"thing@1": WORLD.view})
    service = WorkerService(materializer, lambda: None)  # type: ignore[arg-type]
    asked = [question("a"), question("raises"), question("b")]
    asked[2].partition = 3
    for one in asked:
        one.store_will_do = True
    answers = list((await service.ask(worker_pb2.AskRequest(questions=asked))).answers)
    assert _kinds(answers) == ["response", "BUG", "RESTORING"]
    got = WORLD.contract.GetThingResponse.FromString(answers[0].response)
    assert (got.thing.id, got.thing.at, got.header) == ("a", 9, header)


async def test_after_its_lease_an_owner_says_nothing_more() -> None:
    def over() -> None:
        raise NoOwnerError("the lease is over")

    assert _kinds(await ask(question("a"), question("unknown"), check_lease=over)) == ["NO_OWNER", "NO_OWNER"]


async def test_a_parked_key_is_answered_as_it_was_or_with_the_reason() -> None:
    shard = WORLD.shard(0, {"a": 1, "b": 2})
    shard.next_offset, at = 10, 7
    shard.parked[b"a"] = Parked([ParkedEvent(b"a", at, b"event", "the event broke", 1)])
    materializer = SimpleNamespace(shards={shard.name: shard}, shard=lambda _: shard)
    service = WorkerService(materializer, lambda: None)  # type: ignore[arg-type]
    strict, later, listed = question("a"), question("a"), question("", WORLD.contract.ListThingsRequest())
    strict.read.on_stale = read_pb2.ON_STALE_FAIL
    later.read.at_least.add(topic=shard.partition.topic, partition=0, offset=at)
    asked = [question("a"), question("b"), strict, later, listed]
    answers = list((await service.ask(worker_pb2.AskRequest(questions=asked))).answers)
    assert _kinds(answers) == ["response", "response", "QUARANTINED", "QUARANTINED", "page"]
    parked, whole = (WORLD.contract.GetThingResponse.FromString(answer.response) for answer in answers[:2])
    assert (parked.thing.at, parked.header.position.offset, parked.header.stale) == (1, at - 1, True)
    assert (whole.thing.at, whole.header.position.offset, whole.header.stale) == (2, 9, False)
    assert "the event broke" in answers[2].error.message
    page = answers[4].page
    assert [entry.key for entry in page.entries] == [b"a", b"b"]
    assert (page.header.position.offset, page.header.stale) == (at - 1, True)
