"""Programs of a measurement: pinned, watched, and ended with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Self

from bench.machine import cpu_s, on_cores, peak_bytes, rss_bytes
from bench.measure import NotMeasuredError
from stack.process import tied

READY_S = 60.0


class Child:
    """A program that tells on standard output, line by line, how far it is. It ends with `with`, or with this process."""

    def __init__(self, command: Sequence[str], cores: Iterable[int], environ: Mapping[str, str] | None = None) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the child
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        with on_cores(cores):
            self._process = subprocess.Popen(
                tied(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                env={**os.environ, **(environ or {})},
            )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_s(self) -> float:
        return cpu_s(self.pid)

    def rss_bytes(self) -> int:
        return rss_bytes(self.pid)

    def peak_bytes(self) -> int:
        return peak_bytes(self.pid)

    def line(self, begins: str, timeout_s: float = READY_S) -> str:
        """The rest of the next line that begins so; other lines are passed over. Raises NotMeasuredError."""
        while True:
            try:
                line = self._lines.get(timeout=timeout_s)
            except Empty:
                raise NotMeasuredError(f"no {begins!r} within {timeout_s:.0f} s: {self.complaint()}") from None
            if line is None:
                raise NotMeasuredError(f"ended before it said {begins!r}: {self.complaint()}")
            if line.startswith(begins):
                return line.removeprefix(begins).strip()

    def result(self, timeout_s: float) -> dict[str, Any]:
        """The JSON that it ends with."""
        found: dict[str, Any] = json.loads("{" + self.line("{", timeout_s))
        return found

    def complaint(self) -> str:
        self._log.seek(0)
        text = self._log.read().decode(errors="replace").strip()
        return text[-2000:] or "(it wrote nothing)"

    def tell(self, line: str) -> None:
        """On its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def python(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"bench.children.{module}", *map(str, arguments)]
