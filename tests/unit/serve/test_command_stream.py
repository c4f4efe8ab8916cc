"""A stream of commands is acknowledged in its own order, cumulatively, and never beyond what is durable, also when the log fails."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, cast

import pytest

from aorist.errors import InvalidRequestError, LogUnavailableError
from aorist.ports import NewRecord
from aorist.serve.command_gateway import BREATH, MOST_ITEMS, CommandStream
from command_gateway.arms import arms
from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.commands_pb2 import JointSample, StreamJointPositionsRequest

NOW_US = time.time_ns() // 1000
END = None


class Log:
    """An EventLog that ends each append when and as the test says. Offsets are given in the order of the calls, as by every log."""

    def __init__(self) -> None:
        self.appends: list[tuple[Sequence[NewRecord], asyncio.Future[None]]] = []
        self._ends = [0] * 8

    async def append(self, topic: str, records: Sequence[NewRecord]) -> Sequence[int]:
        assert topic == "fleet.arms.v1"
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.appends.append((records, future))
        offsets = [self._next(record.partition) for record in records]
        await future
        return offsets

    async def take(self, index: int) -> None:
        """Makes that append durable."""
        self.appends[index][1].set_result(None)
        await settle()

    async def fail(self, index: int) -> None:
        self.appends[index][1].set_exception(LogUnavailableError(f"append {index} is not known to be durable"))
        await settle()

    def _next(self, partition: int) -> int:
        self._ends[partition] += 1
        return self._ends[partition] - 1


class Client:
    """A robot and what it has been told."""

    def __init__(self, log: Log, limit: int = 1_000_000) -> None:
        stream = CommandStream(arms, arms.commands["StreamJointPositions"], log, 5000, limit)  # type: ignore[arg-type]
        self._requests: asyncio.Queue[Any] = asyncio.Queue()
        self.answers: list[Any] = []
        self._answering = cast("AsyncGenerator[Any]", stream.serve(self._sent()))
        self.task = asyncio.create_task(self._listen())

    async def _sent(self) -> AsyncIterator[Any]:
        while (request := await self._requests.get()) is not END:
            yield request

    async def _listen(self) -> None:
        async for answer in self._answering:
            self.answers.append(answer)

    async def send(self, sequence: int, *arms: str) -> None:
        """A batch with one sample of each arm."""
        await self.send_request(
            StreamJointPositionsRequest(sequence=sequence, samples=[sample(arm) for arm in arms or ("a",)])
        )

    async def send_request(self, request: Any) -> None:
        self._requests.put_nowait(request)
        await settle()

    def acknowledged(self) -> list[int]:
        return [answer.acknowledged_sequence for answer in self.answers]


def sample(arm: str) -> JointSample:
    return JointSample(arm_id=arm, sampled_at_us=NOW_US, axes=[AxisPosition(axis=0, position=0.5)])


async def settle() -> None:
    """Lets every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def log() -> Log:
    return Log()


@pytest.fixture
async def client(log: Log) -> AsyncIterator[Client]:
    client = Client(log)
    yield client
    client.task.cancel()


async def test_nothing_is_acknowledged_before_it_is_durable(log: Log, client: Client) -> None:
    await client.send(1)
    assert len(log.appends) == 1
    assert client.answers == []
    await log.take(0)
    assert client.acknowledged() == [1]


async def test_what_becomes_durable_out_of_order_is_acknowledged_in_order_and_at_once(log: Log, client: Client) -> None:
    for sequence in (1, 2, 5, 9):
        await client.send(sequence)
    await log.take(1)
    await log.take(2)
    assert client.answers == []
    await log.take(0)
    assert client.acknowledged() == [5]
    await log.take(3)
    assert client.acknowledged() == [5, 9]


