"""A restore gives what folding the whole log once would give, or refuses loudly; and a rewind changes nothing."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aorist.engine.compiled import compile_fold
from aorist.engine.restore import restore
from aorist.engine.shard import Phase, Shard
from aorist.errors import HaltedError, LogTruncatedError, StoreUnavailableError, UnavailableError
from aorist.ports import Checkpoint, Record, SnapshotRow, TopicSpec
from aorist.v1 import read_pb2
from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.events_pb2 import ArmEvent, JointPositionsChanged
from fleet.arms.v1.stand_ins_pb2 import JointPositionsByAxis
from materializers.arm_position import Arm, arm_position, moved, pack
from tests.unit.engine.rig import Rig
from tests.unit.engine.rig import rig as make
from tests.unit.engine.stores import FailingStore
from tests.unit.engine.views import Added, count_view, counts

MANY = settings(max_examples=40, deadline=None)

EVENTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(-5, 5)), min_size=1, max_size=6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), EVENTS),
        st.tuples(st.just("fold"), st.integers(0, 5)),
        st.tuples(st.just("checkpoint"), st.none()),
        st.tuples(st.just("fail at"), st.sampled_from(["write_rows", "write_checkpoint"])),
        st.tuples(st.just("restart"), st.none()),
    ),
    max_size=25,
)


@MANY
@given(STEPS)
def test_whatever_happens_every_event_is_folded_once(steps: list[tuple[str, Any]]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder, make(Path(folder), count_view()) as rig:
            rig.open()
            told: dict[bytes, list[int]] = {}
            for step, argument in steps:
                await _take(rig, step, argument, told)
            expected = {key: counts(*amounts) for key, amounts in told.items()}
            rig.fold()
            assert rig.states() == expected
            rig.open()
            rig.fold()
            assert rig.states() == expected
            assert list(rig.shard.keys_after(b"")) == sorted(expected)

    asyncio.run(run())


async def _take(rig: Rig, step: str, argument: Any, told: dict[bytes, list[int]]) -> None:
    if step == "publish":
        await rig.publish(*(Added(id=key, amount=amount) for key, amount in argument))
        for key, amount in argument:
            told.setdefault(key.encode(), []).append(amount)
    elif step == "fold":
        rig.poll(max(argument, 1))
    elif step == "checkpoint":
        rig.checkpoint()
    elif step == "fail at":
        whole, rig.store = rig.store, FailingStore(rig.store, argument)
        try:
            rig.checkpoint()
        except StoreUnavailableError:
            pass
        finally:
            rig.store = whole
    else:
        rig.open()


async def test_a_new_shard_begins_where_the_log_does(rig: Rig) -> None:
    await rig.publish(Added(id="a", amount=1))
    shard = rig.open()
    assert (shard.next_offset, shard.row_offset, shard.checkpoint) == (0, -1, None)
    rig.fold()
    assert rig.states() == {b"a": counts(1)}


async def test_an_empty_log_is_caught_up_with_at_the_first_look(rig: Rig) -> None:
    shard = rig.open()
    rig.fold()
    shard.check_held()
    assert shard.header(stale=False).position.offset == -1


async def test_a_restored_shard_answers_only_past_its_newest_row(rig: Rig) -> None:
    rig.open()
    await rig.publish(Added(id="a", amount=1), Added(id="a", amount=2), Added(id="b", amount=3))
    rig.fold()
    whole, rig.store = rig.store, FailingStore(rig.store, "write_checkpoint")
    with pytest.raises(StoreUnavailableError):
        rig.checkpoint()
    rig.store = whole
    shard = rig.open()
    assert shard.next_offset == 0
    for _ in range(2):
        rig.poll(1)
        assert not shard.is_fresh(read_pb2.ReadOptions())
        with pytest.raises(UnavailableError):
            shard.check_held()
    rig.poll(1)
    assert shard.is_fresh(read_pb2.ReadOptions())
    assert rig.states() == {b"a": counts(1, 2), b"b": counts(3)}


async def test_a_shard_halted_behind_its_rows_does_not_answer(rig: Rig) -> None:
    """Key `a` is ahead of the position, `b` is not: together they were never true."""
    rig.open()
    await rig.append((b"b", b"\xff"))
    await rig.publish(Added(id="a", amount=1))
    rig.store.write_rows(rig.rows, [SnapshotRow(b"a", counts(1), 1, 1)])
    shard = rig.open()
    rig.fold()
    assert shard.phase is Phase.HALTED
    with pytest.raises(HaltedError, match="counts/0@0"):
        await shard.fresh(read_pb2.ReadOptions(), 0)


async def test_a_shard_that_could_not_be_restored_does_not_answer(rig: Rig) -> None:
    """Some of its rows may have been read: what is there is not what was."""
    shard = Shard(rig.view, rig.partition, rig.rows, 1)
    shard.halt("its rows cannot be read")
    assert not shard.is_fresh(read_pb2.ReadOptions())
    with pytest.raises(HaltedError, match="its rows cannot be read"):
        await shard.fresh(read_pb2.ReadOptions(on_stale=read_pb2.ON_STALE_RETURN), 60)


async def test_a_log_that_no_longer_reaches_back_to_the_checkpoint_is_refused(rig: Rig) -> None:
    rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    rig.checkpoint()
    await rig.publish(Added(id="a", amount=2))
    rig.log.maintain(rig.clock_us() + 10_000_000_000)  # all is too old and gone, the second unseen
    with pytest.raises(LogTruncatedError) as refused:
        rig.open()
    for part in (
        "counts/0 holds offsets 2 to 2",
        "the checkpoint of counts@1/0 goes on at 1",
        "rebuild it under a new build",
    ):
        assert part in str(refused.value)


async def test_a_log_forgotten_exactly_up_to_the_checkpoint_is_enough(rig: Rig) -> None:
    rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    rig.checkpoint()
    rig.log.maintain(rig.clock_us() + 10_000_000_000)
    rig.open()
    await rig.publish(Added(id="a", amount=2))
    rig.fold()
    assert rig.states() == {b"a": counts(1, 2)}


@pytest.mark.parametrize(("age_h", "behind", "refused"), [(22, 1, False), (23, 1, True), (500, 0, False)])
async def test_a_checkpoint_older_than_the_tombstones_of_a_compacted_topic_is_refused(
    tmp_path: Path, age_h: int, behind: int, *, refused: bool
) -> None:
    """Unless the log has nothing that it has not seen."""
    view = count_view()
    view.schema = replace(view.schema, topic=TopicSpec(view.schema.topic.name, 2, compacted=True))
    with make(tmp_path, view) as rig:
        taken_us = time.time_ns() // 1000 - age_h * 3_600_000_000
        rig.store.write_checkpoint(rig.rows, Checkpoint(2, 1, taken_us))
        await rig.publish(*(Added(id=key, amount=1) for key in "ab"), *(Added(id="c", amount=n) for n in range(behind)))
        if refused:
            with pytest.raises(
                LogTruncatedError,
                match=r"counts@1/0 is 23 h old, and the compacted counts/0 .* rebuild the view under a new build",
            ):
                rig.open()
        else:
            assert rig.open().next_offset == 2


async def test_a_new_build_is_refused_where_the_log_no_longer_reaches_back(rig: Rig) -> None:
    """What the older events have made is in the build that answers alone."""
    await rig.publish(Added(id="a", amount=1))
    shard = Shard(rig.view, rig.partition, rig.rows, 1)
    assert restore(shard, rig.store, rig.log, beside=True) == 0
    rig.log.maintain(rig.clock_us() + 10_000_000_000)
    with pytest.raises(LogTruncatedError, match=r"counts/0 begins at offset 1: .* partial=True"):
        restore(shard, rig.store, rig.log, beside=True)
    assert restore(shard, rig.store, rig.log) == 1  # where no other build answers there is nothing to lack
    rig.view.partial = True
    assert restore(shard, rig.store, rig.log, beside=True) == 1
    rig.view.partial = False
    rig.store.write_checkpoint(rig.rows, Checkpoint(1, 1, 1))
    assert restore(shard, rig.store, rig.log, beside=True) == 1  # it was folded while the log did


async def test_a_log_that_ends_before_the_checkpoint_is_refused(rig: Rig) -> None:
    rig.store.write_checkpoint(rig.rows, Checkpoint(5, 1, 1))
    await rig.publish(Added(id="a", amount=1))
    with pytest.raises(
        LogTruncatedError, match="counts/0 holds offsets 0 to 1, but the checkpoint of counts@1/0 goes on at 5"
    ):
        rig.open()


@pytest.mark.parametrize("checkpoint", [None, Checkpoint(0, 1, 1)])
async def test_a_log_that_ends_before_a_row_is_refused(rig: Rig, checkpoint: Checkpoint | None) -> None:
    """Else a new event at the old offset would be passed over as already in the row."""
    if checkpoint is not None:
        rig.store.write_checkpoint(rig.rows, checkpoint)
    rig.store.write_rows(rig.rows, [SnapshotRow(b"a", counts(1, 2), 1, 1)])
    await rig.publish(Added(id="a", amount=1))
    with pytest.raises(
        LogTruncatedError, match="counts/0 ends at offset 1, but a row of counts@1/0 already holds event 1"
    ):
        rig.open()


async def test_a_log_truncated_while_it_is_read_halts_the_shard(rig: Rig) -> None:
    shard = rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    await rig.publish(Added(id="a", amount=2))
    rig.log.maintain(rig.clock_us() + 10_000_000_000)
    rig.poll_as_the_thread_does()
    assert shard.phase is Phase.HALTED
    assert "cannot be read from 1: the log holds offsets 2 to 2" in shard.problem
    assert rig.states() == {b"a": counts(1)}


async def test_rows_of_another_build_or_of_a_topic_made_anew_are_not_met(rig: Rig) -> None:
    rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    rig.checkpoint()
    rig.rows = rig.rows._replace(build=2)
    assert rig.open().entries == {}
    rig.log.delete(rig.topic.name)
    rig.rows = rig.rows._replace(build=1, topic_id=rig.log.create(rig.view.schema.topic).id)
    assert rig.open().entries == {}


# --- delivery repeats by rewind: from any earlier position, in order, at least up to the furthest position reached -------------------

SAMPLES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.integers(1, 4),  # sample times that clash and go back, as when a robot sends again
        st.dictionaries(st.integers(0, 2), st.floats(-3, 3), max_size=3),
    ),
    max_size=12,
)


def _sample(arm: str, at: int, axes: dict[int, float]) -> JointPositionsChanged:
    positions = [AxisPosition(axis=axis, position=position) for axis, position in axes.items()]
    return JointPositionsChanged(arm_id=arm, sampled_at_us=at, axes=positions)


def _fold(arm: Arm, sample: tuple[str, int, dict[int, float]]) -> None:
    event = arm_position.taken("joint_positions_changed", _sample(*sample))
    assert isinstance(event, JointPositionsByAxis)
    moved(arm, event)


def _by_hand(samples: Sequence[tuple[str, int, dict[int, float]]]) -> dict[bytes, Arm]:
    arms: dict[bytes, Arm] = {}
    for sample in samples:
        _fold(arms.setdefault(sample[0].encode(), Arm()), sample)
    return arms


@MANY
@given(SAMPLES, st.lists(st.integers(0, 12), max_size=4), st.data())
def test_a_rewind_leaves_every_arm_where_it_was(
    samples: list[tuple[str, int, dict[int, float]]], rewinds: list[int], data: st.DataObject
) -> None:
    """Of the very state that was folded before, as a log that delivers twice would do to it: no offset protects it."""
    resent = data.draw(
        st.lists(st.sampled_from(samples), max_size=4) if samples else st.just([]), "sent again by the robot"
    )
    samples = samples + resent
    before = _by_hand(samples)
    arms = _by_hand(samples)
    for rewind in rewinds:
        for sample in samples[rewind:]:
            _fold(arms[sample[0].encode()], sample)
        assert arms == before


@MANY
@given(SAMPLES.filter(bool), st.data())
def test_a_retried_sample_changes_nothing_unless_one_of_its_own_time_came_after(
    samples: list[tuple[str, int, dict[int, float]]], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(samples) - 1))
    late = samples[index]
    clash = any(s[:2] == late[:2] and s is not late and s[2] != late[2] for s in samples)
    arms, before = _by_hand([*samples, late]), _by_hand(samples)
    if not clash:
        assert arms == before
    assert {key: arm.sampled_at_us for key, arm in arms.items()} == {
        key: arm.sampled_at_us for key, arm in before.items()
    }


@MANY
@given(SAMPLES, st.lists(st.integers(0, 12), max_size=4))
def test_the_folds_own_offsets_pass_over_a_rewind(
    samples: list[tuple[str, int, dict[int, float]]], rewinds: list[int]
) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder, make(Path(folder), arm_position, partition=1) as rig:
            shard, fold = rig.open(), compile_fold(arm_position)
            records: list[Record] = [
                (offset, arm.encode(), ArmEvent(joint_positions_changed=_sample(arm, at, axes)).SerializeToString())
                for offset, (arm, at, axes) in enumerate(samples)
            ]
            fold(shard, records)
            once = _packed(shard)
            for rewind in rewinds:
                fold(shard, records[rewind:])
            assert _packed(shard) == once == {key: pack(arm) for key, arm in _by_hand(samples).items()}

    asyncio.run(run())


def _packed(shard: Shard) -> dict[bytes, Any]:
    return {key: pack(entry.state) for key, entry in shard.entries.items()}
