"""One sequence of events, folded again in every way in which a log may deliver it again.

The oracle folds each event once, in order. Whatever comes back afterwards, the states must be as it has them: equal, and with equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from google.protobuf.message import Message
from google.protobuf.text_format import MessageToString

from aorist.declare.purity import watched
from aorist.declare.view import View

ALL_POSITIONS = 30
"""Up to so many events every position is tried; of longer sequences as many, evenly spread."""

REPEATS = (
    "an event may come again: keep absolute values, or what tells that it was folded already; do not count or append"
)
ORDERS = "the view says `ordered_by`: compare times, and leave out what is older than what the state knows"
ROUND_TRIP = "the codec must keep all of the state: decode(encode(state)) is equal to it, and has the same bytes"
ITS_STATE_ONLY = "apply may look at its state and its event only, and change its state only"
NOT_ITS_EVENT = "copy out of an event what the state needs, and leave the event as it is"
NO_ORDER = "sort before use: the order of a set is another one in another process"
RAISES = "a fold that raises halts its shard; if no such event can be published, declare `examples` of those that can"


class Delivery(NamedTuple):
    """One event. `at`: its position, as people are told it. `time`: by the field that the view is ordered by."""

    at: str
    key: bytes
    field: str
    event: type[Message]
    data: bytes
    time: int


class Difference(Exception):  # noqa: N818  # found, told of and raised as FoldCheckError
    """A state is not as the oracle has it, or something was done that a fold may not do.

    `did`: what was done. `states`: by name, as text. `todo`: what the author may do.
    """

    def __init__(self, did: str, todo: str, states: Mapping[str, str] | None = None, key: bytes | None = None) -> None:
        super().__init__(did)
        self.did, self.todo, self.states, self.key = did, todo, states or {}, key


def delivered(view: View[Any], events: Sequence[Message], positions: Sequence[str] = ()) -> list[Delivery]:
    """`events` that `view` folds, at their `positions`, else counted from 0. Ignored ones are left out."""
    key_of, found = view.schema.key_of(), list[Delivery]()
    for at, event in zip(positions or map(str, range(len(events))), events, strict=True):
        field = view.schema.events[type(event)]
        if field not in view.ignored:
            time = getattr(event, view.ordered_by) if view.ordered_by else 0
            data = event.SerializeToString(deterministic=True)
            found.append(Delivery(at, key_of(event), field, type(event), data, time))
    return found


def taken(view: View[Any], one: Delivery) -> Message:
    """The event anew, as its apply takes it."""
    return view.taken(one.field, one.event.FromString(one.data))


class States:
    """What a shard holds: the state of each key."""

    def __init__(self, view: View[Any], deliveries: Sequence[Delivery] = ()) -> None:
        self._view, self._codec = view, view.codec
        self.of: dict[bytes, Any] = {}
        self.fold(deliveries)

    def fold(self, deliveries: Sequence[Delivery]) -> None:
        for one in deliveries:
            self.apply(one, taken(self._view, one))

    def apply(self, one: Delivery, event: Message) -> None:
        state = self.of.get(one.key)
        if state is None:
            state = self._view.state()
        try:
            self._view.handlers[one.field](state, event)
        except Exception as error:
            raise Difference(f"apply of event {one.at} raised {type(error).__name__}: {error}", RAISES) from error
        self.of[one.key] = state

    def encode(self, key: bytes) -> bytes:
        try:
            return self._codec.encode(self.of[key])
        except Exception as error:
            told = {"state": _told(self.of[key])}
            raise Difference(
                f"the codec cannot encode: {type(error).__name__}: {error}", ROUND_TRIP, told, key
            ) from error

    def restore(self, did: str) -> None:
        """As a process that starts from the snapshots of another one has them."""
        for key, state in self.of.items():
            data = self.encode(key)
            try:
                again = self._codec.decode(data)
                alike = bool(again == state) and self._codec.encode(again) == data
            except Exception as error:
                told = {"state": _told(state)}
                raise Difference(f"{did} raised {type(error).__name__}: {error}", ROUND_TRIP, told, key) from error
            if not alike:
                raise Difference(did, ROUND_TRIP, _both("before", _told(state), "after", _told(again)), key)
            self.of[key] = again

    def compare(self, oracle: States, did: str, todo: str = REPEATS) -> None:
        """Raises Difference unless both hold the same."""
        for key in oracle.of.keys() | self.of.keys():
            mine, right = self.of.get(key), oracle.of.get(key)
            if mine is None or right is None:
                raise Difference(did, todo, _both("each once", _told(right), "then", _told(mine)), key)
            mine_data, right_data = self.encode(key), oracle.encode(key)
            if not bool(mine == right):
                raise Difference(did, todo, _both("each once", _told(right), "then", _told(mine)), key)
            if mine_data != right_data:
                told = _both(
                    "each once", f"{_told(right)} {right_data.hex()}", "then", f"{_told(mine)} {mine_data.hex()}"
                )
                raise Difference(did, todo, told, key)


def check(view: View[Any], deliveries: Sequence[Delivery]) -> None:
    """Raises Difference at the first way in which the fold is not repeatable."""
    if not deliveries:
        return
    once = {upto: States(view, deliveries[:upto]) for upto in _some(len(deliveries))}
    _looked_at(view, deliveries)
    _once_more(view, deliveries, once)
    _each_key_alone(view, deliveries, once[len(deliveries)])
    _wiped(view, deliveries, once[len(deliveries)])
    _cuts(view, deliveries, once[len(deliveries)])
    _rewinds(view, deliveries, once)
    if view.ordered_by:
        _stale_repeats(view, deliveries)


def _some(length: int) -> list[int]:
    """Numbers of events, from 1 to all."""
    if length <= ALL_POSITIONS:
        return list(range(1, length + 1))
    return sorted({1 + round(i * (length - 1) / (ALL_POSITIONS - 1)) for i in range(ALL_POSITIONS)})


def _looked_at(view: View[Any], deliveries: Sequence[Delivery]) -> None:
    """What apply calls, and what it leaves of its event."""
    states = States(view)
    for one in deliveries:
        event = taken(view, one)
        before = event.SerializeToString(deterministic=True)
        with watched(view.handlers[one.field].__code__.co_filename) as touch:
            states.apply(one, event)
        if touch.what:
            raise Difference(
                f"apply of event {one.at} calls {touch.what} ({touch.where}): {touch.door}", ITS_STATE_ONLY
            )
        if event.SerializeToString(deterministic=True) != before:
            told = _both("before", _told(taken(view, one)), "after", _told(event))
            raise Difference(f"apply changed event {one.at} itself", NOT_ITS_EVENT, told)


def _wiped(view: View[Any], deliveries: Sequence[Delivery], oracle: States) -> None:
    """As if the memory of an event were used again once it is folded."""
    states = States(view)
    for one in deliveries:
        event = taken(view, one)
        states.apply(one, event)
        wipe(event)
    states.compare(oracle, "each event was wiped after its apply: the state keeps a part of one", NOT_ITS_EVENT)


def wipe(message: Message) -> None:
    """Empties it in place, with all that lies within."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            is_map = field.is_repeated and field.message_type.GetOptions().map_entry
            inner: Any = value.values() if is_map else value if field.is_repeated else (value,)
            for one in inner:
                if isinstance(one, Message):
                    wipe(one)
            if is_map:
                value.clear()
            elif field.is_repeated:
                del value[:]
        elif field.is_repeated:
            del value[:]
        else:
            message.ClearField(field.name)


