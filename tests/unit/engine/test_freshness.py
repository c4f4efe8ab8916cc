"""An answer is as fresh as asked for, or fails, or says that it is stale; and a log that cannot be read makes lag grow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from aorist.engine import shard as shards
from aorist.engine.shard import Phase, Shard
from aorist.errors import LogUnavailableError, NoOwnerError, RestoringError, StaleError, UnknownKeyError
from aorist.ports import Fetched
from aorist.v1 import read_pb2
from tests.unit.engine.rig import Rig
from tests.unit.engine.views import PROTO, Added, added

NOW = read_pb2.ReadOptions()


class Clock:
    """Stands in for the `time` module of the shard: moves when told."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s

    def time(self) -> float:
        return time.time() + self.ahead_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(shards, "time", clock)
    return clock


def at_least(rig: Rig, offset: int, **more: Any) -> read_pb2.ReadOptions:
    read = read_pb2.ReadOptions(**more)
    read.at_least.add(topic=rig.topic.name, partition=rig.partition.number, offset=offset)
    return read


async def _waiting(shard: Shard, read: read_pb2.ReadOptions, timeout_s: float = 600) -> asyncio.Task[bool]:
    task = asyncio.create_task(shard.fresh(read, timeout_s))
    await asyncio.sleep(0)  # its first step takes it up to where it waits
    assert shard._waiters
    return task


# --- keys that are not known ---


async def test_a_key_is_unknown_only_once_the_end_of_the_log_was_reached(rig: Rig) -> None:
    shard = rig.open()
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=1), Added(id="c", amount=1))
    rig.fold(upto=2)
    assert shard.phase is Phase.SERVING
    shard.entry(b"b")
    with pytest.raises(RestoringError, match=r"knows no c yet.*@1"):
        shard.entry(b"c")
    rig.fold()
    shard.entry(b"c")
    with pytest.raises(UnknownKeyError, match=r"d: no event of it has been folded up to .*@2"):
        shard.entry(b"d")


async def test_a_standby_never_says_that_a_key_is_unknown_and_a_new_owner_looks_first(rig: Rig) -> None:
    shard = rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    shard.stand_by(7)
    rig.poll()
    with pytest.raises(RestoringError):
        shard.entry(b"b")
    shard.own(8)
    with pytest.raises(RestoringError, match="since it changed hands"):
        shard.entry(b"b")
    rig.poll()  # its end is looked at
    with pytest.raises(UnknownKeyError):
        shard.entry(b"b")


# --- at_least ---


async def test_what_is_folded_is_answered_at_once(rig: Rig) -> None:
    shard = rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    assert await shard.fresh(at_least(rig, 0), 0) is False
    assert await shard.fresh(NOW, 0) is False


async def test_who_asks_for_an_event_waits_until_it_is_folded(rig: Rig) -> None:
    shard = rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()
    waiting = await _waiting(shard, at_least(rig, 2))
    await rig.publish(Added(id="a", amount=2))
    rig.fold()
    await asyncio.sleep(0)
    assert not waiting.done()
    await rig.publish(Added(id="b", amount=3))
    rig.fold()
    assert await waiting is False
    assert shard.next_offset == 3
    assert shard._waiters == []


async def test_positions_of_other_partitions_and_topics_are_not_waited_for(rig: Rig) -> None:
    shard = rig.open()
    rig.fold()
    read = read_pb2.ReadOptions()
    read.at_least.add(topic=rig.topic.name, partition=1, offset=10)
    read.at_least.add(topic="elsewhere", partition=0, offset=10)
    assert await shard.fresh(read, 0) is False


async def test_the_furthest_of_several_positions_counts(rig: Rig) -> None:
    shard = rig.open()
    await rig.publish(Added(id="a", amount=1), Added(id="a", amount=2))
    rig.fold()
    read = at_least(rig, 5)
    read.at_least.add(topic=rig.topic.name, partition=0, offset=1)
    with pytest.raises(StaleError, match=r"is at offset 1 .* asked for offset 5 or later: ask again"):
        await shard.fresh(read, 0)


@pytest.mark.parametrize("timeout_s", [0.0, 0.02])
async def test_what_does_not_come_in_time_fails_or_is_flagged(rig: Rig, timeout_s: float) -> None:
    shard = rig.open()
    rig.fold()
    for on_stale in (read_pb2.ON_STALE_UNSPECIFIED, read_pb2.ON_STALE_FAIL):
        with pytest.raises(StaleError, match=r"raise read\.max_wait_ms, or set read.on_stale to ON_STALE_RETURN"):
            await shard.fresh(at_least(rig, 0, on_stale=on_stale), timeout_s)
    assert await shard.fresh(at_least(rig, 0, on_stale=read_pb2.ON_STALE_RETURN), timeout_s) is True
    assert shard._waiters == []


async def test_a_call_that_is_cancelled_waits_no_more(rig: Rig) -> None:
    shard = rig.open()
    rig.fold()
    waiting = await _waiting(shard, at_least(rig, 0))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert shard._waiters == []


async def test_who_waits_is_told_when_the_shard_is_given_up(rig: Rig) -> None:
    shard = rig.open()
    rig.fold()
    waiting = await _waiting(shard, at_least(rig, 0, on_stale=read_pb2.ON_STALE_RETURN))
    shard.close()
    with pytest.raises(NoOwnerError, match="counts@1/0 is not held here any more"):
        await waiting


async def test_a_shard_that_is_still_restoring_is_waited_for(rig: Rig) -> None:
    await rig.publish(Added(id="a", amount=1))
    shard = rig.open()
    with pytest.raises(RestoringError, match="counts@1/0 is catching up at offset 0 of 0"):
        await shard.fresh(at_least(rig, 0, on_stale=read_pb2.ON_STALE_RETURN), 0)
    waiting = await _waiting(shard, NOW)
    rig.fold()
    assert await waiting is False


