"""The rules a request must keep: protovalidate's annotations, and those of `aorist.v1` options that need a clock or speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

from google.protobuf.message import Message
from protovalidate import Validator

from aorist.declare.descriptors import Descriptor
from aorist.errors import InvalidRequestError, Violation
from aorist.v1 import options_pb2

Check = Callable[[Any], Iterator[Violation]]


class Rules:
    """Checks messages of one type. `max_skew_ms`: how far event times may be ahead of this clock."""

    _validator = Validator()  # compiles the rules of each type once

    def __init__(self, message: type[Message], max_skew_ms: int) -> None:
        self._checks = list(_checks(message.DESCRIPTOR, "", max_skew_ms))

    def broken_by(self, message: Message) -> list[Violation]:
        """Every rule that `message` breaks."""
        broken = [Violation(_path(v.proto.field), v.proto.message) for v in self._validator.collect_violations(message)]
        for check in self._checks:
            broken.extend(check(message))
        return broken

    def check(self, message: Message) -> None:
        """Raises InvalidRequestError with all of them."""
        if broken := self.broken_by(message):
            raise InvalidRequestError(broken)


def _checks(descriptor: Descriptor, prefix: str, max_skew_ms: int) -> Iterator[Check]:
    for field in descriptor.fields:
        path, options = prefix + field.name, field.GetOptions()
        if options.Extensions[options_pb2.unique_by]:
            yield _unique(path, options.Extensions[options_pb2.unique_by])
        elif options.Extensions[options_pb2.event_time_us]:
            yield _not_ahead(path, max_skew_ms)
        elif (
            field.message_type is not None and not field.is_repeated and field.message_type.file.package != "aorist.v1"
        ):
            yield from _checks(field.message_type, f"{path}.", max_skew_ms)


def _unique(path: str, by: str) -> Check:
    elements, value = attrgetter(path), attrgetter(by)

    def check(message: Any) -> Iterator[Violation]:
        values = [value(element) for element in elements(message)]
        if len(set(values)) < len(values):
            twice = next(v for i, v in enumerate(values) if v in values[:i])
            yield Violation(path, f"{by} {twice} appears more than once: each {by} once")

    return check


def _not_ahead(path: str, max_skew_ms: int) -> Check:
    read = attrgetter(path)

    def check(message: Any) -> Iterator[Violation]:
        ahead_ms = read(message) // 1000 - time.time_ns() // 1_000_000
        if ahead_ms > max_skew_ms:
            yield Violation(
                path,
                f"is {ahead_ms} ms ahead of the gateway's clock, at most {max_skew_ms} are allowed: check the sender's clock and unit",
            )

    return check


def _path(field: Any) -> str:
    """`axes[2].position`."""
    if field is None:
        return ""
    parts = []
    for element in field.elements:
        index = f"[{element.subscript.value}]" if element.subscript is not None else ""
        parts.append(element.field_name + index)
    return ".".join(parts)
