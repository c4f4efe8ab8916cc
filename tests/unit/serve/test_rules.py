"""The rules of a request: each violation says where, by a path that can be pasted, and what is allowed."""

from __future__ import annotations

import itertools
import math
import time

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from aorist.errors import InvalidRequestError, MisdeclaredError, Violation
from aorist.serve.plain_rules import plainly_kept
from aorist.serve.rules import ItemRules, Rules
from aorist.v1.read_pb2 import ReadOptions
from buf.validate import validate_pb2
from buf.validate.validate_pb2 import FieldRules, RepeatedRules, StringRules, UInt32Rules
from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.commands_pb2 import JointSample, ReportJointPositionsRequest, StreamJointPositionsRequest
from fleet.arms.v1.queries_pb2 import GetArmPositionRequest, ListArmPositionsRequest, WatchArmPositionRequest
from tests.unit.declare.contract import compile_proto

NOW_US = time.time_ns() // 1000
SKEW_MS = 5000
_numbers = itertools.count(1)


def report(arm: str = "arm-1", at: int = NOW_US, *axes: tuple[int, float]) -> ReportJointPositionsRequest:
    positions = [AxisPosition(axis=axis, position=position) for axis, position in axes or ((0, 0.5),)]
    return ReportJointPositionsRequest(sample=JointSample(arm_id=arm, sampled_at_us=at, axes=positions))


def broken(request: ReportJointPositionsRequest) -> list[Violation]:
    return Rules(ReportJointPositionsRequest, SKEW_MS).broken_by(request)


def test_a_right_sample_breaks_nothing() -> None:
    assert broken(report("a", NOW_US, *((n, -0.5) for n in range(32)))) == []


