"""What Kafka, Cassandra and etcd have in common here: a folder, ports that stay, a child process, a real question."""

import json
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Self

from stack.errors import StackError, tail_of
from stack.process import Process, spawn

# Warm starts take 1 to 8 s alone; 120 s is a machine ten times busier, beyond that it hangs.
START_TIMEOUT_S = 120.0

# Kafka hands over its partitions and Cassandra flushes its tables; both take 1 to 3 s here.
STOP_TIMEOUT_S = 30.0

_POLL_S = 0.05


class Server(ABC):
    """One server, one caller at a time. Killed and started again it has the same ports, the same data, one log."""

    def __init__(self, name: str, folder: Path, *, outlive: bool = False) -> None:
        self.name = name
        self.folder = folder.absolute()
        self.log = self.folder / f"{name}.log"
        self._outlive = outlive
        self._child: subprocess.Popen[bytes] | None = None
        self._process: Process | None = None

    @property
    @abstractmethod
    def address(self) -> str:
        """host:port for clients; known before the server runs."""

    @abstractmethod
    def prepare(self) -> list[str]:
        """Write what the server reads and answer its command line. Called before every launch; keeps data."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it answers a client's question now; takes at most about a second. OSError counts as no."""

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def running(self) -> bool:
        """Paused counts as running: the process is there."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start the process and leave a record of it in the folder; `wait_ready` is the second half of `start`."""
        if self.running:
            raise StackError(f"{self.name} runs already, as process {self.pid}")
        self.folder.mkdir(parents=True, exist_ok=True)
        command = self.prepare()
        with self.log.open("ab") as log:
            self._child = spawn(command, log, outlive=self._outlive)
        self._process = Process.of(self._child.pid)
        _record(self.folder).write_text(json.dumps(asdict(self._process) | {"name": self.name}))

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not (self._answers() and self.running):  # a stranger on our port would answer, too
            code = self._child.poll() if self._child else None
            if code is not None or self._child is None:
                why = f"ended with code {code} before it answered on {self.address}"
                raise StackError(f"{self.name} {why}. Last lines of {self.log}:\n{tail_of(self.log)}")
            if time.monotonic() > deadline:
                self.kill()
                why = f"did not answer on {self.address} within {timeout_s:.0f} s"
                raise StackError(f"{self.name} {why}. Last lines of {self.log}:\n{tail_of(self.log)}")
            time.sleep(_POLL_S)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Gracefully, then by force. Nothing to do when it has ended."""
        if self._process is not None:
            self._process.end(timeout_s)
            self._reap()

    def kill(self) -> None:
        """SIGKILL, and wait until the kernel has closed its sockets."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nobody answers."""
        self._running().signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().signal(signal.SIGCONT)

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _running(self) -> Process:
        if self._process is None or not self.running:
            raise StackError(f"{self.name} does not run")
        return self._process

    def _answers(self) -> bool:
        try:
            return self.answers()
        except OSError:
            return False

    def _reap(self) -> None:
        if self._child is not None:
            self._child.wait()
        self._child = self._process = None
        _record(self.folder).unlink(missing_ok=True)


def recorded(folder: Path) -> dict[str, Process]:
    """By name, the servers that a launcher, perhaps gone since, started in the folders below this one."""
    found = {}
    for record in sorted(folder.rglob(_record(folder).name)):
        fields = json.loads(record.read_text())
        found[str(fields["name"])] = Process(int(fields["pid"]), int(fields["started"]))
    return found


def _record(folder: Path) -> Path:
    return folder / "process.json"
