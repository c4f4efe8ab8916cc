"""Clients that ask for the keys of some shards again and again while the shards change owners, and what they see of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from grpc import StatusCode

from aorist.v1.read_pb2 import ROLE_OWNER, OnStale
from bench.measure import NotMeasuredError
from tests.cluster.oracle import Failure, Oracle

if TYPE_CHECKING:
    from fleet.arms.v1.queries_pb2_grpc import ArmQueryServiceAsyncStub

CALLERS = 2
"""Of each key: while the call of one is held, that of the other may find the new owner."""

PACE_S = 0.001
"""Rest of a caller between an answer and its next question."""

CALL = "probe"
"""Their calls among the oracle's failures."""

FIRST = 30
"""Answers about each key before anything happens to its owner."""

PATIENCE_S = 30.0


WINDOW_S = 0.3
"""Before the first answer of a new owner: the time in which a gap is looked for."""


class Heard(NamedTuple):
    """An owner's answer as fresh as asked for."""

    at_s: float
    epoch: int


class Seen(NamedTuple):
    """Of one change of owner. `shards_ms`: of each shard that changed. `weak`: answers by a standby, or said to be stale."""

    shards_ms: Sequence[float]
    asked: int
    failed: int
    unknown: int
    weak: int


class Asking:
    """Runs from `async with` on until its end; by then every call has its answer. Each asks for what was acknowledged last of its key,
    waits as long as the gateway does by default, and does not try again: a call that fails counts.
    """

    def __init__(
        self,
        oracle: Oracle,
        stubs: Sequence[ArmQueryServiceAsyncStub],
        arms: Mapping[int, str],
        on_stale: OnStale.ValueType,
    ) -> None:
        """`arms`: by shard, one of each. `stubs`: connections of their own."""
        self._oracle, self._stubs, self._arms, self._on_stale = oracle, stubs, arms, on_stale
        self._heard: dict[int, list[Heard]] = {partition: [] for partition in arms}
        self._before: dict[int, int] = {}  # epochs
        self._first: dict[int, Heard] = {}  # of a higher epoch than before
        self._asked = self._weak = 0
        self._failed_before = len(oracle.failed(CALL))
        self._failures: Sequence[Failure] = ()
        self._ended, self._news = False, asyncio.Event()
        self._callers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._callers = [
            asyncio.create_task(self._call(self._stubs[number % len(self._stubs)], partition, arm))
            for partition, arm in self._arms.items()
            for number in range(CALLERS)
        ]
        await self._until(lambda partition: len(self._heard[partition]) >= FIRST, "first answers")
        self._before = {partition: heard[-1].epoch for partition, heard in self._heard.items()}
        return self

    async def __aexit__(
        self, error: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._ended = True
        if error is not None:
            for caller in self._callers:
                caller.cancel()
        await asyncio.gather(*self._callers, return_exceptions=error is not None)
        self._failures = self._oracle.failed(CALL)[self._failed_before :]

    async def _call(self, stub: ArmQueryServiceAsyncStub, partition: int, arm: str) -> None:
        while not self._ended:
            self._asked += 1
            answer = await self._oracle.ask(stub, arm, self._oracle.newest[arm], call=CALL, on_stale=self._on_stale)
            if answer is not None:
                header = answer.header
                if header.role == ROLE_OWNER and not header.stale:
                    self._hear(partition, Heard(time.monotonic(), header.epoch))
                else:
                    self._weak += 1
            await asyncio.sleep(PACE_S)

    def _hear(self, partition: int, heard: Heard) -> None:
        answers = self._heard[partition]
        answers.append(heard)
        if heard.epoch > self._before.get(partition, heard.epoch):
            self._first.setdefault(partition, heard)
            self._news.set()
        elif len(answers) == FIRST:
            self._news.set()

    async def moved(self) -> None:
        """Until each shard was answered for by an owner of a higher epoch. Raises NotMeasuredError."""
        await self._until(lambda partition: partition in self._first, "answers of a new owner")

    async def _until(self, done: Callable[[int], bool], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not all(done(partition) for partition in self._arms):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            heard = {partition: len(answers) for partition, answers in self._heard.items()}
            failures = self._oracle.failed(CALL)[-3:]
            raise NotMeasuredError(f"no {what} within {PATIENCE_S:.0f} s: {heard}; {failures}") from None

    # --- in the end ---

    def since(self, at_s: float) -> Seen:
        """Of an owner that was lost at `at_s`: how long after that the next one gave its first answer."""
        return self._seen([self._first[partition].at_s - at_s for partition in self._arms])

    def gaps(self) -> Seen:
        """Of an owner that handed over: the longest time without an answer up to the first answer of the next one."""
        return self._seen([self._gap(partition) for partition in self._arms])

    def _gap(self, partition: int) -> float:
        first = self._first[partition].at_s
        ends = [heard.at_s for heard in self._heard[partition] if heard.at_s <= first]
        return max(later - earlier for earlier, later in pairwise(ends) if later > first - WINDOW_S)

    def _seen(self, seconds: Sequence[float]) -> Seen:
        unknown = sum(failure.code is StatusCode.NOT_FOUND for failure in self._failures)
        return Seen([s * 1000 for s in seconds], self._asked, len(self._failures), unknown, self._weak)
