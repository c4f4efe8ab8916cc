"""Robots and readers, and what they were told: an oracle on the side of the clients.

Writers send each arm's samples in the order of their times, again and again until each is acknowledged, and remember where. Readers ask
for arms as fresh as what they know to be acknowledged, and keep every answer. In the end `check` holds all of it against the whole log as
a plain reader has it: what was acknowledged is where it was said to be; each arm's samples are in order; every answer is exactly what the
events up to the position that it names make.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import grpc

from aorist.v1.position_pb2 import Position
from aorist.v1.read_pb2 import ReadOptions
from fleet.arms.v1.commands_pb2 import JointSample, ReportJointPositionsRequest, StreamJointPositionsRequest
from fleet.arms.v1.commands_pb2_grpc import ArmCommandServiceStub
from fleet.arms.v1.queries_pb2 import GetArmPositionRequest, ListArmPositionsRequest
from fleet.arms.v1.queries_pb2_grpc import ArmQueryServiceStub
from tests.chaos.counting import counted
from tests.harness.client import BASE_US, channel_to, refusal_of, retry_ms_of, sample
from tests.harness.log_file import LogFile
from tests.harness.places import PATIENCE_S
from tests.harness.process import until

REPORTING = [f"arm-{number:02d}" for number in range(12)]
STREAMING = [f"streaming-{number:02d}" for number in range(6)]
# On all of four partitions, both.

WAIT_MS = 10_000
DEADLINE_S = 45.0
"""Of one command: longer than a gateway waits for Kafka."""

PACE_S, READ_PACE_S = 0.06, 0.08


Token = dict[int, int]
"""Partition -> offset."""


class Told(NamedTuple):
    """An answer about an arm: `events` of it, whose times have this hash, up to `offset`."""

    arm: str
    partition: int
    offset: int
    events: int
    times: int
    epoch: int


class Failure(NamedTuple):
    """Of a call, `at_s` after the load began."""

    at_s: float
    call: str
    code: grpc.StatusCode
    reason: str
    retry_ms: int
    message: str


@dataclass
class Load:
    """Runs from `async with` on until its end. `commands`, `queries`: addresses of gateways."""

    topic: str
    commands: str
    queries: str
    acknowledged: dict[tuple[str, int], Token] = field(default_factory=dict)
    """(arm, time) -> where. Of a stream, at or below the offset of the partition that it is in."""
    newest: dict[str, Token] = field(default_factory=dict)
    """Of each arm, what was acknowledged last."""
    told: list[Told] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    older: list[str] = field(default_factory=list)
    """Answers older than their token."""
    lower: list[str] = field(default_factory=list)
    """Answers of a lower position than one seen before, to readers who did ask for what they saw."""
    lists: int = 0
    _began: float = field(default_factory=time.monotonic)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _reading: list[asyncio.Task[None]] = field(default_factory=list)
    _writing: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self._writing = [asyncio.create_task(self._report(arm)) for arm in REPORTING]
        self._writing += [asyncio.create_task(self._stream())]
        self._reading = [
            asyncio.create_task(self._read(arm, sees=number % 2 == 0))
            for number, arm in enumerate(REPORTING[::2] + STREAMING[::2])
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

    def failed(self, *calls: str) -> list[Failure]:
        """Of these calls, or of all but commands."""
        return [failure for failure in self.failures if failure.call in (calls or ("get", "list"))]

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

    def _note(self, call: str, error: grpc.aio.AioRpcError) -> None:
        refusal = refusal_of(error)
        self.failures.append(
            Failure(
                round(time.monotonic() - self._began, 2),
                call,
                refusal.code,
                refusal.reason,
                retry_ms_of(error),
                error.details() or "",
            )
        )

    # --- writers ---

    async def _report(self, arm: str) -> None:
        async with channel_to(self.commands) as channel:
            commands, number = ArmCommandServiceStub(channel), 0
            while not self._stop.is_set():
                ask = ReportJointPositionsRequest(sample=sample(arm, number))
                try:
                    answer = await commands.ReportJointPositions(ask, timeout=DEADLINE_S)
                except grpc.aio.AioRpcError as error:
                    self._note("report", error)
                    await self._rest(0.1)
                    continue  # the same again
                at = answer.position
                self._acknowledge(arm, number, {at.partition: at.offset})
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
                            for arm in STREAMING:
                                self._acknowledge(arm, number, newest)
                            number += 1
                except grpc.aio.AioRpcError as error:
                    self._note("stream", error)
                    await self._rest(0.1)
                finally:
                    writing.cancel()
                    await asyncio.gather(writing, return_exceptions=True)

    async def _write_batches(self, call: Any, number: int) -> None:
        while not self._stop.is_set():
            batch: list[JointSample] = [sample(arm, number) for arm in STREAMING]
            await call.write(StreamJointPositionsRequest(sequence=number + 1, samples=batch))
            number += 1
            await self._rest(PACE_S)
        await call.done_writing()

    def _acknowledge(self, arm: str, number: int, token: Token) -> None:
        self.acknowledged[arm, BASE_US + number] = self.newest[arm] = token

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    # --- readers ---

    async def _read(self, arm: str, *, sees: bool) -> None:
        """`sees`: asks for what it has seen, too."""
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
                read = self._options(token)
                try:
                    answer = await queries.GetArmPosition(
                        GetArmPositionRequest(arm_id=arm, read=read), timeout=DEADLINE_S
                    )
                except grpc.aio.AioRpcError as error:
                    self._note("get", error)
                    await self._rest(0.1)
                    continue
                at, (axis,) = answer.header.position, answer.arm.axes
                self.told.append(
                    Told(arm, at.partition, at.offset, int(axis.position), axis.sampled_at_us, answer.header.epoch)
                )
                if at.offset < token[at.partition] or answer.header.stale:
                    self.older.append(f"{arm} at {at.offset}, asked for {token}: {answer.header}")
                if sees and at.offset < seen.get(at.partition, -1):
                    self.lower.append(f"{arm} at {at.offset}, was at {seen}: {answer.header}")
                seen = {at.partition: at.offset}
                await self._rest(READ_PACE_S)

    async def _list(self) -> None:
        async with channel_to(self.queries) as channel:
            queries = ArmQueryServiceStub(channel)
            while not self._stop.is_set():
                tokens = self.tokens()
                ask = ListArmPositionsRequest(read=self._options(tokens))
                try:
                    page = await queries.ListArmPositions(ask, timeout=DEADLINE_S)
                except grpc.aio.AioRpcError as error:
                    self._note("list", error)
                else:
                    self.lists += 1
                    for missing in page.missing_partitions:
                        at_s = round(time.monotonic() - self._began, 2)
                        self.failures.append(
                            Failure(at_s, "list", grpc.StatusCode.OK, missing.reason, 0, missing.message)
                        )
                    answered = {h.position.partition: h.position.offset for h in page.headers}
                    self.older += [
                        f"list at {answered}, asked for {tokens}"
                        for partition, token in tokens.items()
                        if answered.get(partition, token) < token
                    ]
                await self._rest(2 * READ_PACE_S)

    def tokens(self) -> Token:
        """All that is acknowledged."""
        newest = Token()
        for token in self.newest.values():
            newest |= {partition: max(offset, newest.get(partition, -1)) for partition, offset in token.items()}
        return newest

    def _options(self, token: Token) -> ReadOptions:
        wanted = [Position(topic=self.topic, partition=partition, offset=offset) for partition, offset in token.items()]
        return ReadOptions(at_least=wanted, max_wait_ms=WAIT_MS)

    # --- in the end ---

    def check(self, log: LogFile) -> None:
        """Everything against the whole log."""
        assert not self.older, self.older[:5]
        assert not self.lower, self.lower[:5]
        self.check_acknowledged(log)
        self.check_told(log, self.told)

    def check_acknowledged(self, log: LogFile) -> None:
        """Nothing is missing, and each arm's samples came in order: repeats of a resend aside."""
        partition_of = {event.key.decode(): event.partition for event in log.events}
        offsets: dict[tuple[str, int], list[int]] = {}
        for arm, events in log.by_arm.items():
            for offset, changed in events:
                offsets.setdefault((arm, changed.sampled_at_us), []).append(offset)
            times = [time_us for (of, time_us) in offsets if of == arm]
            assert times == sorted(times), f"samples of {arm} are out of order"
        missing = set(self.acknowledged) - set(offsets)
        assert not missing, f"acknowledged and not in the log: {sorted(missing)[:5]} of {len(missing)}"
        for (arm, time_us), token in self.acknowledged.items():
            at, told = offsets[arm, time_us], token[partition_of[arm]]
            assert told in at if arm in REPORTING else at[0] <= told, (
                f"{arm} {time_us} is at {at}, acknowledged at {told}"
            )

    @staticmethod
    def check_told(log: LogFile, told: list[Told]) -> None:
        """Each answer is what the events up to its position make, no more and no less."""
        folds = {arm: list(_folds(arm, log)) for arm in log.by_arm}
        for answer in told:
            offsets = [offset for offset, _ in log.by_arm[answer.arm]]
            expected = folds[answer.arm][bisect_right(offsets, answer.offset)]
            assert (answer.events, answer.times) == expected, f"{answer} should say {expected}"

    def summary(self) -> str:
        """What happened, in a line."""
        failed = Counter((failure.call, failure.code.name, failure.reason) for failure in self.failures)
        counts = f"{len(self.acknowledged)} acknowledged, {len(self.told)} answers, {self.lists} lists"
        return f"{counts}, failures {dict(failed)}"


def _folds(arm: str, log: LogFile) -> Iterator[tuple[int, int]]:
    """Count and hash before the first event of `arm`, after it, after the second..."""
    total = 0
    yield 0, 0
    for count, (_, changed) in enumerate(log.by_arm[arm], 1):
        total = (total * 31 + changed.sampled_at_us) % (2**61 - 1)
        yield count, total


async def check_final(load: Load, log: LogFile) -> None:
    """Every arm's answer, as fresh as the end of the log, is what the whole log makes."""
    read = load._options({partition: end - 1 for partition, end in log.ends.items() if end})
    read.max_wait_ms = int(PATIENCE_S * 1000)
    async with channel_to(load.queries) as channel:
        page = await ArmQueryServiceStub(channel).ListArmPositions(ListArmPositionsRequest(read=read))
    assert not page.missing_partitions
    assert {arm.arm_id: arm for arm in page.arms} == log.folded(counted)
