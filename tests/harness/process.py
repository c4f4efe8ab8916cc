"""`aorist dev` as a process of its own, to be stopped, killed and started again on the same file."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from stack.process import tied
from tests.harness.places import AORIST, PATIENCE_S, ROOT, clean_environment

TICK_S = 0.01


async def until(condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Returns as soon as `condition` holds; fails when it does not within `timeout_s`."""
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(TICK_S)


class DevProcess:
    """`settings` become flags. One process at a time; the file outlives them all. Killed at the end of `async with`."""

    def __init__(self, folder: Path, *, project: Path = ROOT, **settings: object) -> None:
        self.db, self.log = folder / "dev.db", folder / "dev.log"
        self.address = ""
        self._port_file, self._project, self._settings = folder / "dev.address", project, settings
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def launch(self, *, failpoints: str = "") -> None:
        """Starts it, on the port of the time before, and returns at once."""
        self._port_file.unlink(missing_ok=True)
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in self._settings.items()]
        place = ["--port", str(self._port), "--port-file", str(self._port_file), "--db", str(self.db)]
        variables = {"AORIST_FAILPOINTS": failpoints} if failpoints else {}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                tied([str(AORIST), "dev", *place, *flags]),
                cwd=self._project,
                env=clean_environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def serving(self) -> bool:
        """Waits until it serves; False when it ended before it did."""
        await until(lambda: self._port_file.exists() or not self.alive(), "serving, or dead")
        if self._port_file.exists():
            self.address = self._port_file.read_text().strip()
            self._port = int(self.address.rpartition(":")[2])
            return True
        return False

    async def start(self) -> str:
        """Starts it, waits until it serves and gives its address."""
        self.launch()
        assert await self.serving(), self.tail()
        return self.address

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """As `kill -9`; it is gone on return."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """Asks it to stop in order."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    async def ended(self, timeout_s: float = PATIENCE_S) -> int:
        """Its exit code; minus the number of the signal that ended it."""
        await until(lambda: not self.alive(), "the end of the process", timeout_s)
        assert self._process is not None
        assert self._process.returncode is not None
        return self._process.returncode

    async def stop(self, timeout_s: float = PATIENCE_S) -> None:
        """In order; it must say that it did well."""
        self.terminate()
        assert await self.ended(timeout_s) == 0, self.tail()

    def resident_bytes(self) -> int:
        """Memory it holds now."""
        fields = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in fields if line.startswith("VmRSS"))

    def logged(self) -> list[dict[str, Any]]:
        """Every line of its log, of all its lives."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]
