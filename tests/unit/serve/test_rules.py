"""The rules of a request: each violation says where, by a path that can be pasted, and what is allowed."""

from __future__ import annotations

import math
import time

import pytest

from aorist.errors import InvalidRequestError, MisdeclaredError, Violation
from aorist.serve.rules import ItemRules, Rules
from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.commands_pb2 import JointSample, ReportJointPositionsRequest, StreamJointPositionsRequest
from fleet.arms.v1.queries_pb2 import GetArmPositionRequest, ListArmPositionsRequest
from tests.unit.declare.contract import compile_proto

NOW_US = time.time_ns() // 1000
SKEW_MS = 5000


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
