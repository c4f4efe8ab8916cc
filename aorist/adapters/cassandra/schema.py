"""The tables: how they are made, and what is refused because it is not them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cassandra.cluster import Session

from aorist.adapters.cassandra.cluster import check_keyspace, make_cluster
from aorist.adapters.cassandra.failures import FAILURES, Place
from aorist.errors import SettingError
from aorist.ports import SeriesSpec

BUCKETS = 16
"""Cassandra partitions that the rows of one shard are spread over.

More of them keep each small: a shard of 1 GB, which is more than a worker would hold, stays within the 100 MB that
Cassandra is comfortable with. Fewer make longer batches of the rows of one checkpoint and fewer reads of a small shard.
A restore reads four at a time; more than that gains nothing.
"""

_OPTIONS = {
    # Every checkpoint writes hot rows again, and whole shards are read only at a restore: tiers of four keep the rewriting
    # low, and the number of files that a restore merges bounded. Strategies by time are out of the question: the
    # timestamps are positions.
    "compaction": "{'class': 'UnifiedCompactionStrategy', 'scaling_parameters': 'T4'}",
    # States of one type resemble each other and are read by the thousand: longer chunks than usual compress better.
    "compression": "{'class': 'LZ4Compressor', 'chunk_length_in_kb': 64}",
    # Nothing is ever deleted, so there are no tombstones to keep. It is Cassandra's default and not 0, because hints for
    # a node that is away live no longer than this.
    "gc_grace_seconds": "864000",
}
"""Of the tables of snapshots. They may be altered."""

_SERIES_OPTIONS = {
    # Written once and read by ranges. Here, too, strategies by time are out of the question.
    "compaction": "{'class': 'UnifiedCompactionStrategy', 'scaling_parameters': 'T4'}",
    # Rows that expired stay as tombstones for so long. All copies expire by themselves and at one time, so that no node has to
    # be told of it: what is left is hints for a node that is away, which are kept for three hours and live no longer than this.
    "gc_grace_seconds": "10800",
}
"""Of the tables of time series, beside the time that rows are kept."""

LONGEST_KEPT_S = 630_720_000
"""Cassandra's longest: twenty years."""


class Column(NamedTuple):
    """As `system_schema.columns` tells it. `position` -1: not part of the key."""

    name: str
    kind: str
    position: int
    type: str


_SHARD = [("view_name", "text"), ("build", "int"), ("topic_id", "uuid"), ("partition", "int")]
_TABLE = re.compile(r"[A-Za-z0-9_]{1,48}")
_BUCKET = re.compile(r"bucket_of_([1-9][0-9]*)")


def bucket_column(buckets: int) -> str:
    """The number of buckets is in the name of a key column, which every statement names.

    So it cannot be changed in one place and not in another: a worker that believes in another number is refused by
    the server, and nobody can alter it in a table that holds rows.
    """
    return f"bucket_of_{buckets}"


def tables(buckets: int) -> dict[str, list[Column]]:
    """The columns of every table."""
    partition = [Column(name, "partition_key", at, kind) for at, (name, kind) in enumerate(_SHARD)]
    bucket = Column(bucket_column(buckets), "partition_key", len(partition), "smallint")
    cell = Column("cell", "regular", -1, "blob")
    return {
        "snapshots": [*partition, bucket, Column("key", "clustering", 0, "blob"), cell],
        "checkpoints": [*partition, cell],
        "quarantine": [
            *partition,
            Column("key", "clustering", 0, "blob"),
            Column("event_offset", "clustering", 1, "bigint"),
            cell,
        ],
    }


def series_table(view: str, window_s: int) -> str:
    """Windows of each length have a table of their own: what expires together lies together. Has to be quoted."""
    return f"series_{view}_{window_s}s"


_SERIES_COLUMNS = [
    Column("build", "partition_key", 0, "int"),
    Column("topic_id", "partition_key", 1, "uuid"),
    Column("key", "partition_key", 2, "blob"),
    Column("span", "partition_key", 3, "int"),
    Column("start_us", "clustering", 0, "bigint"),
    Column("cell", "regular", -1, "blob"),
]


