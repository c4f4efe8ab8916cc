"""The sender loses nothing, keeps the order, repeats only what was not acknowledged, and is slowed by a slow gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import grpc
import pytest

from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.commands_pb2 import JointSample, StreamJointPositionsRequest, StreamJointPositionsResponse
from robots.outcome import ArmCount, Outcome
from robots.sender import Batches, Sender, SendError
from tests.unit.robots.gateway_double import BOUND_S, GatewayDouble, acknowledge, refuse_index, silent


def sample(arm: int, number: int) -> JointSample:
    axes = [AxisPosition(axis=axis, position=number / 7 + axis) for axis in range(6)]
    return JointSample(arm_id=f"arm-{arm}", sampled_at_us=1_700_000_000_000_000 + number, axes=axes)


class Source:
    """Batches of two samples of each of two arms; knows how many were taken."""

    def __init__(self, batches: int, then: Exception | None = None) -> None:
        self.taken = 0
        self._left = batches
        self._then = then

    async def batches(self) -> Batches:
        for number in range(self._left):
            self.taken += 1
            yield [sample(arm, 2 * number + half) for half in (0, 1) for arm in (1, 2)]
        if self._then:
            raise self._then


class Acknowledged:
    """Lets a test wait for what the sender has seen acknowledged."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self.sender: Sender | None = None

    def __call__(self) -> None:
        self._changed.set()

    async def until(self, samples: int) -> None:
        async with asyncio.timeout(BOUND_S):
            while self.sender is None or self.sender.outcome.total.acknowledged < samples:
                self._changed.clear()
                await self._changed.wait()


def quiet(_words: str) -> None:
    """For lost connections that the test itself causes."""


async def within_bound(run: asyncio.Future[Outcome]) -> Outcome:
    async with asyncio.timeout(BOUND_S):
        return await run


def only_up_to(sequence: int) -> Callable[[StreamJointPositionsRequest], StreamJointPositionsResponse | None]:
    return lambda batch: acknowledge(batch) if batch.sequence <= sequence else None


def sequences(stream: Iterable[bytes]) -> list[int]:
    return [StreamJointPositionsRequest.FromString(batch).sequence for batch in stream]


def assert_whole_and_in_order(gateway: GatewayDouble, batches: int) -> None:
    """Distinct samples of each arm, by first arrival, are exactly those of the source in their order."""
    for arm in (1, 2):
        seen = [s.sampled_at_us for b in gateway.received() for s in b.samples if s.arm_id == f"arm-{arm}"]
        assert list(dict.fromkeys(seen)) == [sample(arm, number).sampled_at_us for number in range(2 * batches)]


async def test_everything_arrives_once_and_is_counted(gateway: GatewayDouble) -> None:
    outcome = await Sender(gateway.address).run(Source(100).batches())
    assert sequences(gateway.streams[0]) == list(range(1, 101))
    assert_whole_and_in_order(gateway, 100)
    assert outcome.arms == {"arm-1": ArmCount(200, 200), "arm-2": ArmCount(200, 200)}
    assert outcome.total == ArmCount(400, 400)
    assert (outcome.resent, outcome.connections_lost) == (0, 0)
    assert [(p.topic, p.partition, p.offset) for p in outcome.at_least()] == [("fleet.arms.v1", 0, 100)]


async def test_nothing_to_send_is_no_error(gateway: GatewayDouble) -> None:
    outcome = await Sender(gateway.address).run(Source(0).batches())
    assert outcome.total == ArmCount()


async def test_after_a_crash_exactly_the_unacknowledged_is_sent_again(gateway: GatewayDouble) -> None:
    gateway.rule = only_up_to(5)
    acknowledged = Acknowledged()
    sender = acknowledged.sender = Sender(gateway.address, in_flight=4, changed=acknowledged, notice=quiet)
    run = asyncio.create_task(sender.run(Source(50).batches()))
    await acknowledged.until(5 * 4)
    await gateway.until(lambda: len(gateway.received()) == 9)
    await gateway.kill()
    gateway.rule = acknowledge
    await gateway.start()
    outcome = await within_bound(run)
    before, after = gateway.streams
    assert sequences(before) == list(range(1, 10))
    assert sequences(after) == list(range(6, 51))
    assert after[:4] == before[5:], "byte for byte"
    assert_whole_and_in_order(gateway, 50)
    assert outcome.total == ArmCount(200, 200)
    assert outcome.resent == 4 * 4
    assert outcome.connections_lost >= 1


async def test_many_crashes_at_any_moment_lose_nothing(gateway: GatewayDouble) -> None:
    sender = Sender(gateway.address, in_flight=3, notice=quiet)
    run = asyncio.create_task(sender.run(Source(300).batches()))
    for crash in range(1, 6):
        await gateway.until(lambda crash=crash: len(gateway.received()) >= 40 * crash)  # type: ignore[misc]
        await gateway.kill()
        await gateway.start()
    outcome = await within_bound(run)
    assert_whole_and_in_order(gateway, 300)
    assert outcome.total == ArmCount(1200, 1200)
    assert len(gateway.streams) == 6
    for earlier, later in zip(gateway.streams, gateway.streams[1:], strict=False):
        assert sequences(later)[0] <= sequences(earlier)[-1] + 1
        assert sequences(later) == list(range(sequences(later)[0], sequences(later)[-1] + 1))
        assert outcome.resent <= 5 * 3 * 4, "no more than was in flight"


