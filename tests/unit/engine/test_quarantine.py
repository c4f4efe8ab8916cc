"""One poison event stops one key: all others fold on, and nothing of the key is lost, whatever is away or breaks off meanwhile."""

from __future__ import annotations

import asyncio
import threading

import pytest

from aorist.engine import parked
from aorist.engine.materializer import Materializer
from aorist.engine.shard import Phase
from aorist.errors import NoOwnerError, NotParkedError, QuarantinedError, RestoringError, StoreUnavailableError
from aorist.ports import NewRecord, ParkedEvent, ParkedState
from aorist.position import ShardName
from aorist.serve.errors import is_transient, status_of
from aorist.v1 import read_pb2
from tests.harness.places import PATIENCE_S
from tests.harness.process import until
from tests.unit.engine.rig import Rig
from tests.unit.engine.stores import FailingStore, WrappedStore
from tests.unit.engine.views import PROTO, Added, added, count_view, counts

BREAKS = Added(id="a", amount=99, breaks=True)


@pytest.fixture
async def quarantined(rig: Rig) -> Rig:
    """Up to two keys of a shard may be parked."""
    rig.quarantine._most_keys = 2
    rig.open()
    return rig


async def poisoned(rig: Rig) -> None:
    """a: 1 before the event, 2 and 3 behind it; b: 10 before and 20 after. The event is at offset 2."""
    await poisoned_log(rig)
    rig.fold()


async def poisoned_log(rig: Rig) -> None:
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=10), BREAKS)
    await rig.publish(Added(id="a", amount=2), Added(id="b", amount=20), Added(id="a", amount=3))


def mend(rig: Rig) -> None:
    """The apply folds everything from now on; a process with it starts."""
    rig.view = mended = count_view()
    field = mended.schema.events[PROTO.Added]
    mended.handlers[field] = lambda state, event: added(state, PROTO.Added(id=event.id, amount=event.amount))
    rig.open()
    rig.fold()


def records(rig: Rig) -> list[tuple[int, ParkedState]]:
    return [(event.offset, event.state) for event in rig.store.read_parked(rig.rows)]


def queued(rig: Rig, key: bytes = b"a") -> list[int]:
    return list(rig.shard.parked[key].events)


def read_at_least(
    rig: Rig, offset: int, on_stale: read_pb2.OnStale.ValueType = read_pb2.ON_STALE_UNSPECIFIED
) -> read_pb2.ReadOptions:
    read = read_pb2.ReadOptions(on_stale=on_stale)
    read.at_least.add(topic=rig.topic.name, partition=rig.partition.number, offset=offset)
    return read


PARKED, SKIPPED, RELEASED = ParkedState


@pytest.mark.parametrize("batch", [1, 2, 1000])
async def test_all_other_keys_fold_on_and_the_key_is_as_before(quarantined: Rig, batch: int) -> None:
    rig = quarantined
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=10), BREAKS)
    await rig.publish(Added(id="a", amount=2), Added(id="b", amount=20), Added(id="a", amount=3))
    for _ in range(8):
        rig.poll(batch)
    assert (rig.shard.phase, rig.shard.next_offset, rig.shard.problem) == (Phase.SERVING, 6, "")
    assert rig.states() == {b"a": counts(1), b"b": counts(10, 20)}
    assert queued(rig) == [2, 3, 5]
    assert records(rig) == [(2, PARKED)]


async def test_a_checkpoint_passes_what_is_parked_only_once_it_is_durable(quarantined: Rig) -> None:
    rig = quarantined
    await poisoned(rig)
    whole, rig.store = rig.store, FailingStore(rig.store, "write_parked")
    with pytest.raises(StoreUnavailableError):
        rig.checkpoint()
    assert (rig.stored(), rig.store.read_checkpoint(rig.rows)) == ({}, None)
    rig.store = whole
    taken = rig.checkpoint()
    assert taken is not None
    assert taken.next_offset == 6
    assert records(rig) == [(2, PARKED), (3, PARKED), (5, PARKED)]
    assert rig.stored() == {b"a": (counts(1), 0), b"b": (counts(10, 20), 4)}


