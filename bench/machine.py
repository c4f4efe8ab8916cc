"""This machine as measurements need it: cores, CPU time, memory, and what it is."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_MEASURED_WITH = (
    "grpcio",
    "pygrpc-native",
    "uvloop",
    "protobuf",
    "protovalidate",
    "confluent-kafka",
    "cassandra-driver",
)


class Cores:
    """The first core is the server's; all others are for the load, Kafka and Cassandra. With one core, all share it."""

    def __init__(self) -> None:
        allowed = sorted(os.sched_getaffinity(0))
        self.server = {allowed[0]}
        self.load = set(allowed[1:]) or self.server

    def __str__(self) -> str:
        return f"servers on core {_list(self.server)}, load and databases on core {_list(self.load)}"


def _list(cores: Iterable[int]) -> str:
    return ",".join(map(str, sorted(cores)))


def pin(pid: int, cores: Iterable[int]) -> None:
    """Every thread that the process has by now; later ones take after those that start them."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), cores)
        except ProcessLookupError:
            continue  # it ended meanwhile


@contextmanager
def on_cores(cores: Iterable[int]) -> Iterator[None]:
    """This thread, and what it starts: threads and processes take after the thread that starts them."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_s(pid: int | str = "self") -> float:
    """User and system time of all its threads, also of those that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_bytes(pid: int | str = "self") -> int:
    return _status_bytes(pid, "VmRSS")


def peak_bytes(pid: int | str = "self") -> int:
    """The most that `rss_bytes` has been."""
    return _status_bytes(pid, "VmHWM")


def _status_bytes(pid: int | str, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found.group(1)) * 1024 if found else 0


def describe() -> dict[str, str]:
    """What figures depend on and a reader cannot see."""
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return {
        "machine": f"{len(os.sched_getaffinity(0))} cores, {int(memory.group(1)) / 2**20:.0f} GiB" if memory else "",
        "cpu": model.group(1) if model else platform.machine(),
        "system": f"Linux {platform.release()}",
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def versions() -> dict[str, str]:
    return {"Python": sys.version.split()[0], **{name: version(name) for name in _MEASURED_WITH}}
