"""The rules a request must keep: protovalidate's annotations, and those of `aorist.v1` options that need a clock or speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor as Kind
from google.protobuf.message import Message

from aorist.declare.descriptors import Descriptor, FieldDescriptor
from aorist.errors import InvalidRequestError, MisdeclaredError, Violation
from aorist.serve.plain_rules import plainly_kept
from aorist.v1 import options_pb2

if TYPE_CHECKING:
    from protovalidate import Validator

Check = Callable[[Any, int], Sequence[Violation]]
"""Of a message, and of the time from which on event times are too late. Violations say where by paths from that message on."""


YEAR_2000_US = 946_684_800_000_000


@cache
def _validator() -> Validator:
    """Compiles the rules of each type once."""
    from protovalidate import Validator  # noqa: PLC0415  # a sixth of a second of a worker's start, which checks no requests

    return Validator()


class Rules:
    """Checks messages of one type, and those within. `max_skew_ms`: how far event times may be ahead of this clock."""

    def __init__(self, message: type[Message], max_skew_ms: int) -> None:
        self._validator = _validator()
        self._checks = _checks_of(message.DESCRIPTOR, max_skew_ms, {})
        self._max_skew_ms = max_skew_ms
        self._plainly_kept = None if self._checks else plainly_kept(message.DESCRIPTOR)

    def broken_by(self, message: Message) -> list[Violation]:
        """Every rule that `message` breaks."""
        broken = [Violation(_path(_where(v)), v.proto.message) for v in self._validator.collect_violations(message)]
        too_late_us = _too_late_us(self._max_skew_ms)
        for check in self._checks:
            broken.extend(check(message, too_late_us))
        return broken

    def check(self, message: Message) -> None:
        """Raises InvalidRequestError with all of them."""
        if self._plainly_kept is not None and self._plainly_kept(message):
            return
        if broken := self.broken_by(message):
            raise InvalidRequestError(broken)


class ItemRules:
    """Checks the items of a batch: all by one call, which costs half of as many calls. What a batch says beside them is not looked at."""

    def __init__(self, batch: type[Message], items: str, max_skew_ms: int) -> None:
        self._validator = _validator()
        self._checks = _checks_of(batch.DESCRIPTOR.fields_by_name[items].message_type, max_skew_ms, {})
        self._name, self._items, self._max_skew_ms = items, attrgetter(items), max_skew_ms

    def broken_in(self, batch: Message) -> dict[int, list[Violation]]:
        """Every rule that an item breaks, by its index; paths start within the item."""
        broken: dict[int, list[Violation]] = {}
        for violation in self._validator.collect_violations(batch):
            item, within = _where(violation)[:1], _where(violation)[1:]
            if item and item[0].field_name == self._name and item[0].subscript is not None:
                index = item[0].subscript.value
                broken.setdefault(index, []).append(Violation(_path(within), violation.proto.message))
        items, too_late_us = list(self._items(batch)), _too_late_us(self._max_skew_ms)
        for check in self._checks:
            for index, item in enumerate(items):
                if found := check(item, too_late_us):
                    broken.setdefault(index, []).extend(found)
        return broken


def _too_late_us(max_skew_ms: int) -> int:
    """Whole milliseconds are compared: one begun counts as not yet there."""
    return (time.time_ns() // 1_000_000 + max_skew_ms + 1) * 1000


def _checks_of(
    descriptor: Descriptor, max_skew_ms: int, known: dict[str, list[Check]], above: tuple[str, ...] = ()
) -> list[Check]:
    """`known`: those of types met already; `above`: types whose list is not complete yet, since a type may hold itself.

    Raises MisdeclaredError.
    """
    if descriptor.full_name in known:
        return known[descriptor.full_name]
    checks: list[Check] = []
    known[descriptor.full_name], above = checks, (*above, descriptor.full_name)
    for field in descriptor.fields:
        options = field.GetOptions()
        if by := options.Extensions[options_pb2.unique_by]:
            checks.append(_unique(field, by))
        if options.Extensions[options_pb2.event_time_us]:
            checks.append(_plausible_time(field, max_skew_ms))
        inner = field.message_type
        if inner is None or inner.GetOptions().map_entry or inner.file.package == "aorist.v1":
            continue
        within = _checks_of(inner, max_skew_ms, known, above)
        if within or inner.full_name in above:
            checks.append(_each(field.name, within) if field.is_repeated else _inside(field.name, within))
    return checks


def _each(name: str, checks: Sequence[Check]) -> Check:
    read = attrgetter(name)

    def check(message: Any, too_late_us: int) -> Sequence[Violation]:
        return [
            Violation(f"{name}[{index}].{field}", text)
            for index, element in enumerate(read(message))
            for inner in checks
            for field, text in inner(element, too_late_us)
        ]

    return check


def _inside(name: str, checks: Sequence[Check]) -> Check:
    read = attrgetter(name)

    def check(message: Any, too_late_us: int) -> Sequence[Violation]:
        if not message.HasField(name):
            return ()
        element = read(message)
        return [Violation(f"{name}.{field}", text) for inner in checks for field, text in inner(element, too_late_us)]

    return check


def _unique(field: FieldDescriptor, by: str) -> Check:
    if not field.is_repeated or field.message_type is None or by not in field.message_type.fields_by_name:
        raise MisdeclaredError(
            f"{field.file.name}: {field.full_name}: (aorist.v1.unique_by) names `{by}`: it stands on a repeated message, and names one of "
            "its fields"
        )
    read, value, name = attrgetter(field.name), attrgetter(by), field.name

    def check(message: Any, _too_late_us: int) -> Sequence[Violation]:
        elements = read(message)
        if len(elements) < 2:  # what is alone is unique
            return ()
        if len(set(map(value, elements))) == len(elements):
            return ()
        values = [value(element) for element in elements]
        twice = next(v for i, v in enumerate(values) if v in values[:i])
        return (Violation(name, f"{by} {twice} appears more than once: each {by} once"),)

    return check


def _plausible_time(field: FieldDescriptor, max_skew_ms: int) -> Check:
    if field.is_repeated or field.cpp_type != Kind.CPPTYPE_INT64:
        raise MisdeclaredError(
            f"{field.file.name}: {field.full_name}: (aorist.v1.event_time_us) stands on a single int64 field: make it one"
        )
    read, name = attrgetter(field.name), field.name

    def check(message: Any, too_late_us: int) -> Sequence[Violation]:
        time_us = read(message)
        if YEAR_2000_US <= time_us < too_late_us:
            return ()
        if time_us < YEAR_2000_US:
            wrong = "before 2000: microseconds since 1970 are expected"
        else:
            wrong = f"later than the gateway's clock by more than {max_skew_ms} ms"
        return (Violation(name, f"is {_when(time_us)}, {wrong}; check the sender's clock and unit"),)

    return check


def _when(time_us: int) -> str:
    """A time as people read it; one beyond the year 9999 as a number."""
    try:
        return datetime.fromtimestamp(time_us / 1_000_000, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return f"{time_us} us"


def _where(violation: Any) -> Sequence[Any]:
    """Elements of the path to what is wrong; none where it is the whole message."""
    field = violation.proto.field
    return () if field is None else field.elements


def _path(elements: Iterable[Any]) -> str:
    """`axes[2].position`."""
    parts = []
    for element in elements:
        index = f"[{element.subscript.value}]" if element.subscript is not None else ""
        parts.append(element.field_name + index)
    return ".".join(parts)