@pytest.mark.parametrize("checkpoints", [True, False])
async def test_a_restart_has_the_key_parked_and_a_replay_after_a_fix_loses_nothing(
    quarantined: Rig, *, checkpoints: bool
) -> None:
    rig = quarantined
    await poisoned(rig)
    if checkpoints:
        rig.checkpoint()
    mend(rig)
    assert queued(rig) == [2, 3, 5]
    assert rig.states() == {b"a": counts(1), b"b": counts(10, 20)}
    assert rig.quarantine.replay(rig.shard, b"a") is None
    assert rig.shard.parked == {}
    assert rig.states() == {b"a": counts(1, 99, 2, 3), b"b": counts(10, 20)}
    assert rig.stored()[b"a"] == (counts(1, 99, 2, 3), 5)  # durable at once
    assert {state for _, state in records(rig)} == {RELEASED}
    await rig.publish(Added(id="a", amount=4))
    rig.fold()
    rig.checkpoint()
    rig.open()
    rig.fold()
    assert rig.shard.parked == {}
    assert rig.states()[b"a"] == counts(1, 99, 2, 3, 4)


async def test_before_the_log_is_folded_up_to_a_parked_key_it_is_not_replayed(quarantined: Rig) -> None:
    """An event of it may be ahead that is in no row: the replay would pass over it."""
    rig = quarantined
    rig.open()
    await rig.publish(Added(id="b", amount=1), Added(id="a", amount=1))
    rig.fold()
    rig.checkpoint()
    await rig.publish(Added(id="b", amount=2), Added(id="a", amount=7), BREAKS, Added(id="a", amount=2))
    rig.fold()
    rig.view = count_view()
    rig.view.handlers[rig.view.schema.events[PROTO.Added]] = lambda state, event: added(
        state, PROTO.Added(id=event.id, amount=event.amount)
    )
    rig.open()  # after a death without a checkpoint
    rig.poll(1)
    with pytest.raises(RestoringError, match="is parked at 4: ask again soon"):
        rig.quarantine.replay(rig.shard, b"a")
    with pytest.raises(RestoringError):
        rig.quarantine.skip(rig.shard, b"a", 4, "by ada")
    rig.fold()
    assert rig.quarantine.replay(rig.shard, b"a") is None
    assert rig.states()[b"a"] == counts(1, 7, 99, 2)


async def test_a_replay_that_fails_parks_again_with_the_new_reason(quarantined: Rig) -> None:
    rig = quarantined
    await poisoned(rig)
    mend(rig)
    await rig.publish(Added(id="a", amount=4), Added(id="a", amount=5))
    rig.fold()

    def fails_at_3(state: object, event: object) -> None:
        added(state, PROTO.Added(amount=event.amount))  # type: ignore[arg-type,attr-defined]
        if event.amount == 3:  # type: ignore[attr-defined]
            raise KeyError("three")

    rig.view.handlers[rig.view.schema.events[PROTO.Added]] = fails_at_3
    failed = rig.quarantine.replay(rig.shard, b"a")
    assert failed is not None
    assert (failed.offset, failed.state) == (5, PARKED)
    assert failed.reason.endswith("fails_at_3 raised KeyError: 'three'")
    assert rig.states()[b"a"] == counts(1, 99, 2)  # nothing of the one that failed
    assert queued(rig) == [5, 6, 7]
    told = {event.offset: event for event in rig.store.read_parked(rig.rows)}
    assert [(offset, event.state) for offset, event in told.items()][:3] == [(2, RELEASED), (3, RELEASED), (5, PARKED)]
    assert told[5].reason == failed.reason
    rig.checkpoint()
    rig.open()
    rig.fold()
    assert queued(rig) == [5, 6, 7]
    assert rig.shard.parked[b"a"].reason == failed.reason


async def test_a_skipped_event_is_never_folded_and_the_rest_is(quarantined: Rig) -> None:
    rig = quarantined
    await poisoned(rig)
    with pytest.raises(NotParkedError, match="it is offset 2"):
        rig.quarantine.skip(rig.shard, b"a", 3, "by ada")
    assert rig.quarantine.skip(rig.shard, b"a", 2, "by ada: a sensor's nonsense") is None
    assert rig.states()[b"a"] == counts(1, 2, 3)
    (skipped,) = (event for event in rig.store.read_parked(rig.rows) if event.state is SKIPPED)
    assert skipped.offset == 2
    assert skipped.reason.startswith("by ada: a sensor's nonsense. It was: counts/0@2, key b'a'")
    rig.open()  # without a checkpoint: from the start of the log
    rig.fold()
    assert (rig.states()[b"a"], rig.shard.parked) == (counts(1, 2, 3), {})