async def test_it_waits_for_a_gateway_that_starts_later(gateway: GatewayDouble) -> None:
    await gateway.kill()
    refused = asyncio.Event()
    sender = Sender(gateway.address, notice=lambda _words: refused.set())
    run = asyncio.create_task(sender.run(Source(3).batches()))
    async with asyncio.timeout(BOUND_S):
        await refused.wait()
    await gateway.start()
    assert (await within_bound(run)).total == ArmCount(12, 12)


async def test_a_slow_gateway_slows_the_source(gateway: GatewayDouble) -> None:
    gateway.rule = silent
    source, acknowledged = Source(1000), Acknowledged()
    sender = acknowledged.sender = Sender(gateway.address, in_flight=5, changed=acknowledged, notice=quiet)
    run = asyncio.create_task(sender.run(source.batches()))
    await gateway.until(lambda: len(gateway.received()) == 5)
    assert source.taken == 5
    gateway.rule = only_up_to(7)  # seen at the next batch only, which does not come
    await gateway.kill()
    await gateway.start()
    await gateway.until(lambda: sequences(gateway.streams[-1])[-1:] == [12])
    await acknowledged.until(7 * 4)
    assert source.taken == 12
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    assert source.taken == 12


async def test_an_acknowledgement_that_never_comes_is_a_lost_connection(gateway: GatewayDouble) -> None:
    gateway.rule = silent
    told: list[str] = []

    def notice(words: str) -> None:
        told.append(words)
        gateway.rule = acknowledge

    sender = Sender(gateway.address, ack_timeout_s=0.2, notice=notice)
    outcome = await within_bound(asyncio.ensure_future(sender.run(Source(3).batches())))
    assert "no acknowledgement for 0.2 s; trying again in" in told[0]
    assert outcome.total == ArmCount(12, 12)
    assert outcome.resent == 12
    assert gateway.streams[0] == gateway.streams[1]


async def test_a_pause_of_the_source_is_no_lost_connection(gateway: GatewayDouble) -> None:
    pauses = asyncio.Semaphore(0)

    async def source() -> Batches:
        yield [sample(1, 0)]
        async with asyncio.timeout(BOUND_S):
            await pauses.acquire()
        yield [sample(1, 1)]

    sender = Sender(gateway.address, ack_timeout_s=0.05)
    run = asyncio.create_task(sender.run(source()))
    asyncio.get_running_loop().call_later(0.3, pauses.release)  # six times as long as an acknowledgement may take
    assert (await within_bound(run)).connections_lost == 0
    assert len(gateway.streams) == 1


async def test_it_gives_up_and_says_what_is_left(gateway: GatewayDouble) -> None:
    await gateway.kill()
    sender = Sender(gateway.address, give_up_after_s=0.3, notice=quiet)
    with pytest.raises(SendError) as raised:
        await within_bound(asyncio.ensure_future(sender.run(Source(3).batches())))
    words = str(raised.value)
    assert "gave up after 0.3 s without an acknowledgement (UNAVAILABLE: " in words
    assert "12 samples sent or held are unacknowledged. Is a gateway running there?" in words
    assert gateway.address in words


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED])
async def test_a_final_status_is_raised_in_the_words_of_the_service(
    gateway: GatewayDouble, code: grpc.StatusCode
) -> None:
    gateway.status = (code, "sequence 3 did not grow")
    sender = Sender(gateway.address, notice=quiet)
    with pytest.raises(SendError, match=f"{code.name}: sequence 3 did not grow"):
        await within_bound(asyncio.ensure_future(sender.run(Source(3).batches())))
    assert sender.outcome.connections_lost <= 1, "grpc.aio may hide the first status behind a failed write"


async def test_refused_samples_are_counted_and_told(gateway: GatewayDouble) -> None:
    gateway.rule = refuse_index(3)
    outcome = await Sender(gateway.address).run(Source(10).batches())
    assert outcome.total == ArmCount(40, 30, 10)
    assert outcome.arms == {"arm-1": ArmCount(20, 20), "arm-2": ArmCount(20, 10, 10)}
    assert len(outcome.reasons) == 5
    assert outcome.reasons[0] == "arm-2 at 2023-11-14T22:13:20.000+00:00: sampled_at_us: is ahead of the clock"


async def test_what_came_before_a_broken_source_is_delivered(gateway: GatewayDouble) -> None:
    sender = Sender(gateway.address)
    with pytest.raises(ZeroDivisionError):
        await sender.run(Source(10, then=ZeroDivisionError()).batches())
    assert sender.outcome.total == ArmCount(40, 40)
    assert_whole_and_in_order(gateway, 10)


async def test_a_cancelled_sender_closes_its_source(gateway: GatewayDouble) -> None:
    gateway.rule = silent
    closed = asyncio.Event()

    async def source() -> Batches:
        try:
            batch: Sequence[JointSample] = [sample(1, 0)]
            while True:
                yield batch
        finally:
            closed.set()

    run = asyncio.create_task(Sender(gateway.address, in_flight=2).run(source()))
    await gateway.until(lambda: len(gateway.received()) == 2)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert closed.is_set()
