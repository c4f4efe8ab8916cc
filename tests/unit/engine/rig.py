"""One shard on the real embedded adapters, its steps taken by hand: no thread runs, so every interleaving is the test's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from google.protobuf.message import Message

from aorist.adapters.sqlite import Database, SqliteEventLog, SqliteSeriesStore, SqliteSnapshotStore
from aorist.declare import View
from aorist.engine import checkpoint as checkpoints
from aorist.engine.fold import MOST_BEYOND, Folder
from aorist.engine.quarantine import Quarantine
from aorist.engine.restore import restore
from aorist.engine.series import ShardSeries
from aorist.engine.shard import Phase, Shard
from aorist.engine.threads import Fate
from aorist.ports import Checkpoint, NewRecord, SeriesStore, ShardRows, SnapshotStore
from aorist.position import Partition

P = ParamSpec("P")
T = TypeVar("T")

FAR = 10_000
"""Steps of a fold that never comes to an end."""


class AtOnce(Executor):
    """In the place of a thread."""

    def submit(self, call: Callable[P, T], /, *arguments: P.args, **named: P.kwargs) -> Future[T]:
        done: Future[T] = Future()
        try:
            done.set_result(call(*arguments, **named))
        except Exception as error:  # noqa: BLE001  # as a pool does
            done.set_exception(error)
        return done


class Rig:
    """A log, a store, and the shard that is open. `store` may be replaced by one that fails."""

    def __init__(self, database: Database, view: View[Any], partition: int = 0) -> None:
        self.view, self.database = view, database
        self.log_is_behind_s = 0  # by how much its clock is
        self.log = SqliteEventLog(database, clock_us=self.clock_us)
        self.quarantine = Quarantine(SqliteSnapshotStore(database), self.log, most_keys=0)
        self.series: SeriesStore = SqliteSeriesStore(database, view.series_specs())
        self.topic = self.log.create(view.schema.topic)
        self.partition = Partition(self.topic.name, partition)
        self.rows = ShardRows(view.name, view.build, self.topic.id, partition)
        self.committed: list[int] = []
        self._record = view.schema.recorder()
        self._epoch = 0

    def clock_us(self) -> int:
        """The log's."""
        return time.time_ns() // 1000 - self.log_is_behind_s * 1_000_000

    async def publish(self, *events: Message) -> Sequence[int]:
        """Their offsets."""
        return await self.append(*(self._record(event)[1:] for event in events))

    async def append(self, *records: tuple[bytes, bytes | None]) -> Sequence[int]:
        """Keys and values as they are, into the partition at hand."""
        return await self.log.append(self.topic.name, [NewRecord(self.partition.number, *record) for record in records])

    @property
    def store(self) -> SnapshotStore:
        return self.quarantine.store

    @store.setter
    def store(self, store: SnapshotStore) -> None:
        self.quarantine.store = store

    def open(self, most_beyond: int = MOST_BEYOND, *, owned: bool = True) -> Shard:
        """Restores the shard under the next epoch, as a process does that has just started."""
        self._epoch += 1
        self.shard = Shard(self.view, self.partition, self.rows, self._epoch if owned else 0)
        if self.view.series is not None:
            self.shard.series = ShardSeries(self.view, self.topic.id, self.series)
        next_offset = restore(self.shard, self.store, self.log)
        self.folder = Folder(self.view, self.log.reader("test"), self.quarantine, Fate(), most_beyond, AtOnce())
        self.folder.hold(self.shard, next_offset)
        self.folder._carry_out_orders()
        return self.shard

    def poll(self, records: int = 1000) -> None:
        """One turn of the fold's loop, with at most so many events."""
        for fetched in self.folder._reader.poll(records, 0.0):
            self.folder._fold(fetched)
        self.folder._park()

    def poll_as_the_thread_does(self) -> None:
        """One turn of the fold's loop, with what it does about a log that cannot be read, or a store that takes no checkpoint."""
        self.folder._pause_and_resume()
        self.folder._park()
        for fetched in self.folder._poll():
            self.folder._fold(fetched)

    def fold(self, upto: int | None = None) -> Shard:
        """Folds up to an offset or the end; less far only where it stands still."""
        goal = self.log.bounds(self.partition).end if upto is None else upto
        for _ in range(FAR):
            if self.shard.phase is Phase.HALTED:
                return self.shard
            if self.shard.next_offset >= goal and self.shard.phase is not Phase.CATCHING_UP:
                return self.shard
            self.poll(1000 if upto is None else max(1, goal - self.shard.next_offset))
        raise AssertionError(f"stuck in {self.shard.phase} at {self.shard.next_offset} of {goal}")

    def checkpoint(self) -> Checkpoint | None:
        return checkpoints.checkpoint(self.shard, self.store, lambda _, next_offset: self.committed.append(next_offset))

    def states(self) -> dict[bytes, Any]:
        """Encoded, by key: what a snapshot would hold now."""
        encode = self.view.codec.encode
        return {key: encode(entry.state) for key, entry in self.shard.entries.items()}

    def stored(self) -> dict[bytes, tuple[bytes, int]]:
        """State and offset of every durable row."""
        return {row.key: (row.state, row.offset) for page in self.store.read_rows(self.rows) for row in page}


@contextmanager
def rig(folder: Path, view: View[Any], partition: int = 0) -> Iterator[Rig]:
    """On a file of its own."""
    database = Database(folder / "aorist.db")
    try:
        yield Rig(database, view, partition)
    finally:
        database.close()
