"""`aorist log` on a file as `aorist dev` leaves it: what is read, what is shown, what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from aorist.adapters.sqlite import Database, SqliteEventLog
from aorist.cli.log import key_of, text_of, time_of
from aorist.cli.reading import EARLIEST, LATEST, Moment, Start, read_events
from aorist.declare.schema import EventSchema, schema_of
from aorist.errors import SettingError
from aorist.ports import NewRecord, TopicSpec
from aorist.position import Partition
from fleet.arms.v1.events_pb2 import ArmEvent, JointPositionsChanged

Run = Callable[..., Result]
TOPIC = "fleet.arms.v1"
SECOND_US = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now_us = 1_767_225_600 * SECOND_US  # 2026-01-01

    def __call__(self) -> int:
        return self.now_us


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Ten events, a second apart, in turn on partitions 0 and 1; the last is no envelope."""
    clock, path = Clock(), tmp_path / "dev.db"
    database = Database(path)
    log = SqliteEventLog(database, clock_us=clock)
    log.create(TopicSpec(TOPIC, 8, retention_ms=10**12))

    async def fill() -> None:
        for number in range(10):
            value = ArmEvent(joint_positions_changed=JointPositionsChanged(arm_id="r", sampled_at_us=number))
            data = value.SerializeToString() if number < 9 else b"\xff" * 40
            await log.append(TOPIC, [NewRecord(number % 2, b"r", data)])
            clock.now_us += SECOND_US

    asyncio.run(fill())
    log.close()
    database.close()
    return path


@pytest.fixture
def log(file: Path) -> Iterator[SqliteEventLog]:
    database = Database(file)
    log = SqliteEventLog(database)
    yield log
    log.close()
    database.close()


def offsets(log: SqliteEventLog, partition: int, start: Start) -> list[int]:
    return [one.offset for one in read_events(log, [Partition(TOPIC, partition)], start, follow=False)]


def test_events_are_told_with_their_positions_and_times(log: SqliteEventLog) -> None:
    partitions = [Partition(TOPIC, 0), Partition(TOPIC, 1)]
    read = list(read_events(log, partitions, EARLIEST, follow=False))
    for partition in partitions:
        of_it = [one for one in read if one.partition == partition]
        assert [one.offset for one in of_it] == [0, 1, 2, 3, 4]
        first_us = Clock().now_us + partition.number * SECOND_US
        assert [one.time_us for one in of_it] == [first_us + 2 * n * SECOND_US for n in range(5)]


@pytest.mark.parametrize(
    ("second", "first"), [(-1, 0), (0, 0), (0.5, 1), (2, 1), (2.5, 2), (7.9, 4), (8, 4), (8.1, 5), (99, 5)]
)
def test_a_moment_begins_with_the_first_event_since(log: SqliteEventLog, second: float, first: int) -> None:
    moment = Moment(Clock().now_us + int(second * SECOND_US))
    assert offsets(log, 0, moment) == list(range(first, 5))


def test_offsets(log: SqliteEventLog) -> None:
    assert offsets(log, 0, 3) == [3, 4]
    assert offsets(log, 0, 5) == []
    assert offsets(log, 0, LATEST) == []
    assert offsets(log, 7, EARLIEST) == []
    with pytest.raises(SettingError, match=r"fleet.arms.v1/0 holds offsets 0 to 5: there is no 6"):
        offsets(log, 0, 6)


def test_what_comes_later_is_read_with_follow_only(log: SqliteEventLog) -> None:
    ending, following = (read_events(log, [Partition(TOPIC, 0)], 3, follow=follow) for follow in (False, True))
    assert [next(ending).offset, next(following).offset] == [3, 3]
    asyncio.run(log.append(TOPIC, [NewRecord(0, b"r", b"")]))
    assert [one.offset for one in ending] == [4]
    assert [next(following).offset, next(following).offset] == [4, 5]
    following.close()


def test_the_file_is_read_where_no_kafka_is_set(run: Run, file: Path) -> None:
    result = run("log", TOPIC, "--db", str(file), "--partition", "1")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0, result.output
    data = "JointPositionsChanged {arm_id: r, sampled_at_us: 1, axes: []}"
    assert lines[0] == f"fleet.arms.v1/1@0 2026-01-01T00:00:01.000Z r {data}"
    assert lines[-1].endswith(f" r (not a fleet.arms.v1.ArmEvent) {'ff' * 32} ... 40 bytes")
    assert len(lines) == 5


def test_json_is_one_object_a_line(run: Run, file: Path) -> None:
    result = run("log", TOPIC, "--db", str(file), "--json", "--limit", "1", "--from", "2026-01-01T00:00:05")
    (line,) = result.stdout.splitlines()
    assert json.loads(line) in (
        {
            "topic": TOPIC,
            "partition": number % 2,
            "offset": number // 2,
            "time": f"2026-01-01T00:00:0{number}.000Z",
            "key": "r",
            "event": "JointPositionsChanged",
            "data": {"arm_id": "r", "sampled_at_us": str(number), "axes": []},
        }
        for number in (5, 6)
    )


def test_a_file_in_use_is_one_line(run: Run, file: Path, log: SqliteEventLog) -> None:
    result = run("log", TOPIC, "--db", str(file))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"aorist: {file}: is open elsewhere")


def test_a_file_that_is_not_there_is_not_made(run: Run, tmp_path: Path) -> None:
    result = run("log", TOPIC, "--db", str(tmp_path / "no.db"))
    assert result.exit_code == 1
    assert f"no kafka is set, and there is no file {tmp_path / 'no.db'}: give --kafka" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nothing"], "no topic nothing is declared; there are fleet.arms.v1"),
        ([TOPIC, "--follow"], "--follow would show nothing: while this reads the file, nobody can write to it"),
        ([TOPIC, "--from", "3"], "--from 3 is an offset of one partition: say which, by --partition or --key"),
        ([TOPIC, "--from", "yesterday"], "'yesterday' is not earliest, latest, an offset, or a time such as"),
        ([TOPIC, "--from", "-3"], "'-3' is not earliest, latest, an offset, or a time such as"),
        ([TOPIC, "--partition", "8"], "there is no partition 8: the topic has 8, from 0"),
        ([TOPIC, "--partition", "1", "--key", "r"], "--key and --partition both say which partition: leave one out"),
        ([TOPIC, "--key", "r", "--key", "s"], "a key of fleet.arms.v1 is arm_id: 1 times --key"),
    ],
)
def test_wrong_use(run: Run, file: Path, arguments: list[str], problem: str) -> None:
    result = run("log", *arguments, "--db", str(file))
    assert result.exit_code == 2, result.output
    assert problem in " ".join(result.stderr.split())


def test_a_key_leads_to_its_partition() -> None:
    schema: EventSchema = schema_of(ArmEvent)
    event = JointPositionsChanged(arm_id="arm-7")
    assert key_of(schema, ("arm-7",)) == (schema.partition_for()(event), b"arm-7")


def test_times_and_keys_of_any_kind_are_readable() -> None:
    assert time_of(1_500) == "1970-01-01T00:00:00.001Z"
    assert (time_of(0), time_of(-1000), time_of(2**62)) == (None, None, None)
    assert (text_of(None), text_of(b"a/b"), text_of(b"\xff")) == (None, "a/b", "\\xff")
