"""Snapshots: rows and checkpoints that never go backwards, whoever writes them in whichever order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aorist.ports import Checkpoint, ShardRows, SnapshotRow
from tests.contract.harness import StoreHarness

EVERY_ORDER = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""The store is shared by the examples of a test; each writes under a topic id of its own."""


def _row(key: bytes, offset: int, epoch: int = 1) -> SnapshotRow:
    """Equal offsets mean equal bytes, so the state follows from key and offset."""
    return SnapshotRow(key, b"%s@%d" % (key, offset), offset, epoch)


def _all(stores: StoreHarness, shard: ShardRows) -> dict[bytes, SnapshotRow]:
    rows = [row for piece in stores.store.read_rows(shard) for row in piece]
    assert len({row.key for row in rows}) == len(rows)
    return {row.key: row for row in rows}


@pytest.fixture
def shard() -> ShardRows:
    return ShardRows("view", 1, uuid4(), 0)


def test_a_new_shard_has_nothing(stores: StoreHarness, shard: ShardRows) -> None:
    assert stores.store.read_checkpoint(shard) is None
    assert stores.store.read_row(shard, b"k") is None
    assert _all(stores, shard) == {}


def test_what_was_written_is_read(stores: StoreHarness, shard: ShardRows) -> None:
    rows = [
        SnapshotRow(b"k", b"state", 7, 3),
        SnapshotRow(bytes(range(256)), b"", 0, 2**40),
        SnapshotRow(b"z", b"\0", 2**40, 1),
    ]
    stores.store.write_rows(shard, rows)
    stores.store.write_checkpoint(shard, Checkpoint(8, 3, 1_700_000_000_000_000, 2))
    assert _all(stores, shard) == {row.key: row for row in rows}
    assert [stores.store.read_row(shard, row.key) for row in rows] == rows
    assert stores.store.read_checkpoint(shard) == Checkpoint(8, 3, 1_700_000_000_000_000, 2)


def test_nothing_written_is_nothing(stores: StoreHarness, shard: ShardRows) -> None:
    stores.store.write_rows(shard, [])
    assert _all(stores, shard) == {}


async def test_all_is_there_after_a_restart(stores: StoreHarness, shard: ShardRows) -> None:
    stores.store.write_rows(shard, [_row(b"k", 7)])
    stores.store.write_checkpoint(shard, Checkpoint(8, 3, 4))
    await stores.reopen()
    assert _all(stores, shard) == {b"k": _row(b"k", 7)}
    assert stores.store.read_checkpoint(shard) == Checkpoint(8, 3, 4)


def test_a_late_write_of_an_older_row_changes_nothing(stores: StoreHarness, shard: ShardRows) -> None:
    stores.store.write_rows(shard, [_row(b"k", 9, epoch=2), _row(b"other", 1)])
    stores.store.write_rows(shard, [_row(b"k", 8, epoch=5), _row(b"other", 2)])  # a higher epoch does not excuse it
    assert _all(stores, shard) == {b"k": _row(b"k", 9, epoch=2), b"other": _row(b"other", 2)}


def test_writing_again_is_harmless(stores: StoreHarness, shard: ShardRows) -> None:
    for _ in range(3):
        stores.store.write_rows(shard, [_row(b"k", 9)])
        stores.store.write_checkpoint(shard, Checkpoint(10, 1, 4))
    assert _all(stores, shard) == {b"k": _row(b"k", 9)}
    assert stores.store.read_checkpoint(shard) == Checkpoint(10, 1, 4)


def test_a_late_write_of_an_older_checkpoint_changes_nothing(stores: StoreHarness, shard: ShardRows) -> None:
    stores.store.write_checkpoint(shard, Checkpoint(9, 2, 100))
    stores.store.write_checkpoint(shard, Checkpoint(8, 3, 200))
    assert stores.store.read_checkpoint(shard) == Checkpoint(9, 2, 100)
    stores.store.write_checkpoint(shard, Checkpoint(10, 3, 300))
    assert stores.store.read_checkpoint(shard) == Checkpoint(10, 3, 300)


