"""`aorist check-fold`: which views, from where the events, and how it ends. What it finds is told in tests/unit/declare."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from aorist.adapters.sqlite import Database, SqliteEventLog
from aorist.cli.check_fold import PIECE, pieces_of
from aorist.declare import load_project
from aorist.declare.check_fold import Positioned
from aorist.declare.schema import schema_of
from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.events_pb2 import ArmEvent, JointPositionsChanged
from tests.unit.cli.conftest import ROOT

Run = Callable[..., Result]
SCHEMA = schema_of(ArmEvent)
ARMS = ("a", "b", "c", "d")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Forty events of each of four arms in turn, two at each time; and one that is none."""
    database = Database(tmp_path / "dev.db")
    log = SqliteEventLog(database)
    log.create(SCHEMA.topic)
    record = SCHEMA.recorder()

    async def fill() -> None:
        for at in range(40):
            axes = [AxisPosition(axis=0, position=at // 2)]
            events = [JointPositionsChanged(arm_id=arm, sampled_at_us=1 + at // 2, axes=axes) for arm in ARMS]
            await log.append(SCHEMA.topic.name, [record(event) for event in events])
        await log.append(SCHEMA.topic.name, [record(JointPositionsChanged(arm_id="a"))._replace(value=b"\xff")])

    asyncio.run(fill())
    log.close()
    database.close()
    return tmp_path / "dev.db"


@pytest.fixture
def pieces(file: Path) -> list[list[Positioned]]:
    database = Database(file)
    log = SqliteEventLog(database)
    found = list(pieces_of(load_project(ROOT).views["arm_position"], log))
    log.close()
    database.close()
    return found


def test_all_views_or_the_one_that_is_named(run: Run) -> None:
    for arguments in ([], ["arm_position"]):
        result = run("check-fold", *arguments, "--examples", "5")
        assert result.exit_code == 0, result.output
        assert re.search(
            r"^arm_position folds repeatably: 5 sequences, \d+ events, [\d.]+ s$", result.stdout, re.MULTILINE
        )


def test_a_view_that_is_not_declared(run: Run) -> None:
    result = run("check-fold", "nothing")
    assert result.exit_code == 2
    assert "no view nothing is declared; there are arm_motion, arm_position" in result.stderr


def test_pieces_are_of_two_keys_of_a_partition_in_order(pieces: list[list[Positioned]]) -> None:
    assert sum(map(len, pieces)) == 160
    for piece in pieces:
        assert len(piece) <= PIECE
        assert len({event.arm_id for _, event in piece}) <= 2  # type: ignore[attr-defined]
        assert len({at.partition("@")[0] for at, _ in piece}) == 1
        offsets = [int(at.partition("@")[2]) for at, _ in piece]
        assert offsets == sorted(set(offsets))


def test_events_of_the_log(run: Run, file: Path, pieces: list[list[Positioned]]) -> None:
    result = run("check-fold", "--log", "--db", str(file))
    assert result.exit_code == 0, result.output
    assert f"arm_position folds repeatably: {len(pieces)} sequences, 160 events, " in result.stdout
    result = run("check-fold", "--log", "--db", str(file), "--examples", "2")
    assert "arm_position folds repeatably: 2 sequences, " in result.stdout


def test_a_file_that_is_not_there(run: Run, tmp_path: Path) -> None:
    result = run("check-fold", "--log", "--db", str(tmp_path / "no.db"))
    assert result.exit_code == 1
    assert "no kafka is set, and there is no file" in result.stderr


def test_a_log_without_events_proves_nothing(run: Run, tmp_path: Path) -> None:
    database = Database(tmp_path / "empty.db")
    SqliteEventLog(database).create(SCHEMA.topic)
    database.close()
    result = run("check-fold", "--log", "--db", str(tmp_path / "empty.db"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "aorist: arm_motion: the log has no event that it folds: nothing was checked\n"
