"""Messages that stand in for an event in a fold: the same bytes, walked faster.

protobuf makes an object of Python for each element of a list of messages, which can cost more than all the rest of a fold. A map of
plain values is walked without, and as bytes it is nothing but a list of messages with the key as field 1 and the value as field 2.
"""

from __future__ import annotations

from google.protobuf.message import Message

from aorist.declare.descriptors import Descriptor, FieldDescriptor
from aorist.declare.restating import meaning, within
from aorist.v1 import options_pb2

NO_ENTRIES = "is no list of that name of messages that hold such a key as field 1, such a value as field 2, not `optional`, and no more"


def stands_in_for(message: type[Message]) -> str:
    """Full name of the event that `message` says it stands in for; empty: none."""
    name: str = message.DESCRIPTOR.GetOptions().Extensions[options_pb2.stands_in_for]
    return name


def misreads(stand_in: Descriptor, event: Descriptor) -> str:
    """Where `stand_in` does not say what `event` does; empty: nowhere."""
    ours, theirs = ({field.number: field for field in descriptor.fields} for descriptor in (stand_in, event))
    for number in sorted(ours.keys() | theirs.keys()):
        if number not in ours or number not in theirs:
            return f"only {(stand_in if number in ours else event).name} has a field {number}"
        field, other = ours[number], theirs[number]
        place = f"field {number}, `{field.name}`,"
        if _is_map(field):
            if field.name != other.name or not _is_list_of(other, *field.message_type.fields):
                return f"{place} is a map, and that of {event.name} {NO_ENTRIES}"
        elif meaning(field) != meaning(other):
            return f"{place} is not the same in both"
    return ""


def made_from(event: Message, stand_in: type[Message]) -> Message:
    """What stands in for `event`. Parsed from its bytes as they are, it would lack each element with a field of a newer version.

    protobuf takes such an element for no entry of a map, and puts it with what is unknown.
    """
    known = event.FromString(event.SerializeToString())
    known.DiscardUnknownFields()
    return stand_in.FromString(known.SerializeToString())


def _is_map(field: FieldDescriptor) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def _is_list_of(field: FieldDescriptor, key: FieldDescriptor, value: FieldDescriptor) -> bool:
    """Whether its elements are entries of such a map. `optional`: that a part was not told would be lost, as with any message in it."""
    if not field.is_repeated or field.message_type is None:
        return False
    inner = field.message_type.fields_by_number
    return len(inner) == len((key, value)) and all(
        (one := inner.get(part.number)) is not None
        and (one.type, within(one)) == (part.type, within(part))
        and not one.is_repeated
        and not one.has_presence
        for part in (key, value)
    )
