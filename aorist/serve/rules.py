"""The rules a request must keep: protovalidate's annotations, and those of `aorist.v1` options that need a clock or speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Kind
from google.protobuf.message import Message
from protovalidate import Validator

from aorist.declare.descriptors import Descriptor, FieldDescriptor
from aorist.errors import InvalidRequestError, MisdeclaredError, Violation
from aorist.v1 import options_pb2

Check = Callable[[Any, str], Iterator[Violation]]
"""Of a message, and of the path that leads to it: empty, or ending in `.`."""


YEAR_2000_US = 946_684_800_000_000


class Rules:
    """Checks messages of one type, and those within. `max_skew_ms`: how far event times may be ahead of this clock."""

    _validator = Validator()  # compiles the rules of each type once

    def __init__(self, message: type[Message], max_skew_ms: int) -> None:
        self._checks = _checks_of(message.DESCRIPTOR, max_skew_ms, {})

    def broken_by(self, message: Message) -> list[Violation]:
        """Every rule that `message` breaks."""
        broken = [Violation(_path(v.proto.field), v.proto.message) for v in self._validator.collect_violations(message)]
        for check in self._checks:
            broken.extend(check(message, ""))
        return broken

    def check(self, message: Message) -> None:
        """Raises InvalidRequestError with all of them."""
        if broken := self.broken_by(message):
            raise InvalidRequestError(broken)


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

    def check(message: Any, path: str) -> Iterator[Violation]:
        for index, element in enumerate(read(message)):
            for inner in checks:
                yield from inner(element, f"{path}{name}[{index}].")

    return check


def _inside(name: str, checks: Sequence[Check]) -> Check:
    read = attrgetter(name)

    def check(message: Any, path: str) -> Iterator[Violation]:
        if message.HasField(name):
            for inner in checks:
                yield from inner(read(message), f"{path}{name}.")

    return check


def _unique(field: FieldDescriptor, by: str) -> Check:
    if not field.is_repeated or field.message_type is None or by not in field.message_type.fields_by_name:
        raise MisdeclaredError(
            f"{field.file.name}: {field.full_name}: (aorist.v1.unique_by) names `{by}`: it stands on a repeated message, and names one of "
            "its fields"
        )
    elements, value = attrgetter(field.name), attrgetter(by)

    def check(message: Any, path: str) -> Iterator[Violation]:
        values = [value(element) for element in elements(message)]
        if len(set(values)) < len(values):
            twice = next(v for i, v in enumerate(values) if v in values[:i])
            yield Violation(path + field.name, f"{by} {twice} appears more than once: each {by} once")

    return check


def _plausible_time(field: FieldDescriptor, max_skew_ms: int) -> Check:
    if field.is_repeated or field.cpp_type != Kind.CPPTYPE_INT64:
        raise MisdeclaredError(
            f"{field.file.name}: {field.full_name}: (aorist.v1.event_time_us) stands on a single int64 field: make it one"
        )
    read = attrgetter(field.name)

    def check(message: Any, path: str) -> Iterator[Violation]:
        time_us = read(message)
        if time_us < YEAR_2000_US:
            wrong = "before 2000: microseconds since 1970 are expected"
        elif time_us // 1000 - time.time_ns() // 1_000_000 > max_skew_ms:
            wrong = f"later than the gateway's clock by more than {max_skew_ms} ms"
        else:
            return
        yield Violation(path + field.name, f"is {_when(time_us)}, {wrong}; check the sender's clock and unit")

    return check


def _when(time_us: int) -> str:
    """A time as people read it; one beyond the year 9999 as a number."""
    try:
        return datetime.fromtimestamp(time_us / 1_000_000, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return f"{time_us} us"


def _path(field: Any) -> str:
    """`axes[2].position`."""
    if field is None:
        return ""
    parts = []
    for element in field.elements:
        index = f"[{element.subscript.value}]" if element.subscript is not None else ""
        parts.append(element.field_name + index)
    return ".".join(parts)
