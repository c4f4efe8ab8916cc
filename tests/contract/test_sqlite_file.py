"""The embedded file: who may open it, and what a killed process leaves in it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from aorist.adapters.sqlite import Database, SqliteEventLog
from aorist.errors import SettingError
from aorist.ports import NewRecord, TopicSpec
from aorist.position import Partition
from tests.contract.harness import RETENTION_MS, read_to_end

TOPIC = TopicSpec("topic", 2, retention_ms=RETENTION_MS)
PARTITION = Partition("topic", 0)
RECORD = NewRecord(0, b"k", b"v")


def test_a_second_opener_is_refused(path: Path, database: Database) -> None:
    with pytest.raises(SettingError, match=r"aorist\.db: is open elsewhere"):
        Database(path)
    program = "import sys; from aorist.adapters.sqlite import Database; Database(sys.argv[1])"
    other = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert other.returncode != 0
    assert "aorist.db: is open elsewhere" in other.stderr
    database.close()
    Database(path).close()


def test_a_newer_format_is_refused(path: Path) -> None:
    Database(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(SettingError, match=r"aorist\.db: has format 99"):
        Database(path)


def test_a_foreign_database_is_refused_and_left_as_it_was(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(SettingError, match="another program"):
        Database(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to have a header" * 20])
def test_any_other_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for _ in range(2):  # a refused opening holds no lock
        with pytest.raises(SettingError, match=r"aorist\.db: not usable"):
            Database(path)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="No such file or directory"):
        Database(tmp_path / "absent" / "aorist.db")


def test_revisions_grow_over_restarts(path: Path) -> None:
    revisions: list[int] = []
    for _ in range(3):
        database = Database(path)
        revisions += [database.next_revision() for _ in range(3)]
        database.close()
    assert revisions == sorted(set(revisions))
    assert len(revisions) == 9


APPENDER = """
import asyncio, sys
from aorist.adapters.sqlite import Database, SqliteEventLog
from aorist.ports import NewRecord, TopicSpec

log = SqliteEventLog(Database(sys.argv[1]))
log.create(TopicSpec("topic", 2, retention_ms=3_600_000))

async def append_for_ever(task: int) -> None:
    turn = 0
    while True:
        batch = [NewRecord(task % 2, b"k", b"%d-%d-%d" % (task, turn, number)) for number in range(5)]
        offsets = await log.append("topic", batch)
        lines = [f"{r.partition} {offset} {r.value.decode()}\\n" for r, offset in zip(batch, offsets)]
        sys.stdout.write("".join(lines))
        sys.stdout.flush()
        turn += 1

async def main() -> None:
    await asyncio.gather(*(append_for_ever(task) for task in range(4)))

asyncio.run(main())
"""


def _append_until_killed(path: Path, lines_wanted: int) -> dict[tuple[int, int], bytes]:
    """What was acknowledged, by partition and offset."""
    child = subprocess.Popen([sys.executable, "-c", APPENDER, path], stdout=subprocess.PIPE)
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(lines_wanted)]
    child.kill()
    rest = child.communicate()[0].splitlines(keepends=True)
    acknowledged: dict[tuple[int, int], bytes] = {}
    for line in lines + rest:
        if line.endswith(b"\n"):  # the last one may be cut off
            partition, offset, value = line.split()
            acknowledged[int(partition), int(offset)] = value
    return acknowledged


def test_a_killed_process_loses_nothing_acknowledged(path: Path) -> None:
    acknowledged: dict[tuple[int, int], bytes] = {}
    for wanted in (1, 400, 900):
        printed = _append_until_killed(path, wanted)
        assert len(printed) >= wanted
        assert not printed.keys() & acknowledged.keys()
        acknowledged |= printed
        database = Database(path)
        log = SqliteEventLog(database)
        partitions = [Partition("topic", index) for index in range(2)]
        reader = log.reader("test")
        for partition in partitions:
            reader.assign(partition, 0)
        seen = read_to_end(reader, partitions)
        database.close()
        there = {(p.number, offset): value for p, records in seen.records.items() for offset, _, value in records}
        assert acknowledged.items() <= there.items()
        for records in seen.records.values():
            assert len(records) % 5 == 0, "half an append is there"
