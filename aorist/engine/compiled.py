"""The fold of a view as one flat function: everything that can be decided beforehand is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from aorist.declare.view import View
from aorist.engine.parked import hold_back, problem_of
from aorist.engine.shard import Entry, Shard
from aorist.errors import UnfoldableError
from aorist.ports import Record

ONE_BYTE = 0x80
"""Below it, protobuf writes a tag or a length in one byte."""

Fold = Callable[[Shard, Sequence[Record]], None]

_Bare = tuple[Callable[[bytes], Message], Callable[[Any, Any], None], Callable[[bytes], Message] | None]
"""How an event is parsed and folded; and, where it has a stand-in, how it is parsed when that is not whole."""


def compile_fold(view: View[Any]) -> Fold:
    """The function folds records, in order, into a shard whose lock is held.

    It raises UnfoldableError at the first event that cannot be folded: all before it are folded then, and the key it was about is taken
    out, since it may be half-changed.
    """
    parse: Callable[[bytes], Message] = view.schema.envelope.FromString
    handlers, taken, new_state, ignored, bare = view.handlers, view.taken, view.state, view.ignored, _bare_events(view)

    def fold(shard: Shard, records: Sequence[Record]) -> None:
        entries, dirty = shard.entries, shard.dirty
        for offset, key, value in records:
            entry = entries.get(key)
            if entry is not None and offset <= entry.offset:
                continue  # already in the row that this key was restored from
            try:
                known = bare.get(value[:1])  # type: ignore[index]  # None, a tombstone, raises
                if known is not None and value[1] == len(value) - 2 < ONE_BYTE:  # type: ignore[index,arg-type]
                    parse_event, handler, in_full = known
                    event = parse_event(value[2:])  # type: ignore[index]
                    if in_full is not None and UnknownFieldSet(event):  # of a newer version: see `made_from`
                        event = in_full(value[2:])  # type: ignore[index]
                else:
                    envelope = parse(value)  # type: ignore[arg-type]
                    field = envelope.WhichOneof("event")
                    if field not in handlers:  # None: of a newer version
                        shard.unknown_events += field not in ignored
                        continue
                    handler, event = handlers[field], taken(field, getattr(envelope, field))
                if entry is None:
                    entry = Entry(new_state(), offset)
                    handler(entry.state, event)
                    entries[key] = entry
                    shard.new_key(key)
                else:
                    handler(entry.state, event)
                    entry.offset = offset
                dirty.add(key)
            except Exception as error:  # whatever domain code raises: the shard stops here, loudly
                record = offset, key, value
                problem = problem_of(view, shard.partition, record, error)
                if key in entries:  # else it was its first event, and the key stays unknown
                    shard.take_out(key, problem)
                raise UnfoldableError(problem, record) from error

    return _beside_parked(fold)


def _beside_parked(fold: Fold) -> Fold:
    """Folds what is not of parked keys. Where there are none, it looks once a slice."""

    def fold_others(shard: Shard, records: Sequence[Record]) -> None:
        if not shard.parked:
            fold(shard, records)
            return
        others, full = hold_back(shard, records)
        fold(shard, others)
        if full is not None:
            raise full

    return fold_others


def _bare_events(view: View[Any]) -> dict[bytes, _Bare]:
    """The fast path for an envelope that holds nothing but one short event, as stateless commands publish it.

    Its bytes are the field's tag, a length of one byte, and the event's own, which is parsed by itself: a sixth of the fold is saved.
    By tag.
    """
    fields = view.schema.envelope.DESCRIPTOR.fields_by_name
    tags = {event: fields[name].number << 3 | 2 for event, name in view.schema.events.items() if name in view.handlers}
    return {bytes([tag]): _bare(view, event) for event, tag in tags.items() if tag < ONE_BYTE}


def _bare(view: View[Any], event: type[Message]) -> _Bare:
    field = view.schema.events[event]
    takes, handler = view.takes[field], view.handlers[field]
    if takes is event:
        return takes.FromString, handler, None
    return takes.FromString, handler, lambda data: view.taken(field, event.FromString(data))
