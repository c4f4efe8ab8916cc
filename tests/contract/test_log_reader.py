"""Reading: what every LogReader promises to a fold: order, true ends, fairness, and no silent gap."""

from __future__ import annotations

import asyncio
import threading
import time
from random import Random

import pytest

from aorist.errors import LogTruncatedError
from aorist.ports import NewRecord, TopicSpec
from aorist.position import Partition
from tests.contract.harness import PATIENCE_S, RETENTION_MS, LogHarness, Seen, poll_until, read_to_end


def _values(seen: Seen, partition: Partition) -> list[bytes | None]:
    return [value for _, _, value in seen.records.get(partition, [])]


async def _fill(logs: LogHarness, topic: str, counts: list[int]) -> list[Partition]:
    """A topic with as many events in its partitions; their values are their numbers."""
    logs.log.create(TopicSpec(topic, len(counts), retention_ms=RETENTION_MS))
    for index, count in enumerate(counts):
        await logs.log.append(topic, [NewRecord(index, b"k", b"%d" % i) for i in range(count)])
    return [Partition(topic, index) for index in range(len(counts))]


async def test_an_empty_partition_shows_that_its_end_was_looked_at(logs: LogHarness, topic: str) -> None:
    (partition,) = await _fill(logs, topic, [0])
    reader = logs.log.reader("test")
    reader.assign(partition, 0)
    for _ in range(3):  # with every look, not only with the first
        seen = read_to_end(reader, [partition])
        last = seen.last[partition]
        assert (list(last.records), last.next_offset, last.end_offset, last.time_us) == ([], 0, 0, 0)


async def test_a_poll_at_the_end_waits(logs: LogHarness, topic: str) -> None:
    (partition,) = await _fill(logs, topic, [3])
    reader = logs.log.reader("test")
    reader.assign(partition, 0)
    read_to_end(reader, [partition])
    started = time.monotonic()
    for _ in range(3):
        reader.poll(10, 0.2)
    assert time.monotonic() - started >= 0.5, "a loop of polls would be busy"


async def test_a_poll_without_partitions_returns_nothing_in_time(logs: LogHarness) -> None:
    started = time.monotonic()
    assert list(logs.log.reader("test").poll(10, 0.1)) == []
    assert time.monotonic() - started < PATIENCE_S


async def test_a_waiting_poll_returns_when_something_is_appended(logs: LogHarness, topic: str) -> None:
    (partition,) = await _fill(logs, topic, [0])
    reader = logs.log.reader("test")
    reader.assign(partition, 0)
    read_to_end(reader, [partition])
    started = threading.Event()

    def poll() -> list[bytes | None]:
        started.set()
        return [value for fetched in reader.poll(10, 10 * PATIENCE_S) for _, _, value in fetched.records]

    for turn in range(20):  # in most of them it does wait when the append comes
        started.clear()
        polling = asyncio.create_task(asyncio.to_thread(poll))
        await asyncio.to_thread(started.wait, PATIENCE_S)
        for _ in range(20):
            logs.log.bounds(partition)
        await logs.log.append(topic, [NewRecord(0, b"k", b"%d" % turn)])
        assert await asyncio.wait_for(polling, PATIENCE_S) == [b"%d" % turn]


async def test_no_more_than_asked_for(logs: LogHarness, topic: str) -> None:
    partitions = await _fill(logs, topic, [40, 40, 40])
    reader = logs.log.reader("test")
    for partition in partitions:
        reader.assign(partition, 0)
    seen = Seen()
    sizes: list[int] = []
    poll_until(
        lambda: all(seen.caught_up(partition) for partition in partitions),
        lambda: sizes.append(sum(len(fetched.records) for fetched in seen.poll(reader, max_records=7))),
    )
    assert max(sizes) <= 7
    assert sum(sizes) == 120


async def test_next_offset_is_where_reading_goes_on(logs: LogHarness, topic: str) -> None:
    (partition,) = await _fill(logs, topic, [50])
    reader = logs.log.reader("test")
    reader.assign(partition, 0)
    seen = Seen()
    poll_until(lambda: bool(seen.records.get(partition)), lambda: seen.poll(reader, max_records=10))
    other = logs.log.reader("other")
    other.assign(partition, seen.last[partition].next_offset)
    rest = read_to_end(other, [partition])
    assert _values(seen, partition) + _values(rest, partition) == [b"%d" % i for i in range(50)]


