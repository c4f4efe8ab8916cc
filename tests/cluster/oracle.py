"""What clients were told, on their side of the system, and whether it was true: an oracle.

It keeps what was acknowledged and where, every answer and every failed call. An answer is held against its token at once; in the end
all of it is held against the whole log as a plain reader has it: what was acknowledged is where it was said to be (nothing is lost); each
arm's samples are in order; every answer is exactly what the events up to the position that it names make (none left out, none extra).

Arms are those of the project that counts events: their state shows how many were folded, and which.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import grpc

from aorist.v1.position_pb2 import Position
from aorist.v1.read_pb2 import ON_STALE_FAIL, ON_STALE_RETURN, ROLE_OWNER, OnStale, ReadHeader, ReadOptions
from fleet.arms.v1.queries_pb2 import GetArmPositionRequest, GetArmPositionResponse
from tests.harness.client import BASE_US, refusal_of, retry_ms_of
from tests.harness.log_file import LogFile

if TYPE_CHECKING:
    from fleet.arms.v1.queries_pb2_grpc import ArmQueryServiceAsyncStub

DEADLINE_S = 45.0
"""Of one call: longer than a gateway waits for Kafka, or for an owner."""

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
    """Of a call, `at_s` after the oracle began."""

    at_s: float
    call: str
    code: grpc.StatusCode
    reason: str
    retry_ms: int
    message: str


@dataclass
class Oracle:
    """`reporting`: arms whose samples are acknowledged one by one, each at its own offset."""

    topic: str
    reporting: Sequence[str] = ()
    acknowledged: dict[tuple[str, int], Token] = field(default_factory=dict)
    """(arm, time) -> where. Of a stream, at or below the offset of the partition that it is in."""
    newest: dict[str, Token] = field(default_factory=dict)
    """Of each arm, what was acknowledged last."""
    told: list[Told] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    older: list[str] = field(default_factory=list)
    """Answers older than their token to readers who did not allow it, or that do not say so; those of a copy to who wants the owner."""
    lower: list[str] = field(default_factory=list)
    """Answers of a lower position than one seen before, to readers who did ask for what they saw."""
    stale: int = 0
    """Answers that say that they are older than asked for, to readers who allowed it."""
    others: int = 0
    """Answers of anybody but the owner."""
    _began: float = field(default_factory=time.monotonic)

    def acknowledge(self, arm: str, number: int, token: Token) -> None:
        self.acknowledged[arm, BASE_US + number] = self.newest[arm] = token

    def now_s(self) -> float:
        """Since the oracle began."""
        return round(time.monotonic() - self._began, 2)

    async def ask(
        self,
        queries: ArmQueryServiceAsyncStub,
        arm: str,
        token: Token,
        *,
        call: str = "get",
        max_wait_ms: int | None = None,
        on_stale: OnStale.ValueType = ON_STALE_FAIL,
    ) -> GetArmPositionResponse | None:
        """One answer about an arm, as fresh as `token`; None: the call failed. Both are noted. `call`: its name among failures."""
        read = self.options(token, max_wait_ms)
        read.on_stale = on_stale
        try:
            answer = await queries.GetArmPosition(GetArmPositionRequest(arm_id=arm, read=read), timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            self.note(call, error)
            return None
        at, (axis,) = answer.header.position, answer.arm.axes
        self.told.append(
            Told(arm, at.partition, at.offset, int(axis.position), axis.sampled_at_us, answer.header.epoch)
        )
        self._judge(arm, token, answer.header, on_stale)
        return answer

    def _judge(self, arm: str, token: Token, header: ReadHeader, on_stale: OnStale.ValueType) -> None:
        at, copied = header.position, header.role != ROLE_OWNER
        self.others += copied
        older = at.offset < token.get(at.partition, -1)
        self.stale += older
        if (
            (copied and (on_stale == ON_STALE_FAIL or not header.stale))
            or (older and (on_stale != ON_STALE_RETURN or not header.stale))
            or (header.stale and not copied and on_stale != ON_STALE_RETURN)
        ):
            self.older.append(f"{arm} at {at.offset}, asked for {token}: {header}")

    def note(self, call: str, error: grpc.aio.AioRpcError) -> None:
        """A failed call."""
        refusal = refusal_of(error)
        self.failures.append(
            Failure(self.now_s(), call, refusal.code, refusal.reason, retry_ms_of(error), error.details() or "")
        )

    def failed(self, *calls: str) -> list[Failure]:
        """Of these calls, or of all but commands."""
        return [failure for failure in self.failures if failure.call in (calls or ("get", "list"))]

    def tokens(self) -> Token:
        """All that is acknowledged."""
        newest = Token()
        for token in self.newest.values():
            newest |= {partition: max(offset, newest.get(partition, -1)) for partition, offset in token.items()}
        return newest

    def options(self, token: Token, max_wait_ms: int | None) -> ReadOptions:
        wanted = [Position(topic=self.topic, partition=partition, offset=offset) for partition, offset in token.items()]
        return ReadOptions(at_least=wanted, max_wait_ms=max_wait_ms)

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
        offsets = _offsets(log)
        order: dict[str, list[int]] = {}
        for arm, time_us in offsets:
            order.setdefault(arm, []).append(time_us)
        for arm, times in order.items():
            assert times == sorted(times), f"samples of {arm} are out of order"
        missing = self.lost(log)
        assert not missing, f"acknowledged and not in the log: {missing[:5]} of {len(missing)}"
        for (arm, time_us), token in self.acknowledged.items():
            at, told = offsets[arm, time_us], token[partition_of[arm]]
            assert told in at if arm in self.reporting else at[0] <= told, (
                f"{arm} {time_us} is at {at}, acknowledged at {told}"
            )

    def lost(self, log: LogFile) -> list[tuple[str, int]]:
        """(arm, time) that was acknowledged and is not in the log."""
        return sorted(set(self.acknowledged) - set(_offsets(log)))

    @staticmethod
    def check_told(log: LogFile, told: Iterable[Told]) -> None:
        """Each answer is what the events up to its position make, no more and no less."""
        wrong = untrue(log, told)
        assert not wrong, f"{wrong[:5]} of {len(wrong)}"

    def summary(self) -> str:
        """What happened, in a line."""
        failed = Counter((failure.call, failure.code.name, failure.reason) for failure in self.failures)
        return f"{len(self.acknowledged)} acknowledged, {len(self.told)} answers, failures {dict(failed)}"


def untrue(log: LogFile, told: Iterable[Told]) -> list[str]:
    """Answers that say anything but what the events up to their position make: with events left out, doubled, or extra."""
    folds = {arm: list(_folds(arm, log)) for arm in log.by_arm}
    offsets = {arm: [offset for offset, _ in events] for arm, events in log.by_arm.items()}
    wrong = []
    for answer in told:
        expected = folds[answer.arm][bisect_right(offsets[answer.arm], answer.offset)]
        if (answer.events, answer.times) != expected:
            wrong.append(f"{answer} should say {expected}")
    return wrong


def _offsets(log: LogFile) -> dict[tuple[str, int], list[int]]:
    """(arm, time) -> where in the log, in order."""
    offsets: dict[tuple[str, int], list[int]] = {}
    for arm, events in log.by_arm.items():
        for offset, changed in events:
            offsets.setdefault((arm, changed.sampled_at_us), []).append(offset)
    return offsets


def _folds(arm: str, log: LogFile) -> Iterator[tuple[int, int]]:
    """Count and hash before the first event of `arm`, after it, after the second..."""
    total = 0
    yield 0, 0
    for count, (_, changed) in enumerate(log.by_arm[arm], 1):
        total = (total * 31 + changed.sampled_at_us) % (2**61 - 1)
        yield count, total
