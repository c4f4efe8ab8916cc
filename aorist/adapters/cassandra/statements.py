"""The statements, prepared. No other ones touch the tables: a single write without its timestamp would hide all later ones."""
# ruff: noqa: S608  # names stand in the texts because CQL binds values only; `check_keyspace` has looked at the one from outside

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from cassandra.cluster import Session
from cassandra.query import BoundStatement, PreparedStatement

from aorist.adapters.cassandra.failures import Place
from aorist.adapters.cassandra.rows import Values
from aorist.adapters.cassandra.schema import (
    BUCKETS,
    bucket_column,
    buckets_of,
    read_columns,
    series_table,
    trouble_with,
    trouble_with_series,
)


class SeriesStatements(NamedTuple):
    """Of the windows of one length of one view."""

    write: PreparedStatement
    read: PreparedStatement
    look: PreparedStatement


class Statements(NamedTuple):
    session: Session
    buckets: int
    series: dict[tuple[str, int], SeriesStatements]
    """By view and length, those that were needed so far."""
    write_row: PreparedStatement
    write_checkpoint: PreparedStatement
    read_rows: PreparedStatement
    read_row: PreparedStatement
    read_checkpoint: PreparedStatement
    write_parked: PreparedStatement
    read_parked: PreparedStatement

    def execute(self, statement: PreparedStatement, values: Values) -> Any:
        """Returns its first row, if it has any. Blocks."""
        return next(iter(self.session.execute(bound(statement, values))), None)


def prepare(session: Session, place: Place) -> Statements:
    """Looks at the tables first. Raises StoreUnavailableError where they are not there, or not ours."""
    keyspace = place.keyspace
    buckets = buckets_of(read_columns(session, keyspace, "snapshots")) or BUCKETS
    if trouble := trouble_with(session, keyspace, buckets):
        raise place.unusable(trouble)
    bucket = bucket_column(buckets)
    columns = "view_name, build, topic_id, partition"
    shard = "view_name = ? AND build = ? AND topic_id = ? AND partition = ?"
    texts = [
        f"INSERT INTO {keyspace}.snapshots ({columns}, {bucket}, key, cell) VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?",
        f"INSERT INTO {keyspace}.checkpoints ({columns}, cell) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
        f"SELECT key, cell FROM {keyspace}.snapshots WHERE {shard} AND {bucket} = ?",
        f"SELECT key, cell FROM {keyspace}.snapshots WHERE {shard} AND {bucket} = ? AND key = ?",
        f"SELECT cell FROM {keyspace}.checkpoints WHERE {shard}",
        f"INSERT INTO {keyspace}.quarantine ({columns}, key, event_offset, cell) VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?",
        f"SELECT key, event_offset, cell FROM {keyspace}.quarantine WHERE {shard}",
    ]
    return Statements(session, buckets, {}, *_prepared(session, texts))


def prepare_series(session: Session, place: Place, view: str, window_s: int) -> SeriesStatements:
    """Looks at the table first. Raises StoreUnavailableError where it is not there, or not ours."""
    name = series_table(view, window_s)
    if trouble := trouble_with_series(session, place.keyspace, name):
        raise place.unusable(trouble)
    table = f'{place.keyspace}."{name}"'
    key, between = "build = ? AND topic_id = ? AND key = ?", "start_us >= ? AND start_us < ?"
    texts = [
        f"INSERT INTO {table} (build, topic_id, key, span, start_us, cell) VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?",
        f"SELECT start_us, cell FROM {table} WHERE {key} AND span = ? AND {between} LIMIT ?",
        f"SELECT span FROM {table} WHERE {key} AND span IN ? AND {between} PER PARTITION LIMIT 1",
    ]
    return SeriesStatements(*_prepared(session, texts))


def _prepared(session: Session, texts: Sequence[str]) -> list[PreparedStatement]:
    prepared = [session.prepare(text) for text in texts]
    for statement in prepared:
        statement.is_idempotent = True  # the writes, too: same timestamp, same bytes
    return prepared


def bound(statement: PreparedStatement, values: Values, **options: Any) -> BoundStatement:
    """`values` are serialised already, which `PreparedStatement.bind` would do slowly, one by one and by their types."""
    made = BoundStatement(statement, **options)
    made.values = values
    return made
