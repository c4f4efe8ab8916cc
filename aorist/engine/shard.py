"""A shard: one partition of one view in memory, shared between the thread that folds and the loop that answers.

Everything below `lock` is touched under it only. The fold thread holds it for a slice of events at a time, so that queries and
checkpoints never see a half-applied event.
"""

from __future__ import annotations

import asyncio
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from threading import Lock
from typing import Any, NamedTuple

from aorist.declare.view import View
from aorist.engine.parked import Parked
from aorist.engine.series import ShardSeries
from aorist.errors import (
    HaltedError,
    NoOwnerError,
    QuarantinedError,
    RestoringError,
    StaleError,
    UnavailableError,
    UnknownKeyError,
)
from aorist.ports import NO_LEADER, Checkpoint, Fetched, Record, ShardRows
from aorist.position import NOTHING, Partition, ShardName
from aorist.v1 import position_pb2, read_pb2


class Phase(StrEnum):
    """RESTORING: reading rows. CATCHING_UP: events that the rows already hold are still ahead. HALTED: an event could not be folded."""

    RESTORING = "RESTORING"
    CATCHING_UP = "CATCHING_UP"
    SERVING = "SERVING"
    HALTED = "HALTED"
    CLOSED = "CLOSED"


class Entry:
    """The state of one key and the offset of the last event in it."""

    __slots__ = ("offset", "state")

    def __init__(self, state: Any, offset: int) -> None:
        self.state = state
        self.offset = offset


class Lag(NamedTuple):
    """How far behind the log: events known to be ahead, and how old the state may be."""

    events: int
    ms: int


class Waiter(NamedTuple):
    ready: Callable[[], bool]
    future: asyncio.Future[None]


