"""Resolves each tool of the stack once, into a cache folder outside the checkout.

A tool's folder is named after a hash of everything that decides what is in it: its pins and the command that builds it.
It is filled under a temporary name and renamed, by one process at a time: it is complete or it is not there.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stack.errors import StackError, tail
from stack.process import tied

_PINS = Path(__file__).parent
_OUT = "{out}"  # stands for the folder to fill, in a tool's command

# A cold build compiles all of etcd on two cores (about a minute) or fetches 130 MB of jars; ten times that is a hang.
_BUILD_TIMEOUT_S = 900

_JDK = "JDK 17 (java) and Maven 3.8 or newer (mvn)"
_GO = "Go 1.26 or newer (go)"
_GRPCURL = "github.com/fullstorydev/grpcurl"


@dataclass(frozen=True)
class _Tool:
    name: str
    pins: tuple[str, ...]
    command: tuple[str, ...]
    needs: str

    def key(self) -> str:
        digest = hashlib.sha256("\0".join(self.command).encode())
        for pin in self.pins:
            digest.update(f"\0{pin}\0".encode() + (_PINS / pin).read_bytes())
        return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """`$AORIST_CACHE`, else `aorist` in the user's cache folder. Created when missing."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("AORIST_CACHE") or Path(base) / "aorist").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """One process at a time, waiting its turn."""
    with lock.open("w") as held:  # the kernel frees it when its holder dies, however it dies
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def grpcurl() -> Path:
    pinned = re.search(rf"{_GRPCURL} (v\S+)", (_PINS / "go.mod").read_text())
    version = pinned.group(1) if pinned else "unknown"
    return _resolve(_go_tool("grpcurl", f"{_GRPCURL}/cmd/grpcurl", f"-X main.version={version}")) / "grpcurl"


def etcd() -> Path:
    return _resolve(_go_tool("etcd", "./etcd", "", "etcd/main.go")) / "etcd"


def kafka_classpath() -> str:
    return _classpath("kafka")


def cassandra_classpath() -> str:
    return _classpath("cassandra")


@cache
def java() -> Path:
    """The JVM both servers run on: Kafka 4 needs 17 or newer, Cassandra 5.0 runs on 17 and on nothing newer."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin" if home else None)
    if not found:
        raise StackError(f"no java in {home or 'PATH'}: install JDK 17, or set JAVA_HOME to one")
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', said)
    if not version or version.group(1) != "17":
        raise StackError(f"{found} is not JDK 17: install it, or set JAVA_HOME to one. It says:\n{tail(said)}")
    return Path(found)


def _go_tool(name: str, package: str, link: str, *sources: str) -> _Tool:
    # -buildvcs=false: the binary is not a function of this repository's commit, and a checkout without git builds too.
    flags = ("-trimpath", "-buildvcs=false", f"-ldflags=-s -w {link}".rstrip())
    return _Tool(name, ("go.mod", "go.sum", *sources), ("go", "build", *flags, "-o", f"{_OUT}/{name}", package), _GO)


def _classpath(profile: str) -> str:
    # Both goals: the jars live in our cache, complete even when Maven's own is emptied; the file keeps Maven's order.
    goals = ("dependency:copy-dependencies", "dependency:build-classpath")
    into = (f"-DoutputDirectory={_OUT}", f"-Dmdep.outputFile={_OUT}/classpath", "-DincludeScope=runtime")
    folder = _resolve(_Tool(profile, ("pom.xml",), ("mvn", "-B", "-q", f"-P{profile}", *goals, *into), _JDK))
    jars = (folder / "classpath").read_text().strip().split(os.pathsep)
    return os.pathsep.join(str(folder / Path(jar).name) for jar in jars)


def _resolve(tool: _Tool) -> Path:
    folder = cache_folder() / "tools" / f"{tool.name}-{tool.key()}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(exist_ok=True)
    with only_one(folder.parent / f"{tool.name}.lock"):
        if folder.is_dir():
            return folder
        for left_by_a_killed_build in folder.parent.glob(f".{tool.name}-*"):
            shutil.rmtree(left_by_a_killed_build, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{tool.name}-", dir=folder.parent))
        try:
            _build(tool, unfinished)
            unfinished.rename(folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return folder


def _build(tool: _Tool, folder: Path) -> None:
    program = shutil.which(tool.command[0])
    if not program:
        raise StackError(f"cannot build {tool.name}: no {tool.command[0]} in PATH. Install {tool.needs}.")
    command = [program, *(argument.replace(_OUT, str(folder)) for argument in tool.command[1:])]
    # CGO_ENABLED=0: no C compiler needed.
    environment = os.environ | {"CGO_ENABLED": "0"}
    log = folder / "build.log"
    with log.open("w") as output:
        try:
            built = subprocess.run(
                tied(command),
                cwd=_PINS,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=_BUILD_TIMEOUT_S,
                check=False,
            ).returncode
            how = f"exit code {built}"
        except subprocess.TimeoutExpired:
            how = f"not finished after {_BUILD_TIMEOUT_S} s"
            built = -1
    if built != 0:
        raise StackError(
            f"cannot build {tool.name} ({how}): {' '.join(command)}\n"
            f"It needs {tool.needs}, and on the first run a network. Its last lines:\n{tail(log.read_text())}"
        )