def _create(keyspace: str, table: str, columns: Sequence[Column], options: Mapping[str, str]) -> str:
    names = ", ".join(f"{column.name} {column.type}" for column in columns)
    partition = ", ".join(column.name for column in columns if column.kind == "partition_key")
    clustering = "".join(f", {column.name}" for column in columns if column.kind == "clustering")
    chosen = " AND ".join(f"{name} = {value}" for name, value in options.items())
    return (
        f'CREATE TABLE IF NOT EXISTS {keyspace}."{table}" ({names}, PRIMARY KEY (({partition}){clustering})) '
        f"WITH {chosen}"
    )


def apply_schema(
    contact_points: Sequence[str],
    keyspace: str,
    replication: int | Mapping[str, int],
    specs: Sequence[SeriesSpec] = (),
    *,
    buckets: int = BUCKETS,
    datacenter: str = "",
    timeout_s: float = 30.0,
) -> list[str]:
    """Makes what is missing, and has series kept as long as declared; may be called again. Blocks. Run one at a time.

    Returns what it did, each in a sentence. `specs`: every series that is declared; tables of others are left alone.
    `replication`: copies of every row; by data center where there are several. `buckets`: fixed once the tables exist.
    Raises StoreUnavailableError, and SettingError where something else than ours, or ours made otherwise, is in the way.
    """
    if not 1 <= buckets <= 1024:
        raise SettingError(f"{buckets} buckets: 1 to 1024 are possible")
    for spec in specs:
        _check_spec(spec)
    place = Place(contact_points, check_keyspace(keyspace), datacenter)
    wanted = _replication(replication)
    cluster = None
    try:
        cluster = make_cluster(contact_points, datacenter, timeout_s)
        session = cluster.connect()
        return [*_apply(session, keyspace, wanted, buckets), *_apply_series(session, keyspace, specs)]
    except FAILURES as error:
        raise place.unavailable(error, "the schema may be applied in part; apply it again") from error
    finally:
        if cluster is not None:
            cluster.shutdown()


def _apply(session: Session, keyspace: str, replication: dict[str, str], buckets: int) -> list[str]:
    made = []
    found = session.execute(
        "SELECT replication, durable_writes FROM system_schema.keyspaces WHERE keyspace_name = %s", (keyspace,)
    ).one()
    if found is None:
        session.execute(f"CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {replication}")
        made.append(f"made keyspace {keyspace}")
    else:
        _check_keyspace(keyspace, dict(found[0]), replication, durable=found[1])
    for table, columns in tables(buckets).items():
        if not read_columns(session, keyspace, table):
            session.execute(_create(keyspace, table, columns, _OPTIONS))
            made.append(f"made table {keyspace}.{table}")
    if trouble := trouble_with(session, keyspace, buckets):
        raise SettingError(trouble)
    return made


def _apply_series(session: Session, keyspace: str, specs: Sequence[SeriesSpec]) -> list[str]:
    done = []
    for spec in specs:
        name = series_table(spec.view, spec.window_s)
        if not read_columns(session, keyspace, name):
            options = {"default_time_to_live": str(spec.keep_s), **_SERIES_OPTIONS}
            session.execute(_create(keyspace, name, _SERIES_COLUMNS, options))
            done.append(f"made table {keyspace}.{name}")
        if trouble := trouble_with_series(session, keyspace, name):
            raise SettingError(trouble)
        if (kept_s := _kept_s(session, keyspace, name)) != spec.keep_s:
            # Rows carry the time that held when they were written: none is lost by this, or comes back.
            session.execute(f'ALTER TABLE {keyspace}."{name}" WITH default_time_to_live = {spec.keep_s}')
            before = f"{kept_s} s" if kept_s else "for ever"
            done.append(
                f"altered table {keyspace}.{name}: rows written from now on are kept {spec.keep_s} s, not {before}"
            )
    return done


def _check_spec(spec: SeriesSpec) -> None:
    name = series_table(spec.view, spec.window_s)
    if not _TABLE.fullmatch(name):
        raise SettingError(
            f"view {spec.view} cannot have a series of {spec.window_s} s in Cassandra: its table would be {name}, and names of tables "
            "are up to 48 of a-z, A-Z, 0-9 and _; give the view a shorter or plainer name"
        )
    if not 1 <= spec.keep_s <= LONGEST_KEPT_S:
        raise SettingError(
            f"view {spec.view} keeps windows of {spec.window_s} s for {spec.keep_s} s: 1 to {LONGEST_KEPT_S} are possible"
        )