class Shard:
    """Made on the loop that answers. `epoch`: under which it is owned."""

    def __init__(self, view: View[Any], partition: Partition, rows: ShardRows, epoch: int) -> None:
        self.view, self.partition, self.rows, self.epoch = view, partition, rows, epoch
        self.name = ShardName(view.build_name, partition.number)
        self.owned = epoch > 0
        self.warm = False  # has reached the end of the log since it was restored
        self.on_change: Callable[[], None] = lambda: None  # called on the loop when phase or warmth has changed
        self.lock = Lock()
        self.phase = Phase.RESTORING
        self.problem = ""  # why it stands still
        self.trouble = ""  # why it has no newer checkpoint
        self.entries: dict[bytes, Entry] = {}
        self.dirty: set[bytes] = set()
        self.broken: dict[bytes, str] = {}  # keys taken out after a failed apply, with the reason
        self.parked: dict[bytes, Parked] = {}  # keys in quarantine
        self.began_at = NOTHING  # where folding began in this process; NOTHING: it has not
        self.next_offset = 0
        self.leader_epoch = NO_LEADER  # of the last event below `next_offset`
        self.end_offset = 0
        self.row_offset = NOTHING  # the newest event in any restored row: younger than this we may not answer
        self.checkpoint: Checkpoint | None = None
        self.series: ShardSeries | None = None  # of a view that keeps windows of time
        self.unknown_events = 0
        self._looked_at = time.monotonic()  # when the end of the log was last seen
        self._at_end_at = -math.inf  # when it was last reached
        self._owned_at = time.monotonic() if self.owned else math.inf
        self._event_time_us = 0  # when the last event folded was appended
        self._keys: list[bytes] = []  # sorted, without `_new_keys`
        self._new_keys: list[bytes] = []
        self._waiters: list[Waiter] = []
        self._watched: dict[bytes, set[asyncio.Event]] = {}
        self._header = read_pb2.ReadHeader(
            position=position_pb2.Position(topic=partition.topic, partition=partition.number)
        )
        self._loop = asyncio.get_running_loop()

    # --- the fold thread ---

    def begin(self, next_offset: int) -> None:
        """Restored: folding goes on at `next_offset`."""
        with self.lock:
            if self.phase is Phase.CLOSED:
                return
            self.began_at = self.next_offset = self.end_offset = next_offset
            self._new_keys = list(self.entries)
            self.phase = Phase.CATCHING_UP
            self._looked_at = time.monotonic()

    def folded(self, fetched: Fetched, upto: int, piece: Sequence[Record]) -> None:
        """Called under the lock after `piece`: everything below `upto` is in the state. Wakes whom it concerns, once."""
        self._note_leader(fetched, upto, piece)
        self.next_offset = upto
        self.end_offset = max(fetched.end_offset, upto)
        changed = False
        if upto >= fetched.next_offset:
            self._looked_at = time.monotonic()
            if fetched.time_us:
                self._event_time_us = fetched.time_us
            if self.phase is Phase.CATCHING_UP and upto > self.row_offset:
                self.phase = Phase.SERVING  # not within the first batch: how old it is says only its last event
                changed = True
            if upto >= self.end_offset:
                self._at_end_at = self._looked_at
                if not self.warm:
                    self.warm = changed = True
        if changed:
            self._loop.call_soon_threadsafe(self.on_change)
        woken = {event for _, key, _ in piece for event in self._watched.get(key, ())} if self._watched else set()
        if woken or any(w.ready() for w in self._waiters):
            self._loop.call_soon_threadsafe(self._wake, woken)

    def _note_leader(self, fetched: Fetched, upto: int, piece: Sequence[Record]) -> None:
        """Exactly, or not at all: with the leader of an older event the log would seem to have lost newer ones."""
        if not piece:
            if upto > self.next_offset:
                self.leader_epoch = NO_LEADER  # what fills the gap may be of another leader
        elif upto >= fetched.next_offset:
            self.leader_epoch = fetched.leader_epoch if piece[-1][0] + 1 == upto else NO_LEADER
        elif self.leader_epoch != fetched.leader_epoch:
            self.leader_epoch = NO_LEADER  # the leader changed somewhere in these events

    def new_key(self, key: bytes) -> None:
        """Called under the lock when the first event of a key is folded."""
        self._new_keys.append(key)

    def take_out(self, key: bytes, problem: str) -> None:
        """Called under the lock: the state of `key` may be half-changed. It does not answer until `put_back`."""
        del self.entries[key]
        self.broken[key] = problem

    def put_back(self, key: bytes, entry: Entry) -> None:
        """The key as it was before the event that broke it."""
        with self.lock:
            self.entries[key] = entry
            del self.broken[key]

    def go_on(self, next_offset: int) -> None:
        """Folds on at `next_offset`: the event before it is parked, or in a row."""
        with self.lock:
            if self.phase is Phase.CLOSED:
                return
            self.next_offset, self.problem = next_offset, ""
            self.end_offset = max(self.end_offset, next_offset)
            if next_offset <= self.row_offset:
                self.phase = Phase.CATCHING_UP
            elif self.phase is Phase.HALTED:
                self.phase = Phase.SERVING
            watches = {event for key in self.parked for event in self._watched.get(key, ())}
        self._loop.call_soon_threadsafe(self._wake, watches)
        self._loop.call_soon_threadsafe(self.on_change)

    def wake(self, key: bytes) -> None:
        """`key` has changed otherwise than by the fold."""
        with self.lock:
            watches = set(self._watched.get(key, ()))
        self._loop.call_soon_threadsafe(self._wake, watches)

    def halt(self, problem: str, *, untrue: bool = False) -> None:
        """Stands still where it is. What waits fails with `problem`. `untrue`: so does all else, and nothing more is written of it."""
        with self.lock:
            self.phase, self.problem = Phase.HALTED, problem
            if untrue:
                self.began_at = NOTHING
        self._loop.call_soon_threadsafe(self._wake_all)
        self._loop.call_soon_threadsafe(self.on_change)

    # --- the loop ---

    def own(self, epoch: int) -> None:
        """This process owns it, under `epoch`."""
        self.epoch, self.owned, self._owned_at = epoch, True, time.monotonic()

    def stand_by(self, epoch: int) -> None:
        """Another owns it, under `epoch` (0: nobody). It folds on, so that its state stays true."""
        self.epoch, self.owned, self._owned_at = epoch, False, math.inf

    def _wake(self, watches: Collection[asyncio.Event]) -> None:
        for event in watches:
            event.set()
        with self.lock:
            done = [w for w in self._waiters if w.ready()]
            self._waiters = [w for w in self._waiters if w not in done]
        for waiter in done:
            if not waiter.future.done():
                waiter.future.set_result(None)

    def _wake_all(self) -> None:
        for watches in self._watched.values():
            for event in watches:
                event.set()
        with self.lock:
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.future.done():
                waiter.future.set_result(None)

    def close(self) -> None:
        """No longer held here: what waits fails with NO_OWNER."""
        with self.lock:
            self.phase = Phase.CLOSED
        self._wake_all()

    @contextmanager
    def watching(self, key: bytes) -> Iterator[asyncio.Event]:
        """An event that is set whenever `key` changes, or the shard ends."""
        event = asyncio.Event()
        with self.lock:
            self._watched.setdefault(key, set()).add(event)
        try:
            yield event
        finally:
            with self.lock:
                self._watched[key].discard(event)
                if not self._watched[key]:
                    del self._watched[key]

    def is_fresh(self, read: read_pb2.ReadOptions) -> bool:
        """Whether an answer given now meets `read`."""
        offset, staleness = self._asked(read)
        return self._serves() and self.next_offset > offset and (staleness is None or self.lag().ms <= staleness)

    def _asked(self, read: read_pb2.ReadOptions) -> tuple[int, int | None]:
        """Offset that an answer must include, and the lag in ms that it may have."""
        offset = max((p.offset for p in read.at_least if (p.topic, p.partition) == self.partition), default=NOTHING)
        return offset, read.max_staleness_ms if read.HasField("max_staleness_ms") else None

    async def fresh(self, read: read_pb2.ReadOptions, timeout_s: float) -> bool:
        """Waits until an answer meets `read`. Says whether it would be stale (with ON_STALE_RETURN).

        Raises NoOwnerError, RestoringError, HaltedError, StaleError.
        """
        ended, deadline = (Phase.HALTED, Phase.CLOSED), time.monotonic() + timeout_s
        # Again and again: what was fresh for the fold thread may be too old by the time that this loop has its turn.
        while not self.is_fresh(read) and self.phase not in ended and (left_s := deadline - time.monotonic()) > 0:
            await self._until(lambda: self.is_fresh(read) or self.phase in ended, left_s)
        self.check_held()
        if self.is_fresh(read):
            return False
        offset, staleness = self._asked(read)
        late = StaleError(
            f"{self.name} is at offset {self.next_offset - 1} with {self.lag().ms} ms lag; asked for"
            + (f" offset {offset} or later" if offset >= 0 else "")
            + (f" at most {staleness} ms lag" if staleness is not None else "")
            + ": ask again, raise read.max_wait_ms, or set read.on_stale to ON_STALE_RETURN"
        )
        if read.on_stale == read_pb2.ON_STALE_RETURN:
            return True
        raise HaltedError(f"{self.name} stands still: {self.problem}") if self.phase is Phase.HALTED else late

    async def settled(self) -> None:
        """Waits until it answers, stands still, or is closed."""
        await self._until(lambda: self.phase not in (Phase.RESTORING, Phase.CATCHING_UP), None)

    def check_held(self) -> None:
        """Raises what keeps this shard from answering at all."""
        if self.phase is Phase.SERVING:
            return
        if self.phase is Phase.CLOSED:
            raise NoOwnerError(f"{self.name} is not held here any more")
        if not self._serves():
            raise self._not_yet()

    def _serves(self) -> bool:
        if self.phase is Phase.HALTED:
            return self.began_at != NOTHING and self.next_offset > self.row_offset
        return self.phase is Phase.SERVING

    def _not_yet(self) -> UnavailableError:
        if self.phase is Phase.HALTED:
            return HaltedError(f"{self.name} stands still: {self.problem}")
        return RestoringError(
            f"{self.name} is {self.phase.replace('_', ' ').lower()} at offset {self.next_offset} of {self.row_offset + 1}"
        )

    async def _until(self, ready: Callable[[], bool], timeout_s: float | None) -> None:
        waiter = Waiter(ready, self._loop.create_future())
        with self.lock:
            if ready():
                return
            self._waiters.append(waiter)
        try:
            with suppress(TimeoutError):  # the caller looks again and says what is missing
                async with asyncio.timeout(timeout_s):
                    await waiter.future
        finally:
            with self.lock:
                self._waiters = [w for w in self._waiters if w is not waiter]

    # --- answering: under the lock ---

    def entry(self, key: bytes) -> Entry:
        """Raises UnknownKeyError only when that is certain: the key may be in events that are still ahead, and an owner before us may have
        answered for it. So a standby never says it, nor an owner that has not come to the end of the log since it is one; they raise
        RestoringError. So does a key that is being brought back after a failed apply; HaltedError where the shard stands still meanwhile.
        QuarantinedError: its first event is parked.
        """
        entry = self.entries.get(key)
        if entry is not None:
            return entry
        if key in self.parked:
            raise QuarantinedError(
                f"{self.view.name} knows no {key.decode(errors='replace')} before {self.parked[key].reason}"
            )
        if self.broken and key in self.broken:
            problem = f"{key.decode(errors='replace')}: {self.broken[key]}"
            if self.phase is Phase.HALTED:
                raise HaltedError(problem)
            raise RestoringError(f"is brought back as it was before an event that cannot be folded: {problem}")
        known = f"{self.view.name} knows no {key.decode(errors='replace')}"
        upto = f"{self.partition}@{self.next_offset - 1}"
        if self.phase is Phase.HALTED:
            raise HaltedError(f"{known} before {upto}, where {self.name} stands still: {self.problem}")
        if self._at_end_at < self._owned_at:
            raise RestoringError(
                f"{known} yet, at {upto}, and has not come to the end of the log since it changed hands"
            )
        raise UnknownKeyError(f"{known}: no event of it has been folded up to {upto}")

    def parked_for(self, key: bytes, read: read_pb2.ReadOptions) -> Parked | None:
        """Events of `key` that are held back. Raises QuarantinedError where the state before them is not what `read` asks for."""
        queue = self.parked.get(key)
        if queue is not None and (read.on_stale == read_pb2.ON_STALE_FAIL or self._asked(read)[0] >= queue.at):
            raise QuarantinedError(
                f"{key.decode(errors='replace')} is as it was before {queue.reason}", offset=queue.at
            )
        return queue

    def keys_after(self, key: bytes) -> Iterator[bytes]:
        """All keys beyond `key`, in order."""
        if self._new_keys:
            self._keys += self._new_keys
            self._keys.sort()  # two sorted runs, nearly: linear
            self._new_keys = []
        keys = self._keys
        for index in range(bisect_right(keys, key), len(keys)):
            yield keys[index]

    def lag(self) -> Lag:
        """Ages while the log cannot be read: cut off is not caught up."""
        since_look_ms = (time.monotonic() - self._looked_at) * 1000
        if self.next_offset >= self.end_offset:
            return Lag(0, int(since_look_ms))
        behind_ms = time.time() * 1000 - self._event_time_us / 1000 if self._event_time_us else 0
        return Lag(self.end_offset - self.next_offset, int(max(since_look_ms, behind_ms)))

    @property
    def role(self) -> read_pb2.Role.ValueType:
        return read_pb2.ROLE_OWNER if self.owned else read_pb2.ROLE_STANDBY

    def header(self, *, stale: bool, as_copy: bool = False, parked_at: int | None = None) -> read_pb2.ReadHeader:
        """How fresh an answer given now is. The next call changes it: to be copied.

        `as_copy`: of one that is not given as the owner. `parked_at`: of the first event that is held back of what was asked for.
        """
        header = self._header
        header.position.offset = self.next_offset - 1
        header.lag_events, header.lag_ms = self.lag()
        if parked_at is not None and parked_at < self.next_offset:
            header.lag_events += self.next_offset - parked_at
            header.position.offset, stale = parked_at - 1, True
        header.epoch, header.role = self.epoch, read_pb2.ROLE_STANDBY if as_copy else self.role
        header.stale = stale or as_copy
        return header
