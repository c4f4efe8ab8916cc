"""Views that fold well, and views that do not: each wrong in one way. At the top level, so that a second interpreter can have them."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from aorist.declare import Codec, View
from tests.unit.declare import remembering
from tests.unit.declare.contract import compile_proto

PROTO = compile_proto("""
    enum Kind { KIND_UNSPECIFIED = 0; KIND_BIG = 1; }
    message Part { string name = 1; int64 size = 2; repeated Part parts = 3; }
    message Noted {
      string id = 1;
      int64 noted_at_us = 2;
      int64 amount = 3;
      repeated string tags = 4;
      Part part = 5;
      map<string, Part> by_name = 6;
      Kind kind = 7;
      oneof how { string word = 8; Part whole = 9; }
      optional double weight = 10;
    }
    message Left { string id = 1; }
    message NoteEvent {
      option (aorist.v1.topic) = { name: "notes" partitions: 2 key: "id" retention_ms: 1000 };
      aorist.v1.EventMeta meta = 1;
      oneof event { Noted noted = 2; Left left = 3; }
    }
    message Notes { map<string, int64> amounts = 1; int64 noted_at_us = 2; }
""")
Part: Any = PROTO.Part
Notes: Any = PROTO.Notes


@dataclass(slots=True)
class Note:
    number: int = 0
    text: str = ""
    items: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class Holder:
    part: Any = field(default_factory=Part)


def _json(data: bytes) -> Note:
    return Note(*json.loads(data))


AS_JSON: Codec[Note] = Codec(lambda note: json.dumps(astuple(note)).encode(), _json)
AS_PART: Codec[Holder] = Codec(
    lambda holder: holder.part.SerializeToString(deterministic=True), lambda d: Holder(Part.FromString(d))
)
FORGETFUL: Codec[Note] = Codec(lambda note: json.dumps([note.number]).encode(), _json)


def view(apply: Callable[[Any, Any], None], state: Any = Note, codec: Any = AS_JSON, **more: Any) -> View[Any]:
    """A view named as its apply."""
    apply.__annotations__.update(state=state, event=PROTO.Noted)
    made: View[Any] = View(
        apply.__name__, events=PROTO.NoteEvent, state=state, codec=codec, ignores=[PROTO.Left], **more
    )
    made.apply(apply)
    return made


# --- that fold well ---


def the_last(state: Note, event: Any) -> None:
    state.number, state.text, state.items = event.amount, event.word, list(event.tags)


def the_latest(state: Note, event: Any) -> None:
    if event.noted_at_us >= state.number:
        state.number, state.text = event.noted_at_us, event.word


def the_greatest(state: Any, event: Any) -> None:
    for tag in event.tags:
        state.amounts[tag] = max(state.amounts[tag], event.amount)


def all_sorted(state: Note, event: Any) -> None:
    state.items = sorted({*state.items, *event.tags})


def a_copy(state: Holder, event: Any) -> None:
    state.part.CopyFrom(event.part)


last, latest, greatest = view(the_last), view(the_latest, ordered_by="noted_at_us"), view(the_greatest, Notes, None)
sorts, copies = view(all_sorted), view(a_copy, Holder, AS_PART)
GOOD = [last, latest, greatest, sorts, copies]

# --- that do not ---


def adds(state: Note, event: Any) -> None:
    state.number += 10


def appends(state: Note, event: Any) -> None:
    state.items.append(event.amount)


def knows_the_last_only(state: Note, event: Any) -> None:
    if event.amount != state.number:
        state.number, state.items = event.amount, [*state.items, event.amount]


def reads_the_clock(state: Note, event: Any) -> None:
    state.number = time.time_ns()


def reads_the_date(state: Note, event: Any) -> None:
    state.text = str(datetime.now())  # noqa: DTZ005


def draws_lots(state: Note, event: Any) -> None:
    state.number = random.randint(1, 6)


def asks_the_system_for_chance(state: Note, event: Any) -> None:
    state.text = os.urandom(4).hex()


def opens_a_file(state: Note, event: Any) -> None:
    state.text = Path(os.devnull).read_text()


def takes_a_set_as_it_comes(state: Note, event: Any) -> None:
    state.items = list({tag + event.word for tag in event.tags})


sets = view(takes_a_set_as_it_comes)


class Seen:
    amounts: dict[str, int] = {}  # noqa: RUF012  # that is what is wrong with it
    before: set[tuple[int, int]] = set()  # noqa: RUF012


def remembers_in_a_class(state: Note, event: Any) -> None:
    Seen.amounts[event.id] = Seen.amounts.get(event.id, 0) + 1
    state.number = Seen.amounts[event.id]


def folds_the_first_time_only(state: Note, event: Any) -> None:
    if (event.noted_at_us, event.amount) not in Seen.before:
        Seen.before.add((event.noted_at_us, event.amount))
        state.number = event.noted_at_us


def looks_at_the_key_before(state: Note, event: Any) -> None:
    state.text = remembering.before(event.id)


def changes_the_event(state: Note, event: Any) -> None:
    state.number = abs(event.amount)
    event.amount = 0


def makes_an_entry_by_looking(state: Note, event: Any) -> None:
    state.number = event.by_name["x"].size


def keeps_a_part(state: Holder, event: Any) -> None:
    state.part = event.part


def loses_a_field(state: Note, event: Any) -> None:
    state.number, state.text = event.amount, event.word


def takes_the_last_to_arrive(state: Note, event: Any) -> None:
    state.number = event.noted_at_us


def divides(state: Note, event: Any) -> None:
    state.number = 10 // event.amount


BAD: dict[str, tuple[View[Any], str]] = {
    made.name: (made, says)
    for made, says in (
        (view(adds), "a rewind from 0 to 0\n"),
        (view(appends), "a rewind from 0 to 0\n"),
        (view(knows_the_last_only), "a rewind from 1 to 0\n"),
        (view(reads_the_clock), "apply of event 0 calls time.time_ns ("),
        (view(reads_the_date), "apply of event 0 calls datetime.now ("),
        (view(draws_lots), "apply of event 0 calls random.randint ("),
        (view(asks_the_system_for_chance), "apply of event 0 calls posix.urandom ("),
        (view(opens_a_file), "apply of event 0 calls io.open ("),
        (sets, "a second interpreter, where sets have another order, folded the same events\n"),
        (view(remembers_in_a_class), "all events up to 0 folded once more, from nothing\n"),
        (view(folds_the_first_time_only), "all events up to 0 folded once more, from nothing\n"),
        (view(looks_at_the_key_before), "all events up to 0 folded once more, from nothing\n"),
        (view(changes_the_event), "apply changed event 0 itself\n"),
        (view(makes_an_entry_by_looking), "apply changed event 0 itself\n"),
        (view(keeps_a_part, Holder, AS_PART), "each event was wiped after its apply: the state keeps a part of one\n"),
        (view(loses_a_field, codec=FORGETFUL), "round trip of the snapshot after event 0\n"),
        (view(takes_the_last_to_arrive, ordered_by="noted_at_us"), "event 0 alone once more, after 1\n"),
        (view(divides), "apply of event 0 raised ZeroDivisionError: "),
    )
}
"""What is told of each."""
