"""A poison event at a running server: its arm answers as it was and says so, the others go on; the command line replays and skips."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from click.testing import CliRunner, Result

from aorist.cli.main import aorist
from aorist.v1.position_pb2 import Position
from aorist.v1.read_pb2 import ON_STALE_FAIL, ReadOptions
from fleet.arms.v1.commands_pb2 import ReportJointPositionsRequest
from fleet.arms.v1.queries_pb2 import GetArmPositionRequest, ListArmPositionsRequest, WatchArmPositionRequest
from stack.ports import free_ports
from tests.harness.client import one_of, refused, sample, shards_of
from tests.harness.in_process import Served, project, served
from tests.harness.scraping import scrape

POISON = 0.625
"""A position that the broken apply cannot take."""


class Code:
    """What folds the view: broken until it is mended."""

    def __init__(self) -> None:
        self.broken = True


@pytest.fixture
def code(monkeypatch: pytest.MonkeyPatch) -> Code:
    code, view = Code(), project().views["arm_position"]

    def breakable(apply: Any) -> Any:
        def moved(state: Any, event: Any) -> None:
            apply(state, event)
            if code.broken and event.axes.get(0) == POISON:
                raise ArithmeticError("cannot take it")

        return moved

    for field, apply in list(view.handlers.items()):
        monkeypatch.setitem(view.handlers, field, breakable(apply))
    return code


@pytest.fixture
def metrics() -> str:
    """Their address."""
    return f"127.0.0.1:{free_ports(1)[0]}"


@pytest_asyncio.fixture
async def dev(code: Code, metrics: str, tmp_path: Path) -> AsyncIterator[Served]:
    assert code.broken
    async with served(tmp_path, checkpoint_interval_s=0.05, metrics_listen=metrics) as server:
        yield server


async def parked_keys(metrics: str) -> dict[str, float]:
    """Of each partition with any, as Prometheus finds them."""
    found = await asyncio.to_thread(scrape, metrics)
    counts = {labels: count for (name, labels), count in found.items() if name == "aorist_shard_quarantined_keys"}
    assert len(counts) >= 8  # also of partitions without any
    return {partition: count for (view, partition), count in counts.items() if view == "arm_position@2" and count}


async def report(server: Served, arm: str, at: int, position: float) -> Position:
    request = ReportJointPositionsRequest(sample=sample(arm, at, position))
    answer = await server.commands.ReportJointPositions(request)
    position_of: Position = answer.position
    return position_of


async def run(server: Served, *arguments: str) -> Result:
    command = ["quarantine", *arguments, "--address", server.address]
    return await asyncio.to_thread(CliRunner().invoke, aorist, command, prog_name="aorist")


async def poison(server: Served, arm: str) -> tuple[Position, Position]:
    """Three events, the second of which is poison. Where it is, and where the last one is."""
    await report(server, arm, 1, 0.25)
    at = await report(server, arm, 2, POISON)
    last = await report(server, arm, 3, 0.75)
    return at, last


def _get(arm: str, *positions: Position, **read: Any) -> GetArmPositionRequest:
    return GetArmPositionRequest(arm_id=arm, read=ReadOptions(at_least=positions, **read))


async def test_the_arm_is_stale_all_others_go_on_and_a_replay_frees_it(dev: Served, code: Code, metrics: str) -> None:
    at, last = await poison(dev, "arm-1")
    other = await report(dev, "arm-2", 1, 0.5)
    assert (await dev.queries.GetArmPosition(_get("arm-2", other))).header.stale is False
    for request in (_get("arm-1", at), _get("arm-1", last), _get("arm-1", on_stale=ON_STALE_FAIL)):
        refusal = await refused(dev.queries.GetArmPosition(request))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "QUARANTINED")
    before = await dev.queries.GetArmPosition(GetArmPositionRequest(arm_id="arm-1"))
    assert (before.arm.axes[0].position, before.header.stale, before.header.position.offset) == (
        0.25,
        True,
        at.offset - 1,
    )
    listed = await dev.queries.ListArmPositions(ListArmPositionsRequest())
    assert {arm.arm_id: arm.axes[0].position for arm in listed.arms} == {"arm-1": 0.25, "arm-2": 0.5}
    shards = await shards_of(dev.address)
    assert sum(shard.quarantined_keys for shard in shards.values()) == 1
    assert {shard.phase for shard in shards.values()} == {"SERVING"}
    assert await parked_keys(metrics) == {str(at.partition): 1}

    listing = await run(dev, "list")
    assert listing.exit_code == 0
    assert "arm-1" in listing.stdout
    failed = await run(dev, "replay", "arm-1")
    assert failed.exit_code == 1
    assert "moved raised ArithmeticError: cannot take it" in failed.stdout
    watching = dev.queries.WatchArmPosition(WatchArmPositionRequest(arm_id="arm-1"))
    assert (await one_of(watching)).header.stale is True
    code.broken = False
    freed = await run(dev, "replay", "arm-1")
    assert freed.exit_code == 0
    assert freed.stdout.endswith("arm-1 is free: all its events are folded\n")
    answer = await one_of(watching)
    assert (answer.arm.axes[0].position, answer.header.stale) == (0.75, False)
    watching.cancel()
    whole = await dev.queries.GetArmPosition(_get("arm-1", last))
    assert (whole.arm.axes[0].position, whole.header.stale) == (0.75, False)
    assert await parked_keys(metrics) == {}
    assert (await run(dev, "replay", "arm-1")).exit_code != 0


async def test_an_event_is_shown_and_skipped_by_its_offset(dev: Served) -> None:
    at, last = await poison(dev, "arm-1")
    refusal = await refused(dev.queries.GetArmPosition(_get("arm-1", last)))
    assert refusal.reason == "QUARANTINED"
    shown = json.loads((await run(dev, "show", "arm-1")).stdout)
    assert len(shown["events"]) == 2
    wrong = await run(dev, "skip", "arm-1", "--offset", str(last.offset), "--why", "mistaken")
    assert wrong.exit_code != 0
    assert "is not the first parked event" in wrong.output
    skipped = await run(dev, "skip", "arm-1", "--offset", str(at.offset), "--why", "no arm can be there")
    assert skipped.exit_code == 0, skipped.output
    whole = await dev.queries.GetArmPosition(_get("arm-1", last))
    assert (whole.arm.axes[0].position, whole.header.stale) == (0.75, False)
