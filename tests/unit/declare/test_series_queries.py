"""Queries over ranges: what is wrong with one is said at import, in a sentence; what is right is answered by the test kit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from aorist.declare import Codec, InRange, Queries, Series, View, Window, Windows, given
from aorist.errors import MisdeclaredError, UnknownKeyError
from aorist.v1.series_pb2 import TimeRange
from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.events_pb2 import JointPositionsChanged
from fleet.arms.v1.motion_pb2 import CompareMotionRequest, GetMotionRequest, ListMotionWindowsRequest
from materializers.arm_motion import arm_motion
from tests.unit.declare.contract import compile_proto

PROTO = """
message Seen { string id = 1; int64 us = 2; }
message SeenEvent {
  option (aorist.v1.topic) = { name: "seen" partitions: 4 key: "id" retention_ms: 1000 };
  aorist.v1.EventMeta meta = 1;
  oneof event { Seen seen = 2; }
}
message Amount { int64 us = 1; }
message Flow { aorist.v1.Windows windows = 1; }

message SumRequest { string id = 1 [(aorist.v1.route) = true]; aorist.v1.TimeRange range = 2; aorist.v1.ReadOptions read = 3; }
message SumResponse { aorist.v1.ReadHeader header = 1; int64 us = 2; }
message NowRequest { string id = 1 [(aorist.v1.route) = true]; aorist.v1.ReadOptions read = 3; }
message NowResponse { aorist.v1.ReadHeader header = 1; int64 us = 2; }
message WindowsRequest {
  string id = 1 [(aorist.v1.route) = true];
  aorist.v1.TimeRange range = 2;
  aorist.v1.ReadOptions read = 3;
  uint32 window_s = 4;
  uint32 page_size = 5;
  string page_token = 6;
}
message OneWindow { int64 us = 1; }
message WindowsResponse { aorist.v1.ReadHeader header = 1; repeated OneWindow windows = 2; string next_page_token = 3; }
message CompareRequest {
  aorist.v1.TimeRange range = 2;
  aorist.v1.ReadOptions read = 3;
  uint32 page_size = 5;
  string page_token = 6;
}
message One { string id = 1 [(aorist.v1.key) = true]; int64 us = 2 [(aorist.v1.descending) = true]; repeated int64 more = 3; }
message CompareResponse {
  repeated One ones = 1;
  string next_page_token = 2;
  repeated aorist.v1.ReadHeader headers = 3;
  repeated aorist.v1.MissingPartition missing = 4;
}
service SeenService {
  rpc Sum(SumRequest) returns (SumResponse) { option (aorist.v1.answered_by) = "flow"; }
  rpc Now(NowRequest) returns (NowResponse) { option (aorist.v1.answered_by) = "flow"; }
  rpc List(WindowsRequest) returns (WindowsResponse) { option (aorist.v1.answered_by) = "flow"; }
  rpc Compare(CompareRequest) returns (CompareResponse) { option (aorist.v1.answered_by) = "flow"; }
}
"""


def add(into: Any, more: Any) -> None:
    into.us += more.us


class Made:
    """A view to which handlers are offered."""

    def __init__(self, *, keeps_series: bool = True) -> None:
        self.contract = compile_proto(PROTO)
        series: Series[Any] = Series(self.contract.Amount, add=add)

        @dataclass(slots=True)
        class Flow:
            windows: Windows[Any] = field(default_factory=series.windows)

        through: Codec[Any] = Codec.through(
            self.contract.Flow,
            lambda flow: self.contract.Flow(windows=flow.windows.pack()),
            lambda message: Flow(series.unpack(message.windows)),
        )
        self.state = Flow if keeps_series else self.contract.Flow
        self.view: View[Any] = View(
            "flow",
            events=self.contract.SeenEvent,
            state=self.state,
            codec=through if keeps_series else None,
            ignores=[self.contract.Seen],
        )

    def refusal(self, kind: str, ask: str, answer: str, *found: Any) -> str:
        """Of a handler with these types."""

        def two(state: Any, ask: Any) -> Any: ...

        def three(state: Any, ask: Any, found: Any) -> Any: ...

        handler: Callable[..., Any] = three if found else two
        handler.__annotations__ |= {"found": found[0]} if found else {}
        handler.__annotations__ |= {
            "state": self.state,
            "ask": getattr(self.contract, ask),
            "return": getattr(self.contract, answer),
        }
        with pytest.raises(MisdeclaredError) as refused:
            getattr(self.view, kind)(handler)
        return str(refused.value)


def test_totals_of_a_range_are_taken_as_third_parameter() -> None:
    made = Made()
    wanted = "SumRequest asks for a range (aorist.v1.TimeRange): its third parameter must be `found: InRange[Amount]`"
    assert wanted in made.refusal("get", "SumRequest", "SumResponse")
    assert wanted in made.refusal("get", "SumRequest", "SumResponse", InRange[int])
    assert wanted in made.refusal("get", "SumRequest", "SumResponse", Window[int])
    assert "`found: InRange[Amount]`" in made.refusal("list", "CompareRequest", "One")
    assert "`found: Window[Amount]`" in made.refusal("windows", "WindowsRequest", "OneWindow", InRange[int])
    assert "must take exactly 3 parameters: def two(state, ask, found)" in made.refusal(
        "windows", "WindowsRequest", "OneWindow"
    )


def test_without_a_range_there_is_no_third_parameter() -> None:
    assert "NowRequest asks for no range (aorist.v1.TimeRange): remove its third parameter" in Made().refusal(
        "get", "NowRequest", "NowResponse", InRange[int]
    )


def test_a_range_takes_a_view_with_series() -> None:
    refusal = Made(keeps_series=False).refusal("get", "SumRequest", "SumResponse", InRange[int])
    assert "but view `flow` keeps no series: give its state a field of type Windows" in refusal


def test_windows_are_answered_by_their_own_handler() -> None:
    made = Made()
    refusal = made.refusal("get", "WindowsRequest", "OneWindow", InRange[int])
    assert "lists windows: use `@flow.windows`" in refusal


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (" [(aorist.v1.descending) = true]", "", "mark one of One with [(aorist.v1.descending) = true]"),
        ("repeated int64 more = 3;", "int64 more = 3 [(aorist.v1.descending) = true];", "marks what is not one number"),
        (
            "int64 us = 2 [(aorist.v1.descending) = true]; repeated int64 more = 3;",
            "repeated int64 more = 3 [(aorist.v1.descending) = true];",
            "marks what is not one number",
        ),
        ("returns (SumResponse)", "returns (stream SumResponse)", "a range is asked for once: remove `stream`"),
        ("uint32 window_s = 4;", "", "asks for windows page by page: give it `uint32 window_s`"),
        (
            "string next_page_token = 3; }",
            "repeated OneWindow more = 3; }",
            "needs `string next_page_token` and one repeated message field for its windows, it has 2",
        ),
        (
            "message CompareRequest {\n  aorist.v1.TimeRange range = 2;",
            "message CompareRequest {",
            "One.us is marked (aorist.v1.descending), but the list is in the order of its keys",
        ),
    ],
)
def test_a_contract_that_cannot_be_answered_is_refused_in_a_sentence(old: str, new: str, says: str) -> None:
    assert old in PROTO
    contract = compile_proto(PROTO.replace(old, new))
    with pytest.raises(MisdeclaredError) as refused:
        Queries(f"{contract.package}.SeenService", events=contract.SeenEvent)
    assert says in str(refused.value)


def test_how_a_list_is_merged_follows_from_its_order() -> None:
    contract = compile_proto(PROTO)
    queries = Queries(f"{contract.package}.SeenService", events=contract.SeenEvent)
    with pytest.raises(MisdeclaredError, match=r"add `\.merge_descending\(CompareRequest\)`"):
        queries.complete()
    with pytest.raises(MisdeclaredError, match="are ordered by a number: use merge_descending"):
        queries.merge_by_key(contract.CompareRequest)
    queries.merge_descending(contract.CompareRequest)
    queries.complete()
    with pytest.raises(MisdeclaredError, match="asks for no list"):
        queries.merge_descending(contract.SumRequest)


# --- the test kit ---


T0 = 1_767_225_600_000_000


def moved(arm: str, second: int, position: float) -> JointPositionsChanged:
    axes = [AxisPosition(axis=0, position=position)]
    return JointPositionsChanged(arm_id=arm, sampled_at_us=T0 + second * 1_000_000, axes=axes)


EVENTS = [moved(arm, n, n * speed) for n in range(200) for arm, speed in (("quick", 0.1), ("rests", 0.0))]
RANGE = TimeRange(from_us=T0 + 30_500_000, upto_us=T0 + 150_000_000)


def test_a_range_is_answered_with_its_totals() -> None:
    answer: Any = given(arm_motion, EVENTS).ask(GetMotionRequest(arm_id="quick", range=RANGE)).answer
    assert answer.arm_id == "quick"
    assert answer.range == TimeRange(from_us=T0 + 30_000_000, upto_us=T0 + 150_000_000)
    assert (answer.motion.moving, answer.motion.unobserved, answer.coverage) == (1.0, 0.0, 1.0)


def test_windows_are_listed_in_the_order_of_time() -> None:
    asked = ListMotionWindowsRequest(arm_id="rests", window_s=60, range=RANGE)
    answer: Any = given(arm_motion, EVENTS).ask(asked).answer
    assert [(w.start_us - T0) // 1_000_000 for w in answer.windows] == [60, 120]
    assert [w.motion.still for w in answer.windows] == [1.0, 1.0]
    with pytest.raises(UnknownKeyError):
        given(arm_motion, EVENTS).ask(ListMotionWindowsRequest(arm_id="nobody", window_s=60, range=RANGE))


def test_a_comparison_is_ordered_by_its_number() -> None:
    answer: Any = given(arm_motion, EVENTS).ask(CompareMotionRequest(range=RANGE)).answer
    assert [(arm.arm_id, arm.utilisation) for arm in answer.arms] == [("quick", 1.0), ("rests", 0.0)]
