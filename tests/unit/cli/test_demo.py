"""`aorist dev --demo`: simulated robots beside the server, a table of them, lines to copy that work."""

from __future__ import annotations

import asyncio
import shlex
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from aorist.cli.demo import is_taken, lines_to_copy, program
from aorist.cli.queries import find_query
from aorist.declare import load_project
from aorist.settings import Settings
from fleet.arms.v1.queries_pb2 import GetArmPositionResponse, ListArmPositionsResponse
from tests.unit.cli.double import PATIENCE_S, Arms, Gateway, Server, arm, header

Run = Callable[..., Result]
ROOT = Path(__file__).parents[3]

SIMULATOR = """
import asyncio
asked = []
async def simulate(address, *, arms, rate_hz, duration_s, seed):
    asked.append((address, arms))
    {then}
"""


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, gateway: Gateway) -> Callable[[str], None]:
    """Makes a project with the roles of this one and a simulator that ends with this statement; the server is the gateway double."""

    def make(then: str = "await asyncio.Event().wait()", hook: str = "robots_of_test:simulate") -> None:
        (tmp_path / "robots_of_test.py").write_text(SIMULATOR.format(then=then))
        for role in ("command_gateway", "materializers", "query_gateway"):
            (tmp_path / role).symlink_to(ROOT / role)
        roles = (ROOT / "aorist.toml").read_text().partition("[cli]")[0]
        (tmp_path / "aorist.toml").write_text(f'{roles}\n[cli]\ndemo = "{hook}"\n')
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "robots_of_test", raising=False)
        server.address = gateway.address

    return make


def ends_when_shown(server: Server, arms: Arms) -> None:
    """The server stops once the demo has drawn its first table: when it looks again."""
    shown = asyncio.Event()

    def list_(ask: Any, context: Any) -> Any:
        if len(arms.asked) > 1:
            loop[0].call_soon_threadsafe(shown.set)
        return ListArmPositionsResponse(arms=[arm("r1", 0.5)], headers=[header()])

    async def until_shown(stop: asyncio.Event) -> None:
        loop.append(asyncio.get_running_loop())
        async with asyncio.timeout(PATIENCE_S):
            await shown.wait()
        stop.set()

    loop: list[asyncio.AbstractEventLoop] = []
    arms.list, server.serves = list_, until_shown


def test_the_demo_simulates_shows_and_says_how_to_ask(run: Run, demo: Any, server: Server, arms: Arms) -> None:
    demo()
    ends_when_shown(server, arms)
    result = run("dev", "--demo", "--arms", "3", "--port", "0")
    assert result.exit_code == 0, result.output
    assert sys.modules["robots_of_test"].asked == [(server.address, 3)]
    assert f'grpcurl -plaintext -d \'{{"arm_id": "r1"}}\' {server.address} ' in result.stdout
    assert "fleet.arms.v1.ArmQueryService/GetArmPosition\n" in result.stdout


def test_the_demo_leaves_no_file_behind_and_the_own_database_alone(
    run: Run, demo: Any, server: Server, arms: Arms, tmp_path: Path
) -> None:
    demo()
    ends_when_shown(server, arms)
    run("dev", "--demo", "--port", "0")
    folder = Path(server.settings[0].db).parent
    assert folder.name.startswith("aorist-demo-")
    assert not folder.exists()
    arms.asked.clear()
    ends_when_shown(server, arms)
    run("dev", "--demo", "--port", "0", "--db", "mine.db")
    assert server.settings[1].db == "mine.db"


def test_the_demo_evades_a_port_that_is_taken_unless_it_was_asked_for(
    run: Run, demo: Any, server: Server, arms: Arms, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo()
    monkeypatch.setattr("aorist.cli.demo.is_taken", lambda address: address == Settings().listen)
    for flags in ([], ["--port", "7100"]):
        arms.asked.clear()
        ends_when_shown(server, arms)
        run("dev", "--demo", *flags)
    assert [settings.listen for settings in server.settings] == ["127.0.0.1:0", "127.0.0.1:7100"]


def test_a_port_is_taken_while_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        assert is_taken(address)
    assert not is_taken(address)


def test_a_simulator_that_fails_ends_the_demo_with_its_word(run: Run, demo: Any, server: Server, arms: Arms) -> None:
    demo('raise OSError("the robots are asleep")')
    arms.list = lambda *_: ListArmPositionsResponse()
    result = run("dev", "--demo", "--port", "0")
    assert (result.exit_code, server.stopped) == (1, True)
    assert result.stderr.endswith("aorist: the robots are asleep\n")


@pytest.mark.parametrize(
    ("hook", "problem"),
    [
        ("", 'aorist.toml: [cli] demo names no function: write demo = "module:function"'),
        ("robots_of_test", 'aorist.toml: [cli] demo names no function: write demo = "module:function"'),
        ("no_such_module:f", "aorist.toml: [cli] demo = 'no_such_module:f' cannot be imported: No module named"),
        ("robots_of_test:f", "aorist.toml: [cli] demo = 'robots_of_test:f': robots_of_test has no function f"),
    ],
)
def test_a_demo_that_is_not_there_is_told(run: Run, demo: Any, hook: str, problem: str) -> None:
    demo(hook=hook)
    result = run("dev", "--demo")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"aorist: {problem}")


def test_the_lines_to_copy_are_for_a_shell_and_the_python_one_works(
    gateway: Gateway, arms: Arms, capsys: pytest.CaptureFixture[str]
) -> None:
    arms.get = lambda ask, _: GetArmPositionResponse(header=header(), arm=arm(ask.arm_id, 0.5))
    query = find_query(load_project(ROOT), "arm_position", "get")
    grpcurl, cli, python = map(shlex.split, lines_to_copy(query, ("it's 1",), gateway.address))
    method = "fleet.arms.v1.ArmQueryService/GetArmPosition"
    assert grpcurl == ["grpcurl", "-plaintext", "-d", '{"arm_id": "it\'s 1"}', gateway.address, method]
    assert cli[1:] == ["get", "arm_position", "it's 1", "--address", gateway.address]
    exec(python[2], {})  # noqa: S102  # what a reader would paste
    assert "it's 1" in capsys.readouterr().out.replace("\\'", "'")


def test_programs_are_called_as_the_shell_here_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name in ("python", "aorist"):
        (tools / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(tools / "python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert program("aorist") == ".venv/bin/aorist"
    monkeypatch.setenv("PATH", str(tools))
    assert program("aorist") == "aorist"
    monkeypatch.chdir("/")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", "/elsewhere/bin/python")
    assert program("aorist") == "elsewhere/bin/aorist"
