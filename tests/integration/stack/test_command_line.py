"""`python -m stack`: what `up` leaves running, `down` ends; nothing is started twice."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.server import recorded


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    state = tmp_path / "state.json"
    yield state
    _stack(state, "down")


def test_up_status_down(state: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    up = _stack(state, "up", "--dir", str(folder))
    assert up.returncode == 0, up.stderr
    names = [line.split("=")[0] for line in up.stdout.splitlines()]
    assert names == ["AORIST_KAFKA", "AORIST_CASSANDRA", "AORIST_ETCD"]
    processes = recorded(folder)
    assert sorted(processes) == ["cassandra", "etcd", "kafka-1"]
    assert all(process.alive() for process in processes.values())

    again = _stack(state, "up")
    assert (again.returncode, again.stdout, again.stderr) == (0, up.stdout, "runs already\n")

    processes["etcd"].kill()
    status = _stack(state, "status")
    assert status.returncode == 1
    assert "etcd: ended" in status.stdout
    assert f"cassandra: process {processes['cassandra'].pid}" in status.stdout
    assert "without etcd" in _stack(state, "up").stderr

    assert _stack(state, "down").returncode == 0
    assert not any(process.alive() for process in processes.values())
    assert not folder.exists()
    assert _stack(state, "status").stdout == "nothing runs\n"


def test_folder_with_something_in_it_is_refused(state: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").touch()
    refused = _stack(state, "up", "--dir", str(mine))
    assert refused.returncode == 1
    assert "is not empty" in refused.stderr
    assert (mine / "thesis.txt").exists()


def _stack(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stack", "--state", str(state), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=180, env=os.environ)
