"""Folding a backlog into windows of a second, a minute and an hour, beside the same windows of Kafka Streams."""

from __future__ import annotations

from typing import Any

from bench.measure import Aim, Line, NotMeasuredError, Outcome
from bench.peers import kafka_streams
from bench.rig import Filled, Rig

HOW = (
    "A backlog of JointPositionsChanged of 1,000 arms in 8 partitions, each 100 a second, at rest half of the time, with jitter, written "
    "beforehand, folded by the view `arm_motion` as a worker does: the dead-band rule for each axis; time in motion and still, of the arm "
    "and of each axis, in windows of 1 s, 1 min and 1 h. Peer: Kafka Streams 4.3.1, the same rule and the same totals in three tumbling "
    "windows, in-memory stores as they come, second half of the backlog (bench/peers/README.md). Both must find the same time in motion. "
    "Left out of ours: writing snapshots and closed windows to a store; they are encoded and stay in memory."
)
ARMS = 1_000
MICROS = 1_000_000
SAME = 0.001
"""How far apart the shares of time in motion may be."""

Results = list[dict[str, Any]]


def measure(rig: Rig) -> Outcome:
    outcome = Outcome()
    for axes in (6,) if rig.quick else (1, 6):
        events = 800_000 if rig.quick else 1_500_000
        filled = rig.filled(f"motion-{axes}", events=events, arms=ARMS, axes=axes, rests=True)
        ours: Results = []
        peers: Results = []
        for _ in rig.rounds():
            ours.append(_ours(rig, filled))
            peers.append(kafka_streams.run(rig, "Motion", filled))
            _check_same(ours[-1], peers[-1])
        outcome.lines += _lines(axes, ours, peers)
        found = ours[-1]
        outcome.notes.append(
            f"{_axes(axes)}: both found {_share(found, ''):.4f} of the time in motion, of the axes {_share(found, 'axes_'):.4f}"
        )
    if rig.quick:
        outcome.notes.append("quick: a backlog of 800,000 events, of six axes only")
    return outcome


def _ours(rig: Rig, filled: Filled) -> dict[str, Any]:
    with rig.child("motion_ours", filled.topic, filled.events) as child:
        return child.result(150)


def _check_same(ours: dict[str, Any], peer: dict[str, Any]) -> None:
    for of in ("", "axes_"):
        shares = _share(ours, of), _share(peer, of)
        if abs(shares[0] - shares[1]) > SAME or _seen(ours, of) != _seen(peer, of):
            raise NotMeasuredError(
                f"not the same: {of}in motion {shares[0]:.4f} of {_seen(ours, of)} us here, {shares[1]:.4f} of {_seen(peer, of)} us there"
            )


def _share(result: dict[str, Any], of: str) -> float:
    moving: int = result[f"{of}moving_us"]
    return moving / _seen(result, of)


def _seen(result: dict[str, Any], of: str) -> int:
    seen: int = result[f"{of}moving_us"] + result[f"{of}still_us"]
    return seen


def _lines(axes: int, ours: Results, peers: Results) -> list[Line]:
    what, against = f"motion, {_axes(axes)} an event", "Kafka Streams"
    return [
        Line(what, "/s/core", _per_core(ours), _per_core(peers), against, aim=Aim(1.0, 1.5, of_limit=True)),
        Line("... CPU an event", "us", _cpu_us(ours), _cpu_us(peers), against, less_is_better=True),
        Line("... by the clock", "/s", _per_s(ours), _per_s(peers), against),
        Line("... memory in all", "MiB", _memory(ours), _memory(peers), against, less_is_better=True),
    ]


def _axes(axes: int) -> str:
    return "1 axis" if axes == 1 else f"{axes} axes"


def _per_core(results: Results) -> list[float]:
    return [r["events"] / r["cpu_s"] for r in results]


def _cpu_us(results: Results) -> list[float]:
    return [r["cpu_s"] / r["events"] * MICROS for r in results]


def _per_s(results: Results) -> list[float]:
    return [r["events"] / r["seconds"] for r in results]


def _memory(results: Results) -> list[float]:
    return [r["rss_after"] / 2**20 for r in results]
