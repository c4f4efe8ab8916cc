"""A tool is built once, whole or not at all, however many ask for it and whoever is killed meanwhile."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stack import tools
from stack.errors import StackError

Go = Callable[[str], Path]


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Go:
    """Puts a program of our choosing in Go's place, with a cache of its own; answers a log with a line for each run.

    In it, $out is the file that it has to write.
    """
    runs = tmp_path / "runs"
    runs.touch()
    monkeypatch.setenv("AORIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def does(script: str) -> Path:
        program = tmp_path / "go"
        find = 'while [ "$1" != -o ]; do shift; done; out=$2'
        program.write_text(f"#!/bin/sh\necho $$ >> {runs}\n{find}\n{script}\n")
        program.chmod(0o755)
        return runs

    return does


def test_grpcurl_is_the_pinned_one() -> None:
    said = subprocess.run([tools.grpcurl(), "--version"], capture_output=True, text=True, check=True)
    assert "v1.9.4" in said.stderr


def test_second_call_builds_nothing(go: Go) -> None:
    runs = go("echo built > $out")
    first = tools.etcd()
    assert first.read_text() == "built\n"
    assert tools.etcd() == first
    assert len(runs.read_text().splitlines()) == 1


def test_jars_are_found_without_maven(monkeypatch: pytest.MonkeyPatch) -> None:
    jars = tools.kafka_classpath().split(":")
    assert all(Path(jar).is_file() for jar in jars)
    monkeypatch.setenv("PATH", "/nowhere")
    assert tools.kafka_classpath().split(":") == jars


def test_two_at_once_build_once(go: Go) -> None:
    runs = go("sleep 0.5; echo built > $out")
    ask = [sys.executable, "-c", "from stack import tools; print(tools.etcd())"]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: subprocess.check_output(ask, text=True), range(2)))
    assert both[0] == both[1]
    assert len(runs.read_text().splitlines()) == 1


def test_killed_build_leaves_nothing_half_made(go: Go, tmp_path: Path) -> None:
    runs = go("echo half > $out; exec sleep 60")
    with subprocess.Popen([sys.executable, "-c", "from stack import tools; tools.etcd()"]) as builder:
        while not list(tmp_path.glob("cache/tools/.etcd-*/etcd")):
            assert builder.poll() is None
            time.sleep(0.01)
        builder.kill()
    go("echo whole > $out")
    assert tools.etcd().read_text() == "whole\n"
    assert len(runs.read_text().splitlines()) == 2
    assert list(tmp_path.glob("cache/tools/.etcd-*")) == []


def test_failed_build_shows_its_last_words_and_needs(go: Go, tmp_path: Path) -> None:
    go("echo no such module; exit 3")
    with pytest.raises(StackError, match=r"exit code 3[\s\S]*Go 1\.26[\s\S]*no such module"):
        tools.etcd()
    assert list(tmp_path.glob("cache/tools/*etcd-*")) == []


def test_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AORIST_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StackError, match=r"no mvn in PATH.*JDK 17.*Maven"):
        tools.cassandra_classpath()
