"""Folding a backlog, beside the least that it takes and beside Kafka Streams."""

from __future__ import annotations

from typing import Any

from bench.measure import Aim, Line, NotMeasuredError, Outcome
from bench.peers import kafka_streams
from bench.rig import Filled, Rig
from stack.errors import StackError

HOW = (
    "A backlog of JointPositionsChanged of 1,000 arms in 8 partitions, written beforehand, folded by the view `arm_position` as a worker "
    "does (Materializer, Folder, KafkaEventLog), without snapshots. Limit: the same client and changes, events as they are. "
    "Peer: Kafka Streams 4.3.1, in-memory store as it comes, second half of the backlog (bench/peers/README.md)."
)
ARMS = 1_000
MIB = 2**20
Results = list[dict[str, Any]]


def measure(rig: Rig) -> Outcome:
    outcome = Outcome()
    for axes in (6,) if rig.quick else (1, 6):
        filled = rig.filled(f"fold-{axes}", events=500_000 if rig.quick else 2_000_000, arms=ARMS, axes=axes)
        peers: Results = []
        ours: Results = []
        raw: Results = []
        for _ in rig.rounds():
            ours.append(_run(rig, "fold_ours", filled))
            raw.append(_run(rig, "fold_raw", filled))
            _add_peer(rig, filled, peers, outcome)
        outcome.lines += _lines(axes, ours, raw, peers)
    if rig.quick:
        outcome.notes.append("quick: a backlog of 500,000 events, of six axes only")
    return outcome


def _run(rig: Rig, module: str, filled: Filled) -> dict[str, Any]:
    with rig.child(module, filled.topic, filled.events) as child:
        return child.result(150)


def _add_peer(rig: Rig, filled: Filled, peers: Results, outcome: Outcome) -> None:
    try:
        peers.append(kafka_streams.run(rig, "Fold", filled))
    except (NotMeasuredError, StackError) as error:
        outcome.notes.append(f"Kafka Streams was not measured: {error}")


def _lines(axes: int, ours: Results, raw: Results, peers: Results) -> list[Line]:
    what = f"fold, {axes} {'axis' if axes == 1 else 'axes'} an event"
    lines = [
        Line(what, "/s/core", _per_core(ours), _per_core(raw), "raw", aim=Aim(0.6, 0.85, of_limit=True)),
        Line("... by the clock", "/s", _per_s(ours), _per_s(raw), "raw"),
        Line("... memory in all", "MiB", _memory(ours), _memory(raw), "raw", less_is_better=True),
    ]
    if peers:
        aim = Aim(1.0, 1.5, of_limit=True)
        lines.append(Line(what, "/s/core", _per_core(ours), _per_core(peers), "Kafka Streams", aim=aim))
        lines.append(Line("... by the clock", "/s", _per_s(ours), _per_s(peers), "Kafka Streams"))
        memory = _memory(ours), _memory(peers)
        lines.append(Line("... memory in all", "MiB", *memory, "Kafka Streams", less_is_better=True))
    return lines


def _per_core(results: Results) -> list[float]:
    return [r["events"] / r["cpu_s"] for r in results]


def _per_s(results: Results) -> list[float]:
    return [r["events"] / r["seconds"] for r in results]


def _memory(results: Results) -> list[float]:
    return [r["rss_after"] / MIB for r in results]
