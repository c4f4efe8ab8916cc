"""What aorist needs of the outside: a log, stores for snapshots and time series, an authority for ownership.

The docstrings are contracts: `tests/contract` holds every adapter to them. A conflict is a result; an exception means that
something is broken or away. Unless said otherwise, methods may be called from any thread and may block.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol
from uuid import UUID

from aorist.position import Partition, ShardName, build_name, view_and_build

MAX_RECORD_BYTES = 1_000_000
"""Of one event, key and value together: what a Kafka broker takes by default, less its framing."""

TOMBSTONES_KEPT_MS = 86_400_000
"""How long a tombstone can still be read once a compacted topic could do without it: Kafka's delete.retention.ms, as it comes."""

# --- the log -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as declared. Exactly one of `retention_ms` and `compacted` is set."""

    name: str
    partitions: int
    retention_ms: int | None = None
    compacted: bool = False


class Topic(NamedTuple):
    """A topic as it exists. `id` is new whenever a topic is created, also under an old name."""

    name: str
    id: UUID
    partitions: int


class NewRecord(NamedTuple):
    """To be appended. `value` None: a tombstone."""

    partition: int
    key: bytes
    value: bytes | None


Record = tuple[int, bytes, bytes | None]
"""Offset, key, value. A plain tuple: one is made for every event of a catch-up."""


NO_LEADER = -1
"""Leader epoch where it is not known, or the log has no leaders that change."""


class Bounds(NamedTuple):
    """`start`: lowest offset that may be read from. `end`: offset that the next event will have at least."""

    start: int
    end: int


@dataclass(slots=True)
class Fetched:
    """Events of one partition, in order."""

    partition: Partition
    records: Sequence[Record]
    next_offset: int
    """Everything below has been read or does not exist: where to go on. Not the last offset + 1: offsets have gaps."""
    end_offset: int
    """End of the partition as known at this fetch. Caught up when `next_offset` reaches it."""
    time_us: int
    """When the last of `records` was appended, by the log's clock; 0 without records."""
    leader_epoch: int = NO_LEADER
    """Under which leader of the partition the last of `records` was written."""


class LogReader(Protocol):
    """Reads the partitions it is told to, from where it is told. Used by one thread only."""

    def assign(
        self, partition: Partition, offset: int, leader_epoch: int = NO_LEADER, topic_id: UUID | None = None
    ) -> None:
        """Reads `partition` from `offset` on. Events of it fetched earlier are dropped.

        `leader_epoch`: of the event before `offset`, if it is known. Where the log has lost that event since, and holds others there,
        `poll` raises LogTruncatedError. `topic_id`: of the topic that `offset` is of; LogTruncatedError when it is not there any more,
        also where another one has its name. Raises UnknownTopicError, LogUnavailableError.
        """
        ...

    def unassign(self, partition: Partition) -> None:
        """Stops; nothing of it is returned any more."""
        ...

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Fetched]:
        """Waits up to `timeout_s` for events, and returns at most `max_records` of them, committed ones only.

        A partition whose end was reached appears with no records: it says that the end was looked at just now. A partition that
        could not be looked at does not appear, so that its lag ages.

        Raises LogTruncatedError when an assigned offset is below the start or above the end of the log, the log goes on under an older
        leader than before, or the topic was deleted or made anew; `unassign` it then. Nothing else that was read is lost by it. Raises
        LogUnavailableError once the log is closed.
        """
        ...

    def commit(self, partition: Partition, next_offset: int) -> None:
        """Tells lag tools how far snapshots are. Nothing in aorist reads it back. Best effort; does not raise for an absent log."""
        ...

    def close(self) -> None: ...


class EventLog(Protocol):
    """Topics of ordered partitions of events."""

    def create(self, spec: TopicSpec) -> Topic:
        """Makes the topic unless it is there. Raises PartitionCountError where it is, with another number of partitions."""
        ...

    def describe(self, name: str) -> Topic:
        """Raises UnknownTopicError."""
        ...

    def bounds(self, partition: Partition) -> Bounds:
        """By the log itself, not from memory. Raises UnknownTopicError, LogUnavailableError."""
        ...

    async def append(self, topic: str, records: Sequence[NewRecord]) -> Sequence[int]:
        """Appends and returns their offsets once they are durable; order is kept among records of one partition.

        Called on the event loop by any number of tasks at once; waits (that is the back pressure) while too much is in flight. Calls
        are taken in the order in which they began, also while they wait. Nothing to append: returns at once.
        Raises LogUnavailableError when it is not known whether all of them became durable, UnknownTopicError, and
        RecordTooLargeError above MAX_RECORD_BYTES (then none was taken).
        """
        ...

    def reader(self, group: str) -> LogReader:
        """A new reader. `group` names it to lag tools; it takes part in no group protocol."""
        ...

    def close(self) -> None:
        """Ends it. What was not acknowledged fails."""
        ...


