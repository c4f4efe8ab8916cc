"""Queries: one arm, pages of all arms, and what every answer says about its freshness."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from aorist.v1.read_pb2 import ROLE_OWNER, ReadOptions
from fleet.arms.v1.commands_pb2 import ReportJointPositionsRequest
from fleet.arms.v1.queries_pb2 import (
    GetArmPositionRequest,
    ListArmPositionsRequest,
    ListArmPositionsResponse,
    WatchArmPositionRequest,
)
from tests.harness.client import BASE_US, Robot, at_least, refused, sample, shards_of
from tests.harness.in_process import Served, served
from tests.harness.log_file import newest

pytestmark = pytest.mark.asyncio(loop_scope="module")

ARMS = 57


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=("native", "grpcio"))
async def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A server that knows ARMS arms, spread over all partitions, and has folded them."""
    folder = tmp_path_factory.mktemp("fleet")
    async with served(folder, transport=request.param, max_page_size=500, default_page_size=20) as server:
        arms = [f"fleet-{n * 37 % ARMS:03d}" for n in range(ARMS)]
        robot = Robot(lambda number: [sample(arm, number, number, 0.5) for arm in arms], most=3)
        await robot.converse(server.address)
        assert len(robot.positions) == 8  # so every partition is in the lists
        read = at_least(robot.positions.items())
        await server.queries.ListArmPositions(ListArmPositionsRequest(read=read))
        yield server


async def pages(fleet: Served, size: int) -> list[ListArmPositionsResponse]:
    found, token = list[ListArmPositionsResponse](), ""
    while True:
        found.append(await fleet.queries.ListArmPositions(ListArmPositionsRequest(page_size=size, page_token=token)))
        token = found[-1].next_page_token
        if not token:
            return found


async def test_get_gives_every_axis_with_its_time_and_the_key(dev: Served, arm: str) -> None:
    two_axes = await dev.commands.ReportJointPositions(ReportJointPositionsRequest(sample=sample(arm, 5, 0.125, -2.5)))
    one_axis = await dev.commands.ReportJointPositions(ReportJointPositionsRequest(sample=sample(arm, 9, 1.75)))
    late = await dev.commands.ReportJointPositions(ReportJointPositionsRequest(sample=sample(arm, 7, 99.0, -3.5)))
    read = ReadOptions(at_least=[two_axes.position, one_axis.position, late.position])
    answer = await dev.queries.GetArmPosition(GetArmPositionRequest(arm_id=arm, read=read))

    assert answer.arm.arm_id == arm
    assert [(a.axis, a.position, a.sampled_at_us - BASE_US) for a in answer.arm.axes] == [(0, 1.75, 9), (1, -3.5, 7)]


@pytest.mark.parametrize("name", ["never-heard-of", "x" * 5000, "line\nbreak", "ä"])
async def test_an_unknown_arm_is_not_found(dev: Served, name: str) -> None:
    code, reason, _ = await refused(dev.queries.GetArmPosition(GetArmPositionRequest(arm_id=name)))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_KEY")
    watch = dev.queries.WatchArmPosition(WatchArmPositionRequest(arm_id=name))
    code, reason, _ = await refused(watch.read())
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_KEY")


async def test_an_arm_without_id_is_no_question(dev: Served) -> None:
    for call in (
        dev.queries.GetArmPosition(GetArmPositionRequest()),
        dev.queries.WatchArmPosition(WatchArmPositionRequest()).read(),
    ):
        code, _, fields = await refused(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert set(fields) == {"arm_id"}


async def test_the_header_says_who_answered_and_how_far_it_is(dev: Served, arm: str) -> None:
    told = (await dev.commands.ReportJointPositions(ReportJointPositionsRequest(sample=sample(arm)))).position
    answer = await dev.queries.GetArmPosition(GetArmPositionRequest(arm_id=arm, read=ReadOptions(at_least=[told])))
    shard = (await shards_of(dev.address))[told.partition]

    header = answer.header
    assert (header.position.topic, header.position.partition) == (told.topic, told.partition)
    assert header.position.offset >= told.offset
    assert header.epoch == shard.epoch > 0
    assert header.role == ROLE_OWNER
    assert header.lag_events >= 0
    assert 0 <= header.lag_ms < 5000
    assert not header.stale


@pytest.mark.parametrize("size", [1, 2, 7, 56, 57, 58, 500])
async def test_pages_of_any_size_give_every_arm_once_in_order(fleet: Served, size: int) -> None:
    found = await pages(fleet, size)

    names = [arm.arm_id for page in found for arm in page.arms]
    assert names == [f"fleet-{n:03d}" for n in range(ARMS)]
    assert max(len(page.arms) for page in found) <= size
    assert all(len(page.arms) == size for page in found[:-1])
    assert all(sorted(h.position.partition for h in page.headers) == list(range(8)) for page in found)
    assert not any(page.missing_partitions for page in found)


async def test_lists_and_gets_say_the_same_as_the_log(fleet: Served) -> None:
    expected = fleet.log_file().folded(newest)
    listed = {arm.arm_id: arm for page in await pages(fleet, 10) for arm in page.arms}
    got = {name: (await fleet.queries.GetArmPosition(GetArmPositionRequest(arm_id=name))).arm for name in expected}

    assert len(expected) == ARMS
    assert listed == expected
    assert got == expected


async def test_a_list_that_asks_for_no_size_gets_the_setting(fleet: Served) -> None:
    page = await fleet.queries.ListArmPositions(ListArmPositionsRequest())
    assert len(page.arms) == fleet.settings.default_page_size == 20


async def test_an_arm_that_comes_between_two_pages_is_on_the_second(dev: Served, arm: str) -> None:
    names = [f"{arm}-{n}" for n in range(3)]
    told = [
        (await dev.commands.ReportJointPositions(ReportJointPositionsRequest(sample=sample(n)))).position for n in names
    ]
    token = base64.urlsafe_b64encode(b"k" + names[0].encode()).decode().rstrip("=")
    request = ListArmPositionsRequest(page_size=2, page_token=token, read=ReadOptions(at_least=told))
    page = await dev.queries.ListArmPositions(request)

    assert [a.arm_id for a in page.arms] == names[1:]


@pytest.mark.parametrize("token", ["junk", "a", "====", "ä", base64.urlsafe_b64encode(b"xfleet-001").decode()])
async def test_a_page_token_of_somebody_else_is_refused(fleet: Served, token: str) -> None:
    code, _, fields = await refused(fleet.queries.ListArmPositions(ListArmPositionsRequest(page_token=token)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(fields) == {"page_token"}


@pytest.mark.parametrize("size", [501, 1001, 2**32 - 1])
async def test_a_page_larger_than_allowed_is_refused(fleet: Served, size: int) -> None:
    """501: by the setting; above 1000: by the contract."""
    code, _, fields = await refused(fleet.queries.ListArmPositions(ListArmPositionsRequest(page_size=size)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(fields) == {"page_size"}


async def test_a_list_of_nothing_is_one_empty_page(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with served(tmp_path_factory.mktemp("empty")) as server:
        page = await server.queries.ListArmPositions(ListArmPositionsRequest())
        assert list(page.arms) == []
        assert page.next_page_token == ""
        assert [h.position.offset for h in page.headers] == [-1] * 8
