"""`aorist config`: what is in force, and which place said so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from aorist.settings import SETTINGS

Run = Callable[..., Result]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own; the working directory is below it."""
    (tmp_path / "aorist.toml").write_text('[settings]\nmember = "m"\ndb = "data/arms.db"\ndrain_s = 1\n')
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    return tmp_path


def found(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_each_value_is_shown_with_its_place(run: Run, project: Path) -> None:
    config = found(run("config", "--json", "--max-wait-ms", "3", AORIST_DRAIN_S="2"))
    assert list(config) == list(SETTINGS)
    assert config["member"] == {"value": "m", "from": "aorist.toml", "doc": SETTINGS["member"].rule.doc}
    assert (config["drain_s"]["value"], config["drain_s"]["from"]) == (2.0, "environment AORIST_DRAIN_S")
    assert (config["max_wait_ms"]["value"], config["max_wait_ms"]["from"]) == (3, "flag --max-wait-ms")


def test_the_database_of_a_project_lies_in_it_and_that_of_a_flag_here(run: Run, project: Path) -> None:
    assert found(run("config", "--json"))["db"]["value"] == str(project / "data/arms.db")
    assert found(run("config", "--json", "--db", "x.db"))["db"]["value"] == "x.db"


def test_it_also_works_outside_a_project(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert found(run("config", "--json"))["db"] == {
        "value": "aorist.db",
        "from": "default",
        "doc": SETTINGS["db"].rule.doc,
    }


def test_people_get_a_table(run: Run, project: Path) -> None:
    lines = run("config").stdout.splitlines()
    assert lines[0].split() == ["setting", "value", "from", "meaning"]
    assert [line.split()[0] for line in lines[1:]] == list(SETTINGS)
    assert next(line for line in lines if line.startswith("advertise")).split()[1] == '""'


def test_a_wrong_file_is_one_line(run: Run, project: Path) -> None:
    (project / "aorist.toml").write_text("[settings]\ndrains = 1\n")
    result = run("config")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "aorist: aorist.toml: [settings] has no setting drains; did you mean drain_s?\n"
    (project / "aorist.toml").write_text("settings = 3\n")
    assert run("config").stderr == "aorist: aorist.toml: [settings] is not a table\n"


def test_a_wrong_flag_is_wrong_use(run: Run) -> None:
    result = run("config", "--transport", "http")
    assert result.exit_code == 2
    assert "Error: flag --transport: 'http' is not one of native, grpcio" in result.stderr
