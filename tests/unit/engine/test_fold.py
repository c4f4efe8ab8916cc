"""The fold takes each event once, passes over what it does not know, and stands still, loudly, before what it cannot read."""

from __future__ import annotations

from pathlib import Path

import pytest

from aorist.engine.shard import Phase, Shard
from aorist.errors import LogUnavailableError, RestoringError, StoreUnavailableError
from aorist.v1.event_pb2 import EventMeta
from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.events_pb2 import ArmEvent, JointPositionsChanged
from fleet.arms.v1.queries_pb2 import ArmPosition, AxisReading
from materializers.arm_position import arm_position, pack
from tests.unit.engine.rig import Rig
from tests.unit.engine.rig import rig as make
from tests.unit.engine.stores import FailingStore
from tests.unit.engine.views import PROTO, Added, Noted, counts


async def test_events_are_folded_in_order_key_by_key(rig: Rig) -> None:
    rig.open()
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=10), Noted(id="c"), Added(id="a", amount=2))
    rig.fold()
    assert rig.states() == {b"a": counts(1, 2), b"b": counts(10)}
    assert rig.shard.phase is Phase.SERVING
    assert (rig.shard.next_offset, rig.shard.end_offset) == (4, 4)
    assert {key: entry.offset for key, entry in rig.shard.entries.items()} == {b"a": 3, b"b": 1}


async def test_arms_are_folded_from_the_log(tmp_path: Path) -> None:
    with make(tmp_path, arm_position, partition=3) as rig:
        rig.open()
        await rig.publish(
            JointPositionsChanged(arm_id="r", sampled_at_us=5, axes=[AxisPosition(axis=1, position=1.5)]),
            JointPositionsChanged(arm_id="r", sampled_at_us=4, axes=[AxisPosition(axis=1, position=9.0)]),
        )
        rig.fold()
        assert pack(rig.shard.entries[b"r"].state) == ArmPosition(
            axes=[AxisReading(axis=1, position=1.5, sampled_at_us=5)]
        )


async def test_a_key_is_known_in_lists_once_and_in_order(rig: Rig) -> None:
    rig.open()
    for name in ("m", "z", "a", "m", "k"):
        await rig.publish(Added(id=name, amount=1))
        rig.fold()
        list(rig.shard.keys_after(b""))
    assert list(rig.shard.keys_after(b"")) == [b"a", b"k", b"m", b"z"]
    assert list(rig.shard.keys_after(b"k")) == [b"m", b"z"]
    assert list(rig.shard.keys_after(b"l")) == [b"m", b"z"]


async def test_slices_wake_and_count_every_event_of_a_long_batch(rig: Rig) -> None:
    rig.open()
    await rig.publish(*(Added(id=f"k{n % 7}", amount=n) for n in range(950)))
    rig.fold()
    assert sum(entry.state.total for entry in rig.shard.entries.values()) == sum(range(950))
    assert rig.shard.next_offset == 950


async def test_events_that_a_row_already_holds_are_passed_over(rig: Rig) -> None:
    rig.open()
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=10))
    rig.fold()
    rig.checkpoint()
    await rig.publish(Added(id="a", amount=2), Added(id="b", amount=20), Added(id="a", amount=3))
    rig.fold()
    whole, rig.store = rig.store, FailingStore(rig.store, "write_checkpoint")
    with pytest.raises(StoreUnavailableError):
        rig.checkpoint()  # rows of all five are durable, the checkpoint is that of two
    rig.store = whole
    shard = rig.open()
    assert (shard.next_offset, shard.row_offset) == (2, 4)
    rig.poll(1)
    with pytest.raises(RestoringError, match="counts@1/0 is catching up at offset 3 of 5"):
        shard.check_held()
    rig.fold()
    shard.check_held()
    assert rig.states() == {b"a": counts(1, 2, 3), b"b": counts(10, 20)}
    await rig.publish(Added(id="a", amount=4))
    rig.fold()
    assert rig.states()[b"a"] == counts(1, 2, 3, 4)


async def test_events_of_a_newer_version_are_counted_and_passed(rig: Rig) -> None:
    rig.open()
    newer = PROTO.NewerEvent(removed=PROTO.Removed(id="a")).SerializeToString()
    await rig.publish(Added(id="a", amount=1))
    await rig.append((b"a", newer), (b"new", newer))
    await rig.publish(Added(id="a", amount=2))
    rig.fold()
    assert rig.states() == {b"a": counts(1, 2)}
    assert (rig.shard.unknown_events, rig.shard.next_offset, rig.shard.phase) == (2, 4, Phase.SERVING)
    taken = rig.checkpoint()
    assert taken is not None
    assert taken.next_offset == 4


async def test_ignored_events_are_not_counted_as_unknown(rig: Rig) -> None:
    rig.open()
    await rig.publish(Noted(id="a"))
    rig.fold()
    assert (rig.shard.unknown_events, rig.shard.next_offset, rig.states()) == (0, 1, {})


async def test_unknown_fields_are_harmless(rig: Rig) -> None:
    rig.open()
    newer = PROTO.NewerCountEvent(added=PROTO.NewerAdded(id="a", amount=7, colour="red", more=[1, 2]), trace="t")
    await rig.append((b"a", newer.SerializeToString()))
    rig.fold()
    assert rig.states() == {b"a": counts(7)}


