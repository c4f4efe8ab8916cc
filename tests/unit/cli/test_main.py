"""The program around the commands: help, plug-ins that may be broken, one line for whatever goes wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from aorist.cli.failures import sentence
from aorist.cli.main import COMMANDS
from aorist.errors import NoOwnerError

Run = Callable[..., Result]

PLUGIN = """
import click

@click.command()
def dance() -> None:
    "Makes the robots dance."
    click.echo("dancing")

@click.command()
def fall() -> None:
    raise LookupError("no floor")

@click.command()
def interrupted() -> None:
    raise KeyboardInterrupt

commands = [dance, fall, interrupted]
"""


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a project with one plug-in of this source."""

    def make(source: str = PLUGIN, plugins: str = '["moves"]') -> Path:
        (tmp_path / "moves.py").write_text(source)
        (tmp_path / "aorist.toml").write_text(f"[cli]\nplugins = {plugins}\n")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", sys.path.copy())
        monkeypatch.delitem(sys.modules, "moves", raising=False)
        return tmp_path

    return make


def test_help_tells_own_commands_from_those_of_the_project(run: Run, plugged: Callable[..., Path]) -> None:
    plugged()
    own, _, project = run("--help").stdout.partition("Commands of this project:")
    assert all(f"\n  {name} " in own for name in COMMANDS)
    assert "dance" not in own
    assert "Makes the robots dance." in project


def test_help_also_works_outside_a_project(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("--help")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Commands of this project" not in result.stdout


def test_plugged_in_commands_run(run: Run, plugged: Callable[..., Path]) -> None:
    plugged()
    result = run("dance")
    assert (result.exit_code, result.stdout) == (0, "dancing\n")


@pytest.mark.parametrize(
    ("source", "plugins", "problem"),
    [
        (
            "import nothing_like_it",
            '["moves"]',
            "plug-in moves of aorist.toml is left out: ModuleNotFoundError: No module",
        ),
        ("def x(:", '["moves"]', "plug-in moves of aorist.toml is left out: SyntaxError:"),
        (
            "commands = 3",
            '["moves"]',
            "plug-in moves of aorist.toml is left out: it has no `commands: list[click.Command]`",
        ),
        ("", '"moves"', "aorist.toml: [cli] plugins is not a list of module names"),
    ],
)
def test_a_broken_plugin_is_one_line_and_breaks_nothing_else(
    run: Run, plugged: Callable[..., Path], source: str, plugins: str, problem: str
) -> None:
    plugged(source, plugins)
    result = run("--help")
    assert result.exit_code == 0
    assert [line.startswith(f"aorist: {problem}") for line in result.stderr.splitlines()] == [True]
    assert "config" in result.stdout
    assert run("config").stderr == ""


def test_a_broken_plugin_is_told_of_once_and_the_other_one_works(run: Run, plugged: Callable[..., Path]) -> None:
    plugged(plugins='["moves", "absent"]')
    result = run("--help")
    assert "Makes the robots dance." in result.stdout
    assert len(result.stderr.splitlines()) == 1


def test_an_unknown_command_is_wrong_use(run: Run) -> None:
    assert run("gett").exit_code == 2


def test_a_bug_is_one_line_with_its_place(run: Run, plugged: Callable[..., Path]) -> None:
    place = plugged() / "moves.py"
    result = run("fall")
    assert result.exit_code == 1
    assert result.stderr == f"aorist: LookupError: no floor ({place}:11); --debug shows how it came to this\n"


def test_debug_lets_the_error_through(run: Run, plugged: Callable[..., Path]) -> None:
    plugged()
    assert isinstance(run("--debug", "fall").exception, LookupError)


def test_an_interrupted_command_ends_as_shells_expect(run: Run, plugged: Callable[..., Path]) -> None:
    plugged()
    assert run("interrupted").exit_code == 130


def test_outside_a_project_it_says_what_is_missing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("get", "arm_position", "r1")
    assert result.exit_code == 1
    assert result.stderr == f"aorist: no aorist.toml in {tmp_path} or above: run this inside a project\n"


def test_a_wrong_domain_file_is_one_line(run: Run, plugged: Callable[..., Path]) -> None:
    root = plugged()
    (root / "aorist.toml").write_text('[roles]\nmaterializers = "views"\n')
    result = run("get", "arm_position", "r1")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"aorist: {root}/aorist.toml: role materializers names the folder `views`")


def test_groups_of_errors_are_told_once_each() -> None:
    group = ExceptionGroup("", [NoOwnerError("nobody"), ExceptionGroup("", [NoOwnerError("nobody"), OSError("disk")])])
    assert sentence(group) == "nobody; disk"


def test_version(run: Run) -> None:
    assert run("--version").stdout.startswith("aorist")
