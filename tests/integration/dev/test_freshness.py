"""Freshness: an answer is never older than asked for; it waits, then fails, or is flagged where the caller takes that."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from aorist.adapters.sqlite.reader import SqliteLogReader
from aorist.ports import Fetched
from aorist.v1.position_pb2 import Position
from aorist.v1.read_pb2 import ON_STALE_RETURN, ReadOptions
from fleet.arms.v1.commands_pb2 import ReportJointPositionsRequest
from fleet.arms.v1.queries_pb2 import GetArmPositionRequest, ListArmPositionsRequest, WatchArmPositionRequest
from tests.harness.client import BASE_US, one_of, refused, sample, until_shards
from tests.harness.in_process import Served, served
from tests.harness.log_file import TOPIC

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Tap:
    """Between the log and the fold; closed, the fold sees nothing, as if cut off from the log."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.open()

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def wait(self) -> None:
        assert self._open.wait(60)


@pytest_asyncio.fixture(loop_scope="module")
async def cut(tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Served, Tap]]:
    """A server whose fold can be cut off from its log."""
    tap, poll = Tap(), SqliteLogReader.poll

    def tapped(reader: SqliteLogReader, max_records: int, timeout_s: float) -> Sequence[Fetched]:
        tap.wait()
        return poll(reader, max_records, timeout_s)

    monkeypatch.setattr(SqliteLogReader, "poll", tapped)
    async with served(tmp_path, transport=transport, max_wait_limit_ms=10_000) as server:
        try:
            yield server, tap
        finally:
            tap.open()


async def report(server: Served, arm: str, at: int) -> Position:
    return (await server.commands.ReportJointPositions(ReportJointPositionsRequest(sample=sample(arm, at)))).position


async def test_at_least_of_an_answer_never_gets_an_older_state(dev: Served, arm: str) -> None:
    """Eight writers, each reading its own writes at once, beside readers that hammer the same arms."""
    arms, done = [f"{arm}-{n}" for n in range(8)], asyncio.Event()

    async def write(name: str) -> None:
        for at in range(60):
            told = await report(dev, name, at)
            read = ReadOptions(at_least=[told], max_wait_ms=10_000)
            got = await dev.queries.GetArmPosition(GetArmPositionRequest(arm_id=name, read=read))
            assert got.arm.axes[0].sampled_at_us == BASE_US + at
            assert got.header.position.offset >= told.offset
            if at % 20 == 0:
                page = await dev.queries.ListArmPositions(ListArmPositionsRequest(page_size=1000, read=read))
                assert {a.arm_id: a.axes[0].sampled_at_us for a in page.arms}[name] == BASE_US + at

    async def read(name: str) -> None:
        seen = BASE_US
        while not done.is_set():
            try:
                got = await dev.queries.GetArmPosition(GetArmPositionRequest(arm_id=name))
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.NOT_FOUND  # noqa: PT017 - not yet written
                continue
            assert got.arm.axes[0].sampled_at_us >= seen
            seen = got.arm.axes[0].sampled_at_us

    readers = [asyncio.create_task(read(name)) for name in arms]
    await asyncio.gather(*map(write, arms))
    done.set()
    await asyncio.gather(*readers)


async def test_at_least_of_the_future_waits_and_then_fails(dev: Served, arm: str) -> None:
    told = await report(dev, arm, 0)
    future = Position(topic=TOPIC, partition=told.partition, offset=told.offset + 1_000_000)
    started = time.monotonic()
    read = ReadOptions(at_least=[future], max_wait_ms=300)
    code, reason, _ = await refused(dev.queries.GetArmPosition(GetArmPositionRequest(arm_id=arm, read=read)))

    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "STALE")
    assert 0.29 <= time.monotonic() - started < 5


async def test_at_least_of_the_future_is_answered_flagged_where_the_caller_takes_that(dev: Served, arm: str) -> None:
    told = await report(dev, arm, 4)
    read = ReadOptions(at_least=[told])
    await dev.queries.GetArmPosition(GetArmPositionRequest(arm_id=arm, read=read))
    read.at_least[0].offset += 1_000_000
    read.max_wait_ms, read.on_stale = 50, ON_STALE_RETURN
    got = await dev.queries.GetArmPosition(GetArmPositionRequest(arm_id=arm, read=read))
    page = await dev.queries.ListArmPositions(ListArmPositionsRequest(page_size=1000, read=read))
    seen = await one_of(dev.queries.WatchArmPosition(WatchArmPositionRequest(arm_id=arm, read=read)))

    assert got.header.stale
    assert got.arm.axes[0].sampled_at_us == BASE_US + 4
    assert {h.position.partition for h in page.headers if h.stale} == {told.partition}
    assert arm in {a.arm_id for a in page.arms}
    assert seen.header.stale


async def test_a_list_and_a_watch_of_the_future_fail_as_stale(dev: Served, arm: str) -> None:
    told = await report(dev, arm, 0)
    told.offset += 1_000_000
    read = ReadOptions(at_least=[told], max_wait_ms=50)
    for call in (
        dev.queries.ListArmPositions(ListArmPositionsRequest(read=read)),
        dev.queries.WatchArmPosition(WatchArmPositionRequest(arm_id=arm, read=read)).read(),
    ):
        code, reason, _ = await refused(call)
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "STALE")


