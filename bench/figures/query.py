"""Queries for one key through a gateway to the worker that owns it."""

from __future__ import annotations

from collections.abc import Sequence

from bench.load import Load, Served, run
from bench.measure import Aim, Line, Outcome, interleaved
from bench.processes import Child
from bench.rig import Rig
from bench.status import Worker

HOW = (
    "GetArmPosition (six axes, 1,000 arms) at `aorist query-gateway`, answered by `aorist materializer`, both on one core, the load on "
    "the other. Limit: two hops that pass bytes on with the same transport and coalescing. Per core: of both processes together."
)


def measure(rig: Rig) -> Outcome:
    filled = rig.filled("query", events=10_000, arms=1_000, axes=6)
    environ = {"AORIST_ETCD_PREFIX": f"/{filled.topic}", "AORIST_KEYSPACE": rig.new_keyspace()}
    with (
        rig.child("role", "materializer", filled.topic, environ=environ) as worker,
        rig.child("raw_hop", "worker") as raw_worker,
    ):
        with Worker(worker.line("ready")) as status:
            status.wait_folded(filled.events)
        with (
            rig.child("role", "query-gateway", filled.topic, environ=environ) as gateway,
            rig.child("raw_hop", "gateway", raw_worker.line("ready")) as raw_gateway,
        ):
            ours, raw = (
                (gateway.line("ready"), [gateway, worker]),
                (raw_gateway.line("ready"), [raw_gateway, raw_worker]),
            )
            here, there = interleaved(rig.rounds(), lambda: _both(rig, *ours), lambda: _both(rig, *raw))
    return Outcome(_lines(here, there), [_shares(here)])


def _both(rig: Rig, address: str, servers: Sequence[Child]) -> tuple[Served, Served, float]:
    """64 at once; alone; the gateway's share of the CPU time of the first."""
    seconds, warm = (1.0, 0.5) if rig.quick else (4.0, 1.0)
    before = servers[0].cpu_s()
    many = run(address, Load("get", 64, 4, warm_s=warm, measured_s=seconds), rig.cores, servers)
    gateway_s = servers[0].cpu_s() - before
    alone = run(address, Load("get", 1, 1, warm_s=warm, measured_s=seconds), rig.cores, servers)
    return many, alone, gateway_s / (many.cpu_s * (1 + warm / seconds))


def _shares(here: Sequence[tuple[Served, Served, float]]) -> str:
    share = sorted(s for _, _, s in here)[len(here) // 2]
    return f"about {min(share, 1):.0%} of a query's CPU time is the gateway's, the rest the worker's"


def _lines(here: Sequence[tuple[Served, Served, float]], there: Sequence[tuple[Served, Served, float]]) -> list[Line]:
    def line(name: str, index: int, attribute: str, aim: Aim | None = None) -> Line:
        ours, raw = ([getattr(result[index], attribute) for result in results] for results in (here, there))
        unit = {"per_core": "/s/core", "per_s": "/s"}.get(attribute, "ms")
        return Line(name, unit, ours, raw, "raw", less_is_better=unit == "ms", aim=aim)

    many, alone = 0, 1

    return [
        line("queries through a gateway, 64 at once", many, "per_core", Aim(0.6, 0.9, of_limit=True)),
        line("... answered, both processes on one core", many, "per_s", Aim(12e3, 22e3)),
        line("... p50", many, "p50_ms"),
        line("... p99", many, "p99_ms", Aim(20, 5)),
        line("query alone, p50", alone, "p50_ms"),
        line("... p99", alone, "p99_ms"),
    ]
