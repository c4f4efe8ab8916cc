"""A gateway that lacks what it needs says so, and says when it has it again; what it can do without keeps it ready."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from aorist.errors import AoristError, LogUnavailableError, UnknownTopicError, UnreachableError
from aorist.ports import EventLog, OwnershipRegistry, Topic, TopicSpec
from aorist.serve import running
from aorist.serve.routing import Router
from aorist.serve.running import LogLook, RoutesLook, stay_ready
from aorist.serve.transport import Listener
from tests.harness.places import PATIENCE_S

SPEC = TopicSpec("arms", 8, retention_ms=1000)


async def test_health_follows_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LOOK_S", 0.001)
    said: asyncio.Queue[bool] = asyncio.Queue()
    problem, looks = "", asyncio.Semaphore(0)

    async def set_serving(*, serving: bool) -> None:
        said.put_nowait(serving)

    async def look() -> str:
        looks.release()
        return problem

    async def seen(times: int = 3) -> None:
        for _ in range(times):
            await asyncio.wait_for(looks.acquire(), PATIENCE_S)

    with capture_logs() as logs:
        staying = asyncio.create_task(stay_ready(look, cast("Listener", SimpleNamespace(set_serving=set_serving))))
        await seen()
        assert said.empty()
        problem = "it is alone"
        assert await asyncio.wait_for(said.get(), PATIENCE_S) is False
        problem = "it is alone, for longer"
        assert await asyncio.wait_for(said.get(), PATIENCE_S) is False
        problem = ""
        assert await asyncio.wait_for(said.get(), PATIENCE_S) is True
        await seen()
        assert said.empty()
        staying.cancel()
    assert [(line["event"], line.get("problem")) for line in logs] == [
        ("not ready any more", "it is alone"),
        ("ready again", None),
    ]


async def test_a_command_gateway_needs_its_topics_and_a_log_that_answers() -> None:
    found: Topic | AoristError = Topic("arms", uuid4(), 8)

    def describe(_: str) -> Topic:
        if isinstance(found, AoristError):
            raise found
        return found

    look = LogLook(cast("EventLog", SimpleNamespace(describe=describe)), [SPEC])
    assert await look() == ""
    found = UnknownTopicError("it was deleted")
    assert "not as declared: it was deleted" in await look()
    found = LogUnavailableError("away")  # which says nothing about the topics
    assert [await look() for _ in range(3)] == ["the topics are not as declared: it was deleted"] * 3
    found = Topic("arms", uuid4(), 8)
    assert await look() == ""
    found = LogUnavailableError("away")
    assert [await look() for _ in range(3)] == ["", *["the log does not answer: away"] * 2]
    found = Topic("arms", uuid4(), 12)
    assert "12 partitions" in await look()
    found = Topic("arms", uuid4(), 8)
    assert await look() == ""
    found = LogUnavailableError("away")
    assert await look() == ""  # not twice in a row


async def test_a_query_gateway_is_ready_for_as_long_as_it_reaches_anything() -> None:
    problem, answers, asked = "", [("ada", "ada:1", UnreachableError("it is dead"))], 0

    async def status(_: float) -> list[tuple[str, str, Any]]:
        nonlocal asked
        asked += 1
        return answers

    registry = cast("OwnershipRegistry", SimpleNamespace(problem=lambda: problem))
    look = RoutesLook(registry, cast("Router", SimpleNamespace(status=status)))
    assert (await look(), asked) == ("", 0)  # that no worker answers is not of the gateway's making
    problem = "etcd is away"
    assert await look() == "none of the 1 workers known answers, and who owns what cannot be read: etcd is away"
    answers.append(("finn", "finn:1", cast("Any", SimpleNamespace())))
    assert await look() == ""
    answers.clear()
    assert "none of the 0 workers" in await look()
    problem = ""
    assert await look() == ""
