"""A plain reader of the embedded database: SQL and generated protobuf, nothing of aorist.

What it says about events, rows and checkpoints is what tests hold answers against.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

from fleet.arms.v1.events_pb2 import ArmEvent, JointPositionsChanged
from fleet.arms.v1.queries_pb2 import ArmPosition
from fleet.arms.v1.snapshots_pb2 import ArmPositionSnapshot

TOPIC, VIEW = "fleet.arms.v1", "arm_position"
T = TypeVar("T")

Fold = Callable[[list[JointPositionsChanged]], ArmPosition]


class Event(NamedTuple):
    partition: int
    offset: int
    key: bytes
    value: bytes


class Row(NamedTuple):
    """Of the snapshots."""

    partition: int
    key: bytes
    state: bytes
    offset: int
    epoch: int


class Saved(NamedTuple):
    """A checkpoint."""

    next_offset: int
    epoch: int


@dataclass(frozen=True)
class LogFile:
    """Everything in the file at one moment."""

    events: list[Event]  # by partition and offset
    ends: dict[int, int]
    rows: list[Row]
    checkpoints: dict[int, Saved]
    committed: dict[int, int]
    revision: int

    @classmethod
    def of(cls, db: Path) -> LogFile:
        """Of a file that a process may be writing to."""
        with closing(sqlite3.connect(db)) as connection:
            connection.execute("PRAGMA query_only = 1")
            connection.execute("BEGIN")
            return cls._read(connection)

    @classmethod
    def of_dead(cls, db: Path) -> LogFile:
        """Of a file whose process was killed, which is left as it is: reading it in place would tidy it up."""
        with tempfile.TemporaryDirectory() as folder:
            for part in (db, db.with_name(db.name + "-wal")):
                if part.exists():
                    shutil.copy(part, Path(folder) / part.name)
            with closing(sqlite3.connect(Path(folder) / db.name)) as connection:
                return cls._read(connection)

    @classmethod
    def _read(cls, connection: sqlite3.Connection) -> LogFile:
        def rows(make: Callable[..., T], statement: str, *values: object) -> list[T]:
            return [make(*row) for row in connection.execute(statement, values)]

        return cls(
            events=rows(
                Event,
                "SELECT idx, offset, key, value FROM events JOIN partitions ON no = partition_no "
                "WHERE topic = ? ORDER BY idx, offset",
                TOPIC,
            ),
            ends=dict(rows(_pair, 'SELECT idx, "end" FROM partitions WHERE topic = ?', TOPIC)),
            rows=rows(
                Row,
                "SELECT idx, key, state, offset, epoch FROM snapshots JOIN shards ON no = shard_no "
                "WHERE view = ? AND topic_id = (SELECT id FROM topics WHERE name = ?)",
                VIEW,
                TOPIC,
            ),
            checkpoints=dict(
                rows(
                    _saved,
                    "SELECT idx, next_offset, epoch FROM checkpoints JOIN shards ON no = shard_no "
                    "WHERE view = ? AND topic_id = (SELECT id FROM topics WHERE name = ?)",
                    VIEW,
                    TOPIC,
                )
            ),
            committed=dict(
                rows(
                    _pair,
                    "SELECT idx, next_offset FROM committed WHERE topic = ? AND reader_group = ?",
                    TOPIC,
                    f"{VIEW}@1",
                )
            ),
            revision=connection.execute("SELECT revision FROM registry").fetchone()[0],
        )

    @cached_property
    def by_arm(self) -> dict[str, list[tuple[int, JointPositionsChanged]]]:
        """(offset, what happened) of each arm, in order."""
        arms: dict[str, list[tuple[int, JointPositionsChanged]]] = {}
        for event in self.events:
            changed = ArmEvent.FromString(event.value).joint_positions_changed
            assert changed.arm_id.encode() == event.key
            arms.setdefault(changed.arm_id, []).append((event.offset, changed))
        return arms

    def samples(self) -> Counter[tuple[str, int]]:
        """How often each (arm, sample time) is in the log."""
        return Counter((arm, changed.sampled_at_us) for arm, events in self.by_arm.items() for _, changed in events)

    def count(self) -> dict[str, int]:
        """Distinct sample times of each arm."""
        return dict(Counter(arm for arm, _ in self.samples()))

    def of_arm(self, arm_id: str) -> list[Event]:
        return [event for event in self.events if event.key == arm_id.encode()]

    def folded(self, fold: Fold) -> dict[str, ArmPosition]:
        """Every arm as all events of it make it."""
        return {arm: fold([changed for _, changed in events]) for arm, events in self.by_arm.items()}

    def check_snapshots(self, fold: Fold, read: Callable[[bytes], ArmPosition] = ArmPosition.FromString) -> None:
        """No checkpoint is ahead of the rows, no row says anything but what the events up to its offset say.

        `read`: what the bytes of a state mean.
        """
        for partition, saved in self.checkpoints.items():
            assert saved.next_offset <= self.ends[partition], f"checkpoint of {partition} is past the log's end"
            held = {row.key: row.offset for row in self.rows if row.partition == partition}
            needed = {e.key: e.offset for e in self.events if e.partition == partition and e.offset < saved.next_offset}
            behind = {key: last for key, last in needed.items() if held.get(key, -1) < last}
            assert not behind, f"checkpoint {saved} of partition {partition} is ahead of the rows of {behind}"
        for row in self.rows:
            events = self.by_arm[row.key.decode()]
            expected = fold([changed for offset, changed in events if offset <= row.offset])
            expected.ClearField("arm_id")
            assert read(row.state) == expected, f"row of {row.key!r} at {row.offset}"
            assert row.epoch <= self.revision


def newest(events: list[JointPositionsChanged]) -> ArmPosition:
    """What the view of this project must answer: each axis where its newest sample has it; of equals, the later event."""
    axes: dict[int, tuple[int, float]] = {}
    for event in events:
        for axis in event.axes:
            if axis.axis not in axes or event.sampled_at_us >= axes[axis.axis][0]:
                axes[axis.axis] = (event.sampled_at_us, axis.position)
    position = ArmPosition(arm_id=events[0].arm_id)
    for number, (sampled_at_us, value) in sorted(axes.items()):
        position.axes.add(axis=number, position=value, sampled_at_us=sampled_at_us)
    return position


def newest_snapshot(state: bytes) -> ArmPosition:
    """What the bytes of a state of the view of this project mean."""
    snapshot = ArmPositionSnapshot.FromString(state)
    position, times = ArmPosition(axes=snapshot.axes), list(snapshot.sampled_at_us)
    for number, value in enumerate(snapshot.positions):
        position.axes.add(axis=number, position=value, sampled_at_us=times[number if len(times) > 1 else 0])
    return position


def _pair(index: int, value: int) -> tuple[int, int]:
    return index, value


def _saved(index: int, next_offset: int, epoch: int) -> tuple[int, Saved]:
    return index, Saved(next_offset, epoch)
