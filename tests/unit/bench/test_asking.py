"""What figures of failover count: answers of the next owner alone, the longest gap before them, calls that fail, and what is untrue."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from aorist.v1.read_pb2 import ON_STALE_FAIL, ON_STALE_RETURN, ROLE_OWNER, ROLE_STANDBY, ReadHeader, ReadOptions
from bench import asking
from bench.asking import Asking, Seen
from bench.measure import NotMeasuredError
from fleet.arms.v1.events_pb2 import ArmEvent, JointPositionsChanged
from fleet.arms.v1.queries_pb2 import ArmPosition, GetArmPositionRequest, GetArmPositionResponse
from tests.cluster.oracle import Oracle, Told, untrue
from tests.harness.log_file import Event, LogFile

ARM, TOPIC, DEAD_S = "arm-00", "t", 0.1


def answer(epoch: int, offset: int = 5, *, role: Any = ROLE_OWNER, stale: bool = False) -> GetArmPositionResponse:
    header = ReadHeader(epoch=epoch, role=role, stale=stale)
    header.position.topic, header.position.offset = TOPIC, offset
    position = ArmPosition(arm_id=ARM)
    position.axes.add(position=1, sampled_at_us=7)
    return GetArmPositionResponse(header=header, arm=position)


class Gateway:
    """Answers of an owner, then silence, then `meanwhile`, then answers of the next owner."""

    def __init__(self, *meanwhile: GetArmPositionResponse | grpc.StatusCode) -> None:
        self.dead = False
        self._meanwhile: Iterator[GetArmPositionResponse | grpc.StatusCode] = iter(meanwhile)

    async def GetArmPosition(  # noqa: N802  # as the stub has it
        self, ask: GetArmPositionRequest, timeout: float
    ) -> GetArmPositionResponse:
        if not self.dead:
            return answer(epoch=3)
        await asyncio.sleep(DEAD_S)
        said = next(self._meanwhile, answer(epoch=4))
        if isinstance(said, grpc.StatusCode):
            raise grpc.aio.AioRpcError(said, grpc.aio.Metadata(), grpc.aio.Metadata())
        return said


async def seen_of(gateway: Gateway, oracle: Oracle, on_stale: Any = ON_STALE_FAIL) -> tuple[Seen, Seen]:
    """Counted from the owner's death, and as a gap."""
    async with Asking(oracle, [gateway], {0: ARM}, on_stale) as clients:  # type: ignore[list-item]  # has all that is used
        gateway.dead = True
        at_s = asyncio.get_running_loop().time()
        await clients.moved()
    return clients.since(at_s), clients.gaps()


@pytest.fixture
def oracle() -> Oracle:
    known = Oracle(TOPIC)
    known.acknowledge(ARM, 0, {0: 5})
    return known


async def test_time_ends_with_the_next_owner(oracle: Oracle) -> None:
    since, gap = await seen_of(Gateway(), oracle)
    assert since.shards_ms[0] >= DEAD_S * 1000 * 0.9
    assert gap.shards_ms[0] == pytest.approx(since.shards_ms[0], abs=20)
    assert (since.failed, since.unknown, since.weak) == (0, 0, 0)
    assert not oracle.older


async def test_answers_of_standbys_and_stale_ones_do_not_end_it(oracle: Oracle) -> None:
    meanwhile = [answer(9, role=ROLE_STANDBY, stale=True), answer(9, offset=4, stale=True)]
    since, _ = await seen_of(Gateway(*meanwhile), oracle, ON_STALE_RETURN)
    assert since.shards_ms[0] >= 2 * DEAD_S * 1000 * 0.9
    assert (since.failed, since.weak) == (0, 2)
    assert (oracle.stale, oracle.others, oracle.older) == (1, 1, [])


async def test_answers_of_standbys_that_do_not_say_so_are_found(oracle: Oracle) -> None:
    await seen_of(Gateway(answer(9, role=ROLE_STANDBY)), oracle, ON_STALE_RETURN)
    assert len(oracle.older) == 1


async def test_failed_calls_count_and_those_that_deny_a_key_apart(oracle: Oracle) -> None:
    gateway = Gateway(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND)
    since, _ = await seen_of(gateway, oracle)
    assert (since.failed, since.unknown) == (2, 1)


async def test_failures_after_the_end_are_of_somebody_else(oracle: Oracle) -> None:
    gateway = Gateway()
    async with Asking(oracle, [gateway], {0: ARM}, ON_STALE_FAIL) as clients:  # type: ignore[list-item]
        gateway.dead = True
        await clients.moved()
    await seen_of(Gateway(grpc.StatusCode.UNAVAILABLE), oracle)
    assert clients.gaps().failed == 0


async def test_nothing_is_measured_where_nobody_takes_over(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "PATIENCE_S", 0.3)
    gateway = Gateway(*[answer(epoch=3)] * 20)
    with pytest.raises(NotMeasuredError, match="new owner"):
        await seen_of(gateway, oracle)


@pytest.mark.parametrize(
    "older",
    [answer(3, offset=4), answer(3, offset=4, stale=True)],
    ids=["as if fresh", "stale, where that is no answer"],
)
async def test_answers_older_than_their_token_are_found(oracle: Oracle, older: GetArmPositionResponse) -> None:
    await seen_of(Gateway(older), oracle)
    assert len(oracle.older) == 1


def test_events_lost_and_extra_are_found() -> None:
    changes = [JointPositionsChanged(arm_id=ARM, sampled_at_us=time_us) for time_us in (2, 3)]
    events = [
        Event(0, offset, ARM.encode(), ArmEvent(joint_positions_changed=change).SerializeToString())
        for offset, change in zip((1, 4), changes, strict=True)
    ]
    log = LogFile(events, {0: 5}, [], {}, {}, 0)
    true = [Told(ARM, 0, 3, 1, 2, 7), Told(ARM, 0, 4, 2, 2 * 31 + 3, 7)]
    lacking, doubled = Told(ARM, 0, 4, 1, 2, 7), Told(ARM, 0, 3, 2, 2 * 31 + 3, 7)
    assert not untrue(log, true)
    assert len(untrue(log, [*true, lacking, doubled])) == 2


def test_options_ask_for_what_was_acknowledged(oracle: Oracle) -> None:
    read = oracle.options(oracle.newest[ARM], None)
    assert not read.HasField("max_wait_ms")
    assert [(at.topic, at.partition, at.offset) for at in read.at_least] == [(TOPIC, 0, 5)]
    assert read != ReadOptions()