async def test_the_time_is_that_of_the_append(logs: LogHarness, topic: str) -> None:
    slack_us = 60_000_000  # the log's clock may be another machine's
    before_us = time.time_ns() // 1000
    (partition,) = await _fill(logs, topic, [5])
    after_us = time.time_ns() // 1000
    reader = logs.log.reader("test")
    reader.assign(partition, 0)
    seen = Seen()
    poll_until(lambda: bool(seen.records.get(partition)), lambda: seen.poll(reader))
    assert before_us - slack_us <= seen.last[partition].time_us <= after_us + slack_us


async def test_events_of_one_time_are_all_read(logs: LogHarness, topic: str) -> None:
    """One append has one time: whoever goes on by time instead of by offset loses some of them here."""
    (partition,) = await _fill(logs, topic, [100])
    seen = Seen()
    offset = 0
    while not seen.caught_up(partition):
        reader = logs.log.reader("test")
        reader.assign(partition, offset)
        poll_until(lambda: bool(seen.poll(reader, max_records=9)), lambda: None)  # noqa: B023 - called at once
        reader.close()
        offset = seen.last[partition].next_offset
    assert _values(seen, partition) == [b"%d" % i for i in range(100)]


async def test_a_busy_partition_does_not_starve_the_others(logs: LogHarness, topic: str) -> None:
    busy, *quiet = partitions = await _fill(logs, topic, [0, 5, 5, 5])
    random = Random(1)
    for _ in range(20):  # more than any log gives at once, also where it compresses
        await logs.log.append(topic, [NewRecord(0, b"k", random.randbytes(500)) for _ in range(1000)])
    reader = logs.log.reader("test")
    for partition in partitions:
        reader.assign(partition, 0)
    seen = Seen()
    poll_until(
        lambda: all(len(seen.records.get(partition, [])) == 5 for partition in quiet),
        lambda: seen.poll(reader, max_records=100),
    )
    assert len(seen.records.get(busy, [])) < 20_000


async def test_an_idle_partition_beside_a_busy_one_shows_that_its_end_was_looked_at(
    logs: LogHarness, topic: str
) -> None:
    idle, busy = await _fill(logs, topic, [1, 1])
    reader = logs.log.reader("test")
    reader.assign(idle, 0)
    reader.assign(busy, 0)
    read_to_end(reader, [idle, busy])
    seen: list[Partition] = []
    reading = asyncio.create_task(
        asyncio.to_thread(
            poll_until,
            lambda: seen.count(idle) >= 5,
            lambda: seen.extend(fetched.partition for fetched in reader.poll(10, PATIENCE_S)),
        )
    )
    while not reading.done():  # each wait for events ends with some
        await logs.log.append(topic, [NewRecord(1, b"k", b"more")])
    await reading
    assert busy in seen


async def test_assigning_again_reads_from_there(logs: LogHarness, topic: str) -> None:
    (partition,) = await _fill(logs, topic, [60])
    reader = logs.log.reader("test")
    reader.assign(partition, 0)
    seen = Seen()
    poll_until(lambda: bool(seen.records.get(partition)), lambda: seen.poll(reader, max_records=5))
    reader.assign(partition, 40)  # forward: nothing fetched earlier comes in between
    assert _values(read_to_end(reader, [partition], max_records=7), partition) == [b"%d" % i for i in range(40, 60)]
    reader.assign(partition, 10)  # and back
    assert _values(read_to_end(reader, [partition], max_records=7), partition) == [b"%d" % i for i in range(10, 60)]


async def test_nothing_more_of_an_unassigned_partition(logs: LogHarness, topic: str) -> None:
    gone, kept = await _fill(logs, topic, [50, 50])
    reader = logs.log.reader("test")
    reader.assign(gone, 0)
    reader.assign(kept, 0)
    first = Seen()
    poll_until(lambda: bool(first.records.get(gone)), lambda: first.poll(reader, max_records=4))
    reader.unassign(gone)
    await logs.log.append(topic, [NewRecord(0, b"k", b"late"), NewRecord(1, b"k", b"late")])
    rest = Seen()
    poll_until(lambda: _values(rest, kept)[-1:] == [b"late"], lambda: rest.poll(reader))
    assert gone not in rest.last


async def test_readers_do_not_disturb_each_other(logs: LogHarness, topic: str) -> None:
    (partition,) = await _fill(logs, topic, [30])
    one, other = logs.log.reader("group"), logs.log.reader("group")
    one.assign(partition, 0)
    other.assign(partition, 20)
    assert len(read_to_end(one, [partition]).records[partition]) == 30
    assert len(read_to_end(other, [partition]).records[partition]) == 10


