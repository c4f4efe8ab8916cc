"""What a process does beside serving: waits until it can, watches what must not end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import structlog

from aorist.errors import PartitionCountError, UnavailableError, UnknownTopicError
from aorist.ports import EventLog, Topic, TopicSpec
from aorist.serve.transport import Listener

TOPICS_S = 2.0
"""How often a gateway looks whether the topics are as declared."""

AGAIN_S = (0.1, 2.0)
"""First and longest rest between looks at a log that is away, or lacks a topic."""

log = structlog.get_logger()


class Watched:
    """Tasks that must not end before the process does: when one fails, the process stops and says why."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._failure: BaseException | None = None

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self._stop.set()

    async def unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Waits for `work`; False, and it is cancelled, when stopped before it is done. Raises as `until_stopped`."""
        working, stopping = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self._failure is not None:
            raise self._failure
        if not working.done():
            working.cancel()
            return False
        working.result()
        return True

    async def until_stopped(self) -> None:
        """Returns when stopped from outside; raises what made a task fail."""
        await self._stop.wait()
        if self._failure is not None:
            raise self._failure


async def as_declared(events: EventLog, topics: Sequence[TopicSpec]) -> None:
    """Waits until the log has all of them. Raises PartitionCountError for one with another number of partitions than declared."""
    for spec in topics:
        rest = AGAIN_S[0]
        while True:
            try:
                found = await asyncio.to_thread(events.describe, spec.name)
                break
            except (UnavailableError, UnknownTopicError) as error:
                log.warning("not ready: waiting for the topic", topic=spec.name, problem=str(error), rest_s=rest)
                await asyncio.sleep(rest)
                rest = min(rest * 2, AGAIN_S[1])
        _check_partitions(spec, found)


async def stay_as_declared(events: EventLog, topics: Sequence[TopicSpec], listener: Listener) -> None:
    """Looks again and again whether the log still has them, until cancelled; health is NOT_SERVING while it has not.

    A log that is away says nothing about that. Commands are taken all the while: what they cause is published or not, and they say which.
    """
    problem = ""
    while True:
        await asyncio.sleep(TOPICS_S)
        before = problem
        try:
            for spec in topics:
                _check_partitions(spec, await asyncio.to_thread(events.describe, spec.name))
            problem = ""
        except (UnknownTopicError, PartitionCountError) as error:
            problem = str(error)
        except UnavailableError as error:
            log.debug("the topics were not looked at", problem=str(error))
            continue
        if problem != before:
            await listener.set_serving(serving=not problem)
            if problem:
                log.error("not ready any more: the topics are not as declared", problem=problem)
            else:
                log.info("ready: the topics are as declared again")


def _check_partitions(spec: TopicSpec, found: Topic) -> None:
    if found.partitions != spec.partitions:
        raise PartitionCountError(
            f"topic {spec.name!r} has {found.partitions} partitions but is declared with {spec.partitions}: keys would be "
            "looked for where their history is not; `aorist topics diff` says what to do",
            topic=spec.name,
            partitions=found.partitions,
        )