@EVERY_ORDER
@given(
    calls=st.lists(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 9)), max_size=5), max_size=6)
)
def test_the_highest_offset_stays_in_every_order(stores: StoreHarness, calls: list[list[tuple[bytes, int]]]) -> None:
    shard = ShardRows("view", 1, uuid4(), 0)
    highest: dict[bytes, int] = {}
    for call in calls:
        stores.store.write_rows(shard, [_row(key, offset) for key, offset in call])
        for key, offset in call:
            highest[key] = max(offset, highest.get(key, -1))
        assert _all(stores, shard) == {key: _row(key, offset) for key, offset in highest.items()}


@EVERY_ORDER
@given(offsets=st.lists(st.integers(0, 9), min_size=1, max_size=8))
def test_the_highest_checkpoint_stays_in_every_order(stores: StoreHarness, offsets: list[int]) -> None:
    shard = ShardRows("view", 1, uuid4(), 0)
    for count, offset in enumerate(offsets, 1):
        stores.store.write_checkpoint(shard, Checkpoint(offset, 1, 1000 + offset))
        highest = max(offsets[:count])
        assert stores.store.read_checkpoint(shard) == Checkpoint(highest, 1, 1000 + highest)


def test_shards_are_apart(stores: StoreHarness, shard: ShardRows) -> None:
    shards = [
        shard,
        shard._replace(view="other"),
        shard._replace(build=2),
        shard._replace(topic_id=uuid4()),  # the topic was made anew
        shard._replace(partition=1),
    ]
    for number, one in enumerate(shards):
        stores.store.write_rows(one, [_row(b"k", number), _row(b"only-%d" % number, 5)])
        stores.store.write_checkpoint(one, Checkpoint(number, 1, 1))
    for number, one in enumerate(shards):
        assert _all(stores, one) == {row.key: row for row in (_row(b"k", number), _row(b"only-%d" % number, 5))}
        assert stores.store.read_row(one, b"k") == _row(b"k", number)
        assert stores.store.read_row(one, b"only-%d" % (number + 1)) is None
        assert stores.store.read_checkpoint(one) == Checkpoint(number, 1, 1)


def test_many_rows_come_in_pieces(stores: StoreHarness, shard: ShardRows) -> None:
    rows = [_row(b"key-%05d" % i, i) for i in range(12_000)]
    stores.store.write_rows(shard, rows)
    pieces = [len(piece) for piece in stores.store.read_rows(shard)]
    assert sum(pieces) == len(rows)
    assert max(pieces) <= 5_000
    assert _all(stores, shard) == {row.key: row for row in rows}


def test_large_rows_are_read_whole(stores: StoreHarness, shard: ShardRows) -> None:
    rows = [SnapshotRow(b"%d" % i, bytes([i]) * 400_000, i, 1) for i in range(20)]
    stores.store.write_rows(shard, rows)
    assert _all(stores, shard) == {row.key: row for row in rows}


def test_reading_is_complete_while_others_write(stores: StoreHarness, shard: ShardRows) -> None:
    before = {row.key: row for row in (_row(b"key-%05d" % i, i) for i in range(3_000))}
    stores.store.write_rows(shard, list(before.values()))
    read: dict[bytes, SnapshotRow] = {}
    for number, piece in enumerate(stores.store.read_rows(shard)):
        read.update((row.key, row) for row in piece)
        newer = [_row(b"key-%05d" % i, 10_000 + number) for i in range(number, 3_000, 97)]
        stores.store.write_rows(shard, [*newer, _row(b"key-%05d-new" % (number * 100), 1)])
    for key, row in before.items():
        assert read[key].offset >= row.offset
        assert read[key] == _row(key, read[key].offset)


def test_writers_on_many_threads_do_not_undo_each_other(stores: StoreHarness, shard: ShardRows) -> None:
    def write(start: int) -> None:
        for offset in range(start, 200, 8):
            stores.store.write_rows(shard, [_row(b"shared", offset), _row(b"own-%d" % start, offset)])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    assert _all(stores, shard) == {
        b"shared": _row(b"shared", 199),
        **{b"own-%d" % start: _row(b"own-%d" % start, 192 + start) for start in range(8)},
    }
