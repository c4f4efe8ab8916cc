"""Commands through the gateway into Kafka: one at a time, many at once, and streamed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.load import Load, Served, run
from bench.measure import Aim, Line, Outcome, interleaved
from bench.processes import Child
from bench.rig import Rig

HOW_UNARY = (
    "ReportJointPositions (six axes) at `aorist command-gateway`: validated, produced with acks=all, answered with its position. "
    "Limit: a server of the same transport that parses and checks nothing, produces an event made beforehand with the same producer "
    "settings, and answers with its offset."
)
HOW_STREAM = (
    "StreamJointPositions, four streams: every sample validated and produced, batches acknowledged cumulatively. Limit: the same streams "
    "into a server that produces as many events made beforehand by one call per batch, and acknowledges each batch after its last event."
)


@contextmanager
def gateways(rig: Rig, name: str, axes: int) -> Iterator[tuple[str, Child, Child]]:
    """Ours and the limit's, both running, on one core and one topic."""
    topic = rig.topic(name)
    with rig.child("role", "command-gateway", topic) as ours, rig.child("raw_commands", topic, axes) as raw:
        yield topic, ours, raw


def unary(rig: Rig) -> Outcome:
    seconds, warm = (1.0, 0.5) if rig.quick else (4.0, 1.0)
    many = Load("report", callers=64, connections=4, warm_s=warm, measured_s=seconds)
    alone = Load("report", callers=1, connections=1, warm_s=warm, measured_s=seconds)
    with gateways(rig, "unary", 6) as (topic, ours, raw):
        at = {child: child.line("ready") for child in (ours, raw)}

        def both(child: Child) -> tuple[Served, Served]:
            rig.empty(topic)
            return run(at[child], many, rig.cores, [child]), run(at[child], alone, rig.cores, [child])

        here, there = interleaved(rig.rounds(), lambda: both(ours), lambda: both(raw))
    return Outcome(
        [
            Line(
                "unary commands, 64 at once",
                "/s/core",
                [m.per_core for m, _ in here],
                [m.per_core for m, _ in there],
                "raw",
                aim=Aim(5e3, 12e3),
            ),
            Line("... answered", "/s", [m.per_s for m, _ in here], [m.per_s for m, _ in there], "raw"),
            _latency("... p50", [m.p50_ms for m, _ in here], [m.p50_ms for m, _ in there]),
            _latency("... p99", [m.p99_ms for m, _ in here], [m.p99_ms for m, _ in there]),
            _latency("unary command alone, p50", [a.p50_ms for _, a in here], [a.p50_ms for _, a in there], Aim(2, 1)),
            _latency("... p99", [a.p99_ms for _, a in here], [a.p99_ms for _, a in there], Aim(20, 5)),
        ]
    )


def _latency(name: str, ours: list[float], limit: list[float], aim: Aim | None = None) -> Line:
    return Line(name, "ms", ours, limit, "raw", less_is_better=True, aim=aim)


def stream(rig: Rig) -> Outcome:
    outcome = Outcome()
    sizes = {1: (100,)} if rig.quick else {1: (100, 200), 6: (100, 200)}
    for axes, batches in sizes.items():
        with gateways(rig, f"stream-{axes}", axes) as (topic, ours, raw):
            at = {child: child.line("ready") for child in (ours, raw)}
            for size in batches:
                outcome.lines += _stream(rig, topic, (ours, raw), at, size, axes)
    if rig.quick:
        outcome.notes.append("quick: one of four kinds of batches")
    return outcome


def _stream(
    rig: Rig, topic: str, servers: tuple[Child, Child], at: dict[Child, str], size: int, axes: int
) -> list[Line]:
    load = Load("stream", 4, 2, warm_s=0.7, measured_s=1.0 if rig.quick else 3.0, batch=size, axes=axes)

    def one(child: Child) -> Served:
        rig.empty(topic)
        return run(at[child], load, rig.cores, [child])

    here, there = interleaved(rig.rounds(), lambda: one(servers[0]), lambda: one(servers[1]))
    return _stream_lines(size, axes, here, there)


def _stream_lines(size: int, axes: int, here: list[Served], there: list[Served]) -> list[Line]:
    name = f"samples of {axes} {'axis' if axes == 1 else 'axes'}, {size} a batch"
    return [
        Line(name, "/s/core", [m.per_core for m in here], [m.per_core for m in there], "raw", aim=Aim(80e3, 150e3)),
        Line("... acknowledged", "/s", [m.per_s for m in here], [m.per_s for m in there], "raw"),
        _latency("... batch acknowledged after, p99", [m.p99_ms for m in here], [m.p99_ms for m in there]),
    ]
