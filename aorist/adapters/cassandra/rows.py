"""The bytes of a row: what Cassandra is given is put together here, and nowhere else.

A cell holds all that a row says beside its key, so that no two writers' parts can ever meet in one row. Its bytes begin
with numbers in network order: of two cells of one timestamp Cassandra keeps the one with the greater bytes, and of equal
positions that is the one of the later epoch.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from zlib import crc32

from aorist.ports import Checkpoint, ParkedEvent, ParkedState, SeriesRows, ShardRows, SnapshotRow, WindowRow

_int = struct.Struct(">i").pack
_smallint = struct.Struct(">h").pack
_bigint = struct.Struct(">q").pack
_HEAD = struct.Struct(">qq")  # offset, epoch; the state follows
_CHECKPOINT = struct.Struct(">qqqi")  # next_offset, epoch, time_us, leader_epoch
_PARKED = struct.Struct(">bqiI")  # state, time_us, bytes of the value (-1: none) and of the reason; they follow
_OFFSET = struct.Struct(">q")  # of a window; the totals follow

STATE_US = 2**52
"""What timestamps of a later state of a parked event are ahead of an earlier one's: more microseconds than clocks show in a century."""

SPAN_WINDOWS = 2**18
"""Windows that one Cassandra partition of a series takes; for ever, as the spans are counted from 1970.

Of a second each, they are three days, and some 20 MB for a key that moves all the time: small for a partition. Were they fewer,
a query over years would look into a thousand empty ones; were they all, nothing would bound what a rebuild writes into one.
"""

Values = list[bytes]
"""As a statement takes them, serialised."""


def bucket_of(key: bytes, buckets: int) -> int:
    """Another hash than the one that chose the partition: keys of one partition must spread over all buckets."""
    return crc32(key) % buckets


def timestamp(offset: int) -> bytes:
    """Positions are the clock: what is further in the log wins. One more than the offset, for 0 is special to Cassandra."""
    return _bigint(offset + 1)


def shard_values(shard: ShardRows) -> Values:
    return [shard.view.encode(), _int(shard.build), shard.topic_id.bytes, _int(shard.partition)]


def bucket_values(shard: ShardRows, bucket: int) -> Values:
    return [*shard_values(shard), _smallint(bucket)]


def row_values(bucket: Values, row: SnapshotRow) -> Values:
    """`bucket`: as of `bucket_values`, made once for many rows. The driver, binding all values of each, takes four times as long."""
    return [*bucket, row.key, _HEAD.pack(row.offset, row.epoch) + row.state, timestamp(row.offset)]


def checkpoint_values(shard: ShardRows, checkpoint: Checkpoint) -> Values:
    return [*shard_values(shard), _CHECKPOINT.pack(*checkpoint), timestamp(checkpoint.next_offset)]


def parse_rows(rows: Iterable[tuple[bytes, bytes]]) -> list[SnapshotRow]:
    """From pairs of key and cell."""
    head, size = _HEAD.unpack_from, _HEAD.size
    return [SnapshotRow(key, cell[size:], *head(cell)) for key, cell in rows]


def parse_checkpoint(cell: bytes) -> Checkpoint:
    return Checkpoint(*_CHECKPOINT.unpack(cell))


def parked_values(shard: ShardRows, event: ParkedEvent) -> Values:
    """Here it is not positions that are the clock: one event has one, and what is said of it goes from state to state."""
    reason, value = event.reason.encode(errors="replace"), event.value or b""
    head = _PARKED.pack(event.state, event.time_us, -1 if event.value is None else len(value), len(reason))
    clock = _bigint(1 + event.state * STATE_US + event.time_us)
    return [*shard_values(shard), event.key, _bigint(event.offset), head + value + reason, clock]


def parse_parked(key: bytes, offset: int, cell: bytes) -> ParkedEvent:
    state, time_us, length, _ = _PARKED.unpack_from(cell)
    middle = _PARKED.size + max(0, length)
    value = None if length < 0 else cell[_PARKED.size : middle]
    return ParkedEvent(key, offset, value, cell[middle:].decode(), time_us, ParkedState(state))


def span_of(start_us: int, window_s: int) -> int:
    return start_us // (window_s * 1_000_000 * SPAN_WINDOWS)


def span_values(series: SeriesRows, key: bytes, span: int) -> Values:
    """Of one Cassandra partition of a series' table."""
    return [_int(series.build), series.topic_id.bytes, key, _int(span)]


def window_values(span: Values, row: WindowRow) -> Values:
    """`span`: as of `span_values`, made once for the windows of it."""
    return [*span, _bigint(row.start_us), _OFFSET.pack(row.offset) + row.totals, timestamp(row.offset)]


def range_values(span: Values, from_us: int, upto_us: int, limit: int) -> Values:
    return [*span, _bigint(from_us), _bigint(upto_us), _int(limit)]


def look_values(series: SeriesRows, key: bytes, spans: Sequence[int], from_us: int, upto_us: int) -> Values:
    *series_key, _ = span_values(series, key, 0)
    listed = _int(len(spans)) + b"".join(_int(4) + _int(span) for span in spans)
    return [*series_key, listed, _bigint(from_us), _bigint(upto_us)]


def parse_windows(key: bytes, rows: Iterable[tuple[int, bytes]]) -> list[WindowRow]:
    """From pairs of start and cell."""
    offset_of, size = _OFFSET.unpack_from, _OFFSET.size
    return [WindowRow(key, start_us, cell[size:], *offset_of(cell)) for start_us, cell in rows]
