"""The tables: how they are made, and what is refused because it is not them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cassandra.cluster import Session

from aorist.adapters.cassandra.cluster import check_keyspace, make_cluster
from aorist.adapters.cassandra.failures import FAILURES, Place
from aorist.errors import SettingError

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
"""Of both tables. They may be altered."""


class Column(NamedTuple):
    """As `system_schema.columns` tells it. `position` -1: not part of the key."""

    name: str
    kind: str
    position: int
    type: str


_SHARD = [("view_name", "text"), ("build", "int"), ("topic_id", "uuid"), ("partition", "int")]
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
    }


def _create(keyspace: str, table: str, columns: Sequence[Column]) -> str:
    names = ", ".join(f"{column.name} {column.type}" for column in columns)
    partition = ", ".join(column.name for column in columns if column.kind == "partition_key")
    clustering = "".join(f", {column.name}" for column in columns if column.kind == "clustering")
    options = " AND ".join(f"{name} = {value}" for name, value in _OPTIONS.items())
    return (
        f"CREATE TABLE IF NOT EXISTS {keyspace}.{table} ({names}, PRIMARY KEY (({partition}){clustering})) "
        f"WITH {options}"
    )


def apply_schema(
    contact_points: Sequence[str],
    keyspace: str,
    replication: int | Mapping[str, int],
    *,
    buckets: int = BUCKETS,
    datacenter: str = "",
    timeout_s: float = 30.0,
) -> list[str]:
    """Makes what is missing, and returns what that was; may be called again. Blocks. Run one at a time.

    `replication`: copies of every row; by data center where there are several. `buckets`: fixed once the tables exist.
    Raises StoreUnavailableError, and SettingError where something else than ours, or ours made otherwise, is in the way.
    """
    if not 1 <= buckets <= 1024:
        raise SettingError(f"{buckets} buckets: 1 to 1024 are possible")
    place = Place(contact_points, check_keyspace(keyspace), datacenter)
    wanted = _replication(replication)
    cluster = None
    try:
        cluster = make_cluster(contact_points, datacenter, timeout_s)
        return _apply(cluster.connect(), keyspace, wanted, buckets)
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
        made.append(f"keyspace {keyspace}")
    else:
        _check_keyspace(keyspace, dict(found[0]), replication, durable=found[1])
    for table, columns in tables(buckets).items():
        if not read_columns(session, keyspace, table):
            session.execute(_create(keyspace, table, columns))
            made.append(f"table {keyspace}.{table}")
    if trouble := trouble_with(session, keyspace, buckets):
        raise SettingError(trouble)
    return made


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


def _difference(found: Sequence[Column], wanted: Sequence[Column]) -> str:
    missing = [_told(column) for column in wanted if column not in found]
    strange = [_told(column) for column in found if column not in wanted]
    parts = [f"it lacks {', '.join(missing)}"] if missing else []
    return " and ".join([*parts, f"it has {', '.join(strange)}"] if strange else parts)


def _told(column: Column) -> str:
    place = f" {column.position}" if column.position >= 0 else ""
    return f"{column.name} {column.type} ({column.kind}{place})"


def _expiry(session: Session, keyspace: str, table: str) -> str:
    row: Any = session.execute(
        "SELECT default_time_to_live FROM system_schema.tables WHERE keyspace_name = %s AND table_name = %s",
        (keyspace, table),
    ).one()
    return f"its rows vanish after {row[0]} s" if row and row[0] else ""
