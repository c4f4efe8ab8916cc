"""`aorist watch`: everything that can be had is shown, what cannot is named, and trouble that passes ends nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from click.testing import Result
from google.protobuf.message import Message

from aorist.cli import feed as feeds
from aorist.cli.feed import Feed, Key, Sheet
from aorist.cli.queries import Query, find_query
from aorist.cli.text import terminal
from aorist.cli.watch import drawn, grouped
from aorist.declare import load_project
from aorist.declare.queries import QueryShape
from aorist.v1.position_pb2 import Position
from aorist.v1.read_pb2 import ROLE_STANDBY, MissingPartition
from fleet.arms.v1.queries_pb2 import ListArmPositionsResponse, WatchArmPositionResponse
from tests.unit.cli.double import Arms, Gateway, arm, header, refuse

Run = Callable[..., Result]
ROOT = Path(__file__).parents[3]
GONE = MissingPartition(partition=3, reason="NO_OWNER", message="nobody owns it")


def query(kind: str) -> Query:
    return find_query(load_project(ROOT), "arm_position", kind)


@pytest.fixture
async def feed(gateway: Gateway) -> AsyncIterator[Feed]:
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        yield Feed(channel, gateway.address, interval_s=0.0, timeout_s=5.0)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(feeds, "LONGEST_PAUSE_S", 0.01)


def two_pages(ask: Any, _: Any) -> ListArmPositionsResponse:
    if not ask.page_token:
        first = ListArmPositionsResponse(arms=[arm("r1", 0.5)], headers=[header(0), header(1)])
        first.next_page_token = "next"  # noqa: S105  # no password
        return first
    late = header(2, lag_ms=900, role=ROLE_STANDBY)
    return ListArmPositionsResponse(arms=[arm("r2", 1.5)], headers=[header(0), late], missing_partitions=[GONE])


def test_all_pages_are_shown_and_what_is_missing_is_named(run: Run, gateway: Gateway, arms: Arms) -> None:
    arms.list = two_pages
    result = run("watch", "arm_position", "--once", "--address", gateway.address)
    assert [line.rstrip() for line in result.stdout.splitlines()] == [
        "arm_id  axis 0",
        "r1      0.5000",
        "r2      1.5000",
        "2 keys · 3 of 8 partitions · worst lag 2 events, 900 ms · from 2 owner, 1 standby",
        "partition 3 is missing: NO_OWNER nobody owns it",
        "",
    ]
    assert result.exit_code == 1
    assert [ask.page_token for ask in arms.asked] == ["", "next"]


def test_one_look_at_a_whole_view_succeeds(run: Run, gateway: Gateway, arms: Arms) -> None:
    stale = header()
    stale.stale = True
    arms.list = lambda *_: ListArmPositionsResponse(arms=[arm("r1", 0.5)], headers=[stale])
    result = run("watch", "arm_position", "--once", "--address", gateway.address)
    assert result.exit_code == 0
    assert "1 key · 1 of 8 partitions" in result.stdout
    assert "STALE: 1 not as fresh as asked for" in result.stdout


def test_it_gives_up_after_a_while_without_any_answer(run: Run, gateway: Gateway) -> None:
    gateway.stop()
    result = run("watch", "arm_position", "--give-up-after", "0", "--address", gateway.address)
    assert result.exit_code == 1
    assert f"cannot reach {gateway.address}" in result.stdout
    assert result.stderr.startswith(f"aorist: no answer from {gateway.address} for 0 s; last: cannot reach")


def test_it_gives_up_keys_alike(run: Run, gateway: Gateway) -> None:
    gateway.stop()
    result = run("watch", "arm_position", "r1", "--give-up-after", "0", "--address", gateway.address)
    assert result.exit_code == 1
    assert f"no answer from {gateway.address} for 0 s" in result.stderr


async def test_a_key_that_rests_is_not_given_up(feed: Feed, arms: Arms) -> None:
    def watch(ask: Any, context: Any) -> Iterator[Any]:
        if ask.arm_id == "nope":
            refuse(context, grpc.StatusCode.NOT_FOUND, "never reported")
        yield WatchArmPositionResponse(header=header(), arm=arm(ask.arm_id, 1.0))
        arms.gone.wait()

    arms.watch = watch
    heard = set()
    async for sheet in feed.of_keys(query("watch"), [("r1",), ("nope",)]):
        heard.add(sheet.heard)
        if len(heard) == 3:
            break
    arms.gone.set()


async def test_refusals_alone_are_no_answer(feed: Feed, arms: Arms) -> None:
    def watch(ask: Any, context: Any) -> Iterator[Any]:
        refuse(context, grpc.StatusCode.NOT_FOUND, "never reported")
        yield

    arms.watch = watch
    heard = []
    async for sheet in feed.of_keys(query("watch"), [("r1",)]):
        heard.append(sheet.heard)
        if len(heard) == 3:
            break
    assert len(set(heard)) == 1


async def test_a_failed_look_keeps_the_rows_names_the_problem_and_goes_on(feed: Feed, arms: Arms) -> None:
    def list_(ask: Any, context: Any) -> Any:
        if len(arms.asked) == 2:
            refuse(context, grpc.StatusCode.UNAVAILABLE, "passing")
        return ListArmPositionsResponse(arms=[arm(f"r{len(arms.asked)}")], headers=[header()])

    arms.list = list_
    seen = []
    async for sheet in feed.of_list(query("list")):
        seen.append((list(sheet.rows), sheet.problems))
        if len(seen) == 3:
            break
    assert seen == [([("r1",)], {}), ([("r1",)], {"": "UNAVAILABLE: passing"}), ([("r3",)], {})]


async def test_streams_that_end_are_asked_for_again_and_the_problem_goes(feed: Feed, arms: Arms) -> None:
    def watch(ask: Any, context: Any) -> Iterator[Any]:
        yield WatchArmPositionResponse(header=header(offset=len(arms.asked)), arm=arm(ask.arm_id, len(arms.asked)))
        if len(arms.asked) > 1:
            arms.gone.wait()

    arms.watch = watch
    positions, problems = set(), set()
    async for sheet in feed.of_keys(query("watch"), [("r1",)]):
        row: Any = sheet.rows["r1",]
        positions.add(row.axes[0].position)
        problems |= {*sheet.problems.items()}
        if 2.0 in positions and not sheet.problems:
            break
    assert positions <= {1.0, 2.0}
    assert problems <= {("r1", "the gateway ended the stream; asking again")}
    arms.gone.set()


async def test_a_key_without_answer_does_not_hide_the_others(feed: Feed, arms: Arms) -> None:
    def watch(ask: Any, context: Any) -> Iterator[Any]:
        if ask.arm_id == "nope":
            refuse(context, grpc.StatusCode.NOT_FOUND, "never reported")
        yield WatchArmPositionResponse(header=header(), arm=arm(ask.arm_id, 1.0))
        arms.gone.wait()

    arms.watch = watch
    sheet = await anext(feed.of_keys(query("watch"), [("r1",), ("nope",)]))
    assert list(sheet.rows) == [("r1",)]
    assert sheet.problems == {"nope": "NOT_FOUND: never reported"}
    arms.gone.set()


async def test_a_gateway_that_says_nothing_is_shown_as_that(gateway: Gateway, arms: Arms) -> None:
    def watch(ask: Any, context: Any) -> Iterator[Any]:
        arms.gone.wait()
        yield WatchArmPositionResponse()

    arms.watch = watch
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        sheet = await anext(Feed(channel, gateway.address, 0.0, timeout_s=0.01).of_keys(query("watch"), [("r1",)]))
    assert (sheet.rows, sheet.problems) == ({}, {"r1": "no answer yet"})
    arms.gone.set()


def test_keys_are_watched_at_the_interval_asked_for(run: Run, gateway: Gateway, arms: Arms) -> None:
    arms.watch = lambda ask, _: iter([WatchArmPositionResponse(header=header(), arm=arm(ask.arm_id, 1.0))])
    result = run("watch", "arm_position", "r1", "r1", "--once", "--interval", "0.25", "--address", gateway.address)
    assert {(ask.arm_id, ask.min_interval_ms) for ask in arms.asked} == {("r1", 250)}
    assert "1 key · 1 partition · worst lag 2 events, 7 ms · from 1 owner" in result.stdout


def test_a_small_window_cuts_rows_and_counts_them_but_keeps_the_footer(capsys: pytest.CaptureFixture[str]) -> None:
    rows: dict[Key, Message] = {(f"r{i}",): arm(f"r{i}", 1.0) for i in range(9)}
    terminal().print(drawn(query("list"), Sheet(rows=rows, headers={0: header()}, missing=[GONE]), most=8))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 8
    assert "and 6 more: name keys, or use a taller window" in lines
    assert lines[-1].startswith("partition 3 is missing")


def test_keys_of_several_parts_take_as_many_arguments() -> None:
    shape: Any = QueryShape(Position.DESCRIPTOR, "v", "watch", Position, Position, "", "", Position)
    two = Query(shape, ("topic", "partition"), 8)
    assert grouped(two, ["a", "1", "b", "2", "a", "1"]) == [("a", "1"), ("b", "2")]
    assert two.request(("a", "1")) == Position(topic="a", partition=1)
    with pytest.raises(Exception, match=r"view v is asked by topic partition: 2 argument\(s\), not 1"):
        grouped(two, ["a", "1", "b"])
    for wrong in ("x", str(2**40)):
        with pytest.raises(
            Exception, match=f"partition is a whole number, which '{wrong}' is not, or not one that fits"
        ):
            two.request(("a", wrong))


def test_pauses_grow_up_to_a_bound() -> None:
    async def waits() -> list[float]:
        pause, seen = feeds.Pause(), []
        for _ in range(6):
            seen.append(pause._next_s)
            await pause.wait()
        pause.reset()
        return [*seen, pause._next_s]

    assert asyncio.run(waits()) == [0.001, 0.002, 0.004, 0.008, 0.01, 0.01, 0.001]