def _replication(asked: int | Mapping[str, int]) -> dict[str, str]:
    factors = {"replication_factor": asked} if isinstance(asked, int) else dict(asked)
    if not factors or min(factors.values()) < 1:
        raise SettingError(f"replication {asked!r}: at least one copy of every row has to be somewhere")
    strategy = "SimpleStrategy" if isinstance(asked, int) else "NetworkTopologyStrategy"
    return {"class": strategy, **{name: str(factor) for name, factor in factors.items()}}


def _check_keyspace(keyspace: str, found: dict[str, str], wanted: dict[str, str], *, durable: bool) -> None:
    found["class"] = found["class"].rpartition(".")[2]
    if found != wanted:
        raise SettingError(
            f"keyspace {keyspace} has replication {found}, not {wanted}: set it to what is there, or change it there with "
            "ALTER KEYSPACE and repair the nodes before anything reads"
        )
    if not durable:
        raise SettingError(
            f"keyspace {keyspace} has durable_writes = false, so acknowledged rows can be lost: change it with ALTER KEYSPACE"
        )


def read_columns(session: Session, keyspace: str, table: str) -> list[Column]:
    """Empty: there is no such table."""
    rows = session.execute(
        "SELECT column_name, kind, position, type FROM system_schema.columns WHERE keyspace_name = %s AND table_name = %s",
        (keyspace, table),
    )
    return [Column._make(row) for row in rows]


def buckets_of(columns: Sequence[Column]) -> int | None:
    """How many buckets a table was made with; None: it is not ours."""
    numbers = [match[1] for column in columns if (match := _BUCKET.fullmatch(column.name))]
    return int(numbers[0]) if len(numbers) == 1 else None


def trouble_with(session: Session, keyspace: str, buckets: int) -> str:
    """What is wrong with the tables, in a sentence; empty where all are there and as they should be."""
    for table, columns in tables(buckets).items():
        name, found = f"table {keyspace}.{table}", read_columns(session, keyspace, table)
        if not found:
            return f"{name} does not exist: run `aorist schema apply`"
        there = buckets_of(found)
        if there and there != buckets and table == "snapshots":
            return (
                f"{name} was made with {there} buckets, not {buckets}, and keeps that number for life: set it to {there}, or "
                "use another keyspace"
            )
        if trouble := _difference(found, columns) or _expiry(session, keyspace, table):
            return f"{name} is not as aorist makes it: {trouble}; use another keyspace, or drop the table and rebuild the views"
    return ""


def trouble_with_series(session: Session, keyspace: str, name: str) -> str:
    """What is wrong with a table of a series, in a sentence; empty where it is as it should be."""
    found = read_columns(session, keyspace, name)
    if not found:
        return f"table {keyspace}.{name} does not exist: run `aorist schema apply`"
    if trouble := _difference(found, _SERIES_COLUMNS):
        return f"table {keyspace}.{name} is not as aorist makes it: {trouble}; drop it, and run `aorist schema apply`"
    return ""


def _difference(found: Sequence[Column], wanted: Sequence[Column]) -> str:
    missing = [_told(column) for column in wanted if column not in found]
    strange = [_told(column) for column in found if column not in wanted]
    parts = [f"it lacks {', '.join(missing)}"] if missing else []
    return " and ".join([*parts, f"it has {', '.join(strange)}"] if strange else parts)


def _told(column: Column) -> str:
    place = f" {column.position}" if column.position >= 0 else ""
    return f"{column.name} {column.type} ({column.kind}{place})"


def _expiry(session: Session, keyspace: str, table: str) -> str:
    kept_s = _kept_s(session, keyspace, table)
    return f"its rows vanish after {kept_s} s" if kept_s else ""


def _kept_s(session: Session, keyspace: str, table: str) -> int:
    """0: for ever, or there is no such table."""
    row: Any = session.execute(
        "SELECT default_time_to_live FROM system_schema.tables WHERE keyspace_name = %s AND table_name = %s",
        (keyspace, table),
    ).one()
    return int(row[0]) if row and row[0] else 0