@pytest.mark.parametrize("method", ["write_rows", "write_parked"])
@pytest.mark.parametrize("nth", [1, 2])
async def test_a_skip_that_breaks_off_anywhere_is_finished_by_a_replay(quarantined: Rig, method: str, nth: int) -> None:
    rig = quarantined
    await poisoned(rig)
    rig.checkpoint()
    whole, rig.store = rig.store, FailingStore(rig.store, method, nth)
    if (method, nth) != ("write_rows", 2):  # one row is all there is to write
        with pytest.raises(StoreUnavailableError):
            rig.quarantine.skip(rig.shard, b"a", 2, "by ada")
    rig.store = whole
    rig.open()  # as after a crash there
    rig.fold()
    if b"a" in rig.shard.parked:
        first = next(iter(rig.shard.parked[b"a"].events.values()))
        assert rig.states()[b"a"] == counts(1)
        if first.state is SKIPPED:
            assert rig.quarantine.replay(rig.shard, b"a") is None
        else:
            assert rig.quarantine.skip(rig.shard, b"a", 2, "by ada, again") is None
    else:
        assert (method, nth) == ("write_parked", 2) or method == "write_rows"
    rig.checkpoint() if rig.shard.dirty else None
    rig.open()
    rig.fold()
    assert (rig.states(), rig.shard.parked) == ({b"a": counts(1, 2, 3), b"b": counts(10, 20)}, {})


async def test_events_that_come_during_a_replay_are_folded_behind(quarantined: Rig) -> None:
    rig = quarantined
    await poisoned(rig)
    mend(rig)
    whole, came = rig.store, False

    class Meanwhile(FailingStore):
        def write_rows(self, shard: object, rows: object) -> None:
            nonlocal came
            if not came:
                came = True
                with rig.shard.lock:
                    rig.shard.parked[b"a"].hold(ParkedEvent(b"a", 6, record[1], "waits", 1))
            whole.write_rows(shard, rows)  # type: ignore[arg-type]

    record = rig.view.schema.recorder()(Added(id="a", amount=4))[1:]
    rig.store = Meanwhile(whole, "none")
    assert rig.quarantine.replay(rig.shard, b"a") is None
    assert rig.states()[b"a"] == counts(1, 99, 2, 3, 4)
    assert rig.stored()[b"a"] == (counts(1, 99, 2, 3, 4), 6)


async def test_with_the_store_away_the_shard_waits_in_front_and_goes_on_by_itself(quarantined: Rig) -> None:
    rig = quarantined
    whole, rig.store = rig.store, FailingStore(rig.store, "write_parked")
    await poisoned(rig)
    assert (rig.shard.phase, rig.shard.next_offset, rig.shard.parked) == (Phase.HALTED, 2, {})
    assert "waits in front of an event" in rig.shard.problem
    rig.poll_as_the_thread_does()
    assert rig.shard.next_offset == 2
    rig.store = whole
    rig.folder._parking[rig.partition].again_at = 0.0  # not to wait for it
    rig.poll_as_the_thread_does()
    rig.poll()  # the attempt has come to its end
    rig.fold()
    assert (rig.shard.phase, rig.shard.next_offset, rig.shard.problem) == (Phase.SERVING, 6, "")
    assert rig.states() == {b"a": counts(1), b"b": counts(10, 20)}
    assert records(rig) == [(2, PARKED)]


async def test_beyond_the_limit_of_keys_the_shard_halts_and_says_why(quarantined: Rig) -> None:
    rig = quarantined
    await rig.publish(*(Added(id=key, amount=1, breaks=True) for key in "abc"), Added(id="d", amount=1))
    rig.fold()
    assert (rig.shard.phase, rig.shard.next_offset, list(rig.shard.parked)) == (Phase.HALTED, 2, [b"a", b"b"])
    assert "2 keys are parked already, as many as max_quarantined_keys allows" in rig.shard.problem


async def test_beyond_the_limit_of_events_the_shard_halts_in_front_of_it(
    quarantined: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked, "MOST_PARKED", 2)
    await poisoned(quarantined)
    assert (quarantined.shard.phase, quarantined.shard.next_offset) == (Phase.HALTED, 5)
    assert quarantined.states() == {b"a": counts(1), b"b": counts(10, 20)}
    assert queued(quarantined) == [2, 3]


async def test_what_cannot_be_parsed_is_parked_with_its_bytes(quarantined: Rig) -> None:
    rig = quarantined
    await rig.append((b"a", b"\xff\xff\xff"), (b"b", None))
    await rig.publish(Added(id="c", amount=1))
    rig.fold()
    assert rig.states() == {b"c": counts(1)}
    assert [event.value for event in rig.store.read_parked(rig.rows)] == [b"\xff\xff\xff", None]
    assert rig.quarantine.skip(rig.shard, b"b", 1, "by ada") is None
    assert rig.quarantine.replay(rig.shard, b"a") is not None  # it still cannot be parsed


