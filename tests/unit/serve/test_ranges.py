"""Answers over ranges: a store that is away or slow fails them and nothing else; numbers are written in their order."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from aorist.engine.parked import Parked
from aorist.engine.series import ShardSeries
from aorist.engine.shard import Entry, Shard
from aorist.errors import StoreUnavailableError
from aorist.ports import Fetched, ParkedEvent, SeriesRows, ShardRows, WindowRow
from aorist.position import NOTHING, Partition
from aorist.serve import worker as worker_module
from aorist.serve.errors import reason_of
from aorist.serve.ranges import _descending
from aorist.serve.worker import WorkerService
from aorist.v1 import worker_pb2
from aorist.v1.position_pb2 import Position
from aorist.v1.read_pb2 import ON_STALE_FAIL, ON_STALE_RETURN, ROLE_OWNER, ReadOptions
from aorist.v1.series_pb2 import TimeRange
from fleet.arms.v1.motion_pb2 import (
    ArmUtilisation,
    CompareMotionRequest,
    GetMotionRequest,
    GetMotionResponse,
    ListMotionWindowsRequest,
    ListMotionWindowsResponse,
)
from fleet.arms.v1.stand_ins_pb2 import JointPositionsByAxis
from materializers.arm_motion import Arm, arm_motion, moved

T0, S = 1_767_225_600_000_000, 1_000_000
ARMS = 120
"""More than are read at once."""


class Store:
    """Empty; `when_read` is called first."""

    def __init__(self, when_read: Callable[[], object]) -> None:
        self._when_read = when_read

    def write_windows(self, series: SeriesRows, rows: Sequence[WindowRow]) -> None:
        raise AssertionError("nobody writes here")

    def read_windows(
        self, series: SeriesRows, keys: Sequence[bytes], from_us: int, upto_us: int, limit: int
    ) -> dict[bytes, Sequence[WindowRow]]:
        self._when_read()
        return {}

    def close(self) -> None: ...


def arm(speed: float) -> Arm:
    made = Arm()
    for n in range(10):
        moved(made, JointPositionsByAxis(arm_id="a", sampled_at_us=T0 + n * S, axes={0: speed * n}))
    return made


def service(when_read: Callable[[], object]) -> WorkerService:
    return served(when_read)[0]


def served(when_read: Callable[[], object]) -> tuple[WorkerService, Shard]:
    """Of a worker that owns partition 0 of the motion of ARMS arms, every third at rest."""
    rows = ShardRows("arm_motion", 1, UUID(int=0), 0)
    shard = Shard(arm_motion, Partition("fleet.arms.v1", 0), rows, epoch=1)
    shard.series = ShardSeries(arm_motion, rows.topic_id, Store(when_read))
    shard.entries = {b"arm-%03d" % n: Entry(arm(0.1 * (n % 3)), NOTHING) for n in range(ARMS)}
    shard.begin(0)
    shard.folded(Fetched(shard.partition, [], 0, 0, 0), 0, [])
    shards = {shard.name: shard}
    materializer: Any = SimpleNamespace(shards=shards, shard=shards.__getitem__)
    return WorkerService(materializer, lambda: None), shard


def question(request: Any, *, over_range: bool = True, **more: Any) -> worker_pb2.Question:
    key = request.arm_id.encode() if hasattr(request, "arm_id") else b""
    return worker_pb2.Question(
        view="arm_motion@1",
        request_type=request.DESCRIPTOR.full_name,
        request=request.SerializeToString(),
        key=key,
        over_range=over_range,
        limit=50,
        **more,
    )


RANGE = TimeRange(from_us=T0, upto_us=T0 + 10 * S)
GET = question(GetMotionRequest(arm_id="arm-001", range=RANGE))
WINDOWS = question(ListMotionWindowsRequest(arm_id="arm-001", range=RANGE, window_s=1))
COMPARE = question(CompareMotionRequest(range=RANGE))


async def ask(when_read: Callable[[], object], *questions: worker_pb2.Question) -> list[worker_pb2.Answer]:
    return list((await service(when_read).ask(worker_pb2.AskRequest(questions=questions))).answers)


def away() -> None:
    raise StoreUnavailableError("reads are down")


async def test_memory_answers_what_the_store_does_not_have() -> None:
    (answer,) = await ask(lambda: None, GET)
    response = GetMotionResponse.FromString(answer.response)
    assert (response.arm_id, response.motion.moving_us, answer.epoch) == ("arm-001", 9 * S, 1)


@pytest.mark.parametrize("asked", [GET, WINDOWS], ids=["get", "windows"])
async def test_the_header_is_of_when_the_windows_were_noted(asked: worker_pb2.Question) -> None:
    """Not of what has been folded, and answered to others, while the store was read."""

    def meanwhile() -> None:
        shard.next_offset = 5
        shard.header(stale=True, as_copy=True)

    worker, shard = served(meanwhile)
    (answer,) = (await worker.ask(worker_pb2.AskRequest(questions=[asked]))).answers
    parse = GetMotionResponse if asked is GET else ListMotionWindowsResponse
    header = parse.FromString(answer.response).header
    assert (header.position.offset, header.role, header.stale) == (NOTHING, ROLE_OWNER, False)


async def test_a_parked_key_says_how_far_its_windows_are() -> None:
    worker, shard = served(lambda: None)
    shard.next_offset, at = 10, 7
    shard.parked[b"arm-001"] = Parked([ParkedEvent(b"arm-001", at, b"event", "the event broke", 1)])
    strict = question(GetMotionRequest(arm_id="arm-001", range=RANGE), read=ReadOptions(on_stale=ON_STALE_FAIL))
    other = question(GetMotionRequest(arm_id="arm-002", range=RANGE))
    asked = worker_pb2.AskRequest(questions=[GET, other, COMPARE, strict])
    parked, whole, compared, refused = (await worker.ask(asked)).answers
    headers = [GetMotionResponse.FromString(answer.response).header for answer in (parked, whole)]
    headers.append(compared.page.header)
    assert [(h.position.offset, h.stale) for h in headers] == [(at - 1, True), (9, False), (at - 1, True)]
    assert reason_of(refused.error) == "QUARANTINED"


@pytest.mark.parametrize("asked", [GET, WINDOWS, COMPARE], ids=["get", "windows", "compare"])
async def test_a_store_that_is_away_fails_the_question_and_says_when_to_ask_again(asked: worker_pb2.Question) -> None:
    unknown = question(GetMotionRequest(arm_id="nobody", range=RANGE))
    failed, other = await ask(away, asked, unknown)
    assert reason_of(failed.error) == "STORE_UNAVAILABLE"
    assert "google.rpc.RetryInfo" in {detail.type_url.rpartition("/")[2] for detail in failed.error.details}
    assert reason_of(other.error) == "UNKNOWN_KEY"


async def test_a_store_that_is_too_slow_is_as_one_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "STORE_S", 0.05)
    goes_on = threading.Event()
    try:
        (answer,) = await ask(lambda: goes_on.wait(60), COMPARE)
    finally:
        goes_on.set()
    assert reason_of(answer.error) == "STORE_UNAVAILABLE"
    assert "were not enough to read the range" in answer.error.message


async def test_a_handler_that_raises_is_a_bug_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("materializers.arm_motion.shares", lambda *_: 1 / 0)
    (answer,) = await ask(lambda: None, GET)
    assert reason_of(answer.error) == "BUG"


async def test_staler_than_asked_for_a_known_key_is_answered_and_an_unknown_one_not_denied() -> None:
    position = Position(topic="fleet.arms.v1", partition=0, offset=99)
    read = ReadOptions(at_least=[position], on_stale=ON_STALE_RETURN)
    asked = [question(GetMotionRequest(arm_id=name, range=RANGE), read=read) for name in ("arm-001", "nobody")]
    known, unknown = await ask(lambda: None, *asked)
    assert GetMotionResponse.FromString(known.response).header.stale
    assert reason_of(unknown.error) == "STALE"


async def test_pages_of_a_comparison_follow_one_another() -> None:
    worker, after, found = service(lambda: None), b"", list[tuple[float, str]]()
    while True:
        asked = question(CompareMotionRequest(range=RANGE), after_key=after)
        (answer,) = (await worker.ask(worker_pb2.AskRequest(questions=[asked]))).answers
        items = [ArmUtilisation.FromString(entry.item) for entry in answer.page.entries]
        assert len(items) <= 50
        found += [(item.utilisation, item.arm_id) for item in items]
        after = answer.page.last_key
        if not answer.page.more:
            break
    assert found == sorted(found, key=lambda one: (-one[0], one[1]))
    assert len({name for _, name in found}) == ARMS
    assert {share for share, _ in found} == {0.0, 1.0}


def test_higher_numbers_are_written_as_smaller_bytes() -> None:
    chosen = random.Random(1)
    numbers = [-float("inf"), -1e300, -1.5, -1e-300, 0.0, 5e-324, 0.1, 1.0, 2**53, float("inf")]
    numbers += [chosen.uniform(-1e6, 1e6) for _ in range(200)]
    assert sorted(numbers, reverse=True) == sorted(numbers, key=_descending)
    assert _descending(-0.0) == _descending(0.0)
    assert _descending(7) == _descending(7.0)
