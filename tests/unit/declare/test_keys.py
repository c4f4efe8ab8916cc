"""Keys, partitions and records: what is derived from a contract's options is the same everywhere, for ever."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aorist.declare.schema import decode_key, encode_key, schema_of, set_key_field
from aorist.position import _murmur2, partition_of
from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.events_pb2 import ArmEvent, JointPositionsChanged
from tests.unit.declare.contract import compile_proto

TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("/%25F"), max_size=12)
KEYS = st.integers(1, 4).flatmap(lambda size: st.tuples(*[TEXTS] * size))
UNTIMED = settings(deadline=None)  # a busy machine is not a failure
FLOATS = st.floats(allow_nan=True, allow_infinity=True)

SITES = compile_proto("""
    message GroupChanged { string group = 1; string site = 2; int64 floor = 3; repeated string devices = 4; }
    message GroupRemoved { string site = 1; int64 floor = 2; string group = 3; }
    message SiteEvent {
      option (aorist.v1.topic) = {
        name: "sites" partitions: 16 key: "site" key: "floor" key: "group" partition_by: "site" compacted: true
      };
      aorist.v1.EventMeta meta = 1;
      oneof event { GroupChanged changed = 2; GroupRemoved removed = 1000; }
    }
    message Ask { int64 floor = 1; string group = 2; string site = 3; }
""")


@UNTIMED
@given(KEYS)
def test_a_key_gives_its_parts_back(parts: tuple[str, ...]) -> None:
    assert decode_key(encode_key(parts), len(parts)) == list(parts)


@UNTIMED
@given(st.integers(1, 3).flatmap(lambda size: st.tuples(*[st.tuples(*[TEXTS] * size)] * 2)))
def test_different_parts_never_give_the_same_key(pair: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    one, other = pair
    assert (encode_key(one) == encode_key(other)) == (one == other)


def test_keys_are_written_so_that_every_language_can() -> None:
    assert encode_key(["arm/1 %"]) == b"arm/1 %"
    assert encode_key(["hall/2", 7, "100%"]) == b"hall%2F2/7/100%25"
    assert encode_key(["", ""]) == b"/"


def test_the_key_of_a_topic_is_read_by_its_order_whatever_the_order_of_fields() -> None:
    key_of = schema_of(SITES.SiteEvent).key_of()
    for message in (SITES.GroupChanged, SITES.GroupRemoved, SITES.Ask):
        assert key_of(message(site="s", floor=-2, group="g")) == b"s/-2/g"


def test_a_whole_number_in_a_key_comes_back_as_one() -> None:
    ask = SITES.Ask()
    for name, text in zip(("site", "floor", "group"), decode_key(b"s/-2/g", 3), strict=True):
        set_key_field(ask, name, text)
    assert ask == SITES.Ask(site="s", floor=-2, group="g")


@UNTIMED
@given(site=TEXTS, group=TEXTS, floor=st.integers(-(2**63), 2**63 - 1))
def test_what_shares_partition_by_shares_a_partition(site: str, group: str, floor: int) -> None:
    partition_for = schema_of(SITES.SiteEvent).partition_for()
    event = SITES.GroupChanged(site=site, group=group, floor=floor)
    assert partition_for(event) == partition_for(SITES.Ask(site=site)) == partition_of(site.encode(), 16)


@pytest.mark.parametrize(
    ("text", "signed"),
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)
def test_partitions_are_those_of_kafkas_own_clients(text: str, signed: int) -> None:
    """Vectors of Kafka's UtilsTest.testMurmur2."""
    assert _murmur2(text.encode()) == signed % 2**32
    for count in (1, 8, 12, 1000):
        assert partition_of(text.encode(), count) == (signed & 0x7FFFFFFF) % count


@UNTIMED
@given(data=st.binary(max_size=80), partitions=st.integers(1, 5000))
def test_every_key_has_a_partition(data: bytes, partitions: int) -> None:
    assert 0 <= partition_of(data, partitions) < partitions


@UNTIMED
@given(
    arm=TEXTS,
    at=st.integers(-(2**63), 2**63 - 1),
    axes=st.lists(st.tuples(st.integers(0, 2**32 - 1), FLOATS), max_size=40),
)
def test_a_record_is_the_envelope_serialised_and_repeats_are_byte_identical(
    arm: str, at: int, axes: list[tuple[int, float]]
) -> None:
    def event() -> JointPositionsChanged:
        positions = [AxisPosition(axis=axis, position=position) for axis, position in axes]
        return JointPositionsChanged(arm_id=arm, sampled_at_us=at, axes=positions)

    schema = schema_of(ArmEvent)
    record = schema.recorder()
    new = record(event())
    assert new == record(event()) == schema.recorder()(event())
    assert new.value == ArmEvent(joint_positions_changed=event()).SerializeToString(deterministic=True)
    assert new.key == arm.encode()
    assert new.partition == partition_of(arm.encode(), 8)


@pytest.mark.parametrize(("kind", "field"), [("GroupChanged", "changed"), ("GroupRemoved", "removed")])
@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 16_384])
def test_a_record_is_the_envelope_serialised_for_every_tag_and_length(kind: str, field: str, size: int) -> None:
    event: Any = SITES.classes[kind](group="g" * size)
    value = schema_of(SITES.SiteEvent).recorder()(event).value
    assert value == SITES.SiteEvent(**{field: event}).SerializeToString()


def test_what_a_topic_keeps_is_as_declared() -> None:
    week, newest = schema_of(ArmEvent).topic, schema_of(SITES.SiteEvent).topic
    assert (week.retention_ms, week.compacted) == (604_800_000, False)
    assert (newest.retention_ms, newest.compacted) == (None, True)


def test_without_partition_by_the_whole_key_places() -> None:
    assert schema_of(ArmEvent).partition_by == schema_of(ArmEvent).key == ("arm_id",)
