"""Events are made up from what their contract says: every kind of field, as its rules want it, few keys, equal moments."""

from __future__ import annotations

import random
from typing import Any

import protovalidate
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, given, settings

from aorist.declare import View
from aorist.declare.strategies import MOST_EVENTS, START_S, sequences
from buf.validate import validate_pb2
from tests.unit.declare.contract import compile_proto

assert validate_pb2.DESCRIPTOR.name == "buf/validate/validate.proto"  # in the pool

PROTO = compile_proto("""
    import "buf/validate/validate.proto";
    import "google/protobuf/timestamp.proto";

    enum Kind { KIND_UNSPECIFIED = 0; KIND_ONE = 1; KIND_NINE = 9; }
    message Node { int64 value = 1; Node next = 2; repeated Node more = 3; map<int32, Node> by_number = 4; }
    message Ruled {
      uint32 axis = 1 [(buf.validate.field).uint32.lte = 31];
      int32 low = 2 [(buf.validate.field).int32 = { gt: -100, lt: -90 }];
      sint64 high = 3 [(buf.validate.field).sint64.gte = 1000];
      double share = 4 [(buf.validate.field).double = { gt: 0, lte: 1, finite: true }];
      string name = 5 [(buf.validate.field).string.pattern = "^[a-z]{2,4}-[0-9]$"];
      string text = 6 [(buf.validate.field).string = { min_len: 3, max_len: 5, prefix: "p" }];
      string unit = 7 [(buf.validate.field).string = { in: ["rad", "m"] }];
      string number = 8 [(buf.validate.field).string.uuid = true];
      bytes digest = 9 [(buf.validate.field).bytes.len = 4];
      repeated string tags = 10 [(buf.validate.field).repeated = { min_items: 1, unique: true, items: { string: { min_len: 1 } } }];
      map<string, uint32> counts = 11 [(buf.validate.field).map = { min_pairs: 1, values: { uint32: { gte: 7 } } }];
      Kind kind = 12 [(buf.validate.field).enum = { defined_only: true, not_in: [0] }];
      Node node = 13 [(buf.validate.field).required = true];
      oneof how { option (buf.validate.oneof).required = true; string word = 14; Node whole = 15; }
      bool yes = 16 [(buf.validate.field).bool.const = true];
    }
    message Happened {
      string site = 1;
      uint32 group = 2;
      Ruled ruled = 3;
      Kind kind = 4;
      fixed32 a = 5; fixed64 b = 6; sfixed32 c = 7; sfixed64 d = 8; sint32 e = 9; float f = 10; bytes g = 11; bool h = 12;
      optional string i = 13;
      oneof either { int32 j = 14; Node k = 15; }
      int64 sampled_at_us = 16;
      google.protobuf.Timestamp moment = 17;
      repeated Kind kinds = 18;
      repeated Node nodes = 19 [(aorist.v1.unique_by) = "value"];
      uint64 turns = 20;
    }
    message Other { string site = 1; uint32 group = 2; }
    message SiteEvent {
      option (aorist.v1.topic) = { name: "sites" partitions: 2 key: "site" key: "group" partition_by: "site" retention_ms: 1000 };
      aorist.v1.EventMeta meta = 1;
      oneof event { Happened happened = 2; Other other = 3; }
    }
    message Site { int64 n = 1; }
""")


def happened(state: Any, event: Any) -> None:
    state.n = 1


happened.__annotations__.update(state=PROTO.Site, event=PROTO.Happened)


@pytest.fixture(scope="module")
def found() -> list[list[Any]]:
    """A hundred sequences."""
    site: View[Any] = View("site", events=PROTO.SiteEvent, state=PROTO.Site, ignores=[PROTO.Other])
    site.apply(happened)
    made: list[list[Message]] = []

    @settings(
        max_examples=100,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(sequences(site))
    def draw(events: list[Message]) -> None:
        made.append(events)

    state = random.getstate()
    draw()
    random.setstate(state)
    return made


def test_sequences_are_short_and_of_one_key_or_two(found: list[list[Any]]) -> None:
    assert {len({(one.site, one.group) for one in events}) for events in found} == {1, 2}
    assert {type(one) for events in found for one in events} == {PROTO.Happened}
    lengths = {len(events) for events in found}
    assert (min(lengths), max(lengths)) >= (1, 6)
    assert max(lengths) <= MOST_EVENTS


def test_every_field_is_set_somewhere_and_rules_are_kept(found: list[list[Any]]) -> None:
    events = [one for sequence in found for one in sequence]
    assert {field.name for one in events for field, _ in one.ListFields()} == set(
        PROTO.Happened.DESCRIPTOR.fields_by_name
    )
    ruled = [one.ruled for one in events if one.HasField("ruled")]
    assert {field.name for one in ruled for field, _ in one.ListFields()} == set(PROTO.Ruled.DESCRIPTOR.fields_by_name)
    broken = [v.proto.message for one in events for v in protovalidate.collect_violations(one)]
    assert broken == []
    for one in events:
        assert len({node.value for node in one.nodes}) == len(one.nodes)


def test_enums_have_values_that_a_newer_contract_may_add(found: list[list[Any]]) -> None:
    assert {one.kind for events in found for one in events} == {0, 1, 9, 10}


def test_moments_are_in_their_unit_and_meet(found: list[list[Any]]) -> None:
    times = [[one.sampled_at_us for one in events] for events in found]
    assert all(START_S <= at // 1_000_000 <= START_S + 4 * 3600 for events in times for at in events)
    assert any(len(set(events)) < len(events) for events in times)
    assert any(events != sorted(events) for events in times)
    assert {one.moment.seconds - START_S for events in found for one in events if one.HasField("moment")} == {
        0,
        1,
        2,
        3,
    }


def test_what_holds_itself_ends(found: list[list[Any]]) -> None:
    def depth(node: Any) -> int:
        inner = [*node.more, *node.by_number.values(), *([node.next] if node.HasField("next") else [])]
        return 1 + max(map(depth, inner), default=0)

    assert {depth(one.k) for events in found for one in events if one.HasField("k")} <= {1, 2, 3}
