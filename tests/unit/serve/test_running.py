"""A gateway whose topics are not as declared any more says so, and says when they are again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

from aorist.errors import AoristError, LogUnavailableError, UnknownTopicError
from aorist.ports import EventLog, Topic, TopicSpec
from aorist.serve import running
from aorist.serve.running import stay_as_declared
from aorist.serve.transport import Listener
from tests.harness.places import PATIENCE_S

SPEC = TopicSpec("arms", 8, retention_ms=1000)


async def test_health_follows_the_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "TOPICS_S", 0.001)
    said: asyncio.Queue[bool] = asyncio.Queue()
    looked: list[Topic | AoristError] = [Topic("arms", uuid4(), 8)]

    def describe(_: str) -> Topic:
        if isinstance(looked[-1], AoristError):
            raise looked[-1]
        return looked[-1]

    async def set_serving(*, serving: bool) -> None:
        said.put_nowait(serving)

    events, listener = SimpleNamespace(describe=describe), SimpleNamespace(set_serving=set_serving)
    staying = asyncio.create_task(stay_as_declared(cast("EventLog", events), [SPEC], cast("Listener", listener)))

    async def says(found: Any, *, serving: bool) -> None:
        looked.append(found)
        assert await asyncio.wait_for(said.get(), PATIENCE_S) is serving

    await says(UnknownTopicError("deleted"), serving=False)
    await says(Topic("arms", uuid4(), 8), serving=True)
    looked.append(LogUnavailableError("away"))  # says nothing about topics
    await asyncio.sleep(0.05)
    assert said.empty()
    await says(Topic("arms", uuid4(), 12), serving=False)
    staying.cancel()