async def test_a_reader_keeps_up_with_appends_from_another_thread(logs: LogHarness, topic: str) -> None:
    (partition,) = await _fill(logs, topic, [0])
    reader = logs.log.reader("test")
    reader.assign(partition, 0)
    seen = Seen()
    reading = asyncio.create_task(
        asyncio.to_thread(
            poll_until, lambda: len(seen.records.get(partition, [])) >= 2000, lambda: seen.poll(reader, max_records=64)
        )
    )
    acknowledged: list[int] = []
    for turn in range(100):
        batch = [NewRecord(0, b"k", b"%d" % (turn * 20 + i)) for i in range(20)]
        acknowledged += await logs.log.append(topic, batch)
    await reading
    assert _values(seen, partition) == [b"%d" % i for i in range(2000)]
    assert [offset for offset, _, _ in seen.records[partition]] == acknowledged


async def test_reading_passes_the_gaps_of_compaction(logs: LogHarness, topic: str) -> None:
    logs.log.create(TopicSpec(topic, 1, compacted=True))
    partition = Partition(topic, 0)
    offsets = await logs.log.append(topic, [NewRecord(0, b"same", b"%d" % i) for i in range(100)])
    last = (await logs.log.append(topic, [NewRecord(0, b"other", b"last")]))[0]
    logs.force_compaction(topic)
    for start in (offsets[0], offsets[50], offsets[98]):  # none of these is there any more
        reader = logs.log.reader("test")
        reader.assign(partition, start)
        seen = read_to_end(reader, [partition], max_records=1)
        assert seen.records[partition][:2] == [(offsets[99], b"same", b"99"), (last, b"other", b"last")]
        assert seen.last[partition].next_offset == logs.log.bounds(partition).end
        reader.close()


async def test_below_the_start_is_refused(logs: LogHarness, topic: str) -> None:
    trimmed, other = await _fill(logs, topic, [10, 0])
    logs.force_retention(topic)
    start = logs.log.bounds(trimmed).start
    await logs.log.append(topic, [NewRecord(0, b"k", b"new"), NewRecord(1, b"k", b"beside")])
    reader = logs.log.reader("test")
    reader.assign(trimmed, start - 1)
    reader.assign(other, 0)
    seen = Seen()
    with pytest.raises(LogTruncatedError) as refused:
        poll_until(lambda: False, lambda: seen.poll(reader))
    assert (refused.value.partition, refused.value.replaced) == (trimmed, False)  # what was read before it stays true
    assert not seen.records.get(trimmed)
    reader.unassign(trimmed)  # the others go on, and miss nothing
    poll_until(lambda: seen.caught_up(other), lambda: seen.poll(reader))
    assert _values(seen, other) == [b"beside"]
    reader.assign(trimmed, start)
    assert _values(read_to_end(reader, [trimmed]), trimmed) == [b"new"]


async def test_beyond_the_end_is_refused(logs: LogHarness, topic: str) -> None:
    (partition,) = await _fill(logs, topic, [10])
    reader = logs.log.reader("test")
    reader.assign(partition, logs.log.bounds(partition).end + 1)
    with pytest.raises(LogTruncatedError) as refused:
        poll_until(lambda: False, lambda: reader.poll(10, 0.5))
    assert (refused.value.partition, refused.value.replaced) == (partition, True)


async def test_commits_change_nothing_and_never_raise(logs: LogHarness, topic: str) -> None:
    (partition,) = await _fill(logs, topic, [10])
    reader = logs.log.reader("test")
    reader.commit(partition, 7)
    reader.commit(partition, 3)
    reader.assign(partition, 0)
    assert len(read_to_end(reader, [partition]).records[partition]) == 10
    await logs.reopen()
    reader.commit(partition, 9)
    reader.close()


async def test_reading_goes_on_under_the_leader_that_wrote_the_event_before(logs: LogHarness, topic: str) -> None:
    (partition,) = await _fill(logs, topic, [50])
    reader = logs.log.reader("test")
    reader.assign(partition, 0)
    seen = read_to_end(reader, [partition], max_records=20)
    await logs.log.append(topic, [NewRecord(0, b"k", b"next")])
    other = logs.log.reader("other")
    other.assign(partition, seen.last[partition].next_offset, seen.leader_epochs[partition])
    assert _values(read_to_end(other, [partition]), partition) == [b"next"]


async def test_reading_goes_on_where_all_that_was_read_is_gone(logs: LogHarness, topic: str) -> None:
    (partition,) = await _fill(logs, topic, [10])
    reader = logs.log.reader("test")
    reader.assign(partition, 0)
    seen = read_to_end(reader, [partition])
    logs.force_retention(topic)
    await logs.log.append(topic, [NewRecord(0, b"k", b"next")])
    other = logs.log.reader("other")
    other.assign(partition, seen.last[partition].next_offset, seen.leader_epochs[partition])
    assert _values(read_to_end(other, [partition]), partition) == [b"next"]