def _once_more(view: View[Any], deliveries: Sequence[Delivery], once: Mapping[int, States]) -> None:
    """Again from nothing, event by event; between two of them snapshots are taken."""
    states, begin = States(view), 0
    for upto, oracle in once.items():
        states.fold(deliveries[begin:upto])
        states.compare(
            oracle, f"all events up to {deliveries[upto - 1].at} folded once more, from nothing", ITS_STATE_ONLY
        )
        begin = upto


def _each_key_alone(view: View[Any], deliveries: Sequence[Delivery], oracle: States) -> None:
    keys = list(oracle.of)
    for key in keys if len(keys) > 1 else ():
        alone = States(view, [one for one in deliveries if one.key == key])
        right = States(view)
        right.of = {key: oracle.of[key]}
        others = ", ".join(_key(other) for other in keys if other != key)
        alone.compare(right, f"the events of key {_key(key)} folded without those of {others}", ITS_STATE_ONLY)


def _cuts(view: View[Any], deliveries: Sequence[Delivery], oracle: States) -> None:
    """A process ends, the next one goes on from its snapshots."""
    for cut in _some(len(deliveries)):
        at = deliveries[cut - 1].at
        states = States(view, deliveries[:cut])
        states.restore(f"round trip of the snapshot after event {at}")
        states.fold(deliveries[cut:])
        states.compare(oracle, f"round trip of the snapshots after event {at}, then the rest", ROUND_TRIP)