async def test_unknown_fields_of_a_snapshot_are_harmless(rig: Rig) -> None:
    """A newer version wrote the row; this one, rolled back, reads it."""
    rig.open()
    await rig.publish(Added(id="a", amount=7))
    rig.fold()
    rig.shard.entries[b"a"].state = rig.view.codec.decode(counts(7) + b"\xf2\x04\x03new")  # field 78
    rig.checkpoint()
    rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    assert rig.states() == {b"a": counts(7, 1)}


async def test_a_stand_in_is_read_from_an_event_alone_from_one_with_meta_and_from_a_newer_one(tmp_path: Path) -> None:
    with make(tmp_path, arm_position, partition=3) as rig:
        rig.open()
        newer = bytes([0xF2, 0x3F, 0x02]) + b"no"
        for at_us, meta, more in ((5, EventMeta(), b""), (6, EventMeta(epoch=7), newer), (7, EventMeta(), newer)):
            axis = AxisPosition.FromString(AxisPosition(axis=at_us, position=1.5).SerializeToString() + more)
            moved = JointPositionsChanged(arm_id="r", sampled_at_us=at_us, axes=[axis])
            await rig.append((b"r", ArmEvent(meta=meta, joint_positions_changed=moved).SerializeToString()))
        rig.fold()
        readings = [AxisReading(axis=at, position=1.5, sampled_at_us=at) for at in (5, 6, 7)]
        assert pack(rig.shard.entries[b"r"].state) == ArmPosition(axes=readings)


@pytest.mark.parametrize("length", [1, 120, 126, 127, 128, 129, 130, 250, 255, 256, 20_000])
@pytest.mark.parametrize("epoch", [0, 7])
async def test_an_event_alone_and_one_with_meta_are_read_alike_at_every_length(
    rig: Rig, length: int, epoch: int
) -> None:
    """The fast path looks at the first two bytes: lengths from 128 on are written in more of them."""
    rig.open()
    event = Added(id="a" * length, amount=-5)
    key = event.id.encode()
    await rig.append((key, PROTO.CountEvent(meta={"epoch": epoch}, added=event).SerializeToString()))
    await rig.append((key, PROTO.CountEvent(added=event).SerializeToString()))
    rig.fold()
    assert rig.states() == {key: counts(-5, -5)}


async def test_an_envelope_with_nothing_in_it_is_an_event_of_a_newer_version(rig: Rig) -> None:
    rig.open()
    await rig.append((b"a", b""))
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    assert rig.states() == {b"a": counts(1)}
    assert rig.shard.unknown_events == 1


UNREADABLE = {
    "a tag alone": (b"\x12", "not a {package}.CountEvent"),
    "a length that is too long": (b"\x12\x05\x0a\x01a", "not a {package}.CountEvent"),
    "malformed within": (b"\x12\x02\x0a\x09", "not a {package}.CountEvent"),
    "malformed": (b"\xff\xff\xff", "not a {package}.CountEvent"),
    "cut short": (b"\x12\x7f\x0a", "not a {package}.CountEvent"),
    "tombstone": (None, "a tombstone, on a topic whose keys are never deleted"),
}


@pytest.mark.parametrize("key", [b"a", b"never seen"])
@pytest.mark.parametrize(("value", "says"), UNREADABLE.values(), ids=list(UNREADABLE))
async def test_what_cannot_be_read_halts_the_shard_and_nothing_is_skipped(
    rig: Rig, value: bytes | None, says: str, key: bytes
) -> None:
    shard = rig.open()
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=10))
    await rig.append((key, value))
    await rig.publish(Added(id="a", amount=2), Added(id="b", amount=20))
    rig.fold()
    assert shard.phase is Phase.HALTED
    assert f"counts/0@2, key {key!r}: " in shard.problem
    assert says.format(package=PROTO.package) in shard.problem
    assert shard.next_offset == 2
    assert rig.states() == {b"a": counts(1), b"b": counts(10)}
    assert set(shard.entries) == {b"a", b"b"}
    rig.poll()
    assert shard.next_offset == 2  # it is read no more


async def test_a_halted_shard_knows_what_lies_ahead(rig: Rig) -> None:
    shard = rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    assert shard.lag().events == 0
    await rig.append((b"a", b"\xff"))
    await rig.publish(Added(id="a", amount=2))
    rig.fold()
    assert shard.header(stale=False).position.offset == 0
    assert shard.lag().events == 2


async def test_a_shard_dropped_before_the_log_let_it_be_held_is_not_folded_later(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.publish(Added(id="a", amount=1))
    rig.open()
    folder, old = rig.folder, Shard(rig.view, rig.partition, rig.rows, 9)
    folder.drop(rig.shard)
    folder._carry_out_orders()
    folder._stopped.set()  # so that it does not rest

    def away(*_: object) -> None:
        raise LogUnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(folder._reader, "assign", away)
        folder.hold(old, 0)
        old.close()
        folder.drop(old)
        folder._carry_out_orders()
    for _ in range(3):
        folder._carry_out_orders()
        rig.poll()
    assert (old.phase, old.entries) == (Phase.CLOSED, {})


async def test_an_order_to_hold_is_tried_again_while_the_log_is_away(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.publish(Added(id="a", amount=1))
    rig.open()
    folder, shard = rig.folder, Shard(rig.view, rig.partition, rig.rows, 9)
    folder._stopped.set()

    def away(*_: object) -> None:
        raise LogUnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(folder._reader, "assign", away)
        folder.hold(shard, 0)
        folder._carry_out_orders()
    folder._carry_out_orders()
    rig.poll()
    assert shard.next_offset == 1