async def test_an_acknowledgement_tells_the_last_position_in_each_partition(log: Log, client: Client) -> None:
    await client.send(1, "a", "c", "a")
    await client.send(2, "c")
    await log.take(1)
    await log.take(0)
    partition = {name: arms.schema.partition_for()(sample(name)) for name in "ac"}
    assert partition["a"] != partition["c"]
    (answer,) = client.answers
    assert [(p.topic, p.partition, p.offset) for p in answer.positions] == sorted(
        [("fleet.arms.v1", partition["a"], 1), ("fleet.arms.v1", partition["c"], 1)]
    )


async def test_all_before_a_failure_is_acknowledged_and_nothing_from_it_on(log: Log, client: Client) -> None:
    for sequence in (1, 2, 3, 4):
        await client.send(sequence)
    await log.take(3)
    await log.fail(2)
    await log.take(1)
    assert not client.task.done()  # the first is still on its way
    await log.take(0)
    assert client.acknowledged() == [2]
    with pytest.raises(LogUnavailableError, match="append 2 is not known to be durable"):
        await client.task


async def test_several_failures_end_it_with_the_first_and_without_noise(log: Log) -> None:
    client, noise = Client(log), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    for sequence in (1, 2, 3):
        await client.send(sequence)
    await log.fail(2)
    await log.fail(1)
    await log.fail(0)
    with pytest.raises(LogUnavailableError, match="append 0"):
        await client.task
    assert client.answers == []
    log.appends.clear()
    del client  # with all that its exception holds on to
    gc.collect()
    await settle()
    assert noise == []


async def test_a_failure_stops_the_reading(log: Log, client: Client) -> None:
    await client.send(1)
    await log.fail(0)
    await client.send(2)
    with pytest.raises(LogUnavailableError):
        await client.task
    assert len(log.appends) == 1


async def test_a_sequence_that_does_not_grow_ends_it_after_what_came_before(log: Log, client: Client) -> None:
    await client.send(1)
    await client.send(2)
    await client.send(2)
    assert not client.task.done()
    await log.take(0)
    await log.take(1)
    with pytest.raises(InvalidRequestError, match="sequence: is 2 after 2: it must grow along a stream"):
        await client.task
    assert client.acknowledged()[-1] == 2
    assert len(log.appends) == 2


async def test_a_batch_with_too_many_samples_ends_it_and_none_of_them_is_taken(log: Log, client: Client) -> None:
    await client.send(1)
    await client.send(2, *["a"] * (MOST_ITEMS + 1))
    await log.take(0)
    with pytest.raises(InvalidRequestError, match=f"samples: {MOST_ITEMS + 1} in batch 2.*send smaller batches"):
        await client.task
    assert client.acknowledged() == [1]
    assert len(log.appends) == 1


async def test_a_failure_of_the_log_is_told_before_a_fault_of_the_sender(log: Log, client: Client) -> None:
    """Else the sender would think that all before its fault is safe."""
    await client.send(3)
    await client.send(1)
    await log.fail(0)
    with pytest.raises(LogUnavailableError):
        await client.task


async def test_refused_samples_are_named_and_hold_up_nobody(log: Log, client: Client) -> None:
    bad = sample("bad id")
    bad.axes.add(axis=40)
    await client.send_request(StreamJointPositionsRequest(sequence=7, samples=[sample("a"), bad, sample("b"), bad]))
    assert [record.key for record in log.appends[0][0]] == [b"a", b"b"]
    await log.take(0)
    (answer,) = client.answers
    assert [(refused.sequence, refused.index) for refused in answer.refused] == [(7, 1), (7, 3)]
    assert [v.field for v in answer.refused[0].violations.field_violations] == ["arm_id", "axes[1].axis"]


async def test_in_a_large_batch_refused_samples_are_named_by_their_place_in_all_of_it(log: Log, client: Client) -> None:
    bad = {0, BREATH - 1, BREATH, 2 * BREATH + 7}
    samples = [sample("bad id" if index in bad else f"arm-{index}") for index in range(2 * BREATH + 10)]
    await client.send_request(StreamJointPositionsRequest(sequence=1, samples=samples))
    good = [s.arm_id.encode() for index, s in enumerate(samples) if index not in bad]
    assert [record.key for record in log.appends[0][0]] == good
    await log.take(0)
    (answer,) = client.answers
    assert [refused.index for refused in answer.refused] == sorted(bad)