# --- snapshots -----------------------------------------------------------------------------------------------------------


class ShardRows(NamedTuple):
    """Names the rows of one shard. A new build of a view, or a topic made anew, never meets old rows."""

    view: str
    build: int
    topic_id: UUID
    partition: int


class SnapshotRow(NamedTuple):
    """The state of one key. `offset`: of the last event in it. `epoch`: under which it was folded."""

    key: bytes
    state: bytes
    offset: int
    epoch: int


class Checkpoint(NamedTuple):
    """Every event below `next_offset` is in durable rows. `time_us`: when it was taken, wall clock.

    `leader_epoch`: of the last event below `next_offset`, for `LogReader.assign`.
    """

    next_offset: int
    epoch: int
    time_us: int
    leader_epoch: int = NO_LEADER


class ParkedState(IntEnum):
    """How far a parked event has come; it never goes back. RELEASED: its key's row is at or past it."""

    PARKED = 0
    SKIPPED = 1
    RELEASED = 2


class ParkedEvent(NamedTuple):
    """An event that could not be folded, or that waits behind one of its key. It counts only above the offset of its key's row.

    `value`: as in the log; None also once it is released. `reason`: why it is not folded, for people. `time_us`: of this record, by the
    wall clock.
    """

    key: bytes
    offset: int
    value: bytes | None
    reason: str
    time_us: int
    state: ParkedState = ParkedState.PARKED


class SnapshotStore(Protocol):
    """Rows that never go backwards: what has the higher offset stays, whoever writes later. Equal offsets mean equal bytes."""

    def write_rows(self, shard: ShardRows, rows: Sequence[SnapshotRow]) -> None:
        """Returns when all are durable. Raises StoreUnavailableError when it is not known; writing again is harmless."""
        ...

    def write_checkpoint(self, shard: ShardRows, checkpoint: Checkpoint) -> None:
        """As `write_rows`; ordered by `next_offset`."""
        ...

    def read_checkpoint(self, shard: ShardRows) -> Checkpoint | None: ...

    def read_rows(self, shard: ShardRows) -> Iterator[Sequence[SnapshotRow]]:
        """All rows of the shard, in pieces of bounded size, in any order. Raises StoreUnavailableError."""
        ...

    def read_row(self, shard: ShardRows, key: bytes) -> SnapshotRow | None: ...

    def write_parked(self, shard: ShardRows, events: Sequence[ParkedEvent]) -> None:
        """As `write_rows`; of one event the later state stays, and of equal states the later time."""
        ...

    def read_parked(self, shard: ShardRows) -> Sequence[ParkedEvent]:
        """All of the shard, in the order of keys and offsets. Raises StoreUnavailableError."""
        ...

    def close(self) -> None: ...


# --- time series ---------------------------------------------------------------------------------------------------------

LATEST_US = 4_102_444_800_000_000
"""The year 2100. No store of time series looks at what starts before 1970 or from then on: what a query asks for may be any number."""


class SeriesSpec(NamedTuple):
    """Windows of one length that a view keeps. `keep_s`: for how long, from when a row is written."""

    view: str
    window_s: int
    keep_s: int


class SeriesRows(NamedTuple):
    """Names the windows of one length that one build of a view has written. Views and topics as in ShardRows."""

    view: str
    build: int
    topic_id: UUID
    window_s: int


class WindowRow(NamedTuple):
    """A closed window of one key; it never changes again.

    `start_us`: microseconds since 1970, a multiple of the length. `offset`: of an event at or after the one that closed it.
    """

    key: bytes
    start_us: int
    totals: bytes
    offset: int


