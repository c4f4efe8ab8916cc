"""Exactly what was started is ended: nothing more, nothing less, whoever dies first."""

import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from stack.errors import StackError
from stack.etcd import Etcd
from stack.process import Process
from stack.server import recorded

_LAUNCHER = """
import sys
from pathlib import Path
from stack.etcd import Etcd
etcd = Etcd(Path(sys.argv[1]))
etcd.start()
print("up", flush=True)
sys.stdin.read()
"""


def test_stopped_server_leaves_no_process(tmp_path: Path) -> None:
    with Etcd(tmp_path) as etcd:
        process = Process.of(etcd.pid)
        assert process.alive()
        assert recorded(tmp_path) == {"etcd": process}
    assert not process.alive()
    assert recorded(tmp_path) == {}


def test_paused_server_can_be_stopped(tmp_path: Path) -> None:
    etcd = Etcd(tmp_path)
    etcd.start()
    etcd.pause()
    etcd.stop(timeout_s=10)
    assert "received signal; shutting down" in etcd.log.read_text(), "it was killed instead of asked"


def test_server_dies_with_a_killed_launcher(tmp_path: Path) -> None:
    launcher = subprocess.Popen(
        [sys.executable, "-c", _LAUNCHER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "up\n"
        server = recorded(tmp_path)["etcd"]
        assert server.alive()
        launcher.kill()
        assert server.ends_within(5)


def test_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    etcd = Etcd(tmp_path)
    thread = threading.Thread(target=etcd.start)
    thread.start()
    thread.join()
    try:
        assert not Process.of(etcd.pid).ends_within(0.5)
        assert etcd.answers()
    finally:
        etcd.stop()


def test_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    etcd = Etcd(tmp_path)
    with (
        socket.create_server(("127.0.0.1", etcd.port)),
        pytest.raises(StackError, match=r"etcd ended with code 1[\s\S]*address already in use"),
    ):
        etcd.start()
    assert not etcd.running


def test_pid_of_somebody_else_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            now = Process.of(sleeper.pid)
            before = replace(now, started=now.started - 1)
            assert not before.alive()
            before.signal(signal.SIGKILL)
            before.end(grace_s=1)
            assert not now.ends_within(0.2)
        finally:
            sleeper.kill()
