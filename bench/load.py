"""The load generator: `bench/loadgen`, in Go, since a client in Python cannot find the limit of a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from bench.machine import Cores
from bench.measure import NotMeasuredError
from bench.processes import Child
from stack.tools import _GO, _OUT, _resolve, _Tool


@cache
def program() -> Path:
    flags = ("-C", "../bench/loadgen", "-trimpath", "-buildvcs=false", "-ldflags=-s -w")
    pins = ("go.mod", "go.sum", "main.go", "calls.go", "wire.go")
    command = ("go", "build", *flags, "-o", f"{_OUT}/loadgen", ".")
    return _resolve(_Tool("loadgen", tuple(f"../bench/loadgen/{pin}" for pin in pins), command, _GO)) / "loadgen"


@dataclass(frozen=True)
class Load:
    """What is asked of a server. `rate`: calls per second over all callers, 0: as fast as answers come."""

    mode: str
    callers: int
    connections: int
    warm_s: float
    measured_s: float
    batch: int = 0
    axes: int = 6
    arms: int = 1000
    rate: float = 0
    samples: bool = False


@dataclass(frozen=True)
class Served:
    """What came of it. `cpu_s`: of the servers, while it was measured. `samples`: (wall clock s, latency ms)."""

    count: int
    seconds: float
    cpu_s: float
    p50_ms: float
    p99_ms: float
    samples: Sequence[tuple[float, float]] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        return self.count / self.seconds

    @property
    def per_core(self) -> float:
        return self.count / self.cpu_s


class Running:
    """A load under way."""

    def __init__(self, address: str, load: Load, cores: Cores) -> None:
        self._load = load
        flags = {
            "addr": address,
            "mode": load.mode,
            "callers": load.callers,
            "conns": load.connections,
            "warm": f"{load.warm_s}s",
            "for": f"{load.measured_s}s",
            "batch": load.batch,
            "axes": load.axes,
            "arms": load.arms,
            "rate": load.rate,
            "samples": str(load.samples).lower(),
        }
        self.child = Child([str(program()), *(f"-{name}={value}" for name, value in flags.items())], cores.load)

    def served(self, servers: Sequence[Child] = ()) -> Served:
        """Waits for the end. Raises NotMeasuredError when calls failed: a server that refuses is fast."""
        with self.child as child:
            child.line("measuring", self._load.warm_s + 30)
            before = sum(server.cpu_s() for server in servers)
            child.line("measured", self._load.measured_s + 30)
            used = sum(server.cpu_s() for server in servers) - before
            result = child.result(30)
        return _served(result, used)


def _served(result: dict[str, Any], used_s: float) -> Served:
    if result["errors"] or not result["count"]:
        failed = f"{result['errors']} calls failed, {result['count']} were answered: {result['error']}"
        raise NotMeasuredError(failed)
    samples = [(at_us / 1e6, us / 1e3) for at_us, us in result["samples"] or ()]
    return Served(result["count"], result["seconds"], used_s, result["p50_ms"], result["p99_ms"], samples)


def run(address: str, load: Load, cores: Cores, servers: Sequence[Child]) -> Served:
    return Running(address, load, cores).served(servers)
