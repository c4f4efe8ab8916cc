"""Sequences of events, made up by Hypothesis from what a contract says of their types: for `check_fold`.

Few keys and small ranges, so that events collide: the same axis, the same moment, the same thing once more. The rules of protovalidate
that say what a single value may be are kept. What a rule in CEL asks for is not known here: a view whose fold relies on it declares
`examples`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Kind
from google.protobuf.message import Message
from hypothesis import strategies as st

from aorist.declare.descriptors import Descriptor, FieldDescriptor, class_of
from aorist.declare.view import View
from aorist.v1 import options_pb2
from buf.validate import validate_pb2

Values = st.SearchStrategy[Any]
Part = st.SearchStrategy[dict[str, Any]]
"""Of a message: what one field of it, or one of several, is set to. Empty: left alone."""

MOST_EVENTS = 12
"""In a sequence. Each is refolded from every position: what a fold does wrong shows with three or four."""

MOST_ELEMENTS = 3
"""In a list or map that may be longer."""

DEEPEST = 2
"""How far messages within messages are filled in; a type that holds itself ends there."""

MOMENT = re.compile(r"_at_(s|ms|us|ns)$")
_PER_S = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
START_S = 1_767_225_600
"""2026-01-01: moments are this and a little later, since gateways refuse those before 2000."""

_WHOLE = {Kind.CPPTYPE_INT32, Kind.CPPTYPE_INT64, Kind.CPPTYPE_UINT32, Kind.CPPTYPE_UINT64}
_LONG = {Kind.CPPTYPE_INT64, Kind.CPPTYPE_UINT64}
_UNSIGNED = {Kind.CPPTYPE_UINT32, Kind.CPPTYPE_UINT64}
_FRACTIONS = {Kind.CPPTYPE_DOUBLE, Kind.CPPTYPE_FLOAT}
_UUIDS = ("00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002")


def sequences(view: View[Any]) -> st.SearchStrategy[list[Message]]:
    """Lists of events that `view` folds, of one key or two. Its examples stand for the types that they are of."""
    types = [event for event, field in view.schema.events.items() if field in view.handlers]
    names = view.schema.key
    key = st.tuples(*(_key_part(types[0].DESCRIPTOR.fields_by_name[name]) for name in names))
    examples = [one for one in view.examples if type(one) in types]
    given = {type(one) for one in examples}
    made = [
        _filled(event, list(_parts(event.DESCRIPTOR, DEEPEST, moment=view.ordered_by, leave_out=names)))
        for event in types
        if event not in given
    ]

    @st.composite
    def drawn(draw: st.DrawFn) -> list[Message]:
        keys = draw(st.lists(key, min_size=1, max_size=2, unique=True))
        keyed = [
            st.tuples(one, st.sampled_from(keys)).map(lambda both: _with_key(both[0], names, both[1])) for one in made
        ]
        kinds = [st.sampled_from(examples), *keyed] if examples else keyed
        return draw(st.lists(st.one_of(*kinds), min_size=1, max_size=MOST_EVENTS))

    return drawn()


def _with_key(event: Message, names: Sequence[str], values: Sequence[Any]) -> Message:
    for name, value in zip(names, values, strict=True):
        setattr(event, name, value)
    return event


def _key_part(field: FieldDescriptor) -> Values:
    rules = _rules(field)
    if rules.WhichOneof("type") is None:
        return st.sampled_from((1, 2) if field.cpp_type in _WHOLE else ("a", "b"))
    return _single(field, rules, DEEPEST)


# --- messages ---


def _messages(descriptor: Descriptor, depth: int) -> st.SearchStrategy[Message]:
    if descriptor.full_name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
        start = START_S if descriptor.name == "Timestamp" else 0
        seconds, nanos = st.integers(start, start + 3), st.sampled_from((0, 500_000_000))
        return st.builds(class_of(descriptor), seconds=seconds, nanos=nanos)
    return _filled(class_of(descriptor), list(_parts(descriptor, depth)))


def _filled(message: type[Message], parts: Sequence[Part]) -> st.SearchStrategy[Message]:
    return st.tuples(*parts).map(
        lambda found: message(**{name: value for part in found for name, value in part.items()})
    )


def _parts(descriptor: Descriptor, depth: int, *, moment: str = "", leave_out: Sequence[str] = ()) -> Iterator[Part]:
    """`moment`: name of a field that holds one, whatever it is called."""
    for field in descriptor.fields:
        alone = field.containing_oneof is None or len(field.containing_oneof.fields) == 1
        if alone and field.name not in leave_out:
            yield _part(field, depth, is_moment=field.name == moment)
    for oneof in descriptor.oneofs:
        if len(oneof.fields) > 1:
            choices = [_part(field, depth, always=True) for field in oneof.fields]
            needed = oneof.GetOptions().Extensions[validate_pb2.oneof].required
            yield st.one_of(*choices) if needed else st.one_of(st.just({}), *choices)


def _part(field: FieldDescriptor, depth: int, *, is_moment: bool = False, always: bool = False) -> Part:
    rules = _rules(field)
    needed = always or rules.required or field.is_required
    if field.message_type is not None and not field.is_repeated and not depth and not needed:
        return st.just({})
    values = _moments(field.name) if is_moment else _values(field, rules, depth)
    part: Part = values.map(lambda value: {field.name: value})
    return part if needed or not field.has_presence else st.one_of(st.just({}), part)


# --- fields ---


def _rules(field: FieldDescriptor) -> validate_pb2.FieldRules:
    rules: validate_pb2.FieldRules = field.GetOptions().Extensions[validate_pb2.field]
    return rules


def _values(field: FieldDescriptor, rules: validate_pb2.FieldRules, depth: int) -> Values:
    if not field.is_repeated:
        return _single(field, rules, depth)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        least, most = _size(rules.map, "min_pairs", "max_pairs")
        if value.message_type is not None and not depth:
            return st.just({})
        keys, values = _single(key, rules.map.keys, 0), _single(value, rules.map.values, depth)
        return st.dictionaries(keys, values, min_size=least, max_size=most)
    if field.message_type is not None and not depth:
        return st.just([])
    least, most = _size(rules.repeated, "min_items", "max_items")
    by = field.GetOptions().Extensions[options_pb2.unique_by]
    unique: Callable[[Any], Any] | None = (lambda element: getattr(element, by)) if by else None
    elements = _single(field, rules.repeated.items, depth)
    return st.lists(
        elements, min_size=least, max_size=most, unique_by=unique or (repr if rules.repeated.unique else None)
    )


def _size(rules: Any, least: str, most: str) -> tuple[int, int]:
    """Of a list or map."""
    low = getattr(rules, least)
    high = max(low, MOST_ELEMENTS)
    return low, min(high, getattr(rules, most)) if rules.HasField(most) else high


def _single(field: FieldDescriptor, rules: validate_pb2.FieldRules, depth: int) -> Values:
    if field.message_type is not None:
        return _messages(field.message_type, depth - 1) if depth > 0 else st.builds(class_of(field.message_type))
    kind = rules.WhichOneof("type")
    said: Any = getattr(rules, kind) if kind else None
    if said is not None and kind != "any" and said.HasField("const"):
        return st.just(said.const)
    among = list(getattr(said, "in", ()))
    banned = set(getattr(said, "not_in", ()))
    values = st.sampled_from(among) if among else _scalars(field, said)
    return values.filter(lambda value: value not in banned) if banned else values


def _scalars(field: FieldDescriptor, said: Any) -> Values:
    kind = field.cpp_type
    if kind in _WHOLE:
        return _moments(field.name) if said is None and _is_moment(field) else _whole(field, said)
    if kind in _FRACTIONS:
        return _fractions(said)
    if kind == Kind.CPPTYPE_BOOL:
        return st.booleans()
    if kind == Kind.CPPTYPE_ENUM:
        numbers = [value.number for value in field.enum_type.values]
        open_to_more = not field.enum_type.is_closed and not getattr(said, "defined_only", False)
        return st.sampled_from([*numbers, max(numbers) + 1] if open_to_more else numbers)  # as of a newer version
    if field.type == Kind.TYPE_BYTES:
        return st.sampled_from((b"", b"a", b"b\xff")).map(lambda data: _fitted(data, b"x", said))
    return _texts(said)


def _is_moment(field: FieldDescriptor) -> bool:
    marked: bool = field.GetOptions().Extensions[options_pb2.event_time_us]
    return field.cpp_type in _LONG and (marked or MOMENT.search(field.name) is not None)


def _moments(name: str) -> Values:
    """Often equal, often one unit apart, sometimes minutes or hours: in the unit that the name ends in, else microseconds."""
    found = MOMENT.search(name)
    per_s = _PER_S[found[1] if found else "us"]
    apart = st.tuples(st.integers(0, 4), st.sampled_from((per_s, 60 * per_s, 3600 * per_s))).map(lambda n: n[0] * n[1])
    return st.one_of(st.integers(0, 3), apart).map(lambda after: START_S * per_s + after)


def _whole(field: FieldDescriptor, said: Any) -> Values:
    least, most = _bounds(said, 1)
    floor = 0 if field.cpp_type in _UNSIGNED else None
    least = floor if least is None else least
    low = max(-2, least) if least is not None else -2
    high = low + 5 if least != 0 else 3
    if most is None:
        return st.integers(low, high)
    high = min(high, most)
    return st.integers(min(low, high), high) | st.just(most)


def _fractions(said: Any) -> Values:
    """Finite ones: a state with NaN in it is not equal to itself. Exact in 32 bits."""
    least, most = _bounds(said, 0.125)
    usual = [n for n in (0.0, 1.0, 0.5, -0.5, 2.25) if (least is None or n >= least) and (most is None or n <= most)]
    return st.sampled_from([*usual, *(n for n in (least, most) if n is not None and n not in usual)])


def _bounds(said: Any, beside: float) -> tuple[Any, Any]:
    """The least and the greatest that rules allow, each None without a rule. `beside`: how far from a bound that is excluded itself."""
    if said is None:
        return None, None
    below, above = said.WhichOneof("less_than"), said.WhichOneof("greater_than")
    most = getattr(said, below) - beside * (below == "lt") if below else None
    least = getattr(said, above) + beside * (above == "gt") if above else None
    if least is not None and most is not None and least > most:
        return least, None  # the rule means: outside of what lies between
    return least, most


def _texts(said: Any) -> Values:
    if said is None:
        return st.sampled_from(("", "a", "b", "\u00e9"))
    if said.pattern:
        return st.from_regex(re.compile(said.pattern, re.ASCII), fullmatch=True)
    if said.WhichOneof("well_known") == "uuid":
        return st.sampled_from(_UUIDS)
    return st.sampled_from(("", "a", "b", "\u00e9")).map(lambda text: _fitted(text, "x", said))


def _fitted(value: Any, filler: Any, said: Any) -> Any:
    """Text or bytes with what rules want at its ends, as long as they want it."""
    if said is None:
        return value
    value = said.prefix + value + said.contains + said.suffix
    least, most = (said.len, said.len) if said.HasField("len") else (said.min_len, said.max_len)
    value = said.prefix + filler * (least - len(value)) + value[len(said.prefix) :]
    return value[:most] if most else value
