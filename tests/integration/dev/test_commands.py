"""Commands: what is acknowledged is in the log, at the position said; what breaks a rule is refused and says which field why."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest

from aorist.serve import rules
from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.commands_pb2 import (
    JointSample,
    ReportJointPositionsRequest,
    ReportJointPositionsResponse,
    StreamJointPositionsRequest,
    StreamJointPositionsResponse,
)
from fleet.arms.v1.events_pb2 import ArmEvent
from fleet.arms.v1.queries_pb2 import GetArmPositionRequest
from tests.harness.client import BASE_US, at_least, one_of, refused, sample
from tests.harness.in_process import Served
from tests.harness.log_file import Event

pytestmark = pytest.mark.asyncio(loop_scope="module")

REPORT = "/fleet.arms.v1.ArmCommandService/ReportJointPositions"
STREAM = "/fleet.arms.v1.ArmCommandService/StreamJointPositions"
UNKNOWN_FIELD = b"\xf2\x3f\x05hello"  # number 1022, length-delimited
YEAR_2000_US = 946_684_800_000_000


def raw_unary(dev: Served, path: str, answer: Any) -> Any:
    return dev.channel.unary_unary(path, request_serializer=bytes, response_deserializer=answer.FromString)


def raw_stream(dev: Served) -> Any:
    return dev.channel.stream_stream(
        STREAM, request_serializer=bytes, response_deserializer=StreamJointPositionsResponse.FromString
    )


async def report(dev: Served, one: JointSample) -> Event:
    """The event that the answer says is there."""
    answer = await dev.commands.ReportJointPositions(ReportJointPositionsRequest(sample=one))
    at = answer.position
    assert at.topic == "fleet.arms.v1"
    events = dev.log_file().of_arm(one.arm_id)
    return next(e for e in events if (e.partition, e.offset) == (at.partition, at.offset))


async def converse(dev: Served, *batches: StreamJointPositionsRequest) -> list[StreamJointPositionsResponse]:
    """Every answer to a stream of these batches."""
    return [answer async for answer in dev.commands.StreamJointPositions(iter(batches))]


def batch(sequence: int, *samples: JointSample) -> StreamJointPositionsRequest:
    return StreamJointPositionsRequest(sequence=sequence, samples=samples)


# --- what is acknowledged ---


async def test_a_report_is_in_the_log_where_its_answer_says(dev: Served, arm: str) -> None:
    event = ArmEvent.FromString((await report(dev, sample(arm, 7, 0.25, -1.5))).value).joint_positions_changed

    assert event.arm_id == arm
    assert event.sampled_at_us == BASE_US + 7
    assert [(a.axis, a.position) for a in event.axes] == [(0, 0.25), (1, -1.5)]


async def test_repeats_give_byte_identical_events(dev: Served, arm: str) -> None:
    one = sample(arm, 0, *(n / 7 for n in range(32)))
    first, second = await report(dev, one), await report(dev, one)
    await converse(dev, batch(1, one, one), batch(2, one))

    events = dev.log_file().of_arm(arm)
    assert second.offset > first.offset
    assert [event.value for event in events] == [first.value] * 5


async def test_a_stream_acknowledges_every_batch_with_the_last_position_of_each_partition(
    dev: Served, arm: str
) -> None:
    arms = [f"{arm}-{n}" for n in range(12)]  # over several partitions
    answers = await converse(dev, *(batch(s, *(sample(a, s) for a in arms)) for s in range(1, 9)))

    sequences = [answer.acknowledged_sequence for answer in answers]
    assert sequences == sorted(set(sequences))
    assert sequences[-1] == 8
    told: dict[int, int] = {}
    for answer in answers:
        for position in answer.positions:
            assert position.offset > told.get(position.partition, -1)
            told[position.partition] = position.offset
    events = [event for event in dev.log_file().events if event.key.decode() in arms]
    assert len(events) == 8 * len(arms)
    assert told == {event.partition: event.offset for event in events}  # the last of each


async def test_events_of_an_arm_keep_the_order_of_the_stream(dev: Served, arm: str) -> None:
    await converse(dev, *(batch(s, *(sample(arm, s * 10 + n) for n in range(10))) for s in range(40)))

    times = [
        ArmEvent.FromString(e.value).joint_positions_changed.sampled_at_us - BASE_US for e in dev.log_file().of_arm(arm)
    ]
    assert times == list(range(400))


async def test_an_empty_batch_is_acknowledged(dev: Served) -> None:
    answers = await converse(dev, batch(3))

    assert [(a.acknowledged_sequence, len(a.positions), len(a.refused)) for a in answers] == [(3, 0, 0)]


async def test_a_stream_without_batches_ends_well(dev: Served) -> None:
    assert await converse(dev) == []


async def test_sequences_may_start_at_zero_and_have_gaps(dev: Served, arm: str) -> None:
    answers = await converse(dev, batch(0, sample(arm)), batch(2**64 - 1, sample(arm, 1)))

    assert answers[-1].acknowledged_sequence == 2**64 - 1


# --- rules ---

GOOD_AXES = [AxisPosition(axis=0, position=0.5)]


def broken(**change: Any) -> JointSample:
    good: dict[str, Any] = {"arm_id": "arm", "sampled_at_us": BASE_US, "axes": GOOD_AXES}
    return JointSample(**(good | change))


def axes(*pairs: tuple[int, float]) -> list[AxisPosition]:
    return [AxisPosition(axis=axis, position=position) for axis, position in pairs]


BAD: dict[str, tuple[JointSample, str]] = {
    "nan": (broken(axes=axes((0, 1.0), (1, math.nan))), "axes[1].position"),
    "infinity": (broken(axes=axes((0, math.inf))), "axes[0].position"),
    "minus infinity": (broken(axes=axes((3, -math.inf))), "axes[0].position"),
    "axis 32": (broken(axes=axes((32, 0.0))), "axes[0].axis"),
    "axis twice": (broken(axes=axes((1, 0.0), (2, 0.0), (1, 0.0))), "axes"),
    "no axes": (broken(axes=[]), "axes"),
    "33 axes": (broken(axes=axes(*((n, 0.0) for n in range(33)))), "axes"),
    "before 2000": (broken(sampled_at_us=YEAR_2000_US - 1), "sampled_at_us"),
    "no time": (broken(sampled_at_us=0), "sampled_at_us"),
    "negative time": (broken(sampled_at_us=-1), "sampled_at_us"),
    "end of time": (broken(sampled_at_us=2**63 - 1), "sampled_at_us"),
    "no id": (broken(arm_id=""), "arm_id"),
    "id too long": (broken(arm_id="a" * 65), "arm_id"),
    "leading dash": (broken(arm_id="-arm"), "arm_id"),
    "leading dot": (broken(arm_id=".arm"), "arm_id"),
    "slash": (broken(arm_id="hall/arm"), "arm_id"),
    "newline at the end": (broken(arm_id="arm\n"), "arm_id"),
    "nul at the end": (broken(arm_id="arm\0"), "arm_id"),
    "space": (broken(arm_id="arm 1"), "arm_id"),
    "letter beyond ascii": (broken(arm_id="är"), "arm_id"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_report_that_breaks_a_rule_is_refused_by_field(dev: Served, name: str) -> None:
    bad, field = BAD[name]
    before = len(dev.log_file().events)
    call = dev.commands.ReportJointPositions(ReportJointPositionsRequest(sample=bad))
    code, reason, fields = await refused(call)

    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID")
    assert f"sample.{field}" in fields
    assert len(fields[f"sample.{field}"]) > 10  # in words
    assert len(dev.log_file().events) == before


async def test_a_report_without_sample_is_refused(dev: Served) -> None:
    code, _, fields = await refused(dev.commands.ReportJointPositions(ReportJointPositionsRequest()))

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(fields) == {"sample"}


async def test_all_that_is_wrong_is_said_at_once(dev: Served) -> None:
    bad = JointSample(arm_id="/", axes=axes((40, math.nan), (40, 0.0)))
    _, _, fields = await refused(dev.commands.ReportJointPositions(ReportJointPositionsRequest(sample=bad)))

    assert set(fields) == {
        "sample.arm_id",
        "sample.sampled_at_us",
        "sample.axes",
        "sample.axes[0].axis",
        "sample.axes[0].position",
        "sample.axes[1].axis",
    }


async def test_the_limits_themselves_are_good(dev: Served, arm: str) -> None:
    longest = arm + "x" * (64 - len(arm))
    for good in (
        broken(arm_id=longest),
        broken(arm_id=f"{arm}._:-Z"),
        broken(arm_id=arm, sampled_at_us=YEAR_2000_US),
        broken(arm_id=arm, axes=axes(*((n, -1e308) for n in range(32)))),
    ):
        await report(dev, good)


async def test_in_a_stream_bad_samples_are_refused_by_name_and_the_others_are_durable(dev: Served, arm: str) -> None:
    answers = await converse(
        dev,
        batch(4, sample(arm, 0), broken(arm_id=""), sample(arm, 1)),
        batch(5, broken(arm_id=arm, axes=axes((0, math.nan)))),
        batch(9, sample(arm, 2), broken(arm_id=arm, sampled_at_us=0, axes=[])),
    )

    named = {
        (r.sequence, r.index): {v.field for v in r.violations.field_violations} for a in answers for r in a.refused
    }
    assert named == {(4, 1): {"arm_id"}, (5, 0): {"axes[0].position"}, (9, 1): {"sampled_at_us", "axes"}}
    assert answers[-1].acknowledged_sequence == 9
    assert {at - BASE_US for name, at in dev.log_file().samples() if name == arm} == {0, 1, 2}


@pytest.mark.parametrize("sequences", [(5, 5), (5, 4), (0, 0)])
async def test_a_sequence_that_does_not_grow_ends_the_stream_after_what_was_before(
    dev: Served, arm: str, sequences: Sequence[int]
) -> None:
    call = dev.commands.StreamJointPositions()
    await call.write(batch(sequences[0], sample(arm, 0)))
    assert (await one_of(call)).acknowledged_sequence == sequences[0]
    await call.write(batch(sequences[1], sample(arm, 1)))
    code, _, fields = await refused(call.read())

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(fields) == {"sequence"}
    assert [at - BASE_US for name, at in dev.log_file().samples() if name == arm] == [0]


@pytest.mark.parametrize("ahead_us", [5_000_000, 5_000_999])
async def test_times_up_to_the_skew_are_good(
    dev: Served, arm: str, ahead_us: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dev.settings.max_skew_ms == 5000
    monkeypatch.setattr(rules, "time", SimpleNamespace(time_ns=lambda: BASE_US * 1000))

    await report(dev, sample(arm, ahead_us))


async def test_times_past_the_skew_are_refused(dev: Served, arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "time", SimpleNamespace(time_ns=lambda: BASE_US * 1000))
    late = sample(arm, 5_001_000)
    _, _, fields = await refused(dev.commands.ReportJointPositions(ReportJointPositionsRequest(sample=late)))
    (answer,) = await converse(dev, batch(1, late, sample(arm, 0)))

    assert "later than the gateway's clock by more than 5000 ms" in fields["sample.sampled_at_us"]
    assert [(r.index, r.violations.field_violations[0].field) for r in answer.refused] == [(0, "sampled_at_us")]


# --- bytes that are not what they should be ---


@pytest.mark.parametrize("junk", [b"\xff\xff\xff", b"\x0a\x7f\x00", b"\x0a\x03\x0a\x01\xff"])
async def test_a_malformed_report_is_refused(dev: Served, junk: bytes) -> None:
    code, reason, _ = await refused(raw_unary(dev, REPORT, ReportJointPositionsResponse)(junk))

    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID")


async def test_a_malformed_batch_ends_the_stream_after_what_was_before(dev: Served, arm: str) -> None:
    call = raw_stream(dev)()
    await call.write(batch(1, sample(arm)).SerializeToString())
    await call.write(b"\xff\xff\xff")
    answers: list[int] = []

    async def read_all() -> None:
        async for answer in call:
            answers.append(answer.acknowledged_sequence)  # noqa: PERF401 - those before the error count

    code, reason, _ = await refused(read_all())
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID")
    assert answers == [1]
    assert len(dev.log_file().of_arm(arm)) == 1


async def test_a_malformed_query_is_refused(dev: Served) -> None:
    path = "/fleet.arms.v1.ArmQueryService/GetArmPosition"
    code, reason, _ = await refused(raw_unary(dev, path, ReportJointPositionsResponse)(b"\xff"))

    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID")


async def test_unknown_fields_are_ignored_and_never_reach_the_log(dev: Served, arm: str) -> None:
    plain = await report(dev, sample(arm))
    one = JointSample.FromString(sample(arm).SerializeToString() + UNKNOWN_FIELD)
    await raw_unary(dev, REPORT, ReportJointPositionsResponse)(
        ReportJointPositionsRequest(sample=one).SerializeToString() + UNKNOWN_FIELD
    )
    call = raw_stream(dev)()
    await call.write(batch(1, one).SerializeToString() + UNKNOWN_FIELD)
    await call.done_writing()
    assert [answer.acknowledged_sequence async for answer in call] == [1]

    assert [event.value for event in dev.log_file().of_arm(arm)] == [plain.value] * 3


async def test_an_oversized_report_is_refused(dev: Served, arm: str) -> None:
    padding = b"\xf2\x3f" + bytes([0x80, 0x80, 0x80, 0x02]) + bytes(4 << 20)  # an unknown field of 4 MiB
    request = ReportJointPositionsRequest(sample=sample(arm)).SerializeToString() + padding
    code, _, _ = await refused(raw_unary(dev, REPORT, ReportJointPositionsResponse)(request))

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dev.log_file().of_arm(arm) == []


async def test_an_oversized_batch_ends_the_stream_and_the_server_goes_on(dev: Served, arm: str) -> None:
    call = raw_stream(dev)()
    padding = b"\xf2\x3f" + bytes([0x80, 0x80, 0x80, 0x02]) + bytes(4 << 20)
    await call.write(batch(1, sample(arm)).SerializeToString() + padding)
    code, _, _ = await refused(call.read())

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dev.log_file().of_arm(arm) == []
    await report(dev, sample(arm))


async def test_a_batch_larger_than_all_that_may_be_unacknowledged_goes_through_alone(dev: Served, arm: str) -> None:
    padding = b"\xf2\x3f" + bytes([0x80, 0x80, 0x80, 0x01]) + bytes(2 << 20)
    assert len(padding) > dev.settings.max_unacknowledged_bytes
    call = raw_stream(dev)()
    for sequence in (1, 2, 3):
        await call.write(batch(sequence, sample(arm, sequence)).SerializeToString() + padding)
    await call.done_writing()
    answers = [answer.acknowledged_sequence async for answer in call]

    assert answers[-1] == 3
    assert len(dev.log_file().of_arm(arm)) == 3


async def test_an_unknown_method_is_unimplemented(dev: Served) -> None:
    call = raw_unary(dev, "/fleet.arms.v1.ArmCommandService/MoveArm", ReportJointPositionsResponse)
    assert (await refused(call(b""))).code is grpc.StatusCode.UNIMPLEMENTED


async def test_a_stream_cancelled_midway_leaves_no_task_behind(dev: Served, arm: str) -> None:
    await report(dev, sample(arm))
    tasks = asyncio.all_tasks()
    for number in range(5):
        call = dev.commands.StreamJointPositions()
        await call.write(batch(1, sample(arm, number)))
        await one_of(call)
        call.cancel()
    left: set[asyncio.Task[Any]] = set()
    for _ in range(500):
        left = {task for task in asyncio.all_tasks() - tasks if "aorist" in repr(task.get_coro())}
        if not left:
            break
        await asyncio.sleep(0.01)
    assert not left


async def test_many_robots_at_once_each_get_all_their_acknowledgements(dev: Served, arm: str) -> None:
    async def robot(name: str) -> None:
        answers = await converse(dev, *(batch(s, *(sample(name, s * 5 + n) for n in range(5))) for s in range(20)))
        assert answers[-1].acknowledged_sequence == 19
        told = [(p.partition, p.offset) for a in answers for p in a.positions]
        got = await dev.queries.GetArmPosition(GetArmPositionRequest(arm_id=name, read=at_least(told)))
        assert got.arm.axes[0].sampled_at_us == BASE_US + 99

    names = [f"{arm}-{n}" for n in range(20)]
    await asyncio.gather(*map(robot, names))
    counts = dev.log_file().count()
    assert [counts[name] for name in names] == [100] * 20
