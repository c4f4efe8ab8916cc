"""A worker that comes back: all its states from Cassandra, and what they weigh in memory."""

from __future__ import annotations

from typing import Any

from bench.fill import FIRST_US, arm_name, events_of
from bench.measure import Aim, Line, Outcome, interleaved
from bench.project import view_on
from bench.rig import Rig
from fleet.arms.v1.events_pb2 import ArmEvent

HOW = (
    "One worker folds a topic of as many arms (six axes, one event each) and snapshots them to Cassandra; then a new one restores its "
    "eight shards from there until each can answer. Limit: the same rows read with the driver alone, eight buckets at once, not looked at. "
    "Memory: what the process has grown by, divided by the keys; limit: key and state as bytes of a snapshot."
)
Results = list[dict[str, Any]]


def measure(rig: Rig) -> Outcome:
    keys = 200_000 if rig.quick else 1_000_000
    filled = rig.filled("restore", events=keys, arms=keys, axes=6)
    environ = {"AORIST_KEYSPACE": rig.new_keyspace()}
    topic_id = rig.describe(filled.topic).id

    def run(module: str, *arguments: object) -> dict[str, Any]:
        with rig.child(module, *arguments, environ=environ) as child:
            return child.result(200)

    taken = run("restore_ours", filled.topic, keys, "fold")
    ours, raw = interleaved(
        rig.rounds(),
        lambda: run("restore_ours", filled.topic, keys, "restore"),
        lambda: run("restore_raw", topic_id, keys),
    )
    return Outcome(_lines(keys, taken, ours, raw))


def _lines(keys: int, taken: dict[str, Any], ours: Results, raw: Results) -> list[Line]:
    per_million = keys / 1e6
    seconds = [r["seconds"] for r in ours], [r["seconds"] for r in raw]
    cpu = [r["events"] / r["cpu_s"] for r in ours], [r["events"] / r["cpu_s"] for r in raw]
    aim = Aim(30 * per_million, 6 * per_million)
    bytes_per_key = float(_encoded_bytes())
    return [
        Line(f"restore of {keys:,} keys", "s", *seconds, "raw", less_is_better=True, aim=aim),
        Line("... keys", "/s/core", *cpu, "raw"),
        Line("first snapshot of all of them, keys", "/s", [keys / taken["seconds"]]),
        Line("... keys", "/s/core", [keys / taken["cpu_s"]]),
        Line(
            "memory per key, six axes",
            "B",
            [r["per_key"] for r in ours],
            [bytes_per_key] * len(ours),
            "as bytes",
            less_is_better=True,
            aim=Aim(600, 600),
        ),
        Line(f"memory of a worker with {keys:,} keys", "MiB", [r["settled"] / 2**20 for r in ours]),
    ]


def _encoded_bytes() -> int:
    view, arm = view_on("any"), arm_name(1)
    event = ArmEvent.FromString(events_of(arm, FIRST_US, 6)[0]).joint_positions_changed
    state = view.state()
    view.handlers["joint_positions_changed"](state, view.taken("joint_positions_changed", event))
    return len(arm) + len(view.codec.encode(state))