async def test_a_batch_without_any_good_sample_is_acknowledged_in_its_turn(log: Log, client: Client) -> None:
    await client.send(1)
    await client.send_request(StreamJointPositionsRequest(sequence=2, samples=[sample("bad id")]))
    await client.send_request(StreamJointPositionsRequest(sequence=3))
    await log.take(1)
    await log.take(2)
    assert client.answers == []
    await log.take(0)
    (answer,) = client.answers
    assert answer.acknowledged_sequence == 3
    assert [refused.sequence for refused in answer.refused] == [2]


async def test_the_end_of_requests_ends_it_once_all_is_acknowledged(log: Log, client: Client) -> None:
    await client.send(1)
    await client.send_request(END)
    assert not client.task.done()
    await log.take(0)
    await client.task
    assert client.acknowledged() == [1]


async def test_a_long_batch_is_taken_whole(log: Log, client: Client) -> None:
    await client.send(1, *(f"arm-{n}" for n in range(1000)))
    assert [record.key for record in log.appends[0][0]] == [f"arm-{n}".encode() for n in range(1000)]


async def test_it_is_read_no_further_than_the_bytes_it_may_have_in_flight(log: Log) -> None:
    size = StreamJointPositionsRequest(sequence=1, samples=[sample("a")]).ByteSize()
    client = Client(log, limit=2 * size)
    for sequence in range(1, 6):
        await client.send(sequence)
    assert len(log.appends) == 2
    await log.take(0)
    assert len(log.appends) == 3
    await log.take(1)
    await log.take(2)
    assert len(log.appends) == 5
    await log.take(3)
    await log.take(4)
    assert client.acknowledged()[-1] == 5
    client.task.cancel()


async def test_a_batch_larger_than_all_of_it_goes_alone(log: Log) -> None:
    client = Client(log, limit=1)
    await client.send(1, "a", "b", "c")
    await client.send(2)
    assert len(log.appends) == 1
    await log.take(0)
    assert len(log.appends) == 2
    client.task.cancel()


async def test_a_robot_that_goes_away_leaves_nothing_behind(log: Log) -> None:
    noise: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    client = Client(log)
    await client.send(1)
    await client.send(2)
    client.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client.task
    await client._answering.aclose()  # as the server does
    await settle()
    assert [append.cancelled() for _, append in log.appends] == [True, True]
    log.appends.clear()
    await settle()
    gc.collect()
    await settle()
    assert noise == []
    assert [task for task in asyncio.all_tasks() if "CommandStream" in repr(task)] == []


async def test_what_was_not_taken_behind_a_batch_that_failed_is_not_taken_any_more(log: Log) -> None:
    """Else it would stand before that batch, which comes again."""
    client = Client(log)
    for number in (1, 2, 3):
        await client.send(number)
    await log.fail(0)
    with pytest.raises(LogUnavailableError):
        await client.task
    await settle()
    assert [append.cancelled() for _, append in log.appends[1:]] == [True, True]


async def test_what_was_read_when_a_batch_failed_is_not_given_to_the_log(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = list[Sequence[NewRecord]]()

    async def refuse_the_first(_: str, records: Sequence[NewRecord]) -> Sequence[int]:
        taken.append(records)
        if len(taken) == 1:
            raise LogUnavailableError("away for a moment")
        return [0]

    monkeypatch.setattr(log, "append", refuse_the_first)
    client = Client(log)
    for number in (1, 2):
        client._requests.put_nowait(StreamJointPositionsRequest(sequence=number, samples=[sample("a")]))
    with pytest.raises(LogUnavailableError):
        await client.task
    assert len(taken) == 1