async def test_positions_elsewhere_are_ignored(dev: Served, arm: str) -> None:
    told = await report(dev, arm, 0)
    elsewhere = [
        Position(topic=TOPIC, partition=(told.partition + 1) % 8, offset=10**12),
        Position(topic="some.other.topic", partition=told.partition, offset=10**12),
    ]
    read = ReadOptions(at_least=[told, *elsewhere], max_wait_ms=10_000)
    got = await dev.queries.GetArmPosition(GetArmPositionRequest(arm_id=arm, read=read))

    assert not got.header.stale


@pytest.mark.parametrize(
    ("position", "field"),
    [
        (Position(topic=TOPIC, partition=99), "read.at_least[1].partition"),
        (Position(topic=TOPIC, partition=-1), "read.at_least[1].partition"),
        (Position(partition=0, offset=3), "read.at_least[1].topic"),
    ],
    ids=["beyond", "negative", "no topic"],
)
async def test_a_position_that_no_command_answered_is_refused(
    dev: Served, arm: str, position: Position, field: str
) -> None:
    """To ignore it would be to answer as if it had been reached."""
    read = ReadOptions(at_least=[await report(dev, arm, 0), position])
    for call in (
        dev.queries.GetArmPosition(GetArmPositionRequest(arm_id=arm, read=read)),
        dev.queries.ListArmPositions(ListArmPositionsRequest(read=read)),
    ):
        code, _, violations = await refused(call)
        assert (code, list(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_of_several_positions_in_a_partition_the_newest_counts(dev: Served, arm: str) -> None:
    first, second = await report(dev, arm, 1), await report(dev, arm, 2)
    for order in ([first, second], [second, first]):
        read = ReadOptions(at_least=order)
        got = await dev.queries.GetArmPosition(GetArmPositionRequest(arm_id=arm, read=read))
        assert got.arm.axes[0].sampled_at_us == BASE_US + 2


async def test_a_wait_beyond_the_limit_is_refused(dev: Served, arm: str) -> None:
    read = ReadOptions(max_wait_ms=dev.settings.max_wait_limit_ms + 1)
    for call in (
        dev.queries.GetArmPosition(GetArmPositionRequest(arm_id=arm, read=read)),
        dev.queries.ListArmPositions(ListArmPositionsRequest(read=read)),
        dev.queries.WatchArmPosition(WatchArmPositionRequest(arm_id=arm, read=read)).read(),
    ):
        code, _, fields = await refused(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert set(fields) == {"read.max_wait_ms"}


async def test_an_acknowledged_event_that_is_not_folded_yet_is_waited_for(cut: tuple[Served, Tap]) -> None:
    server, tap = cut
    seen = await report(server, "arm", 1)
    fresh = ReadOptions(at_least=[seen])
    await server.queries.GetArmPosition(GetArmPositionRequest(arm_id="arm", read=fresh))
    tap.close()
    await until_shards(server.address, lambda shards: shards[seen.partition].lag_ms > 300, "cut off")
    told = await report(server, "arm", 2)

    # none of the ways to ask gets the old state as if it were fresh
    code, reason, _ = await refused(
        server.queries.GetArmPosition(
            GetArmPositionRequest(arm_id="arm", read=ReadOptions(at_least=[told], max_wait_ms=0))
        )
    )
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "STALE")
    old = ReadOptions(at_least=[told], max_wait_ms=0, on_stale=ON_STALE_RETURN)
    got = await server.queries.GetArmPosition(GetArmPositionRequest(arm_id="arm", read=old))
    assert (got.header.stale, got.arm.axes[0].sampled_at_us) == (True, BASE_US + 1)

    # one who waits gets it as soon as it is folded
    read = ReadOptions(at_least=[told], max_wait_ms=10_000)
    waiting = asyncio.create_task(_get(server, read))
    await server.queries.GetArmPosition(GetArmPositionRequest(arm_id="arm"))  # others are not held up
    assert not waiting.done()
    tap.open()
    assert (await waiting) == BASE_US + 2


async def _get(server: Served, read: ReadOptions) -> int:
    got = await server.queries.GetArmPosition(GetArmPositionRequest(arm_id="arm", read=read))
    assert not got.header.stale
    return got.arm.axes[0].sampled_at_us


async def test_an_owner_cut_off_from_its_log_does_not_call_itself_fresh(cut: tuple[Served, Tap]) -> None:
    server, tap = cut
    told = await report(server, "arm", 1)
    close = ReadOptions(at_least=[told], max_staleness_ms=5000)
    got = await server.queries.GetArmPosition(GetArmPositionRequest(arm_id="arm", read=close))
    assert got.header.lag_ms <= 5000
    tap.close()
    await until_shards(server.address, lambda shards: shards[told.partition].lag_ms > 400, "the lag to grow")

    strict = ReadOptions(max_staleness_ms=200, max_wait_ms=100)
    code, reason, _ = await refused(server.queries.GetArmPosition(GetArmPositionRequest(arm_id="arm", read=strict)))
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "STALE")
    strict.on_stale = ON_STALE_RETURN
    got = await server.queries.GetArmPosition(GetArmPositionRequest(arm_id="arm", read=strict))
    assert got.header.stale
    assert got.header.lag_ms > 400
    got = await server.queries.GetArmPosition(GetArmPositionRequest(arm_id="arm"))  # any lag will do
    assert not got.header.stale
    assert got.header.lag_ms > 400

    tap.open()
    strict = ReadOptions(max_staleness_ms=200, max_wait_ms=10_000)
    got = await server.queries.GetArmPosition(GetArmPositionRequest(arm_id="arm", read=strict))
    assert not got.header.stale
