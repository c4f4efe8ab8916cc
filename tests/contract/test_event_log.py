"""Topics, appends and bounds: what every EventLog promises to whoever writes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from aorist.errors import (
    LogTruncatedError,
    LogUnavailableError,
    PartitionCountError,
    RecordTooLargeError,
    UnknownTopicError,
)
from aorist.ports import MAX_RECORD_BYTES, Bounds, NewRecord, TopicSpec
from aorist.position import Partition
from tests.contract.harness import RETENTION_MS, LogHarness, read_to_end


def test_a_topic_is_made_once(logs: LogHarness, topic: str) -> None:
    made = logs.log.create(TopicSpec(topic, 3, retention_ms=RETENTION_MS))
    assert (made.name, made.partitions) == (topic, 3)
    assert logs.log.create(TopicSpec(topic, 3, retention_ms=RETENTION_MS)) == made
    assert logs.log.describe(topic) == made


def test_another_number_of_partitions_is_refused(logs: LogHarness, topic: str) -> None:
    made = logs.log.create(TopicSpec(topic, 3, compacted=True))
    with pytest.raises(PartitionCountError, match=topic):
        logs.log.create(TopicSpec(topic, 4, compacted=True))
    assert logs.log.describe(topic) == made


async def test_a_topic_made_anew_is_another_one(logs: LogHarness, topic: str) -> None:
    first = logs.log.create(TopicSpec(topic, 1, compacted=True))
    await logs.log.append(topic, [NewRecord(0, b"k", b"old")])
    logs.delete_topic(topic)
    with pytest.raises(UnknownTopicError):
        logs.log.describe(topic)
    second = logs.log.create(TopicSpec(topic, 2, compacted=True))
    assert second.id != first.id
    assert logs.log.bounds(Partition(topic, 0)) == Bounds(0, 0)
    await logs.log.append(topic, [NewRecord(0, b"k", b"new")])
    reader = logs.log.reader("test")
    reader.assign(Partition(topic, 0), 0)
    assert [value for _, _, value in read_to_end(reader, [Partition(topic, 0)]).records[Partition(topic, 0)]] == [
        b"new"
    ]


async def test_reading_on_in_a_topic_that_is_not_there_any_more_is_refused(logs: LogHarness, topic: str) -> None:
    first, partition = logs.log.create(TopicSpec(topic, 1, compacted=True)), Partition(topic, 0)
    reader = logs.log.reader("test")
    reader.assign(partition, 0, topic_id=first.id)
    reader.unassign(partition)
    logs.delete_topic(topic)
    second = logs.log.create(TopicSpec(topic, 1, compacted=True))
    await logs.log.append(topic, [NewRecord(0, b"k", b"new")])
    with pytest.raises(LogTruncatedError) as refused:
        reader.assign(partition, 0, topic_id=first.id)
    assert (refused.value.partition, refused.value.replaced) == (partition, True)
    reader.assign(partition, 0, topic_id=second.id)
    assert [value for _, _, value in read_to_end(reader, [partition]).records[partition]] == [b"new"]


async def test_an_unknown_topic_is_told(logs: LogHarness, topic: str) -> None:
    with pytest.raises(UnknownTopicError, match=topic):
        logs.log.describe(topic)
    with pytest.raises(UnknownTopicError, match=topic):
        logs.log.bounds(Partition(topic, 0))
    with pytest.raises(UnknownTopicError, match=topic):
        await logs.log.append(topic, [NewRecord(0, b"k", b"v")])


async def test_a_partition_that_the_topic_has_not_is_unknown(logs: LogHarness, topic: str) -> None:
    logs.log.create(TopicSpec(topic, 2, retention_ms=RETENTION_MS))
    with pytest.raises(UnknownTopicError):
        logs.log.bounds(Partition(topic, 2))
    with pytest.raises(UnknownTopicError):
        await logs.log.append(topic, [NewRecord(2, b"k", b"v")])


async def test_bounds_follow_appends(logs: LogHarness, topic: str) -> None:
    logs.log.create(TopicSpec(topic, 2, retention_ms=RETENTION_MS))
    assert logs.log.bounds(Partition(topic, 0)) == Bounds(0, 0)
    offsets = await logs.log.append(topic, [NewRecord(0, b"a", b"1"), NewRecord(0, b"b", b"2")])
    start, end = logs.log.bounds(Partition(topic, 0))
    assert start == 0
    assert end > offsets[-1]
    assert logs.log.bounds(Partition(topic, 1)) == Bounds(0, 0)


async def test_what_was_appended_is_read_back_byte_for_byte(logs: LogHarness, topic: str) -> None:
    logs.log.create(TopicSpec(topic, 1, compacted=True))
    written = [
        NewRecord(0, b"plain", b"value"),
        NewRecord(0, bytes(range(256)), bytes(reversed(range(256)))),
        NewRecord(0, b"empty", b""),
        NewRecord(0, b"tombstone", None),
        NewRecord(0, b"large", b"x" * (MAX_RECORD_BYTES - 5)),
    ]
    offsets = await logs.log.append(topic, written)
    reader = logs.log.reader("test")
    reader.assign(Partition(topic, 0), 0)
    seen = read_to_end(reader, [Partition(topic, 0)])
    assert seen.records[Partition(topic, 0)] == [(o, r.key, r.value) for o, r in zip(offsets, written, strict=True)]


async def test_order_is_kept_in_each_partition(logs: LogHarness, topic: str) -> None:
    logs.log.create(TopicSpec(topic, 3, retention_ms=RETENTION_MS))
    written = [NewRecord(i % 3, b"k", str(i).encode()) for i in range(600)]
    offsets = await logs.log.append(topic, written)
    assert len(offsets) == len(written)
    partitions = [Partition(topic, index) for index in range(3)]
    reader = logs.log.reader("test")
    for partition in partitions:
        reader.assign(partition, 0)
    seen = read_to_end(reader, partitions, max_records=50)
    for index, partition in enumerate(partitions):
        expected = [(o, r.key, r.value) for o, r in zip(offsets, written, strict=True) if r.partition == index]
        assert seen.records[partition] == expected


async def test_appends_are_taken_in_the_order_in_which_they_began(logs: LogHarness, topic: str) -> None:
    logs.log.create(TopicSpec(topic, 1, retention_ms=RETENTION_MS))
    sizes = [900_000 if turn % 7 == 3 else 10 for turn in range(200)]  # also while the large ones wait for room
    appends = [logs.log.append(topic, [NewRecord(0, b"k", b"x" * size)]) for size in sizes]
    offsets = [offset for (offset,) in await asyncio.gather(*appends)]
    assert offsets == sorted(set(offsets))


async def test_none_overtakes_those_that_wait_for_the_first_to_be_taken(logs: LogHarness, topic: str) -> None:
    """One begins in each turn of the loop: also in those in which what all waited for is there, and none of them has run yet."""
    logs.log.create(TopicSpec(topic, 1, retention_ms=RETENTION_MS))
    appends: list[asyncio.Task[Sequence[int]]] = []
    while not appends or not appends[0].done():
        appends.append(asyncio.create_task(logs.log.append(topic, [NewRecord(0, b"k", b"v")])))
        await asyncio.sleep(0)
    offsets = [offset for (offset,) in await asyncio.gather(*appends)]
    assert offsets == sorted(set(offsets))


async def test_nothing_appended_is_nothing(logs: LogHarness, topic: str) -> None:
    logs.log.create(TopicSpec(topic, 1, retention_ms=RETENTION_MS))
    assert list(await logs.log.append(topic, [])) == []
    assert logs.log.bounds(Partition(topic, 0)) == Bounds(0, 0)


async def test_too_large_a_record_takes_none_of_its_append(logs: LogHarness, topic: str) -> None:
    logs.log.create(TopicSpec(topic, 1, retention_ms=RETENTION_MS))
    too_large = NewRecord(0, b"four", b"x" * (MAX_RECORD_BYTES - 3))
    with pytest.raises(RecordTooLargeError):
        await logs.log.append(topic, [NewRecord(0, b"k", b"v"), too_large])
    assert logs.log.bounds(Partition(topic, 0)) == Bounds(0, 0)


async def test_appends_of_many_tasks_get_offsets_of_their_own(logs: LogHarness, topic: str) -> None:
    logs.log.create(TopicSpec(topic, 2, retention_ms=RETENTION_MS))
    acknowledged: dict[tuple[int, int], bytes] = {}

    async def append_in_turn(task: int) -> None:
        last = {0: -1, 1: -1}
        for turn in range(20):
            batch = [NewRecord(n % 2, b"%d" % task, b"%d-%d-%d" % (task, turn, n)) for n in range(4)]
            for record, offset in zip(batch, await logs.log.append(topic, batch), strict=True):
                assert offset > last[record.partition]
                last[record.partition] = offset
                assert (record.partition, offset) not in acknowledged
                assert record.value is not None
                acknowledged[record.partition, offset] = record.value

    await asyncio.gather(*(append_in_turn(task) for task in range(20)))
    partitions = [Partition(topic, index) for index in range(2)]
    reader = logs.log.reader("test")
    for partition in partitions:
        reader.assign(partition, 0)
    seen = read_to_end(reader, partitions)
    read = {(p.number, offset): value for p, records in seen.records.items() for offset, _, value in records}
    assert read == acknowledged
    assert len(acknowledged) == 20 * 20 * 4


async def test_what_was_acknowledged_is_there_after_a_restart(logs: LogHarness, topic: str) -> None:
    made = logs.log.create(TopicSpec(topic, 1, retention_ms=RETENTION_MS))
    first = await logs.log.append(topic, [NewRecord(0, b"k", b"before")])
    before = logs.log.bounds(Partition(topic, 0))
    await logs.reopen()
    assert logs.log.describe(topic) == made
    assert logs.log.bounds(Partition(topic, 0)) == before
    second = await logs.log.append(topic, [NewRecord(0, b"k", b"after")])
    assert second[0] > first[0]
    reader = logs.log.reader("test")
    reader.assign(Partition(topic, 0), 0)
    seen = read_to_end(reader, [Partition(topic, 0)])
    assert seen.records[Partition(topic, 0)] == [(first[0], b"k", b"before"), (second[0], b"k", b"after")]


async def test_the_end_never_goes_back(logs: LogHarness, topic: str) -> None:
    logs.log.create(TopicSpec(topic, 1, retention_ms=RETENTION_MS))
    last = (await logs.log.append(topic, [NewRecord(0, b"k", b"v")] * 10))[-1]
    logs.force_retention(topic)
    start, end = logs.log.bounds(Partition(topic, 0))
    assert start == end > last
    await logs.reopen()
    assert logs.log.bounds(Partition(topic, 0)) == (start, end)
    assert (await logs.log.append(topic, [NewRecord(0, b"k", b"v")]))[0] >= end


async def test_compaction_keeps_the_newest_of_each_key(logs: LogHarness, topic: str) -> None:
    partition = Partition(topic, 0)
    logs.log.create(TopicSpec(topic, 1, compacted=True))
    written = [NewRecord(0, b"key-%d" % (i % 7), b"%d" % i) for i in range(100)]
    offsets = await logs.log.append(topic, written)
    end = logs.log.bounds(partition).end
    logs.force_compaction(topic)
    assert logs.log.bounds(partition).end >= end
    reader = logs.log.reader("test")
    reader.assign(partition, logs.log.bounds(partition).start)
    records = read_to_end(reader, [partition]).records[partition]
    ours = [record for record in records if record[1].startswith(b"key-")]
    newest = dict(zip((r.key for r in written), zip(offsets, written, strict=True), strict=True))
    assert ours == sorted((offset, record.key, record.value) for offset, record in newest.values())
    assert max(Counter(key for _, key, _ in ours).values()) == 1


async def test_a_closed_log_takes_nothing(logs: LogHarness, topic: str) -> None:
    logs.log.create(TopicSpec(topic, 1, retention_ms=RETENTION_MS))
    logs.log.close()
    with pytest.raises(LogUnavailableError):
        await logs.log.append(topic, [NewRecord(0, b"k", b"v")])
