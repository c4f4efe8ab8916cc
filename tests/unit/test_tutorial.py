"""The tutorial works: its project is generated, loaded, tested and served as it says, and refusals read as it says."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hatch_build import ROOT, protoc

TUTORIAL = ROOT / "docs" / "tutorial"
LOAD = "from pathlib import Path; from aorist.declare import load_project; load_project(Path.cwd())"
VIEW, QUERIES, PROTO = (
    "materializers/travel_limits.py",
    "query_gateway/travel_limits.py",
    "proto/limits/v1/queries.proto",
)

MISTAKES = {
    "no apply": (VIEW, {"@travel_limits.apply\n": ""}),
    "remembers outside the state": (
        VIEW,
        {
            "# endregion\n\n\n# region apply": "remembered = {}\n\n\n# region apply",
            "in event.axes:": "in event.axes:\n        remembered[event.arm_id] = axis",
        },
    ),
    "no list": (VIEW, {"@travel_limits.list\n": ""}),
    "another answer": (VIEW, {") -> GetTravelLimitsResponse": ") -> TravelLimits"}),
    "no route": (PROTO, {" [(aorist.v1.route) = true]": ""}),
    "no merge": (QUERIES, {"limits.merge_by_key(ListTravelLimitsRequest)": ""}),
}
"""What a reader may get wrong, and where. The tutorial shows how each is refused."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, as somebody has it who follows the tutorial."""
    folder, source = tmp_path / "travel_limits", TUTORIAL / "travel_limits"
    generated = [source / "limits", *source.rglob("__pycache__")]
    shutil.copytree(source, folder, ignore=lambda at, names: [name for name in names if Path(at, name) in generated])
    return folder


def generate(project: Path) -> None:
    protoc(f"-I{ROOT / 'proto'}", "--python_out=.", "--grpc_python_out=.", root=project)


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=project, env=environment(), capture_output=True, text=True, check=False
    )


def environment() -> dict[str, str]:
    """Without what is set for whoever runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AORIST_")}


def test_the_project_loads_and_its_own_tests_pass(project: Path) -> None:
    generate(project)
    tested = run(
        project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(project), "-o", "pythonpath=."
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "2 passed" in tested.stdout
    loaded = run(project, "-c", LOAD)
    assert loaded.returncode == 0, loaded.stderr


@pytest.mark.parametrize(("name", "changes"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_is_refused_in_the_words_of_the_tutorial(project: Path, name: str, changes: dict[str, str]) -> None:
    file = project / name
    text = file.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    generate(project)
    loaded = run(project, "-c", LOAD)
    assert loaded.returncode == 1
    refusal = loaded.stderr.strip().splitlines()[-1]
    assert refusal.startswith("aorist.errors.MisdeclaredError: ")
    sentence = refusal.removeprefix("aorist.errors.MisdeclaredError: ").replace(f"{project}/", "")
    assert f"\n{sentence}\n" in (TUTORIAL / "README.md").read_text()


def test_it_runs(project: Path) -> None:
    generate(project)
    command = [str(Path(sys.executable).with_name("aorist")), "dev", "--port", "0", "--db", "limits.db"]
    with subprocess.Popen(command, cwd=project, env=environment(), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            assert line.startswith("aorist serves travel_limits at ")
            address = line.removeprefix("aorist serves travel_limits at ").split()[0]
            tried = run(project, "try_it.py", address)
        finally:
            server.send_signal(signal.SIGTERM)
            server.stdout.read()
    assert server.returncode == 0
    assert tried.returncode == 0, tried.stderr
    assert tried.stdout.strip()
    assert f"\n```\n{tried.stdout}```\n" in (TUTORIAL / "README.md").read_text()