class SeriesStore(Protocol):
    """Closed windows, kept for a while. What has the higher offset stays; a window that is written twice has equal totals."""

    def write_windows(self, series: SeriesRows, rows: Sequence[WindowRow]) -> None:
        """Returns when all are durable. Raises StoreUnavailableError when it is not known; writing again is harmless."""
        ...

    def read_windows(
        self, series: SeriesRows, keys: Sequence[bytes], from_us: int, upto_us: int, limit: int
    ) -> dict[bytes, Sequence[WindowRow]]:
        """Of each key the first `limit` windows that start at or after `from_us` and before `upto_us`, in order of their starts.

        Keys without any are left out, and what has been kept long enough is not there any more. Raises StoreUnavailableError.
        """
        ...

    def close(self) -> None: ...


# --- ownership -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """One process that can own shards. `address`: host:port of its worker service. `views`: builds that it can fold, NAME@BUILD each.

    `leaving`: it hands over what it owns, and is given nothing any more.
    """

    name: str
    address: str
    views: tuple[str, ...]
    leaving: bool = False


class Claim(NamedTuple):
    """Who owns a shard. `epoch`: revision of the registry at which it was taken; grows with every claim of any shard."""

    member: str
    epoch: int


class Answering(NamedTuple):
    """The build of a view that answers. `before`: the one that did before it, 0: none. `revision`: at which this was said.

    `dropped`: builds that are never folded again.
    """

    build: int
    before: int
    revision: int
    dropped: frozenset[int] = frozenset()

    def promoting(self, build: int) -> Answering:
        """What is to be said for `build` to answer."""
        return self._replace(build=build, before=self.build)

    def dropping(self, build: int) -> Answering:
        """What is to be said for `build`, which does not answer, to be dropped."""
        return self._replace(before=self.before if self.before != build else 0, dropped=self.dropped | {build})


@dataclass(frozen=True, slots=True)
class Ownership:
    """The registry at one revision. A claim outlives its member only until the registry notices.

    `answering`: by the name of the view; it outlives all members.
    """

    revision: int
    members: Mapping[str, Member] = field(default_factory=dict)
    claims: Mapping[ShardName, Claim] = field(default_factory=dict)
    answering: Mapping[str, Answering] = field(default_factory=dict)

    def answers(self, view: str) -> str:
        """NAME@BUILD of the build that answers. Builds count from 1: nobody has NAME@0, which is where none was ever named."""
        answering = self.answering.get(view)
        return build_name(view, answering.build if answering is not None else 0)

    def epoch(self, shard: ShardName, claimed: int) -> int:
        """Under which the owner of `shard`, who claimed it at `claimed`, answers: no lower than answers of other builds before."""
        view, build = view_and_build(shard.view)
        answering = self.answering.get(view)
        return max(claimed, answering.revision) if answering is not None and answering.build == build else claimed


class Session(Protocol):
    """One member's presence. Used on the event loop only."""

    def valid_until(self) -> float:
        """`time.monotonic()` until which nobody else can have been given this member's shards; math.inf where there is no lease."""
        ...

    async def ended(self) -> None:
        """Returns once the presence is over: it was left, or its lease ran out and everything claimed under it is free to others."""
        ...

    async def claim(self, shard: ShardName, seen_epoch: int) -> int | None:
        """Takes the shard if its claim still has `seen_epoch` (0: is unclaimed). Returns the new epoch; None: somebody was faster."""
        ...

    async def release(self, shard: ShardName, epoch: int) -> bool:
        """Gives it up if it is still held under `epoch`; says whether it was."""
        ...

    async def retire(self) -> None:
        """Tells all that the member is leaving. It keeps its claims until others take them, or it leaves."""
        ...

    async def leave(self) -> None:
        """Ends the presence; claims still held end with it."""
        ...


class OwnershipRegistry(Protocol):
    """The only authority on who owns what. Revisions never go back, not even over a restart of everything."""

    async def join(self, member: Member) -> Session:
        """Announces a member. Its name must be new or its own former one."""
        ...

    async def let_answer(self, view: str, said: Answering, seen: Answering | None) -> bool:
        """From now on builds of `view` are as `said`, if until now they are as `seen` (None: nothing was said yet). Says whether they were.

        The revision of `said` does not count. Raises RegistryUnavailableError when it is not known whether that was done, or may yet be.
        """
        ...

    def watch(self) -> AsyncIterator[Ownership]:
        """The registry now, then after every change; changes may be conflated, the last is never missed."""
        ...

    def problem(self) -> str:
        """Why what watches have shown last may be old: the registry is not heard. Empty: it is. Does not block."""
        ...

    async def close(self) -> None: ...
