"""A view that keeps series: how much of the time since its first event a key has been seen. `at_us` of events only grows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aorist.declare import Codec, Series, View, Windows
from aorist.ports import LATEST_US, SeriesRows
from tests.unit.declare.contract import compile_proto
from tests.unit.engine.rig import Rig

PROTO = compile_proto("""
    message Seen { string id = 1; int64 at_us = 2; bool breaks = 3; }
    message SeenEvent {
      option (aorist.v1.topic) = { name: "seen" partitions: 1 key: "id" retention_ms: 1000 };
      aorist.v1.EventMeta meta = 1;
      oneof event { Seen seen = 2; }
    }
    message Flow { int64 at_us = 1; aorist.v1.Windows windows = 2; }
    message Amount { int64 us = 1; }
""")

Seen: Any = PROTO.Seen
LENGTHS = ((1, 1000), (10, 1000), (60, 1000))
S = 1_000_000

Place = tuple[bytes, int, int]
"""Key, length and start of a window."""


def add(into: Any, more: Any) -> None:
    into.us += more.us


def flow_view() -> View[Any]:
    series: Series[Any] = Series(PROTO.Amount, add=add, lengths=LENGTHS)

    @dataclass(slots=True)
    class Flow:
        at_us: int = 0
        windows: Windows[Any] = field(default_factory=series.windows)

    def seen(flow: Flow, event: Any) -> None:
        if event.breaks:
            raise ArithmeticError("not this one")
        if event.at_us > flow.at_us:
            if flow.at_us:
                for totals, us in flow.windows.over(flow.at_us, event.at_us):
                    totals.us += us
            flow.at_us = event.at_us

    seen.__annotations__.update(flow=Flow, event=Seen)
    view: View[Any] = View(
        "flow",
        events=PROTO.SeenEvent,
        state=Flow,
        codec=Codec.through(
            PROTO.Flow,
            lambda flow: PROTO.Flow(at_us=flow.at_us, windows=flow.windows.pack()),
            lambda message: Flow(message.at_us, series.unpack(message.windows)),
        ),
    )
    view.apply(seen)
    view.complete()
    return view


def expected(view: View[Any], events: Iterable[Any]) -> dict[Place, int]:
    """Every window with anything in it, from states that have seen each event once and written nothing."""
    states: dict[str, Any] = {}
    for event in events:
        if not event.breaks:
            view.handlers["seen"](states.setdefault(event.id, view.state()), event)
    return {place: us for key, state in states.items() for place, us in held(view, key.encode(), state).items()}


def held(view: View[Any], key: bytes, state: Any) -> dict[Place, int]:
    """What is in memory, open or not known to be durable."""
    assert view.series is not None
    decode = view.series.codec.decode
    closed = {(key, w.window_s, w.start_us): decode(w.totals).us for w in state.windows.closed}
    return closed | {(key, w.window_s, w.start_us): w.totals.us for w in state.windows.open()}


def in_memory(rig: Rig) -> dict[Place, int]:
    found: dict[Place, int] = {}
    for key, entry in rig.shard.entries.items():
        found |= held(rig.view, key, entry.state)
    return found


def durable(rig: Rig, keys: Iterable[bytes]) -> dict[Place, int]:
    found: dict[Place, int] = {}
    for window_s, _ in LENGTHS:
        rows = SeriesRows(rig.view.name, rig.view.build, rig.topic.id, window_s)
        for key, windows in rig.series.read_windows(rows, list(keys), 0, LATEST_US, 100_000).items():
            for window in windows:
                found[key, window_s, window.start_us] = PROTO.Amount.FromString(window.totals).us
    return found
