"""Rules so plain that keeping them can be told without protovalidate, which costs a query more than all else that its gateway looks at."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from aorist.declare.descriptors import Descriptor, FieldDescriptor
from buf.validate import validate_pb2

Kept = Callable[[Any], bool]
"""Of a message: True where it keeps its rules for sure. Otherwise ask protovalidate, which says what is wrong."""


def plainly_kept(descriptor: Descriptor) -> Kept | None:
    """None: the rules of this type, or of one within, are not all plain (a least length of a text, a greatest value of a uint32)."""
    checks: list[Kept] = []
    if _ruled_as_a_whole(descriptor):
        return None
    for field in descriptor.fields:
        if field.GetOptions().HasExtension(validate_pb2.field):
            check = _plain(field)
            if check is None:
                return None
            checks.append(check)
        elif field.message_type is not None and _ruled(field.message_type, set()):
            return None
    return checks[0] if len(checks) == 1 else lambda message: all(check(message) for check in checks)


def _plain(field: FieldDescriptor) -> Kept | None:
    rules = validate_pb2.FieldRules()
    rules.CopyFrom(field.GetOptions().Extensions[validate_pb2.field])
    read = attrgetter(field.name)
    if field.is_repeated or field.has_presence:
        return None
    length, most = rules.string.min_len, rules.uint32.lte
    if rules == validate_pb2.FieldRules(string=validate_pb2.StringRules(min_len=length)):
        return lambda message: len(read(message)) >= length
    if rules == validate_pb2.FieldRules(uint32=validate_pb2.UInt32Rules(lte=most)):
        return lambda message: read(message) <= most
    return None


def _ruled(descriptor: Descriptor, seen: set[str]) -> bool:
    """Whether this type or one within has any rule."""
    if descriptor.full_name in seen:  # a type may hold itself
        return False
    seen.add(descriptor.full_name)
    return _ruled_as_a_whole(descriptor) or any(
        field.GetOptions().HasExtension(validate_pb2.field)
        or (field.message_type is not None and _ruled(field.message_type, seen))
        for field in descriptor.fields
    )


def _ruled_as_a_whole(descriptor: Descriptor) -> bool:
    return descriptor.GetOptions().HasExtension(validate_pb2.message) or any(
        oneof.GetOptions().HasExtension(validate_pb2.oneof) for oneof in descriptor.oneofs
    )
