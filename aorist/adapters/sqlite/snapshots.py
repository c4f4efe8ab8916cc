"""SnapshotStore on the embedded database: rows and checkpoints that never go backwards."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import partial

from aorist.adapters.sqlite.database import Database
from aorist.ports import Checkpoint, ParkedEvent, ParkedState, ShardRows, SnapshotRow

PIECE_ROWS = 256
PIECE_BYTES = 1_000_000
"""Bounds of what is written in one go (a big checkpoint must not hold up appends) and of what is read in one go."""

_WRITE_ROW = """
INSERT INTO snapshots (shard_no, key, state, offset, epoch) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET state = excluded.state, offset = excluded.offset, epoch = excluded.epoch
WHERE excluded.offset > snapshots.offset
"""

_WRITE_CHECKPOINT = """
INSERT INTO checkpoints (shard_no, next_offset, epoch, time_us, leader_epoch) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset, epoch = excluded.epoch, time_us = excluded.time_us,
leader_epoch = excluded.leader_epoch
WHERE excluded.next_offset >= checkpoints.next_offset
"""

_WRITE_PARKED = """
INSERT INTO quarantine (shard_no, key, offset, value, reason, time_us, state) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET value = excluded.value, reason = excluded.reason, time_us = excluded.time_us, state = excluded.state
WHERE (excluded.state, excluded.time_us) > (quarantine.state, quarantine.time_us)
"""

_FIRST_ROWS = "SELECT key, state, offset, epoch FROM snapshots WHERE shard_no = ? AND key >= ? ORDER BY key LIMIT ?"
_NEXT_ROWS = "SELECT key, state, offset, epoch FROM snapshots WHERE shard_no = ? AND key > ? ORDER BY key LIMIT ?"


class SqliteSnapshotStore:
    """The `SnapshotStore` of embedded mode. Its methods block; call them off the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write_rows(self, shard: ShardRows, rows: Sequence[SnapshotRow]) -> None:
        for piece in _pieces(rows):
            self._database.write(partial(_write_rows, shard=shard, rows=piece))

    def write_checkpoint(self, shard: ShardRows, checkpoint: Checkpoint) -> None:
        def write(connection: sqlite3.Connection) -> None:
            connection.execute(_WRITE_CHECKPOINT, (_make_shard(connection, shard), *checkpoint))

        self._database.write(write)

    def read_checkpoint(self, shard: ShardRows) -> Checkpoint | None:
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT next_offset, epoch, time_us, leader_epoch FROM checkpoints WHERE shard_no = ?",
                (_find_shard(connection, shard),),
            ).fetchone()
        return Checkpoint(*row) if row else None

    def read_rows(self, shard: ShardRows) -> Iterator[Sequence[SnapshotRow]]:
        page, more = self._page(_FIRST_ROWS, shard, b"")
        while page:
            yield page
            if not more:
                return
            page, more = self._page(_NEXT_ROWS, shard, page[-1].key)

    def read_row(self, shard: ShardRows, key: bytes) -> SnapshotRow | None:
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT key, state, offset, epoch FROM snapshots WHERE shard_no = ? AND key = ?",
                (_find_shard(connection, shard), key),
            ).fetchone()
        return SnapshotRow(*row) if row else None

    def write_parked(self, shard: ShardRows, events: Sequence[ParkedEvent]) -> None:
        for start in range(0, len(events), PIECE_ROWS):
            self._database.write(partial(_write_parked, shard=shard, events=events[start : start + PIECE_ROWS]))

    def read_parked(self, shard: ShardRows) -> Sequence[ParkedEvent]:
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT key, offset, value, reason, time_us, state FROM quarantine WHERE shard_no = ? ORDER BY key, offset",
                (_find_shard(connection, shard),),
            ).fetchall()
        return [
            ParkedEvent(key, offset, value, reason, time_us, ParkedState(state))
            for key, offset, value, reason, time_us, state in rows
        ]

    def close(self) -> None:
        """Nothing of its own to end: the database belongs to whoever opened it."""

    def _page(self, statement: str, shard: ShardRows, key: bytes) -> tuple[list[SnapshotRow], bool]:
        """One page, and whether more may follow. Its read transaction is over when it returns."""
        page: list[SnapshotRow] = []
        size = 0
        with self._database.reading() as connection:
            rows = connection.execute(statement, (_find_shard(connection, shard), key, PIECE_ROWS))
            for row in map(SnapshotRow._make, rows):
                page.append(row)
                size += len(row.key) + len(row.state)
                if size >= PIECE_BYTES:
                    break
            rows.close()
        return page, len(page) == PIECE_ROWS or size >= PIECE_BYTES


def _pieces(rows: Sequence[SnapshotRow]) -> Iterator[list[SnapshotRow]]:
    piece: list[SnapshotRow] = []
    size = 0
    for row in rows:
        piece.append(row)
        size += len(row.key) + len(row.state)
        if len(piece) == PIECE_ROWS or size >= PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _write_rows(connection: sqlite3.Connection, shard: ShardRows, rows: list[SnapshotRow]) -> None:
    no = _make_shard(connection, shard)
    connection.executemany(_WRITE_ROW, [(no, *row) for row in rows])


def _write_parked(connection: sqlite3.Connection, shard: ShardRows, events: Sequence[ParkedEvent]) -> None:
    no = _make_shard(connection, shard)
    connection.executemany(_WRITE_PARKED, [(no, *event) for event in events])


def _make_shard(connection: sqlite3.Connection, shard: ShardRows) -> int:
    no = _find_shard(connection, shard)
    if no is None:
        no = connection.execute(
            "INSERT INTO shards (view, build, topic_id, idx) VALUES (?, ?, ?, ?)", _columns(shard)
        ).lastrowid
        assert no is not None
    return no


def _find_shard(connection: sqlite3.Connection, shard: ShardRows) -> int | None:
    row = connection.execute(
        "SELECT no FROM shards WHERE view = ? AND build = ? AND topic_id = ? AND idx = ?", _columns(shard)
    ).fetchone()
    return int(row[0]) if row else None


def _columns(shard: ShardRows) -> tuple[str, int, bytes, int]:
    return shard.view, shard.build, shard.topic_id.bytes, shard.partition