async def test_a_key_is_read_as_before_the_event_and_at_or_past_it_with_the_reason(quarantined: Rig) -> None:
    rig = quarantined
    await poisoned(rig)
    queue = rig.shard.parked_for(b"a", read_at_least(rig, 1))
    assert queue is not None
    header = rig.shard.header(stale=False, parked_at=queue.at)
    assert (header.position.offset, header.lag_events, header.stale) == (1, 4, True)
    for read in (
        read_at_least(rig, 2),
        read_at_least(rig, 2, read_pb2.ON_STALE_RETURN),
        read_pb2.ReadOptions(on_stale=read_pb2.ON_STALE_FAIL),
    ):
        with pytest.raises(QuarantinedError, match=r"counts/0@2.*added raised ArithmeticError"):
            rig.shard.parked_for(b"a", read)
    assert rig.shard.parked_for(b"b", read_at_least(rig, 4)) is None


async def test_a_key_that_is_being_brought_back_is_worth_asking_for_again(quarantined: Rig) -> None:
    """Else a list of all keys would fail for the moment that it takes."""
    rig, told = quarantined, []

    def ask(method: str, *_: object) -> None:
        if method == "read_row" and rig.shard.broken:
            with pytest.raises(RestoringError, match=r"brought back.*raised ArithmeticError") as raised:
                rig.shard.entry(b"a")
            told.append(is_transient(status_of(raised.value)))

    rig.store = WrappedStore(rig.store, ask)
    await poisoned(rig)
    assert told == [True]


async def test_a_key_whose_first_event_is_parked_has_no_state_to_give(quarantined: Rig) -> None:
    await quarantined.publish(BREAKS)
    quarantined.fold()
    with pytest.raises(QuarantinedError, match="knows no a before counts/0@0"):
        quarantined.shard.entry(b"a")
    assert list(quarantined.shard.keys_after(b"")) == []


async def test_a_standby_writes_nothing_and_saves_what_it_holds_once_it_is_owner(quarantined: Rig) -> None:
    rig = quarantined
    rig.open(owned=False)
    await poisoned(rig)
    assert (queued(rig), records(rig)) == ([2, 3, 5], [])
    with pytest.raises(NoOwnerError):
        rig.quarantine.replay(rig.shard, b"a")
    rig.shard.own(9)
    rig.checkpoint()
    assert records(rig) == [(2, PARKED), (3, PARKED), (5, PARKED)]


async def test_a_standby_takes_over_what_its_owner_has_released(quarantined: Rig) -> None:
    rig = quarantined
    await poisoned(rig)
    owner = rig.shard
    standby = rig.open(owned=False)
    rig.fold()
    rig.quarantine.skip(owner, b"a", 2, "by ada")
    assert list(standby.parked) == [b"a"]
    rig.quarantine.catch_up(standby)
    assert standby.parked == {}
    assert rig.states()[b"a"] == counts(1, 2, 3)


async def test_what_an_owner_before_has_released_is_not_parked_again(quarantined: Rig) -> None:
    rig = quarantined
    owner, folder = rig.shard, rig.folder
    late, its_folder = rig.open(owned=False), rig.folder  # restored before there was any event
    rig.shard, rig.folder = owner, folder
    await poisoned(rig)
    rig.quarantine.skip(owner, b"a", 2, "by ada")
    late.own(9)
    rig.shard, rig.folder = late, its_folder
    rig.poll(3)  # up to the poison event, which it cannot fold
    assert (late.next_offset, late.parked, late.broken) == (3, {}, {})
    assert late.phase is Phase.CATCHING_UP  # the row is ahead: no answer may hold more than its position says
    rig.fold()
    assert (late.phase, rig.states()) == (Phase.SERVING, {b"a": counts(1, 2, 3), b"b": counts(10, 20)})


async def test_a_released_row_that_is_ahead_is_taken_over_once_the_shard_is_there(quarantined: Rig) -> None:
    rig = quarantined
    await poisoned(rig)
    owner = rig.shard
    late = rig.open(owned=False)
    rig.fold(4)
    rig.quarantine.skip(owner, b"a", 2, "by ada")
    assert rig.quarantine.catch_up(late) is False
    assert (queued(rig), rig.states()[b"a"]) == ([2, 3], counts(1))
    rig.fold()
    assert rig.quarantine.catch_up(late) is True
    assert (late.parked, rig.states()[b"a"]) == ({}, counts(1, 2, 3))


