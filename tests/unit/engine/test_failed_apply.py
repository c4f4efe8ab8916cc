"""An apply that raises midway leaves its key as it was, halts the shard, and no checkpoint ever passes the event."""

from __future__ import annotations

import asyncio
from threading import Event, Thread

import pytest

from aorist.engine.shard import Phase
from aorist.errors import HaltedError, StoreUnavailableError
from aorist.v1 import read_pb2
from tests.unit.engine.rig import Rig
from tests.unit.engine.stores import FailingStore, HookedStore, WrappedStore
from tests.unit.engine.views import PROTO, Added, added, count_view, counts

PATIENCE_S = 30.0
"""Reached only by a test that fails."""

BREAKS = Added(id="a", amount=99, breaks=True)


async def _before_any_checkpoint(rig: Rig) -> None:
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=10), Added(id="a", amount=2))
    rig.fold()


async def _since_a_checkpoint(rig: Rig) -> None:
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=10))
    rig.fold()
    rig.checkpoint()
    await rig.publish(Added(id="a", amount=2))
    rig.fold()


async def _unchanged_since_a_checkpoint(rig: Rig) -> None:
    await _before_any_checkpoint(rig)
    rig.checkpoint()


async def _after_a_restore(rig: Rig) -> None:
    await _before_any_checkpoint(rig)
    rig.checkpoint()
    rig.open()


async def _after_a_restore_from_rows_ahead_of_the_checkpoint(rig: Rig) -> None:
    await _since_a_checkpoint(rig)
    whole, rig.store = rig.store, FailingStore(rig.store, "write_checkpoint")
    with pytest.raises(StoreUnavailableError):
        rig.checkpoint()
    rig.store = whole
    rig.open()


async def _known_by_a_later_checkpoint_only(rig: Rig) -> None:
    await rig.publish(Added(id="b", amount=10))
    rig.fold()
    rig.checkpoint()
    await rig.publish(Added(id="a", amount=1), Added(id="a", amount=2))
    rig.fold()


HISTORIES = [
    _before_any_checkpoint,
    _since_a_checkpoint,
    _unchanged_since_a_checkpoint,
    _after_a_restore,
    _after_a_restore_from_rows_ahead_of_the_checkpoint,
    _known_by_a_later_checkpoint_only,
]
WHOLE = {b"a": counts(1, 2), b"b": counts(10)}


@pytest.mark.parametrize("history", HISTORIES, ids=[history.__name__.strip("_") for history in HISTORIES])
async def test_the_key_is_left_as_it_was(rig: Rig, history: object) -> None:
    rig.open()
    assert callable(history)
    await history(rig)
    await rig.publish(BREAKS, Added(id="b", amount=20), Added(id="a", amount=3))
    rig.fold()
    assert rig.shard.phase is Phase.HALTED
    assert rig.states() == WHOLE
    assert rig.shard.broken == {}
    assert rig.shard.next_offset == 3
    assert list(rig.shard.keys_after(b"")) == [b"a", b"b"]


@pytest.mark.parametrize("batch", [1, 2, 1000])
async def test_what_comes_before_it_in_its_batch_is_folded_and_what_comes_after_is_not(rig: Rig, batch: int) -> None:
    rig.open()
    await rig.publish(Added(id="a", amount=1), Added(id="a", amount=2), BREAKS, Added(id="a", amount=3))
    for _ in range(4):
        rig.poll(batch)
    assert rig.states() == {b"a": counts(1, 2)}
    assert (rig.shard.phase, rig.shard.next_offset) == (Phase.HALTED, 2)


async def test_a_key_whose_first_event_fails_stays_unknown(rig: Rig) -> None:
    rig.open()
    await rig.publish(Added(id="b", amount=10), BREAKS)
    rig.fold()
    assert rig.shard.phase is Phase.HALTED
    assert rig.states() == {b"b": counts(10)}
    assert b"a" not in rig.shard.entries
    with pytest.raises(HaltedError, match="stands still"):
        rig.shard.entry(b"a")  # it may be in events that are still ahead
    assert list(rig.shard.keys_after(b"")) == [b"b"]


async def test_the_problem_names_position_key_file_line_and_function(rig: Rig) -> None:
    rig.open()
    await rig.publish(Added(id="a", amount=1), BREAKS)
    rig.fold()
    assert "counts/0@1, key b'a': " in rig.shard.problem
    assert f"{added.__code__.co_filename}:" in rig.shard.problem
    assert rig.shard.problem.endswith(" added raised ArithmeticError: half-way through")


async def test_other_keys_are_still_read_and_so_is_the_broken_one(rig: Rig) -> None:
    shard = rig.open()
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=10), BREAKS)
    rig.fold()
    shard.check_held()
    assert await shard.fresh(read_pb2.ReadOptions(), 0.0) is False
    for key in (b"a", b"b"):
        shard.entry(key)  # raises if not


def _at_least(
    rig: Rig, offset: int, on_stale: read_pb2.OnStale.ValueType = read_pb2.ON_STALE_FAIL
) -> read_pb2.ReadOptions:
    read = read_pb2.ReadOptions(on_stale=on_stale)
    read.at_least.add(topic=rig.topic.name, partition=rig.partition.number, offset=offset)
    return read


