"""Processes as pid and start time, so that a pid the kernel gave to somebody else is never signalled."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Self

_TETHER = Path(__file__).with_name("tether.py")

# After SIGKILL only the kernel can delay: a core's worth of memory to give back, or a disk that hangs.
_KILL_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Process:
    pid: int
    started: int  # clock ticks since boot; differs between two users of the same pid

    @classmethod
    def of(cls, pid: int) -> Self:
        """The process that has this pid now: for a child not yet waited for, or oneself."""
        return cls(pid, _stat(pid)[1])

    def alive(self) -> bool:
        try:
            state, started = _stat(self.pid)
        except OSError:
            return False
        return started == self.started and state not in "ZX"

    def signal(self, number: int) -> None:
        """Does nothing when the process has ended."""
        with self._held() as handle:
            if handle is not None:
                signal.pidfd_send_signal(handle, number)

    def ends_within(self, timeout_s: float) -> bool:
        with self._held() as handle:
            if handle is None:
                return True
            poller = select.poll()
            poller.register(handle, select.POLLIN)
            return bool(poller.poll(timeout_s * 1000))

    def end(self, grace_s: float) -> None:
        """Ask, wait, insist. A paused process is woken, else it would not hear the question."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        if not self.ends_within(grace_s):
            self.kill()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.ends_within(_KILL_TIMEOUT_S)

    @contextmanager
    def _held(self) -> Iterator[int | None]:
        """A handle on this process, None when it has ended. Opened first, compared after: it cannot change hands."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            yield handle if self.alive() else None
        finally:
            os.close(handle)


def spawn(command: Sequence[str], log: IO[bytes], *, outlive: bool) -> subprocess.Popen[bytes]:
    """A child in its own session, so that Ctrl-C at our terminal is ours to handle.

    It dies with this process unless it is to outlive it.
    """
    return _spawner(os.getpid()).submit(_popen, list(command) if outlive else tied(command), log).result()


def tied(command: Sequence[str]) -> list[str]:
    """The same command as a program that the kernel kills when the *thread* that starts it ends."""
    return [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), *command]


@cache
def _spawner(_our_pid: int) -> ThreadPoolExecutor:
    """One thread that lives as long as this process.

    To the kernel "the launcher" is the thread that forked: a server started by a thread that ends would end with it.
    By pid, since a fork of this process inherits the object but not the thread.
    """
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="stack-spawner")


def _popen(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )


def _stat(pid: int) -> tuple[str, int]:
    # The name between the parentheses may hold anything, spaces and parentheses included.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[19])
