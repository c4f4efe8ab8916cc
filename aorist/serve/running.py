"""What a process does beside serving: waits until it can, watches what must not end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import structlog

from aorist.errors import AoristError, PartitionCountError, UnavailableError, UnknownTopicError
from aorist.ports import EventLog, OwnershipRegistry, Topic, TopicSpec
from aorist.serve.routing import Router
from aorist.serve.transport import Listener

LOOK_S = 2.0
"""How often a gateway looks whether it should be sent anything."""

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


GatewayLook = Callable[[], Awaitable[str]]
"""Why a gateway should be sent nothing now; empty: it should."""


async def stay_ready(look: GatewayLook, listener: Listener) -> None:
    """Of a gateway that was ready once: looks again and again, until cancelled; health is NOT_SERVING while there is a problem.

    Calls are answered all the while, each in its own way.
    """
    problem = ""
    while True:
        await asyncio.sleep(LOOK_S)
        before, problem = problem, await look()
        if problem != before:
            await listener.set_serving(serving=not problem)
            if not problem:
                log.info("ready again")
            elif not before:
                log.error("not ready any more", problem=problem)


class LogLook:
    """Of a command gateway: the log answers, and has the topics as they are declared.

    One look without an answer is none: brokers are restarted one after another.
    """

    def __init__(self, events: EventLog, topics: Sequence[TopicSpec]) -> None:
        self._events, self._topics = events, topics
        self._said, self._unanswered = "", 0

    async def __call__(self) -> str:
        try:
            for spec in self._topics:
                _check_partitions(spec, await asyncio.to_thread(self._events.describe, spec.name))
            self._said, self._unanswered = "", 0
        except (UnknownTopicError, PartitionCountError) as error:
            self._said, self._unanswered = f"the topics are not as declared: {error}", 0
        except UnavailableError as error:
            self._unanswered += 1
            if self._unanswered > 1 and not self._said:
                self._said = f"the log does not answer: {error}"
        return self._said


class RoutesLook:
    """Of a query gateway: it can read who owns what, or else a worker answers of those that it has read of.

    With routes that are old most questions are answered still; cut off from everything, none is.
    """

    def __init__(self, registry: OwnershipRegistry, router: Router) -> None:
        self._registry, self._router = registry, router

    async def __call__(self) -> str:
        problem = self._registry.problem()
        if not problem:
            return ""
        answers = await self._router.status(LOOK_S)
        if any(not isinstance(answer, AoristError) for _, _, answer in answers):
            return ""
        return f"none of the {len(answers)} workers known answers, and who owns what cannot be read: {problem}"


def _check_partitions(spec: TopicSpec, found: Topic) -> None:
    if found.partitions != spec.partitions:
        raise PartitionCountError(
            f"topic {spec.name!r} has {found.partitions} partitions but is declared with {spec.partitions}: keys would be "
            "looked for where their history is not; `aorist topics diff` says what to do",
            topic=spec.name,
            partitions=found.partitions,
        )