def _rewinds(view: View[Any], deliveries: Sequence[Delivery], once: Mapping[int, States]) -> None:
    for upto, oracle in once.items():
        for restart in (False, True):
            for begin in _positions(upto):
                states = States(view, deliveries[:upto])
                did = _rewind(deliveries, begin, upto)
                if restart:
                    did = f"a restart from the snapshots, and {did}"
                    states.restore(did)
                states.fold(deliveries[begin:upto])
                states.compare(oracle, did)
    _rewinds_upon_rewinds(view, deliveries, once[len(deliveries)])


def _rewinds_upon_rewinds(view: View[Any], deliveries: Sequence[Delivery], oracle: States) -> None:
    """One after the other; and such that break off half-way, and begin again."""
    states, upto = States(view, deliveries), len(deliveries)
    for begin in _positions(upto):
        states.fold(deliveries[begin:])
        states.compare(oracle, f"rewinds one after the other, the last of them {_rewind(deliveries, begin, upto)}")
    for begin in _positions(upto - 1):
        broken = (begin + upto + 1) // 2
        states = States(view, deliveries)
        states.fold(deliveries[begin:broken])
        states.fold(deliveries[begin:])
        first = f"{_rewind(deliveries, begin, upto)}, which ends after {deliveries[broken - 1].at}"
        states.compare(oracle, f"{first}, and once more from {deliveries[begin].at}")


def _positions(upto: int) -> Iterator[int]:
    """Where a rewind from `upto` may begin, the nearest first."""
    return (number - 1 for number in reversed(_some(upto))) if upto > 0 else iter(())


def _rewind(deliveries: Sequence[Delivery], begin: int, upto: int) -> str:
    return f"a rewind from {deliveries[upto - 1].at} to {deliveries[begin].at}"


def _stale_repeats(view: View[Any], deliveries: Sequence[Delivery]) -> None:
    """A lone old event, out of order. One key and one time are one event: what a robot reports of a moment, it reports once."""
    first = {(one.key, one.time): one for one in reversed(deliveries)}
    events = [one for one in deliveries if one.data == first[one.key, one.time].data]
    for upto in _some(len(events)):
        for old in _positions(upto):
            states, oracle = States(view, events[:upto]), States(view, events[:upto])
            states.fold([events[old]])
            states.compare(oracle, f"event {events[old].at} alone once more, after {events[upto - 1].at}", ORDERS)


# --- telling ---


def story(view: View[Any], deliveries: Sequence[Delivery], found: Difference) -> str:
    """A counterexample, for people."""
    lines = [f"{view.place} does not fold repeatably: {found.did}"]
    lines += [f"  {one.at}: {_key(one.key)} {_told(one.event.FromString(one.data))}" for one in deliveries]
    if found.states:
        lines += [] if found.key is None else [f"state of {_key(found.key)}:"]
        width = max(map(len, found.states))
        lines += [f"  {name + ':':{width + 1}} {told}" for name, told in found.states.items()]
    return "\n".join([*lines, found.todo])


def _both(first: str, one: str, second: str, other: str) -> dict[str, str]:
    return {first: one, second: other}


def _key(key: bytes) -> str:
    return key.decode(errors="backslashreplace") or '""'


def _told(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Message):
        inner = MessageToString(value, as_one_line=True)
        return f"{value.DESCRIPTOR.name} {{{inner}}}"
    return " ".join(repr(value).split())  # a message in it is told in lines