async def test_at_least_before_the_event_is_answered_and_from_it_on_fails_with_halted(rig: Rig) -> None:
    shard = rig.open()
    await rig.publish(Added(id="a", amount=1), BREAKS, Added(id="a", amount=2))
    rig.fold()
    assert await shard.fresh(_at_least(rig, 0), 60) is False
    for offset in (1, 2):
        with pytest.raises(HaltedError, match="counts/0@1"):
            await shard.fresh(_at_least(rig, offset), 60)  # at once, not after a minute
        assert await shard.fresh(_at_least(rig, offset, read_pb2.ON_STALE_RETURN), 60) is True


async def test_who_already_waits_for_the_event_fails_when_it_halts(rig: Rig) -> None:
    shard = rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    waiting = asyncio.create_task(shard.fresh(_at_least(rig, 1), 60))
    await asyncio.sleep(0)
    await rig.publish(BREAKS)
    rig.fold()
    with pytest.raises(HaltedError, match="counts/0@1"):
        await waiting


async def test_a_checkpoint_goes_up_to_the_event_and_never_past_it(rig: Rig) -> None:
    rig.open()
    await rig.publish(Added(id="a", amount=1), BREAKS, Added(id="a", amount=2))
    rig.fold()
    for _ in range(2):
        rig.checkpoint()
        stored = rig.store.read_checkpoint(rig.rows)
        assert stored is not None
        assert stored.next_offset == 1
    assert rig.stored() == {b"a": (counts(1), 0)}


async def test_no_checkpoint_is_taken_while_the_key_is_out(rig: Rig) -> None:
    """It would pass events of the key that are in no row."""
    rig.open()
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=10), BREAKS)
    rig.store = FailingStore(rig.store, "read_row")  # so that the key cannot be brought back
    rig.fold()
    assert list(rig.shard.broken) == [b"a"]
    assert rig.checkpoint() is None
    assert rig.store.read_checkpoint(rig.rows) is None
    assert rig.stored() == {}
    with pytest.raises(HaltedError, match="counts/0@2"):
        rig.shard.entry(b"a")
    rig.shard.entry(b"b")  # raises if not


async def test_a_key_that_cannot_even_be_decoded_stays_out_and_the_thread_lives(rig: Rig) -> None:
    rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    rig.checkpoint()
    await rig.publish(BREAKS)

    def rot(method: str, *_: object) -> None:
        if method == "read_row":
            raise ValueError("the row is no row")

    rig.store = WrappedStore(rig.store, rot)
    rig.fold()
    assert rig.shard.phase is Phase.HALTED
    with pytest.raises(HaltedError, match="counts/0@1"):
        rig.shard.entry(b"a")


async def test_a_restart_halts_at_the_same_event(rig: Rig) -> None:
    rig.open()
    await _since_a_checkpoint(rig)
    await rig.publish(BREAKS, Added(id="a", amount=3))
    rig.fold()
    rig.checkpoint()
    problem = rig.shard.problem
    rig.open()
    rig.fold()
    assert (rig.shard.phase, rig.shard.problem) == (Phase.HALTED, problem)
    assert rig.states() == WHOLE


async def test_a_mended_apply_goes_on_with_the_event_and_nothing_is_lost(rig: Rig) -> None:
    rig.open()
    await _since_a_checkpoint(rig)
    await rig.publish(BREAKS, Added(id="b", amount=20), Added(id="a", amount=3))
    rig.fold()
    rig.checkpoint()
    mended = count_view()
    field = mended.schema.events[PROTO.Added]
    mended.handlers[field] = lambda state, event: added(state, PROTO.Added(id=event.id, amount=event.amount))
    rig.view = mended
    rig.open()
    rig.fold()
    assert rig.shard.phase is Phase.SERVING
    assert rig.states() == {b"a": counts(1, 2, 99, 3), b"b": counts(10, 20)}


async def test_a_checkpoint_that_ends_while_the_key_is_brought_back_loses_nothing(rig: Rig) -> None:
    """Its rows were serialised before the event broke the key, and become durable after the repair has read the old row."""
    rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    rig.checkpoint()
    await rig.publish(Added(id="a", amount=2), BREAKS)
    rig.fold(upto=2)
    whole, serialised, go_on = rig.store, Event(), Event()

    def wait_before_rows(method: str, *_: object) -> None:
        if method == "write_rows":
            serialised.set()
            assert go_on.wait(PATIENCE_S)

    rig.store = WrappedStore(whole, wait_before_rows)
    checkpointing = Thread(target=rig.checkpoint)
    checkpointing.start()
    assert serialised.wait(PATIENCE_S)

    def end_the_checkpoint() -> None:
        go_on.set()
        checkpointing.join(PATIENCE_S)

    rig.store = HookedStore(whole, end_the_checkpoint)
    rig.fold()
    assert rig.shard.checkpoint is not None
    assert rig.shard.checkpoint.next_offset == 2
    assert rig.states() == {b"a": counts(1, 2)}
