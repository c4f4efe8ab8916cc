"""Robots and readers, and what they were told.

Writers send each arm's samples in the order of their times, again and again until each is acknowledged, and remember where. Readers ask
for arms as fresh as what they know to be acknowledged, and keep every answer. In the end `check` (see `oracle`) holds all of it against
the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

import grpc

from aorist.v1.read_pb2 import ON_STALE_FAIL, ON_STALE_UNSPECIFIED, OnStale
from fleet.arms.v1.commands_pb2 import JointSample, ReportJointPositionsRequest, StreamJointPositionsRequest
from fleet.arms.v1.commands_pb2_grpc import ArmCommandServiceStub
from fleet.arms.v1.queries_pb2 import ListArmPositionsRequest
from fleet.arms.v1.queries_pb2_grpc import ArmQueryServiceStub
from tests.chaos.counting import counted
from tests.cluster.oracle import DEADLINE_S, Failure, Oracle, Token
from tests.harness.client import all_arms, channel_to, sample
from tests.harness.log_file import Fold, LogFile
from tests.harness.places import PATIENCE_S
from tests.harness.process import until

REPORTING = [f"arm-{number:02d}" for number in range(12)]
STREAMING = [f"streaming-{number:02d}" for number in range(6)]
# On all of four partitions, both.

WAIT_MS = 10_000

PACE_S, READ_PACE_S = 0.06, 0.08


@dataclass(kw_only=True)
class Load(Oracle):
    """Runs from `async with` on until its end. `commands`, `queries`: addresses of gateways."""

    commands: str
    queries: str
    reporting: Sequence[str] = tuple(REPORTING)
    streaming: Sequence[str] = tuple(STREAMING)
    parked: set[int] = field(default_factory=set)
    """Partitions in which keys are in quarantine: what is listed of them may be older than asked for, and says so."""
    lists: int = 0
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _reading: list[asyncio.Task[None]] = field(default_factory=list)
    _writing: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self._writing = [asyncio.create_task(self._report(arm)) for arm in self.reporting]
        self._writing += [asyncio.create_task(self._stream())]
        self._reading = [
            asyncio.create_task(
                self._read(arm, sees=number % 2 == 0, on_stale=(ON_STALE_FAIL, ON_STALE_UNSPECIFIED)[number % 3 > 0])
            )
            for number, arm in enumerate((*self.reporting[::2], *self.streaming[::2]))
        ]
        self._reading += [asyncio.create_task(self._list())]
        return self

    async def __aexit__(self, *error: object) -> None:
        """Everybody ends what is under way; nobody may have failed in a way of its own."""
        self._stop.set()
        for task in (*self._writing, *self._reading):
            if error[0] is not None:
                task.cancel()
        results = await asyncio.gather(*self._writing, *self._reading, return_exceptions=True)
        if error[0] is None:
            for result in results:
                if result is not None:
                    raise result

    async def progress(self, events: int = 60, answers: int = 60) -> None:
        """Waits until so many more are acknowledged and answered: both ends live."""
        self._check_alive()
        wanted = len(self.acknowledged) + events, len(self.told) + answers

        def reached() -> bool:
            self._check_alive()
            return len(self.acknowledged) >= wanted[0] and len(self.told) >= wanted[1]

        await until(reached, f"{events} more acknowledged and {answers} more answers; {self.failures[-3:]}")

    def _check_alive(self) -> None:
        for task in (*self._writing, *self._reading):
            if task.done():
                task.result()

    # --- writers ---

    async def _report(self, arm: str) -> None:
        async with channel_to(self.commands) as channel:
            commands, number = ArmCommandServiceStub(channel), 0
            while not self._stop.is_set():
                ask = ReportJointPositionsRequest(sample=sample(arm, number))
                try:
                    answer = await commands.ReportJointPositions(ask, timeout=DEADLINE_S)
                except grpc.aio.AioRpcError as error:
                    self.note("report", error)
                    await self._rest(0.1)
                    continue  # the same again
                at = answer.position
                self.acknowledge(arm, number, {at.partition: at.offset})
                number += 1
                await self._rest(PACE_S)

    async def _stream(self) -> None:
        """All its arms in each batch; from the first batch not acknowledged on whenever the stream breaks."""
        number, newest = 0, Token()
        while not self._stop.is_set():
            async with channel_to(self.commands) as channel:
                call = ArmCommandServiceStub(channel).StreamJointPositions()
                writing = asyncio.create_task(self._write_batches(call, number))
                try:
                    async for answer in call:
                        assert not answer.refused
                        newest = newest | {position.partition: position.offset for position in answer.positions}
                        while number < answer.acknowledged_sequence:
                            for arm in self.streaming:
                                self.acknowledge(arm, number, newest)
                            number += 1
                except grpc.aio.AioRpcError as error:
                    self.note("stream", error)
                    await self._rest(0.1)
                finally:
                    writing.cancel()
                    await asyncio.gather(writing, return_exceptions=True)

    async def _write_batches(self, call: Any, number: int) -> None:
        while not self._stop.is_set():
            batch: list[JointSample] = [sample(arm, number) for arm in self.streaming]
            await call.write(StreamJointPositionsRequest(sequence=number + 1, samples=batch))
            number += 1
            await self._rest(PACE_S)
        await call.done_writing()

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    # --- readers ---

    async def _read(self, arm: str, *, sees: bool, on_stale: OnStale.ValueType) -> None:
        """`sees`: asks for what it has seen, too. `on_stale`: whether it wants the owner alone."""
        seen = Token()
        async with channel_to(self.queries) as channel:
            queries = ArmQueryServiceStub(channel)
            while not self._stop.is_set():
                if arm not in self.newest:
                    await self._rest(READ_PACE_S)
                    continue
                token = self.newest[arm]
                if sees:
                    token = token | {p: max(offset, token.get(p, -1)) for p, offset in seen.items()}
                answer = await self.ask(queries, arm, token, max_wait_ms=WAIT_MS, on_stale=on_stale)
                if answer is None:
                    await self._rest(0.1)
                    continue
                at = answer.header.position
                if sees and at.offset < seen.get(at.partition, -1):
                    self.lower.append(f"{arm} at {at.offset}, was at {seen}: {answer.header}")
                seen = {at.partition: at.offset}
                await self._rest(READ_PACE_S)

    async def _list(self) -> None:
        async with channel_to(self.queries) as channel:
            queries = ArmQueryServiceStub(channel)
            while not self._stop.is_set():
                tokens = self.tokens()
                ask = ListArmPositionsRequest(read=self.options(tokens, WAIT_MS))
                try:
                    page = await queries.ListArmPositions(ask, timeout=DEADLINE_S)
                except grpc.aio.AioRpcError as error:
                    self.note("list", error)
                else:
                    self.lists += 1
                    for missing in page.missing_partitions:
                        why = Failure(self.now_s(), "list", grpc.StatusCode.OK, missing.reason, 0, missing.message)
                        self.failures.append(why)
                    judged = [h for h in page.headers if not (h.stale and h.position.partition in self.parked)]
                    answered = {h.position.partition: h.position.offset for h in judged}
                    self.older += [
                        f"list at {answered}, asked for {tokens}"
                        for partition, token in tokens.items()
                        if answered.get(partition, token) < token
                    ]
                await self._rest(2 * READ_PACE_S)


async def check_final(load: Load, log: LogFile, fold: Fold = counted) -> None:
    """Every arm's answer, as fresh as the end of the log, is what the whole log makes."""
    ends = {partition: end - 1 for partition, end in log.ends.items() if end}
    read = load.options(ends, int(PATIENCE_S * 1000))
    assert await all_arms(load.queries, read) == log.folded(fold)
