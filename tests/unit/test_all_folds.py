"""Every view of this repository and of its documentation folds repeatably. A view is checked here by being declared: there is no list."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aorist.settings import FILE, find_root
from hatch_build import ROOT, protoc

PROJECTS = [ROOT / FILE, *sorted((ROOT / "docs").rglob(FILE))]
TUTORIAL = ROOT / "docs" / "tutorial" / "travel_limits"

# region counts
COUNTS = """
@travel_limits.apply
def moved(arm: TravelLimits, event: JointPositionsChanged) -> None:
    for axis in event.axes:
        arm.axes[axis.axis].greatest += 10
"""
# endregion

# region counterexample
TOLD = """\
view `travel_limits` does not fold repeatably: a rewind from 0 to 0
  0: a JointPositionsChanged {arm_id: "a" sampled_at_us: 1767225600000000 axes { }}
state of a:
  each once: TravelLimits {axes { value { greatest: 10.0 } }}
  then:      TravelLimits {axes { value { greatest: 20.0 } }}
an event may come again: keep absolute values, or what tells that it was folded already; do not count or append
"""
# endregion


@pytest.fixture
def project(tmp_path: Path) -> Callable[[Path], Path]:
    """A project with its contract generated: this repository as it is, others as a copy."""

    def made(root: Path) -> Path:
        if root == ROOT:
            return root
        folder = tmp_path / root.name
        shutil.copytree(root, folder, ignore=shutil.ignore_patterns("__pycache__", "*_pb2*"))
        if (folder / "proto").is_dir():
            protoc(f"-I{ROOT / 'proto'}", "--python_out=.", root=folder)
        return folder

    return made


def check_fold(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("aorist")), "check-fold"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AORIST_")}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("file", PROJECTS, ids=[str(file.parent.relative_to(ROOT)) for file in PROJECTS])
def test_every_view_folds_repeatably(project: Callable[[Path], Path], file: Path) -> None:
    ran = check_fold(project(file.parent))
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) == len(list((file.parent / "materializers").glob("[!_]*.py")))
    for line in lines:
        found = re.search(r" folds repeatably: (\d+) sequences, ", line)
        assert found is not None
        assert int(found[1]) >= 20
        assert "no second interpreter" not in line


def test_this_repository_and_the_tutorial_are_among_them() -> None:
    assert find_root(Path(__file__)) == ROOT
    assert {ROOT / FILE, TUTORIAL / FILE} <= set(PROJECTS)


def test_a_wrong_view_is_found_by_being_there(project: Callable[[Path], Path]) -> None:
    folder = project(TUTORIAL)
    file = folder / "materializers" / "travel_limits.py"
    before, rest = file.read_text().split("# region apply\n")
    file.write_text(before + COUNTS + rest[rest.index("# endregion") :])
    ran = check_fold(folder)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"aorist: {file}:")
    assert ran.stderr.endswith(TOLD)