async def test_settled_waits_for_the_first_look(rig: Rig) -> None:
    shard = rig.open()
    settled = asyncio.create_task(shard.settled())
    await asyncio.sleep(0)
    assert not settled.done()
    rig.fold()
    await settled


# --- lag ---


async def test_lag_ages_while_the_log_cannot_be_read(rig: Rig, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = rig.open()
    await rig.publish(Added(id="a", amount=1))
    rig.fold()

    def away(*_: object) -> Sequence[Fetched]:
        raise LogUnavailableError("away")

    rig.folder._stopped.set()  # so that it does not rest
    with monkeypatch.context() as patch:
        patch.setattr(rig.folder._reader, "poll", away)
        for minutes in (1, 2):
            clock.ahead_s = minutes * 60
            rig.poll_as_the_thread_does()
            lag = shard.lag()
            assert lag.events == 0
            assert minutes * 60_000 <= lag.ms < minutes * 60_000 + 30_000
        assert not shard.is_fresh(read_pb2.ReadOptions(max_staleness_ms=60_000))
        assert shard.is_fresh(NOW)
    rig.poll()
    assert shard.lag().ms < 30_000


async def test_a_look_at_the_end_makes_an_answer_fresh_without_any_event(rig: Rig, clock: Clock) -> None:
    shard = rig.open()
    rig.fold()
    clock.ahead_s = 60
    waiting = await _waiting(shard, read_pb2.ReadOptions(max_staleness_ms=30_000))
    await asyncio.sleep(0)
    assert not waiting.done()
    rig.poll()
    assert await waiting is False


async def test_what_was_fresh_when_folded_and_not_when_the_loop_came_is_waited_for_again(
    rig: Rig, clock: Clock
) -> None:
    shard = rig.open()
    rig.fold()
    clock.ahead_s = 60
    waiting = await _waiting(shard, read_pb2.ReadOptions(max_staleness_ms=30_000))
    rig.poll()
    await asyncio.sleep(0)  # it is woken
    clock.ahead_s = 120  # and has its turn late
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    rig.poll()
    assert await waiting is False


async def test_too_old_fails_or_is_flagged_and_says_how_old(rig: Rig, clock: Clock) -> None:
    shard = rig.open()
    rig.fold()
    clock.ahead_s = 60
    with pytest.raises(StaleError, match=r"with 6\d{4} ms lag; asked for at most 1000 ms lag"):
        await shard.fresh(read_pb2.ReadOptions(max_staleness_ms=1000), 0)
    read = read_pb2.ReadOptions(max_staleness_ms=1000, on_stale=read_pb2.ON_STALE_RETURN)
    assert await shard.fresh(read, 0) is True


async def test_behind_the_end_the_age_of_the_newest_event_counts(rig: Rig, clock: Clock) -> None:
    rig.log_is_behind_s = 3600
    await rig.publish(*(Added(id="a", amount=1) for _ in range(10)))
    shard = rig.open()
    rig.poll(4)
    assert shard.phase is Phase.SERVING
    lag = shard.lag()
    assert lag.events == 6
    assert 3_600_000 <= lag.ms < 3_700_000
    rig.fold()
    assert shard.lag().events == 0
    assert shard.lag().ms < 30_000


async def test_a_shard_is_never_called_fresh_while_it_catches_up_with_an_old_log(rig: Rig) -> None:
    """Not even within its first batch, of which only the last event says how old it is."""
    read = read_pb2.ReadOptions(max_staleness_ms=60_000)
    called_fresh: list[int] = []
    field = rig.view.schema.events[PROTO.Added]

    def look(state: Any, event: Any) -> None:
        if rig.shard.is_fresh(read):
            called_fresh.append(event.amount)
        added(state, event)

    rig.log_is_behind_s = 3600
    await rig.publish(*(Added(id="a", amount=n) for n in range(2500)))
    rig.view.handlers[field] = look
    rig.open()
    rig.fold()
    assert called_fresh == []
    assert rig.shard.is_fresh(read)


async def test_a_header_says_position_lag_epoch_and_role(rig: Rig) -> None:
    rig.open()
    shard = rig.open()
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=1), Added(id="a", amount=1))
    rig.poll(2)
    header = shard.header(stale=True)
    assert (header.position.topic, header.position.partition, header.position.offset) == ("counts", 0, 1)
    assert (header.lag_events, header.epoch, header.role, header.stale) == (1, 2, read_pb2.ROLE_OWNER, True)


# --- watching ---


async def test_a_watch_is_woken_by_its_own_key_only(rig: Rig) -> None:
    shard = rig.open()
    await rig.publish(Added(id="a", amount=1), Added(id="b", amount=1))
    rig.fold()
    with shard.watching(b"a") as changed:
        await rig.publish(Added(id="b", amount=2))
        rig.fold()
        await asyncio.sleep(0)
        assert not changed.is_set()
        await rig.publish(Added(id="a", amount=2))
        rig.fold()
        await asyncio.sleep(0)
        assert changed.is_set()
    assert shard._watched == {}


@pytest.mark.parametrize("end", [Shard.close, lambda shard: shard.halt("broken")], ids=["closed", "halted"])
async def test_a_watch_is_woken_when_its_shard_ends(rig: Rig, end: Any) -> None:
    shard = rig.open()
    rig.fold()
    with shard.watching(b"a") as changed:
        end(shard)
        await asyncio.sleep(0)
        assert changed.is_set()
