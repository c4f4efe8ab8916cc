"""Rows of a shard as batches, each of one bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cassandra.query import BatchStatement, BatchType, BoundStatement, PreparedStatement

from aorist.adapters.cassandra.rows import Values, bucket_of, bucket_values, row_values
from aorist.ports import ShardRows, SnapshotRow

BATCH_ROWS = 150
"""From 100 rows on, what a batch costs by itself is gone among them: a row costs a tenth of one written alone."""

BATCH_BYTES = 256 * 1024
"""So that big states, too, come in portions that a node takes in a few milliseconds. A larger row travels alone."""


def batches(
    write_row: PreparedStatement, buckets: int, shard: ShardRows, rows: Sequence[SnapshotRow]
) -> Iterator[BatchStatement]:
    """As soon as a bucket has a batch's worth; what is left at the end. `rows` is gone through once."""
    filling: dict[int, _Batch] = {}
    for row in rows:
        bucket = bucket_of(row.key, buckets)
        batch = filling.get(bucket)
        if batch is None:
            batch = filling[bucket] = _Batch(write_row, bucket_values(shard, bucket))
        elif not batch.takes(row):
            yield batch.statement
            batch = filling[bucket] = _Batch(write_row, batch.bucket)
        batch.add(row)
    for batch in filling.values():
        yield batch.statement


class _Batch:
    def __init__(self, write_row: PreparedStatement, bucket: Values) -> None:
        self.bucket = bucket
        # One Cassandra partition: the node applies it as one write, and its limits for batches over several do not count.
        self.statement = BatchStatement(BatchType.UNLOGGED)
        self.statement.is_idempotent = True  # same timestamps, same bytes
        self._row = BoundStatement(write_row)
        self._rows = self._bytes = 0

    def takes(self, row: SnapshotRow) -> bool:
        return self._rows < BATCH_ROWS and self._bytes + _size(row) <= BATCH_BYTES

    def add(self, row: SnapshotRow) -> None:
        self._row.values = row_values(self.bucket, row)
        self.statement.add(self._row)  # keeps the values, not the statement
        self._rows += 1
        self._bytes += _size(row)


def _size(row: SnapshotRow) -> int:
    return len(row.key) + len(row.state)
