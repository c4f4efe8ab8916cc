"""Checkpoints: rows are durable first, then the checkpoint that speaks for them, then the log is told. A failure leaves keys changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aorist.engine import checkpoint as checkpoints
from aorist.engine.checkpoint import WRITE, Checkpointer
from aorist.engine.shard import Phase, Shard
from aorist.engine.threads import Fate
from aorist.errors import HaltedError, StoreUnavailableError
from aorist.ports import Checkpoint, SnapshotRow, TopicSpec
from tests.unit.engine.rig import Rig
from tests.unit.engine.rig import rig as make
from tests.unit.engine.stores import FailingStore, WrappedStore
from tests.unit.engine.views import Added, Noted, count_view, counts


async def test_rows_then_checkpoint_then_commit(rig: Rig) -> None:
    steps: list[str] = []
    rig.open()
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=2))
    rig.fold()

    def commit(_: object, next_offset: int) -> None:
        stored = rig.store.read_checkpoint(rig.rows)
        assert stored is not None
        steps.append(f"commit {next_offset} after checkpoint {stored.next_offset}")

    def before(method: str, argument: Any = None) -> None:
        if method == "write_checkpoint":
            assert {key for key, (_, offset) in rig.stored().items() if offset < argument.next_offset} == {b"a", b"b"}
        if method.startswith("write"):
            steps.append(method)

    store, rig.store = rig.store, rig.store
    checkpoints.checkpoint(rig.shard, WrappedStore(store, before), commit)
    assert steps == ["write_rows", "write_checkpoint", "commit 2 after checkpoint 2"]


async def test_a_checkpoint_holds_position_epoch_and_time(rig: Rig) -> None:
    rig.open()
    rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    taken = rig.checkpoint()
    assert taken is not None
    assert (taken.next_offset, taken.epoch) == (1, 2)
    assert 0 <= rig.clock_us() - taken.time_us < 60_000_000
    assert rig.store.read_checkpoint(rig.rows) == taken == rig.shard.checkpoint
    assert rig.committed == [1]


async def test_only_what_changed_is_written(rig: Rig) -> None:
    rig.open()
    await rig.publish(*(Added(id=f"k{n}", amount=1) for n in range(5)))
    rig.fold()
    rig.checkpoint()
    await rig.publish(Added(id="k3", amount=2))
    rig.fold()
    written: list[SnapshotRow] = []
    rig.store = WrappedStore(
        rig.store, lambda method, *rest: written.extend(rest[0]) if method == "write_rows" else None
    )
    rig.checkpoint()
    assert written == [SnapshotRow(b"k3", counts(1, 2), 5, 1)]
    assert rig.shard.dirty == set()


async def test_many_keys_are_written_in_pieces(rig: Rig) -> None:
    rig.open()
    await rig.publish(*(Added(id=f"k{n}", amount=n) for n in range(2 * WRITE + 50)))
    rig.fold()
    sizes: list[int] = []
    rig.store = WrappedStore(
        rig.store, lambda method, *rest: sizes.append(len(rest[0])) if method == "write_rows" else None
    )
    rig.checkpoint()
    assert sizes == [WRITE, WRITE, 50]
    assert rig.stored() == {f"k{n}".encode(): (counts(n), n) for n in range(2 * WRITE + 50)}


async def test_without_anything_new_there_is_no_checkpoint(rig: Rig) -> None:
    rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    assert rig.checkpoint() is not None
    assert rig.checkpoint() is None
    assert rig.committed == [1]


async def test_of_a_compacted_topic_one_is_taken_anew_before_it_is_too_old(tmp_path: Path) -> None:
    """Though nothing has come: by its age a restore tells whether tombstones may be gone."""
    view = count_view()
    view.schema = replace(view.schema, topic=TopicSpec(view.schema.topic.name, 2, compacted=True))
    with make(tmp_path, view) as rig:
        rig.open()
        await rig.publish(Added(id="a", amount=1))
        rig.fold()
        taken = rig.checkpoint()
        assert taken is not None
        assert rig.checkpoint() is None
        rig.shard.checkpoint = taken._replace(time_us=taken.time_us - 3_700_000_000)
        anew = rig.checkpoint()
        assert anew is not None
        assert (anew.next_offset, anew.time_us >= taken.time_us) == (1, True)
        assert rig.store.read_checkpoint(rig.rows) == anew


async def test_a_checkpoint_moves_on_over_events_that_change_nothing(rig: Rig) -> None:
    """Else a restore would start further and further back, until the log has forgotten it."""
    rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    rig.checkpoint()
    await rig.publish(Noted(id="a"), Noted(id="b"))
    rig.fold()
    taken = rig.checkpoint()
    assert taken is not None
    assert taken.next_offset == 3
    assert rig.stored() == {b"a": (counts(1), 0)}


@pytest.mark.parametrize(
    ("method", "nth", "durable"),
    [("write_rows", 1, 0), ("write_rows", 2, WRITE), ("write_checkpoint", 1, WRITE + 50)],
    ids=["first rows", "second piece of rows", "checkpoint"],
)
async def test_what_fails_stays_changed_and_the_next_one_covers_it(
    rig: Rig, method: str, nth: int, durable: int
) -> None:
    rig.open()
    await rig.publish(*(Added(id=f"k{n}", amount=n) for n in range(WRITE + 50)))
    rig.fold()
    whole, rig.store = rig.store, FailingStore(rig.store, method, nth)
    with pytest.raises(StoreUnavailableError):
        rig.checkpoint()
    rig.store = whole
    assert len(rig.shard.dirty) == WRITE + 50
    assert rig.store.read_checkpoint(rig.rows) is None
    assert rig.shard.checkpoint is None
    assert rig.committed == []
    assert len(rig.stored()) == durable
    await rig.publish(Added(id="k0", amount=7))
    rig.fold()
    taken = rig.checkpoint()
    assert taken is not None
    assert taken.next_offset == WRITE + 51
    assert len(rig.stored()) == WRITE + 50
    rig.open()
    rig.fold()
    assert rig.states()[b"k0"] == counts(0, 7)


async def test_a_key_changed_while_its_checkpoint_failed_is_still_changed(rig: Rig) -> None:
    rig.open()
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=2))
    rig.fold()
    whole = rig.store
    await rig.publish(Added(id="c", amount=3))

    def fold_and_fail(method: str, *_: object) -> None:
        if method == "write_rows":
            rig.fold()
            raise StoreUnavailableError("down")

    rig.store = WrappedStore(whole, fold_and_fail)
    with pytest.raises(StoreUnavailableError):
        rig.checkpoint()
    rig.store = whole
    assert rig.shard.dirty == {b"a", b"b", b"c"}


async def test_a_state_changed_after_the_position_was_noted_goes_ahead_of_it_and_stays_changed(rig: Rig) -> None:
    rig.open()
    await rig.publish(*(Added(id=f"k{n:04}", amount=1) for n in range(WRITE + 1)))
    rig.fold()
    await rig.publish(*(Added(id=f"k{n:04}", amount=2) for n in range(WRITE + 1)))
    whole = rig.store

    def fold_between_pieces(method: str, *_: object) -> None:
        if method == "write_rows":
            rig.fold()

    rig.store = WrappedStore(whole, fold_between_pieces)
    taken = rig.checkpoint()
    rig.store = whole
    assert taken is not None
    assert taken.next_offset == WRITE + 1
    assert len(rig.shard.dirty) == WRITE + 1
    ahead = [offset for state, offset in rig.stored().values() if state == counts(1, 2)]
    assert len(ahead) == 1  # of the second piece, which was serialised after the fold
    assert ahead[0] >= WRITE + 1
    rig.open()
    rig.fold()
    assert set(rig.states().values()) == {counts(1, 2)}


async def test_a_shard_that_was_never_restored_writes_nothing(rig: Rig) -> None:
    rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    rig.checkpoint()
    shard = Shard(rig.view, rig.partition, rig.rows, 9)
    shard.halt("its rows cannot be read")
    assert checkpoints.checkpoint(shard, rig.store, lambda *_: rig.committed.append(-1)) is None
    assert rig.committed == [1]


async def test_a_closed_shard_writes_nothing(rig: Rig) -> None:
    rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    rig.shard.close()
    assert rig.checkpoint() is None
    assert rig.stored() == {}


async def test_a_former_owner_cannot_move_a_checkpoint_or_rows_back(rig: Rig) -> None:
    former = rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    folder = rig.folder
    rig.open()
    await rig.publish(Added(id="a", amount=2))
    rig.fold()
    rig.checkpoint()
    rig.shard, rig.folder = former, folder
    rig.checkpoint()
    stored = rig.store.read_checkpoint(rig.rows)
    assert stored is not None
    assert (stored.next_offset, stored.epoch) == (2, 2)
    assert rig.stored() == {b"a": (counts(1, 2), 1)}


async def test_a_codec_that_raises_is_trouble_that_is_told_and_ends_with_the_next_checkpoint(rig: Rig) -> None:
    shard = rig.open()
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=2))
    rig.fold()
    taker = Checkpointer(lambda: [shard], rig.store, lambda *_: None, 60, Fate())
    right, shard.entries[b"a"].state.amounts = shard.entries[b"a"].state.amounts, ["no number"]
    assert taker.take(shard) is False
    assert shard.trouble.startswith("a state cannot be serialised: TypeError")
    assert shard.dirty == {b"a", b"b"}
    assert rig.store.read_checkpoint(rig.rows) is None
    shard.entries[b"a"].state.amounts = right
    assert taker.take(shard) is True
    assert shard.trouble == ""
    assert rig.stored() == {b"a": (counts(1), 0), b"b": (counts(2), 1)}


async def test_an_absent_store_is_tried_again(rig: Rig) -> None:
    shard = rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    taker = Checkpointer(lambda: [shard], FailingStore(rig.store, "write_rows"), lambda *_: None, 60, Fate())
    assert taker.take(shard) is False
    assert shard.trouble == ""
    assert rig.checkpoint() is not None


async def test_folding_pauses_while_no_checkpoint_is_taken_and_then_goes_on(rig: Rig) -> None:
    rig.open(most_beyond=1_500)
    await rig.publish(*(Added(id=f"k{n % 7}", amount=n) for n in range(4_000)))
    for _ in range(5):
        rig.poll_as_the_thread_does()
    assert 1_500 <= rig.shard.next_offset < 4_000
    assert "paused" in rig.shard.trouble
    reached = rig.shard.next_offset
    rig.checkpoint()
    rig.poll_as_the_thread_does()
    assert rig.shard.next_offset > reached
    rig.checkpoint()
    rig.fold()
    assert rig.states() == _folded_at_once(rig, 4_000)


async def test_a_paused_shard_says_so_for_as_long_as_it_is_paused(rig: Rig) -> None:
    """Also a standby, whose store answers though the owner takes no checkpoint."""
    shard = rig.open(most_beyond=1_500)
    await rig.publish(*(Added(id="k", amount=n) for n in range(3_000)))
    while not shard.trouble:
        rig.poll_as_the_thread_does()
    shard.stand_by(0)
    taker = Checkpointer(lambda: [shard], rig.store, lambda *_: None, 60, Fate())
    assert taker.take(shard) is True
    rig.poll_as_the_thread_does()
    assert "paused" in shard.trouble
    shard.own(1)
    rig.checkpoint()
    rig.poll_as_the_thread_does()
    assert shard.trouble == ""
    rig.fold()


async def test_a_topic_made_anew_while_a_shard_is_paused_is_noticed(rig: Rig) -> None:
    shard = rig.open(most_beyond=1_500)
    await rig.publish(*(Added(id="k", amount=n) for n in range(3_000)))
    while not shard.trouble:
        rig.poll_as_the_thread_does()
    reached = shard.next_offset
    rig.log.delete(rig.topic.name)
    rig.log.create(rig.view.schema.topic)
    await rig.publish(*(Added(id="k", amount=n) for n in range(3_000)))
    rig.checkpoint()
    rig.poll_as_the_thread_does()
    assert (shard.phase, shard.next_offset) == (Phase.HALTED, reached)
    with pytest.raises(HaltedError, match="made anew"):
        shard.check_held()


def _folded_at_once(rig: Rig, count: int) -> dict[bytes, bytes]:
    states = {b"k%d" % key: rig.view.state() for key in range(7)}
    for n in range(count):
        rig.view.handlers[rig.view.schema.events[Added]](states[b"k%d" % (n % 7)], Added(id=f"k{n % 7}", amount=n))
    return {key: rig.view.codec.encode(state) for key, state in states.items()}


async def test_a_standby_forgets_what_the_owner_has_made_durable_and_nothing_else(rig: Rig) -> None:
    """Rule 10: a promoted standby must not take a checkpoint past a key that nobody has written."""
    owner = rig.open()
    await rig.publish(Added(id="old", amount=1), Added(id="both", amount=1))
    rig.fold()
    rig.checkpoint()
    standby = rig.open()
    standby.stand_by(owner.epoch)
    await rig.publish(Added(id="both", amount=2), Added(id="new", amount=1))
    rig.fold()
    assert standby.dirty == {b"both", b"new"}
    checkpoints.forget_covered(standby, rig.store)  # the owner's checkpoint is from before
    assert standby.dirty == {b"both", b"new"}
    rig.store.write_rows(rig.rows, [SnapshotRow(b"both", rig.states()[b"both"], 2, owner.epoch)])
    rig.store.write_checkpoint(rig.rows, Checkpoint(3, owner.epoch, 0))
    checkpoints.forget_covered(standby, rig.store)
    assert standby.dirty == {b"new"}
    standby.own(owner.epoch + 1)
    rig.checkpoint()
    assert rig.stored()[b"new"][1] == 3
    assert rig.store.read_checkpoint(rig.rows) == rig.shard.checkpoint


# --- a standby folds beside the owner and writes nothing ---


async def _standby_beside_an_owner(rig: Rig) -> Shard:
    """Both have folded two events of each key; the owner's checkpoint covers the first of each."""
    rig.open()
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=10))
    rig.fold()
    rig.checkpoint()
    standby = rig.open()
    standby.checkpoint = None
    standby.stand_by(1)
    await rig.publish(Added(id="a", amount=2), Added(id="c", amount=100))
    rig.fold()
    standby.dirty |= {b"a", b"b", b"c"}
    return standby


