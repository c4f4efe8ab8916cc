"""Series: a window is in memory, in a row, or in the store, whatever happens in between; and in each it is the same."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from aorist.engine import checkpoint as checkpoints
from aorist.errors import StoreUnavailableError
from aorist.ports import SeriesRows, SeriesStore, WindowRow
from tests.unit.engine.flow import S, Seen, durable, expected, flow_view, in_memory
from tests.unit.engine.rig import Rig
from tests.unit.engine.rig import rig as make
from tests.unit.engine.stores import FailingStore, WrappedStore

T0 = 1_000_000 * S


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with make(tmp_path, flow_view()) as made:
        yield made


class FailingSeries:
    """Its `nth` write and all after it fail; as many as `taken` of its rows are durable all the same."""

    def __init__(self, store: SeriesStore, nth: int = 1, taken: int = 0) -> None:
        self._store, self._left, self._taken = store, nth, taken

    def write_windows(self, series: SeriesRows, rows: Sequence[WindowRow]) -> None:
        self._left -= 1
        self._store.write_windows(series, rows if self._left > 0 else rows[: self._taken])
        if self._left <= 0:
            raise StoreUnavailableError("writes are down")

    def read_windows(
        self, series: SeriesRows, keys: Sequence[bytes], from_us: int, upto_us: int, limit: int
    ) -> Mapping[bytes, Sequence[WindowRow]]:
        return self._store.read_windows(series, keys, from_us, upto_us, limit)

    def close(self) -> None:
        self._store.close()


def seen(key: str, *seconds: float) -> list[Any]:
    return [Seen(id=key, at_us=T0 + int(second * S)) for second in seconds]


def check_nothing_is_lost(rig: Rig, events: Sequence[Any]) -> None:
    """Memory wins over the store; where both know a window that is closed, they agree."""
    memory, stored = in_memory(rig), durable(rig, {event.id.encode() for event in events})
    assert stored | memory == expected(rig.view, events)
    closed = {(key, w.window_s, w.start_us) for key, e in rig.shard.entries.items() for w in e.state.windows.closed}
    assert all(memory[place] == stored[place] for place in closed & stored.keys())


async def test_closed_windows_are_durable_before_a_row_is_without_them(rig: Rig) -> None:
    rig.open()
    events = [*seen("a", *range(1, 30)), *seen("b", 1, 2)]
    await rig.publish(*events)
    rig.fold()
    assert rig.shard.entries[b"a"].state.windows.closed
    steps: list[str] = []

    def before(method: str, *_: Any) -> None:
        if method == "write_rows":
            assert durable(rig, [b"a"]) == {p: us for p, us in expected(rig.view, events).items() if p in closed}
        steps.append(method)

    closed = {(b"a", w.window_s, w.start_us) for w in rig.shard.entries[b"a"].state.windows.closed}
    rig.store = WrappedStore(rig.store, before)
    rig.checkpoint()
    assert steps == ["write_rows", "write_checkpoint"]
    assert rig.shard.entries[b"a"].state.windows.closed == []
    check_nothing_is_lost(rig, events)
    rig.open()
    rig.fold()
    check_nothing_is_lost(rig, events)


async def test_what_closes_while_windows_are_written_stays_for_the_next_checkpoint(rig: Rig) -> None:
    rig.open()
    events = seen("a", *range(1, 10))
    await rig.publish(*events)
    rig.fold()
    more = seen("a", *range(10, 20))

    class Meanwhile(FailingSeries):
        def write_windows(self, series: SeriesRows, rows: Sequence[WindowRow]) -> None:
            self._store.write_windows(series, rows)
            rig.fold()

    await rig.publish(*more)
    rig.shard.series._store = Meanwhile(rig.series)  # type: ignore[union-attr]
    rig.shard.next_offset, next_offset = 9, rig.shard.next_offset
    rig.checkpoint()
    assert next_offset == 9
    assert rig.shard.next_offset == 19
    waiting = rig.shard.entries[b"a"].state.windows.closed
    assert min(w.start_us for w in waiting if w.window_s == 1) > T0 + 5 * S
    check_nothing_is_lost(rig, [*events, *more])
    rig.open()  # dies: the row holds what waits, and no event may ever come for the key
    assert rig.shard.dirty == {b"a"}
    await rig.publish(*seen("b", 1))
    rig.fold()
    rig.checkpoint()
    assert rig.shard.entries[b"a"].state.windows.closed == []
    check_nothing_is_lost(rig, [*events, *more])


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("taken", [0, 1])
async def test_while_the_series_store_is_away_windows_stay(rig: Rig, nth: int, taken: int) -> None:
    rig.open()
    events = seen("a", *range(1, 200))
    await rig.publish(*events)
    rig.fold()
    waiting = list(rig.shard.entries[b"a"].state.windows.closed)
    store = rig.shard.series._store  # type: ignore[union-attr]
    rig.shard.series._store = FailingSeries(rig.series, nth, taken)  # type: ignore[union-attr]
    with pytest.raises(StoreUnavailableError):
        rig.checkpoint()
    assert rig.shard.entries[b"a"].state.windows.closed == waiting
    assert rig.stored() == {}
    assert rig.shard.dirty == {b"a"}
    check_nothing_is_lost(rig, events)
    rig.shard.series._store = store  # type: ignore[union-attr]
    rig.checkpoint()
    assert rig.shard.entries[b"a"].state.windows.closed == []
    check_nothing_is_lost(rig, events)


@pytest.mark.parametrize("method", ["write_rows", "write_checkpoint"])
async def test_death_between_windows_and_checkpoint_loses_and_doubles_nothing(rig: Rig, method: str) -> None:
    rig.open()
    events = seen("a", *range(1, 100))
    await rig.publish(*events)
    rig.fold()
    store, rig.store = rig.store, FailingStore(rig.store, method)
    with pytest.raises(StoreUnavailableError):
        rig.checkpoint()
    rig.store = store
    rig.open()
    rig.fold()
    check_nothing_is_lost(rig, events)
    rig.checkpoint()
    check_nothing_is_lost(rig, events)


async def test_a_key_brought_back_after_a_failed_apply_has_its_windows(rig: Rig) -> None:
    rig.open()
    events = seen("a", *range(1, 30))
    await rig.publish(*events)
    rig.fold()
    rig.checkpoint()
    more = seen("a", *range(30, 60))
    await rig.publish(*more, Seen(id="a", at_us=T0 + 99 * S, breaks=True))
    rig.fold()
    assert rig.shard.problem
    check_nothing_is_lost(rig, [*events, *more])


async def test_a_standby_drops_a_window_once_a_checkpoint_covers_where_it_had_it(rig: Rig) -> None:
    owner = rig.open()
    folding = rig.folder
    events = seen("a", *range(1, 10))
    await rig.publish(*events)
    rig.fold()
    rig.checkpoint()
    standby = rig.open()
    standby.checkpoint = None
    standby.stand_by(owner.epoch)
    more = seen("a", *range(10, 20))
    await rig.publish(*more)
    rig.fold()
    waiting = list(standby.entries[b"a"].state.windows.closed)
    assert waiting
    checkpoints.forget_covered(standby, rig.store)  # notes
    assert standby.entries[b"a"].state.windows.closed == waiting

    rig.shard, rig.folder = owner, folding
    rig.fold(15)
    rig.checkpoint()
    checkpoints.forget_covered(standby, rig.store)  # the owner had not come so far: it may have written none of them
    assert standby.entries[b"a"].state.windows.closed == waiting
    await rig.publish(*seen("a", 20))
    rig.fold()
    rig.checkpoint()
    checkpoints.forget_covered(standby, rig.store)
    assert standby.entries[b"a"].state.windows.closed == []
    rig.shard = standby
    standby.own(owner.epoch + 1)
    check_nothing_is_lost(rig, [*events, *more])


class Pair:
    """An owner, which is first, and a standby of one shard. They fold apart."""

    def __init__(self, rig: Rig, chosen: random.Random) -> None:
        self.rig, self.chosen = rig, chosen
        self.events, self._at = list[Any](), dict.fromkeys("abc", 1.0)
        self._shards = [(rig.open(), rig.folder)]
        self._join()

    def _join(self) -> None:
        shard = self.rig.open()
        shard.stand_by(1)
        self._shards.append((shard, self.rig.folder))

    def turn(self, place: int) -> None:
        self.rig.shard, self.rig.folder = self._shards[place]

    async def publish(self) -> None:
        for _ in range(self.chosen.randrange(1, 30)):
            key = self.chosen.choice("aaab" + "c" * (not self.events))
            self._at[key] += self.chosen.choice([0.3, 1.0, 1.5, 7.0])
            self.events += seen(key, self._at[key])
            await self.rig.publish(self.events[-1])

    async def fold(self) -> None:
        self.turn(self.chosen.randrange(2))
        self.rig.fold(self.chosen.randrange(self.rig.shard.next_offset, len(self.events) + 1))

    async def checkpoint(self) -> None:
        self.turn(0)
        self.rig.checkpoint()

    async def forget(self) -> None:
        checkpoints.forget_covered(self._shards[1][0], self.rig.store)

    async def fail(self) -> None:
        self.turn(0)
        method = self.chosen.choice(["write_rows", "write_checkpoint"])
        store, self.rig.store = self.rig.store, FailingStore(self.rig.store, method)
        with suppress(StoreUnavailableError):  # with nothing new there is nothing to write, and nothing fails
            self.rig.checkpoint()
        self.rig.store = store

    async def die(self) -> None:
        """The standby takes over, wherever it is; another restores."""
        self._shards.pop(0)
        self.turn(0)
        self.rig.shard.own(self.rig.shard.epoch + 1)
        self._join()


@pytest.mark.parametrize("seed", range(12))
async def test_owners_come_and_go_and_no_window_is_lost(rig: Rig, seed: int) -> None:
    """They fold, checkpoint, die and take over in any order; now and then the store fails midway."""
    pair = Pair(rig, random.Random(seed))
    steps = [*[pair.publish] * 6, *[pair.fold] * 4, *[pair.checkpoint] * 3, *[pair.forget] * 3, pair.fail, pair.die]
    for _ in range(60):
        await pair.chosen.choice(steps)()
        if pair.chosen.random() < 0.3:
            pair.turn(0)
            rig.fold()
            check_nothing_is_lost(rig, pair.events)
    pair.turn(0)
    rig.fold()
    check_nothing_is_lost(rig, pair.events)
