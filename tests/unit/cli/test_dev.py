"""`aorist dev` around the server, a double here: when it says that it is ready, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from aorist.cli.serving import write_whole
from aorist.errors import PartitionCountError
from tests.unit.cli.double import PATIENCE_S, Server

Run = Callable[..., Result]
ROOT = Path(__file__).parents[3]


def test_it_says_where_it_serves_and_ends_by_itself(run: Run, server: Server, tmp_path: Path) -> None:
    result = run("dev", "--duration", "0", "--db", "x.db", "--port-file", str(tmp_path / "port"))
    assert result.exit_code == 0, result.output
    assert result.stdout == f"aorist serves {ROOT.name} at 127.0.0.1:4711 (native, x.db)\n"
    assert (tmp_path / "port").read_text() == "127.0.0.1:4711\n"
    assert server.stopped


def test_a_port_file_of_an_earlier_run_is_gone_before_serving(
    run: Run, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "port").write_text("old")
    seen = []

    async def stops(stop: asyncio.Event) -> None:
        stop.set()

    def look(*_: Any) -> None:
        seen.append((tmp_path / "port").exists())

    monkeypatch.setattr("aorist.cli.serving.write_whole", look)

    server.serves = stops
    run("dev", "--port-file", str(tmp_path / "port"))
    assert seen == [False]


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_whole(tmp_path / "port", "a")
    write_whole(tmp_path / "port", "b")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("port", "b")]


def test_flags_reach_the_server(run: Run, server: Server) -> None:
    run("dev", "--duration", "0", "--transport", "grpcio", "--checkpoint-interval-s", "0.5", "--listen", "[::1]:1")
    (settings,) = server.settings
    assert (settings.transport, settings.checkpoint_interval_s, settings.listen) == ("grpcio", 0.5, "[::1]:1")


def test_a_port_alone_keeps_the_host(run: Run, server: Server) -> None:
    run("dev", "--duration", "0", "--port", "0", AORIST_LISTEN="0.0.0.0:7100")
    assert server.settings[0].listen == "0.0.0.0:0"


def test_two_words_on_where_to_listen_are_wrong_use(run: Run, server: Server) -> None:
    result = run("dev", "--port", "1", "--listen", "h:2")
    assert result.exit_code == 2
    assert "--port and --listen both say where: leave one out" in result.stderr


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_order(run: Run, server: Server, which: signal.Signals) -> None:
    async def signalled(stop: asyncio.Event) -> None:
        os.kill(os.getpid(), which)

    server.serves = signalled
    result = run("dev")
    assert (result.exit_code, server.stopped) == (0, True)
    assert "stopping in order; once more ends it at once" in result.stderr


def test_a_second_signal_ends_it_at_once() -> None:
    code = """
import asyncio, os, signal, sys, types
async def serve_dev(project, settings, on_ready, stop):
    on_ready("here")
    os.kill(os.getpid(), signal.SIGTERM)
    await stop.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.Event().wait()
sys.modules["aorist.app"] = app = types.ModuleType("aorist.app")
app.serve_dev = serve_dev
from aorist.cli.main import main
main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", code, "dev"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 130


def test_a_server_that_cannot_start_is_one_line(run: Run, server: Server) -> None:
    async def refuses(stop: asyncio.Event) -> None:
        raise PartitionCountError("arms has 8 partitions, not 4")

    server.serves = refuses
    result = run("dev")
    assert (result.exit_code, result.stderr) == (1, "aorist: arms has 8 partitions, not 4\n")