async def test_a_replay_of_who_is_no_owner_any_more_says_so(quarantined: Rig) -> None:
    """The new owner may have looked at the row before it was written."""
    rig = quarantined
    await poisoned(rig)
    mend(rig)
    whole, shard = rig.store, rig.shard
    rig.store = WrappedStore(whole, lambda method, *_: shard.stand_by(9) if method == "write_rows" else None)
    with pytest.raises(NoOwnerError, match="has changed hands meanwhile"):
        rig.quarantine.replay(shard, b"a")
    assert queued(rig) == [2, 3, 5]
    assert rig.quarantine.catch_up(shard) is True  # the row was written all the same
    assert (shard.parked, rig.states()[b"a"]) == ({}, counts(1, 99, 2, 3))


async def test_who_takes_a_shard_over_has_at_once_what_was_released_just_before(rig: Rig) -> None:
    """And not with the next checkpoint: there is none here for an hour."""
    name, hour_s = ShardName(rig.view.build_name, rig.partition.number), 3600
    one, other = (Materializer([rig.view], rig.log, rig.store, hour_s, most_parked_keys=2) for _ in range(2))
    await rig.publish(Added(id="a", amount=1), BREAKS, Added(id="a", amount=2), Added(id="b", breaks=True))
    for materializer in (one, other):
        materializer.start()
        materializer.open(name)
    try:
        await until(lambda: all(name in m.shards and m.shards[name].warm for m in (one, other)), "both folded")
        before, after = one.shards[name], other.shards[name]
        one.own(before, 1)
        await asyncio.to_thread(one.quarantine.skip, before, b"a", 1, "by ada")
        before.stand_by(2)
        assert list(after.parked) == [b"a", b"b"]
        other.own(after, 2)
        await until(lambda: list(after.parked) == [b"b"], "what was released")
        assert rig.view.codec.encode(after.entries[b"a"].state) == counts(1, 2)
    finally:
        await one.stop()
        await other.stop()


async def test_a_takeover_while_the_store_is_away_leaves_it_to_the_next_checkpoint(rig: Rig) -> None:
    name = ShardName(rig.view.build_name, rig.partition.number)
    failing = FailingStore(rig.store, "read_parked", nth=2)  # the first is that of the restore
    owner = Materializer([rig.view], rig.log, failing, 3600, most_parked_keys=2)
    await rig.publish(Added(id="a", amount=1), BREAKS)
    owner.start()
    owner.open(name)
    try:
        await until(lambda: name in owner.shards and owner.shards[name].warm, "folded")
        shard = owner.shards[name]
        owner.own(shard, 1)
        await asyncio.gather(*owner._catching_up)
        assert owner.checkpointer.take(shard) is False
        failing._left = 2
        assert owner.checkpointer.take(shard) is True
        assert [event.offset for event in rig.store.read_parked(rig.rows)] == [1]
    finally:
        await owner.stop()


async def test_while_the_store_hangs_only_the_shard_of_the_event_waits(rig: Rig) -> None:
    """Neither its other keys nor another shard of the view do."""
    here, there = (ShardName(rig.view.build_name, partition) for partition in (0, 1))
    store_hangs, reached = threading.Event(), threading.Event()

    def hang(method: str, *_: object) -> None:
        if method == "write_parked":
            reached.set()
            assert store_hangs.wait(PATIENCE_S)

    owner = Materializer([rig.view], rig.log, WrappedStore(rig.store, hang), 3600, most_parked_keys=2)
    owner.start()
    try:
        for name in (here, there):
            owner.open(name)
        await until(lambda: len(owner.shards) == 2 and all(s.warm for s in owner.shards.values()), "both serve")
        stopped, other = owner.shards[here], owner.shards[there]
        owner.own(stopped, 1)
        await poisoned_log(rig)
        await asyncio.to_thread(reached.wait, PATIENCE_S)
        record = rig.view.schema.recorder()(Added(id="z", amount=7))
        await rig.log.append(rig.topic.name, [NewRecord(there.partition, *record[1:])])
        await until(lambda: other.next_offset == 1, "the other shard folds on")
        assert (stopped.next_offset, stopped.parked, list(stopped.broken)) == (2, {}, [])
        assert rig.view.codec.encode(stopped.entry(b"b").state) == counts(10)
        store_hangs.set()
        await until(lambda: stopped.next_offset == 6, "it goes on by itself")
        assert list(stopped.parked[b"a"].events) == [2, 3, 5]
    finally:
        store_hangs.set()
        await owner.stop()