async def test_a_standby_forgets_only_what_the_owners_checkpoint_covers(rig: Rig) -> None:
    standby = await _standby_beside_an_owner(rig)
    checkpoints.forget_covered(standby, rig.store)
    assert standby.dirty == {b"a", b"c"}
    assert standby.checkpoint == rig.store.read_checkpoint(rig.rows)
    assert rig.stored() == {b"a": (counts(1), 0), b"b": (counts(10), 1)}


async def test_a_standby_that_becomes_owner_writes_what_the_former_one_did_not(rig: Rig) -> None:
    standby = await _standby_beside_an_owner(rig)
    checkpoints.forget_covered(standby, rig.store)
    standby.own(3)
    rig.checkpoint()
    assert rig.stored() == {b"a": (counts(1, 2), 2), b"b": (counts(10), 1), b"c": (counts(100), 3)}
    rig.open()
    rig.fold()
    assert rig.states() == {b"a": counts(1, 2), b"b": counts(10), b"c": counts(100)}


async def test_without_a_new_checkpoint_of_the_owner_a_standby_forgets_nothing(rig: Rig) -> None:
    standby = await _standby_beside_an_owner(rig)
    checkpoints.forget_covered(standby, rig.store)
    standby.dirty.add(b"b")
    checkpoints.forget_covered(standby, rig.store)
    assert standby.dirty == {b"a", b"b", b"c"}


async def test_a_standby_takes_no_checkpoint(rig: Rig) -> None:
    standby = await _standby_beside_an_owner(rig)
    before, store = rig.stored(), rig.store
    assert Checkpointer(lambda: [standby], store, lambda *_: rig.committed.append(-1), 60, Fate()).take(standby)
    assert rig.stored() == before
    assert rig.committed == [2]