@pytest.mark.parametrize(
    ("request_", "field", "says"),
    [
        (report("a", NOW_US, (0, 1.0), (1, 1.0), (32, 1.0)), "sample.axes[2].axis", "less than or equal to 31"),
        (report("a", NOW_US, (0, 1.0), (1, math.nan)), "sample.axes[1].position", "finite"),
        (report("a", NOW_US, (0, math.inf)), "sample.axes[0].position", "finite"),
        (report("a", NOW_US, (3, 1.0), (4, 1.0), (3, 1.0)), "sample.axes", "axis 3 appears more than once"),
        (report("bad id"), "sample.arm_id", "pattern"),
        (report(""), "sample.arm_id", "pattern"),
        (report("a", 946_684_799_999_999), "sample.sampled_at_us", "before 2000: microseconds since 1970 are expected"),
        (report("a", NOW_US // 1_000_000), "sample.sampled_at_us", "before 2000: microseconds since 1970 are expected"),
        (
            report("a", NOW_US * 1000),
            "sample.sampled_at_us",
            "by more than 5000 ms; check the sender's clock and unit",
        ),
        (ReportJointPositionsRequest(), "sample", "required"),
    ],
    ids=[
        "axis too high",
        "not a number",
        "infinite",
        "axis twice",
        "blank in the id",
        "no id",
        "before 2000",
        "seconds",
        "nanoseconds",
        "no sample",
    ],
)
def test_a_violation_names_its_field_and_what_is_allowed(
    request_: ReportJointPositionsRequest, field: str, says: str
) -> None:
    (violation,) = broken(request_)
    assert violation.field == field
    assert says in violation.message


def test_all_violations_are_told_at_once() -> None:
    request = report("bad id", NOW_US * 1000, (40, math.nan), (40, 1.0))
    fields = ["sample.arm_id", "sample.axes", "sample.axes[0].axis", "sample.axes[0].position", "sample.axes[1].axis"]
    assert sorted(v.field for v in broken(request)) == [*fields, "sample.sampled_at_us"]
    with pytest.raises(InvalidRequestError) as refused:
        Rules(ReportJointPositionsRequest, SKEW_MS).check(request)
    assert len(refused.value.violations) == 6
    assert "sample.axes: axis 40 appears more than once: each axis once" in str(refused.value)


@pytest.mark.parametrize(("ahead_ms", "allowed"), [(-10_000, True), (0, True), (4_000, True), (60_000, False)])
def test_times_may_be_ahead_by_the_skew_and_no_more(ahead_ms: int, *, allowed: bool) -> None:
    assert (broken(report("a", time.time_ns() // 1000 + ahead_ms * 1000)) == []) is allowed


def test_a_sample_by_itself_has_paths_of_its_own() -> None:
    """As in a stream, where the refusal names batch and index beside the path."""
    sample = JointSample(arm_id="a", sampled_at_us=NOW_US * 1000, axes=[AxisPosition(axis=1), AxisPosition(axis=1)])
    assert {v.field for v in Rules(JointSample, SKEW_MS).broken_by(sample)} == {"sampled_at_us", "axes"}


def test_queries_have_rules_too() -> None:
    assert [v.field for v in Rules(GetArmPositionRequest, 0).broken_by(GetArmPositionRequest())] == ["arm_id"]
    assert [v.field for v in Rules(ListArmPositionsRequest, 0).broken_by(ListArmPositionsRequest(page_size=1001))] == [
        "page_size"
    ]


NESTED = compile_proto("""
    message Reading { int64 at_us = 1 [(aorist.v1.event_time_us) = true]; uint32 number = 2; }
    message Tree {
      repeated Reading readings = 1 [(aorist.v1.unique_by) = "number"];
      repeated Tree branches = 2;
      Tree trunk = 3;
      map<string, Reading> named = 4;
    }
    message NoSuchField { repeated Reading readings = 1 [(aorist.v1.unique_by) = "numero"]; }
    message NotRepeated { Reading reading = 1 [(aorist.v1.unique_by) = "number"]; }
    message NotWhole { double at = 1 [(aorist.v1.event_time_us) = true]; }
    message Many { repeated int64 at = 1 [(aorist.v1.event_time_us) = true]; }
""")


def test_rules_reach_into_repeated_messages_and_into_types_that_hold_themselves() -> None:
    late = NESTED.Reading(at_us=NOW_US * 1000, number=1)
    leaf = NESTED.Tree(readings=[NESTED.Reading(at_us=NOW_US, number=2), late, late])
    tree = NESTED.Tree(branches=[NESTED.Tree(), NESTED.Tree(trunk=leaf)])
    assert {v.field for v in Rules(NESTED.Tree, SKEW_MS).broken_by(tree)} == {
        "branches[1].trunk.readings",
        "branches[1].trunk.readings[1].at_us",
        "branches[1].trunk.readings[2].at_us",
    }


def test_what_is_not_set_breaks_nothing() -> None:
    assert Rules(NESTED.Tree, SKEW_MS).broken_by(NESTED.Tree()) == []


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("NoSuchField", ".NoSuchField.readings: (aorist.v1.unique_by) names `numero`: it stands on a repeated message"),
        ("NotRepeated", ".NotRepeated.reading: (aorist.v1.unique_by) names `number`: it stands on a repeated message"),
        ("NotWhole", ".NotWhole.at: (aorist.v1.event_time_us) stands on a single int64 field: make it one"),
        ("Many", ".Many.at: (aorist.v1.event_time_us) stands on a single int64 field: make it one"),
    ],
)
def test_a_rule_on_the_wrong_field_is_refused_by_its_proto_file(message: str, says: str) -> None:
    with pytest.raises(MisdeclaredError) as refused:
        Rules(NESTED.classes[message], SKEW_MS)
    assert str(refused.value).startswith(f"{NESTED.package}.proto: ")
    assert says in str(refused.value)


def in_batch(*samples: JointSample) -> dict[int, list[Violation]]:
    return ItemRules(StreamJointPositionsRequest, "samples", SKEW_MS).broken_in(
        StreamJointPositionsRequest(samples=samples)
    )


def test_in_a_batch_each_item_breaks_what_it_would_break_by_itself() -> None:
    good = report().sample
    samples = [
        good,
        report("bad id", NOW_US * 1000, (40, math.nan), (40, 1.0)).sample,
        good,
        JointSample(),
        report("a", 1, (3, 1.0), (3, 1.0)).sample,
    ]
    alone = Rules(JointSample, SKEW_MS)
    assert in_batch(*samples) == {index: alone.broken_by(samples[index]) for index in (1, 3, 4)}
    assert in_batch(good, good) == in_batch() == {}


RULED = compile_proto("""
    import "buf/validate/validate.proto";
    message Item {
      option (buf.validate.message).cel = { id: "even", message: "must be even", expression: "this.number % 2 == 0" };
      int32 number = 1;
    }
    message Batch {
      option (buf.validate.message).cel = { id: "never", message: "never right", expression: "this.sequence < 0" };
      int64 sequence = 1 [(buf.validate.field).int64.gt = 1000];
      repeated Item items = 2 [(buf.validate.field).repeated.max_items = 2];
    }
""")


def test_an_item_as_a_whole_may_break_a_rule_and_those_of_the_batch_are_nobodys_fault() -> None:
    items = [RULED.Item(number=number) for number in (1, 2, 3)]
    broken = ItemRules(RULED.Batch, "items", SKEW_MS).broken_in(RULED.Batch(items=items))
    assert broken == {index: [Violation("", "must be even")] for index in (0, 2)}


def kept(request: Message) -> bool:
    sure = plainly_kept(request.DESCRIPTOR)
    assert sure is not None
    return sure(request)


@pytest.mark.parametrize(
    "request_",
    [
        GetArmPositionRequest(),
        GetArmPositionRequest(arm_id="a"),
        GetArmPositionRequest(arm_id="a", read=ReadOptions(max_wait_ms=1)),
        ListArmPositionsRequest(),
        ListArmPositionsRequest(page_size=1000),
        ListArmPositionsRequest(page_size=1001),
        WatchArmPositionRequest(arm_id="a", min_interval_ms=3_600_000),
        WatchArmPositionRequest(arm_id="a", min_interval_ms=3_600_001),
        WatchArmPositionRequest(min_interval_ms=1),
    ],
    ids=lambda request: f"{request.DESCRIPTOR.name}({str(request)!r})",
)
def test_plain_rules_mean_what_protovalidate_means(request_: Message) -> None:
    assert kept(request_) == (Rules(type(request_), 0).broken_by(request_) == [])


def ruled(rules: FieldRules, kind: int = FieldDescriptorProto.TYPE_STRING, *, repeated: bool = False) -> type[Message]:
    """A message with one field, which has `rules`."""
    name = f"ruled{next(_numbers)}"
    label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
    one = FieldDescriptorProto(name="one", number=1, type=kind, label=label)  # type: ignore[arg-type]
    one.options.Extensions[validate_pb2.field].CopyFrom(rules)
    file = FileDescriptorProto(name=f"{name}.proto", package=name, syntax="proto3")
    file.dependency.append(validate_pb2.DESCRIPTOR.name)
    file.message_type.add(name="Ruled").field.append(one)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName(f"{name}.Ruled"))


@pytest.mark.parametrize("text", ["", "a", "ab", "\u00e9", "\u00e9\u00e9", "\U0001f916", "\U0001f916a"])
def test_the_length_of_a_text_is_counted_as_protovalidate_counts(text: str) -> None:
    message = ruled(FieldRules(string=StringRules(min_len=2)))
    assert kept(message(one=text)) == (Rules(message, 0).broken_by(message(one=text)) == [])


@pytest.mark.parametrize(
    "message",
    [
        ruled(FieldRules(string=StringRules(min_len=2, pattern="^a"))),
        ruled(FieldRules(string=StringRules(min_len=2), required=True)),
        ruled(FieldRules(string=StringRules(min_len=2), ignore=validate_pb2.IGNORE_IF_ZERO_VALUE)),
        ruled(FieldRules(string=StringRules(max_len=2))),
        ruled(FieldRules(uint32=UInt32Rules(lte=7, gte=2)), FieldDescriptorProto.TYPE_UINT32),
        ruled(FieldRules(repeated=RepeatedRules(min_items=1)), repeated=True),
        ReportJointPositionsRequest,
    ],
    ids=["another beside it", "required", "ignored when zero", "another", "two of a number", "repeated", "within"],
)
def test_rules_that_are_not_plain_are_left_to_protovalidate(message: type[Message]) -> None:
    assert plainly_kept(message.DESCRIPTOR) is None
