"""Answers over ranges of a shard that nobody holds: from the last snapshot and the rows of windows, as they were at that snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aorist.engine.series import ShardSeries
from aorist.engine.stored import Stored, read_stored
from aorist.errors import NoOwnerError, StoreUnavailableError
from aorist.position import ShardName
from aorist.serve.errors import reason_of
from aorist.serve.worker import WorkerService
from aorist.v1 import worker_pb2
from aorist.v1.read_pb2 import ROLE_STORE
from aorist.v1.series_pb2 import TimeRange
from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.events_pb2 import JointPositionsChanged
from fleet.arms.v1.motion_pb2 import (
    GetMotionRequest,
    GetMotionResponse,
    ListMotionWindowsRequest,
    ListMotionWindowsResponse,
)
from materializers.arm_motion import arm_motion
from tests.unit.engine.rig import Rig
from tests.unit.engine.rig import rig as make

T0, S = 1_767_225_600_000_000, 1_000_000


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with make(tmp_path, arm_motion) as made:
        yield made


async def move(rig: Rig, first: int, last: int) -> None:
    """Half a unit in every second of these."""
    events = [
        JointPositionsChanged(arm_id="a", sampled_at_us=T0 + n * S, axes=[AxisPosition(axis=0, position=n / 2)])
        for n in range(first, last + 1)
    ]
    await rig.publish(*events)
    rig.fold()


def worker(rig: Rig, *, holds: bool) -> WorkerService:
    def find(name: ShardName) -> Any:
        if not holds:
            raise NoOwnerError(f"{name} is not held here")
        return rig.shard

    def stored(_: ShardName, key: bytes) -> Stored:
        return read_stored(rig.view, rig.partition, key, rig.store, rig.log, rig.series)

    materializer: Any = SimpleNamespace(
        shards={rig.shard.name: rig.shard} if holds else {}, shard=find, stored=stored, views={"arm_motion": arm_motion}
    )
    return WorkerService(materializer, lambda: None)


async def ask(rig: Rig, request: Any, *, of_store: bool) -> worker_pb2.Answer:
    question = worker_pb2.Question(
        view="arm_motion",
        request_type=request.DESCRIPTOR.full_name,
        request=request.SerializeToString(),
        key=request.arm_id.encode(),
        over_range=True,
        limit=50,
        store_will_do=of_store,
    )
    asked = worker_pb2.AskRequest(questions=[question])
    (answer,) = (await worker(rig, holds=not of_store).ask(asked)).answers
    return answer


def motion(arm: str = "a") -> GetMotionRequest:
    return GetMotionRequest(arm_id=arm, range=TimeRange(from_us=T0, upto_us=T0 + 600 * S))


def windows(window_s: int) -> ListMotionWindowsRequest:
    return ListMotionWindowsRequest(arm_id="a", range=motion().range, window_s=window_s)


async def test_nobody_holds_the_shard(rig: Rig) -> None:
    """Most windows are rows, some are in the snapshot; those that closed, and became rows, after it are no part of it."""
    rig.open()
    await move(rig, 0, 130)
    rig.checkpoint()
    owners = GetMotionResponse.FromString((await ask(rig, motion(), of_store=False)).response)
    listed = {
        window_s: ListMotionWindowsResponse.FromString((await ask(rig, windows(window_s), of_store=False)).response)
        for window_s in (1, 60)
    }
    await move(rig, 131, 300)
    series = rig.shard.series
    assert series is not None
    rig_windows = rig.shard.entries[b"a"].state.windows
    series.write({b"a": (300, tuple(rig_windows.closed))})  # as far as a checkpoint came that ended there

    stored = GetMotionResponse.FromString((await ask(rig, motion(), of_store=True)).response)
    assert (stored.arm_id, stored.motion, stored.motion.moving_us) == ("a", owners.motion, 130 * S)
    header = stored.header
    assert (header.role, header.stale, header.epoch, header.lag_events) == (ROLE_STORE, True, 1, 170)
    assert header.position == owners.header.position
    for window_s, by_owner in listed.items():
        page = ListMotionWindowsResponse.FromString((await ask(rig, windows(window_s), of_store=True)).response)
        assert page.windows
        assert (page.windows, page.next_page_token) == (by_owner.windows, by_owner.next_page_token)
        assert (page.header.role, page.header.stale) == (ROLE_STORE, True)


async def test_a_key_without_a_snapshot_is_not_denied(rig: Rig) -> None:
    rig.open()
    await move(rig, 0, 3)
    assert reason_of((await ask(rig, motion("nobody"), of_store=True)).error) == "RESTORING"


async def test_without_the_store_of_series_the_snapshot_answers_no_range(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StoreUnavailableError("reads are down")

    rig.open()
    await move(rig, 0, 3)
    rig.checkpoint()
    monkeypatch.setattr(ShardSeries, "read", away)
    assert reason_of((await ask(rig, motion(), of_store=True)).error) == "STORE_UNAVAILABLE"


async def test_what_is_wrong_with_the_range_is_said(rig: Rig) -> None:
    rig.open()
    await move(rig, 0, 3)
    rig.checkpoint()
    assert reason_of((await ask(rig, windows(7), of_store=True)).error) == "INVALID"
