"""Motion over any range: shares that are exact to the second, wherever the windows are; windows page by page; the fleet, busiest first."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import grpc
import pytest
import pytest_asyncio

from aorist.v1.read_pb2 import ReadOptions
from aorist.v1.series_pb2 import TimeRange
from fleet.arms.v1.commands_pb2 import JointSample
from fleet.arms.v1.motion_pb2 import (
    CompareMotionRequest,
    CompareMotionResponse,
    GetMotionRequest,
    ListMotionWindowsRequest,
    MotionWindow,
)
from fleet.arms.v1.motion_pb2_grpc import ArmMotionQueryServiceStub
from tests.harness.client import BASE_US, Robot, at_least, refused, sample
from tests.harness.in_process import Served, served

if TYPE_CHECKING:
    from fleet.arms.v1.motion_pb2_grpc import ArmMotionQueryServiceAsyncStub

pytestmark = pytest.mark.asyncio(loop_scope="module")

S = 1_000_000
ENDS = 2 * 3600 + 700
"""Seconds for which the arms report, once a second."""

GAP = range(4000, 4500)
"""No sample in between."""

ARMS = {f"arm-{n}": 10 * n for n in range(1, 7)}
"""In motion for so many seconds of each minute."""


def moves(arm: str, second: int) -> bool:
    return second % 60 < ARMS[arm]


def samples_of(arm: str) -> list[JointSample]:
    found, position = list[JointSample](), 0.0
    for second in range(ENDS + 1):
        position += 0.01 * moves(arm, second)
        if second not in GAP:
            found.append(sample(arm, second * S, position, 0.0))
    return found


class Amounts(NamedTuple):
    moving: int
    still: int


def expected(arm: str, from_s: int, upto_s: int) -> Amounts:
    """Of the second that ends at a sample: it has the verdict there."""
    ends = [n for n in range(max(1, from_s + 1), min(ENDS, upto_s) + 1) if n not in GAP and n - 1 not in GAP]
    moving = sum(moves(arm, n) for n in ends)
    return Amounts(moving, len(ends) - moving)


def between(from_s: float, upto_s: float) -> TimeRange:
    return TimeRange(from_us=BASE_US + int(from_s * S), upto_us=BASE_US + int(upto_s * S))


class Fleet(NamedTuple):
    server: Served
    motion: ArmMotionQueryServiceAsyncStub
    read: ReadOptions


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=("native", "grpcio"))
async def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """All samples are in, and most windows in the store. It was stopped once midway."""
    folder, batches = tmp_path_factory.mktemp("motion"), list[list[JointSample]]()
    everything = {arm: samples_of(arm) for arm in ARMS}
    for first in range(0, ENDS + 1, 200):
        batches.append([one for arm in ARMS for one in everything[arm][first : first + 200]])
    robot = Robot(batches.__getitem__, most=len(batches) // 2)
    settings = {"transport": request.param, "checkpoint_interval_s": 0.1}
    async with served(folder, **settings) as server:
        await robot.converse(server.address)
    async with served(folder, **settings) as server:
        robot.most = len(batches)
        await robot.converse(server.address)
        yield Fleet(server, ArmMotionQueryServiceStub(server.channel), at_least(robot.positions.items()))


async def check(fleet: Fleet, arm: str, from_s: float, upto_s: float) -> None:
    asked = between(from_s, upto_s)
    answer = await fleet.motion.GetMotion(GetMotionRequest(arm_id=arm, range=asked, read=fleet.read))
    first, last = int(from_s // 1), int(-(-upto_s // 1))
    assert answer.range == between(first, last)
    amounts = expected(arm, first, last)
    assert (answer.motion.moving_us, answer.motion.still_us) == (amounts.moving * S, amounts.still * S)
    length, seen = last - first, sum(amounts)
    assert answer.motion.moving == pytest.approx(amounts.moving / length)
    assert answer.motion.still == pytest.approx(amounts.still / length)
    assert answer.motion.unobserved == pytest.approx(1 - seen / length)
    assert answer.motion.utilisation == pytest.approx(amounts.moving / seen if seen else 0)
    assert answer.coverage == pytest.approx(seen / length)
    assert answer.arm_id == arm
    assert answer.header.position.offset >= 0
    assert {a.axis: (a.motion.moving_us, a.motion.still_us) for a in answer.axes} == (
        {0: (amounts.moving * S, amounts.still * S), 1: (0, seen * S)} if seen else {}
    )


async def test_any_range_is_answered_to_the_second(fleet: Fleet) -> None:
    chosen = random.Random(3)
    ranges = [(0, ENDS), (3600, 7200), (3599, 3601), (0, 1), (60, 120), (-5000, 9000), (4010, 4020), (ENDS - 2, ENDS)]
    for _ in range(40):
        first = chosen.uniform(-100, ENDS)
        ranges.append((first, first + chosen.choice([0.5, 3, 59, 61, 3000, 4000, 7300])))  # type: ignore[arg-type]
    await asyncio.gather(*(check(fleet, chosen.choice(list(ARMS)), *one) for one in ranges))


async def windows(fleet: Fleet, arm: str, window_s: int, asked: TimeRange, size: int) -> list[MotionWindow]:
    found, token = list[MotionWindow](), ""
    while True:
        page = await fleet.motion.ListMotionWindows(
            ListMotionWindowsRequest(
                arm_id=arm, window_s=window_s, range=asked, page_size=size, page_token=token, read=fleet.read
            )
        )
        assert page.arm_id == arm
        assert len(page.windows) == size or not page.next_page_token
        found += page.windows
        token = page.next_page_token
        if not token:
            return found


@pytest.mark.parametrize(("window_s", "size"), [(1, 1000), (60, 7), (60, 500), (3600, 1)])
async def test_windows_come_page_by_page_in_the_order_of_time(fleet: Fleet, window_s: int, size: int) -> None:
    found = await windows(fleet, "arm-2", window_s, between(0, 10_000), size)
    assert all(a.start_us < b.start_us for a, b in pairwise(found))
    got = {}
    for window in found:
        start_s = (window.start_us - BASE_US) // S
        assert start_s % window_s == 0
        got[start_s] = Amounts(window.motion.moving_us // S, window.motion.still_us // S)
        assert window.open == (start_s + window_s > ENDS - 3)
    wanted = {start: expected("arm-2", start, start + window_s) for start in range(0, ENDS, window_s)}
    assert got == {start: amounts for start, amounts in wanted.items() if sum(amounts)}


async def test_windows_that_begin_in_the_range_are_listed_and_no_others(fleet: Fleet) -> None:
    found = await windows(fleet, "arm-1", 60, between(60.5, 240), 100)
    assert [(w.start_us - BASE_US) // S for w in found] == [120, 180]


async def compare(fleet: Fleet, size: int, **asked: object) -> list[CompareMotionResponse]:
    pages, token = list[CompareMotionResponse](), ""
    while True:
        request = CompareMotionRequest(page_size=size, page_token=token, read=fleet.read, **asked)  # type: ignore[arg-type]
        pages.append(await fleet.motion.CompareMotion(request))
        token = pages[-1].next_page_token
        if not token:
            return pages


@pytest.mark.parametrize("size", [1, 2, 5, 100])
async def test_the_fleet_is_compared_from_the_busiest_arm_on(fleet: Fleet, size: int) -> None:
    pages = await compare(fleet, size, range=between(600, 3600))
    arms = [arm for page in pages for arm in page.arms]
    assert [arm.arm_id for arm in arms] == sorted(ARMS, reverse=True)
    assert [arm.utilisation for arm in arms] == [pytest.approx(ARMS[arm.arm_id] / 60) for arm in arms]
    assert {arm.coverage for arm in arms} == {1.0}
    for page in pages:
        assert len(page.arms) <= size
        assert not page.missing_partitions
        assert len(page.headers) == 8


async def test_arms_of_equal_utilisation_are_in_the_order_of_their_names(fleet: Fleet) -> None:
    (page,) = await compare(fleet, 100, range=between(1, 9))  # all move
    assert [arm.arm_id for arm in page.arms] == sorted(ARMS)
    (half,) = await compare(fleet, 100, range=between(0, 2 * ENDS), min_coverage=0.5)
    assert not half.arms
    (some,) = await compare(fleet, 100, range=between(0, 2 * ENDS), min_coverage=0.4)
    assert len(some.arms) == len(ARMS)


async def test_without_a_range_the_last_hour_is_meant(fleet: Fleet) -> None:
    answer = await fleet.motion.GetMotion(GetMotionRequest(arm_id="arm-1"))
    assert 3600 * S <= answer.range.upto_us - answer.range.from_us <= 3602 * S
    assert answer.motion.unobserved == 1
    assert not (await fleet.motion.CompareMotion(CompareMotionRequest())).arms


@pytest.mark.parametrize(
    ("from_us", "upto_us", "says"),
    [
        (5, 5, "not after from_us"),
        (-5, 5, "between 1970 and 2100"),
        (5, 2**62, "between 1970 and 2100"),
        (0, BASE_US, "at most 100000 are added up"),
    ],
)
async def test_a_range_that_cannot_be_is_refused_by_name(fleet: Fleet, from_us: int, upto_us: int, says: str) -> None:
    asked = TimeRange(from_us=from_us, upto_us=upto_us)
    for call in (
        fleet.motion.GetMotion(GetMotionRequest(arm_id="arm-1", range=asked)),
        fleet.motion.CompareMotion(CompareMotionRequest(range=asked)),
    ):
        refusal = await refused(call)
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        ((field, why),) = refusal.fields.items()
        assert field.startswith("range")
        assert says in why


async def test_what_else_is_wrong_is_refused_by_name(fleet: Fleet) -> None:
    right = ListMotionWindowsRequest(arm_id="arm-1", window_s=60, range=between(0, 60))
    for changed, field in (
        ({"window_s": 7}, "window_s"),
        ({"page_token": "a3Jhcw=="}, "page_token"),
        ({"page_token": "%"}, "page_token"),
        ({"page_size": 1001}, "page_size"),
    ):
        wrong = ListMotionWindowsRequest()
        wrong.CopyFrom(right)
        for name, value in changed.items():
            setattr(wrong, name, value)
        refusal = await refused(fleet.motion.ListMotionWindows(wrong))
        assert (refusal.code, list(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
    for call in (
        fleet.motion.GetMotion(GetMotionRequest(arm_id="nobody", range=between(0, 60))),
        fleet.motion.ListMotionWindows(ListMotionWindowsRequest(arm_id="nobody", window_s=1, range=between(0, 60))),
    ):
        assert (await refused(call)).code is grpc.StatusCode.NOT_FOUND
