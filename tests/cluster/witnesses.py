"""Beside the load: who makes keys and asks for them at once, in every mode, and who watches. What they see goes to the load's oracle."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count
from types import TracebackType
from typing import Self

import grpc

from aorist.v1.read_pb2 import ON_STALE_FAIL, ON_STALE_RETURN, ON_STALE_UNSPECIFIED, ROLE_OWNER, OnStale, ReadOptions
from fleet.arms.v1.commands_pb2 import ReportJointPositionsRequest
from fleet.arms.v1.commands_pb2_grpc import ArmCommandServiceStub
from fleet.arms.v1.queries_pb2 import WatchArmPositionRequest
from fleet.arms.v1.queries_pb2_grpc import ArmQueryServiceStub
from tests.cluster.load import WAIT_MS, Load
from tests.cluster.oracle import DEADLINE_S, Token, Told
from tests.harness.client import channel_to, sample
from tests.harness.log_file import LogFile
from tests.harness.process import until

FAIL, LEFT_OUT, RETURN = "on_stale FAIL", "on_stale left out", "on_stale RETURN"
MODES: dict[str, OnStale.ValueType] = {
    FAIL: ON_STALE_FAIL,
    LEFT_OUT: ON_STALE_UNSPECIFIED,
    RETURN: ON_STALE_RETURN,
}
"""How those who ask put up with old answers, by the name of their calls among the oracle's failures."""

PACE_S = 0.05


class NewArms:
    """In each mode one who makes an arm, asks for it at once with its token, and for one known for long without; again and again."""

    def __init__(self, load: Load) -> None:
        self._load, self._ended, self._tasks = load, asyncio.Event(), list[asyncio.Task[None]]()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._make(mode)) for mode in MODES]
        return self

    async def __aexit__(
        self, error: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if error is not None:
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=error is not None)

    async def _make(self, mode: str) -> None:
        load, epochs, known = self._load, dict[int, int](), list[str]()
        async with channel_to(load.commands) as to_commands, channel_to(load.queries) as to_queries:
            commands, queries = ArmCommandServiceStub(to_commands), ArmQueryServiceStub(to_queries)
            for number in count():
                if self._ended.is_set():
                    return
                arm = f"new-{MODES[mode]}-{number:04d}"
                report = ReportJointPositionsRequest(sample=sample(arm))
                at = (await commands.ReportJointPositions(report, timeout=DEADLINE_S)).position
                load.acknowledge(arm, 0, {at.partition: at.offset})
                for asked, token in (
                    (arm, load.newest[arm]),
                    (known[number * 7 % len(known)] if known else arm, Token()),
                ):
                    if token or asked in known:
                        answer = await load.ask(
                            queries, asked, token, call=mode, max_wait_ms=WAIT_MS, on_stale=MODES[mode]
                        )
                        if answer is not None and asked == arm:
                            known.append(arm)
                        if answer is not None and answer.header.role == ROLE_OWNER:
                            partition, epoch = answer.header.position.partition, answer.header.epoch
                            if epoch < epochs.get(partition, 0):
                                load.lower.append(f"epoch of {partition} was {epochs[partition]}: {answer.header}")
                            epochs[partition] = epoch
                await asyncio.sleep(PACE_S)


class Watches:
    """Of these arms, one in each mode: positions increase, and the last state is seen.

    `rebuilt`: another build may tell the position that was told last, under its higher epoch.
    """

    def __init__(self, load: Load, arms: Sequence[str], *, rebuilt: bool = False) -> None:
        self._load, self._rebuilt = load, rebuilt
        self._last: dict[tuple[str, str], Told] = {}
        self._wanted = [(arm, mode) for arm in arms for mode in MODES]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._watch(arm, mode)) for arm, mode in self._wanted]
        return self

    async def __aexit__(
        self, error: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, arm: str, mode: str) -> None:
        read = ReadOptions(max_wait_ms=WAIT_MS, on_stale=MODES[mode])
        await until(lambda: arm in self._load.newest, f"{arm} is there")
        async with channel_to(self._load.queries) as channel:
            read.at_least.extend(self._load.options(self._load.newest[arm], None).at_least)  # it may not be known yet
            asked = WatchArmPositionRequest(arm_id=arm, read=read)
            try:
                async for answer in ArmQueryServiceStub(channel).WatchArmPosition(asked):
                    at, (axis,) = answer.header.position, answer.arm.axes
                    told = Told(
                        arm, at.partition, at.offset, int(axis.position), axis.sampled_at_us, answer.header.epoch
                    )
                    before = self._last.get((arm, mode))
                    if before is not None and not self._follows(before, told):
                        self._load.lower.append(f"watched {told} after {before}")
                    self._last[arm, mode] = told
                    self._load.told.append(told)
            except grpc.aio.AioRpcError as error:
                self._load.note(f"watch, {mode}", error)

    def _follows(self, before: Told, told: Told) -> bool:
        again = self._rebuilt and told.epoch > before.epoch
        return told.offset > before.offset or (again and told.offset == before.offset)

    async def saw_the_end(self, log: LogFile) -> None:
        """Each that has not failed has been told the last event of its arm."""
        failed = {failure.call for failure in self._load.failures}
        for arm, mode in self._wanted:
            end = log.by_arm[arm][-1][0]
            if f"watch, {mode}" not in failed:
                await until(
                    lambda key=(arm, mode), end=end: key in self._last and self._last[key].offset >= end,  # type: ignore[misc]
                    f"{arm}@{end} is told to who watches with {mode}",
                )
