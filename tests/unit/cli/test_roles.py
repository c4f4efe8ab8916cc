"""The commands of the roles around their servers, doubles here: what they pass on, say and refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from aorist.cli.main import aorist
from aorist.settings import SETTINGS
from tests.unit.cli.double import Server

Run = Callable[..., Result]
ROOT = Path(__file__).parents[3]

ROLES = {
    "command-gateway": f"aorist takes commands of {ROOT.name} at 127.0.0.1:4711 (grpcio)\n",
    "query-gateway": f"aorist answers queries of {ROOT.name} at 127.0.0.1:4711 (grpcio)\n",
    "materializer": f"aorist folds arm_motion, arm_position of {ROOT.name} at 127.0.0.1:4711 (grpcio)\n",
}


@pytest.mark.parametrize(("role", "line"), ROLES.items())
def test_a_role_says_where_it_serves_and_ends_by_itself(
    run: Run, server: Server, tmp_path: Path, role: str, line: str
) -> None:
    result = run(role, "--duration", "0", "--transport", "grpcio", "--port-file", str(tmp_path / "port"))
    assert (result.exit_code, result.stdout) == (0, line), result.output
    assert (tmp_path / "port").read_text() == "127.0.0.1:4711\n"
    assert server.stopped


@pytest.mark.parametrize(("role", "address"), [(role, "listen") for role in ROLES if role != "materializer"])
def test_the_port_of_a_gateway_is_the_public_one(run: Run, server: Server, role: str, address: str) -> None:
    assert run(role, "--duration", "0", "--port", "7").exit_code == 0
    assert server.settings[0].listen == "127.0.0.1:7"


def test_the_port_of_a_materializer_is_that_of_its_worker(run: Run, server: Server) -> None:
    assert run("materializer", "--duration", "0", "--port", "7", AORIST_WORKER_LISTEN="0.0.0.0:1").exit_code == 0
    assert (server.settings[0].worker_listen, server.settings[0].listen) == ("0.0.0.0:7", "127.0.0.1:7100")
    result = run("materializer", "--port", "1", "--worker-listen", "h:2")
    assert result.exit_code == 2
    assert "--port and --worker-listen both say where: leave one out" in result.stderr


def test_views_are_folded_once_each_and_all_without_a_name(run: Run, server: Server) -> None:
    run("materializer", "arm_position", "arm_position", "--duration", "0")
    assert server.views == ["arm_position"]
    run("materializer", "--duration", "0")
    assert server.views == ["arm_motion", "arm_position"]


def test_a_view_that_is_not_declared_is_wrong_use(run: Run, server: Server) -> None:
    result = run("materializer", "arm_position", "arm_positions", "speed")
    assert result.exit_code == 2
    assert "no view arm_positions, speed: this project declares arm_motion, arm_position" in result.stderr
    assert not server.settings


def test_a_project_without_views_has_nothing_to_fold(
    run: Run, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aorist.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    result = run("materializer")
    assert (result.exit_code, result.stderr) == (1, "aorist: this project declares no view: there is nothing to fold\n")


@pytest.mark.parametrize(
    ("command", "given", "missing"),
    [
        (["command-gateway"], {}, "kafka"),
        (["query-gateway"], {}, "etcd"),
        (["materializer"], {}, "kafka"),
        (["materializer"], {"AORIST_KAFKA": "127.0.0.1:1"}, "cassandra"),
        (["materializer"], {"AORIST_KAFKA": "127.0.0.1:1", "AORIST_CASSANDRA": "127.0.0.1:1"}, "etcd"),
        (["topics", "diff"], {}, "kafka"),
        (["topics", "apply"], {}, "kafka"),
        (["schema", "apply"], {}, "cassandra"),
    ],
)
def test_a_system_that_is_not_named_is_one_line(
    run: Run, command: list[str], given: dict[str, str], missing: str
) -> None:
    result = run(*command, **given)
    assert result.exit_code == 1
    how = f"give --{missing} HOST:PORT or AORIST_{missing.upper()}, or run `aorist dev`, which needs none"
    assert result.stderr == f"aorist: no {missing} is set: {how}\n"


def test_every_setting_of_separate_processes_is_a_flag_of_one() -> None:
    """A new setting has to be given to the roles that read it."""
    commands = [aorist.get_command(aorist.make_context("aorist", ["config"]), role) for role in ROLES]
    flags = {option.name for command in commands if command for option in command.params}
    assert set(SETTINGS) - flags == {"db", "replicas"}
