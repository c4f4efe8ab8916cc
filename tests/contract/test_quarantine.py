"""Parked events: what is said of one goes from state to state and never back, whoever says it in whichever order."""

from __future__ import annotations

from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aorist.ports import ParkedEvent, ParkedState, ShardRows
from tests.contract.harness import StoreHarness

PARKED, SKIPPED, RELEASED = ParkedState
NOW_US = 1_795_000_000_000_000
EVERY_ORDER = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _event(offset: int, state: ParkedState = PARKED, time_us: int = NOW_US, key: bytes = b"k") -> ParkedEvent:
    """Equal state and time mean equal bytes, as with one writer."""
    value = None if state is RELEASED else b"event"
    return ParkedEvent(key, offset, value, f"{state.name} at {time_us}", time_us, state)


@pytest.fixture
def shard() -> ShardRows:
    return ShardRows("view", 1, uuid4(), 0)


def test_a_new_shard_has_none(stores: StoreHarness, shard: ShardRows) -> None:
    assert list(stores.store.read_parked(shard)) == []
    stores.store.write_parked(shard, [])
    assert list(stores.store.read_parked(shard)) == []


def test_what_was_written_is_read_in_the_order_of_keys_and_offsets(stores: StoreHarness, shard: ShardRows) -> None:
    events = [
        ParkedEvent(b"a", 2, b"", "", NOW_US),
        ParkedEvent(b"a", 10, None, "a tombstone", NOW_US, RELEASED),
        ParkedEvent(b"b", 0, bytes(range(256)), "reason with \u00fcmlauts and a line\nmore", 1, SKIPPED),
        ParkedEvent(b"b", 2**40, b"v", "queued", NOW_US),
    ]
    stores.store.write_parked(shard, events[::-1])
    found = list(stores.store.read_parked(shard))
    assert found == events
    assert [type(event.state) for event in found] == [ParkedState] * 4


async def test_all_is_there_after_a_restart(stores: StoreHarness, shard: ShardRows) -> None:
    stores.store.write_parked(shard, [_event(7)])
    await stores.reopen()
    assert list(stores.store.read_parked(shard)) == [_event(7)]


def test_a_later_state_stays_whatever_the_clocks_say(stores: StoreHarness, shard: ShardRows) -> None:
    for later in (_event(7, SKIPPED, 5), _event(7, RELEASED, 1)):
        stores.store.write_parked(shard, [_event(7)])
        stores.store.write_parked(shard, [later])
        stores.store.write_parked(shard, [_event(7, time_us=2 * NOW_US)])
        assert list(stores.store.read_parked(shard)) == [later]


def test_of_equal_states_the_later_reason_stays(stores: StoreHarness, shard: ShardRows) -> None:
    for time_us in (3, 5, 4):
        stores.store.write_parked(shard, [_event(7, time_us=time_us)])
    assert list(stores.store.read_parked(shard)) == [_event(7, time_us=5)]


@EVERY_ORDER
@given(said=st.lists(st.tuples(st.sampled_from(ParkedState), st.integers(0, 4)), min_size=1, max_size=8))
def test_the_last_word_stays_in_every_order(stores: StoreHarness, said: list[tuple[ParkedState, int]]) -> None:
    shard = ShardRows("view", 1, uuid4(), 0)
    for state, time_us in said:
        stores.store.write_parked(shard, [_event(7, state, time_us)])
    assert list(stores.store.read_parked(shard)) == [_event(7, *max(said))]


def test_shards_are_apart(stores: StoreHarness, shard: ShardRows) -> None:
    shards = [shard, shard._replace(view="other"), shard._replace(build=2), shard._replace(partition=1)]
    for number, one in enumerate(shards):
        stores.store.write_parked(one, [_event(number)])
    for number, one in enumerate(shards):
        assert list(stores.store.read_parked(one)) == [_event(number)]


def test_many_large_ones_are_read_whole(stores: StoreHarness, shard: ShardRows) -> None:
    events = [ParkedEvent(b"k", n, bytes([n % 256]) * 50_000, "queued", NOW_US) for n in range(300)]
    stores.store.write_parked(shard, events)
    assert list(stores.store.read_parked(shard)) == events
