"""A view whose state counts what it is given, so that an event lost, doubled or half-applied shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aorist.declare import Codec, View
from tests.unit.declare.contract import compile_proto

PROTO = compile_proto("""
    message Added { string id = 1; int64 amount = 2; bool breaks = 3; }
    message Noted { string id = 1; }
    message CountEvent {
      option (aorist.v1.topic) = { name: "counts" partitions: 2 key: "id" retention_ms: 1000 };
      aorist.v1.EventMeta meta = 1;
      oneof event { Added added = 2; Noted noted = 3; }
    }
    message Removed { string id = 1; }
    message NewerEvent { aorist.v1.EventMeta meta = 1; oneof event { Removed removed = 99; } }
    message NewerAdded { string id = 1; int64 amount = 2; string colour = 77; repeated int64 more = 78; }
    message NewerCountEvent { NewerAdded added = 2; string trace = 50; }
    message Counts { repeated int64 amounts = 1; int64 total = 2; }
""")
"""The last three but one: the contract as a newer version has it."""

Added: Any = PROTO.Added
Noted: Any = PROTO.Noted


@dataclass(slots=True)
class Counts:
    """`amounts` in the order of their events, and their sum, changed one after the other."""

    amounts: list[int] = field(default_factory=list)
    total: int = 0


def pack(counts: Counts) -> Any:
    return PROTO.Counts(amounts=counts.amounts, total=counts.total)


def unpack(message: Any) -> Counts:
    return Counts(list(message.amounts), message.total)


def added(counts: Counts, event: Any) -> None:
    counts.amounts.append(event.amount)
    if event.breaks:
        raise ArithmeticError("half-way through")
    counts.total += event.amount


added.__annotations__.update(event=Added)


def count_view(name: str = "counts") -> View[Counts]:
    view = View(
        name, events=PROTO.CountEvent, state=Counts, codec=Codec.through(PROTO.Counts, pack, unpack), ignores=[Noted]
    )
    view.apply(added)
    view.complete()
    return view


def counts(*amounts: int) -> bytes:
    """The snapshot of a key to which these were added."""
    data: bytes = PROTO.Counts(amounts=amounts, total=sum(amounts)).SerializeToString(deterministic=True)
    return data
