"""What a contract says: topic, key and partition of an envelope, read from its options and checked. Derived once, at import."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any, NoReturn

from google.protobuf.descriptor import FieldDescriptor as Kind
from google.protobuf.message import Message

from aorist.declare.descriptors import Descriptor, FieldDescriptor, ServiceDescriptor, class_of
from aorist.errors import MisdeclaredError
from aorist.ports import NewRecord, TopicSpec
from aorist.position import partition_of
from aorist.v1 import event_pb2, options_pb2

_TEXT = {Kind.CPPTYPE_STRING}
_WHOLE = {
    Kind.CPPTYPE_INT32,
    Kind.CPPTYPE_INT64,
    Kind.CPPTYPE_UINT32,
    Kind.CPPTYPE_UINT64,
}

PLACES = 65_536
"""Keys whose place is remembered, a quarter of a kilobyte each: looking one up costs 0.1 us, finding it out 3 to 5."""


def encode_key(parts: Sequence[str | int]) -> bytes:
    """The record key of an entity. One part: its text. Several: joined by `/`, with `/` and `%` inside a part escaped.

    Different parts never give the same key, and every language can write it.
    """
    texts = [str(part) for part in parts]
    if len(texts) > 1:
        texts = [text.replace("%", "%25").replace("/", "%2F") for text in texts]
    return "/".join(texts).encode()


def decode_key(key: bytes, parts: int) -> list[str]:
    """The texts that `encode_key` made `key` from."""
    if parts == 1:
        return [key.decode()]
    return [text.replace("%2F", "/").replace("%25", "%") for text in key.decode().split("/")]


def key_reader(fields: Sequence[str]) -> Callable[[Message], bytes]:
    """A function from any message with these fields to the key that they make."""
    if len(fields) == 1:
        read: Callable[[Message], str | int] = attrgetter(fields[0])
        return lambda message: str(read(message)).encode()
    read_all: Callable[[Message], tuple[str | int, ...]] = attrgetter(*fields)
    return lambda message: encode_key(read_all(message))


@dataclass(frozen=True)
class EventSchema:
    """An envelope with its topic, checked. `events`: class of each event -> its field in `oneof event`."""

    envelope: type[Message]
    topic: TopicSpec
    key: tuple[str, ...]
    partition_by: tuple[str, ...]
    events: Mapping[type[Message], str]

    def key_of(self) -> Callable[[Message], bytes]:
        """Function from an event (or a routed request) to its record key."""
        return key_reader(self.key)

    def partition_for(self) -> Callable[[Message], int]:
        """Function from an event (or a request with the fields of `partition_by`) to its partition."""
        read, partitions = key_reader(self.partition_by), self.topic.partitions
        return lambda message: partition_of(read(message), partitions)

    def recorder(self) -> Callable[[Message], NewRecord]:
        """Function from an event without meta to the record that publishes it. Equal events give equal bytes."""
        place = self._placer()
        recorders = {event: self._recorder(event, event, place) for event in self.events}
        return lambda event: recorders[type(event)](event)

    def restater(self, asked: type[Message], event: type[Message]) -> Callable[[Message], NewRecord]:
        """Function from a message with the very fields of `event` to the record that publishes it as one. Drops what is unknown."""
        record = self._recorder(asked, event, self._placer())

        def restate(message: Message) -> NewRecord:
            message.DiscardUnknownFields()
            return record(message)

        return restate

    def _recorder(
        self, message: type[Message], event: type[Message], place: Callable[[Any], tuple[int, bytes]]
    ) -> Callable[[Message], NewRecord]:
        read: Callable[[Message], Any] = attrgetter(*self.key)
        new = tuple.__new__  # half of what NewRecord(...) costs
        tag, serialize = _tag(self.envelope.DESCRIPTOR.fields_by_name[self.events[event]]), _serializer(message)
        heads = [tag + _varint(length) for length in range(1024)]

        def record(message: Message) -> NewRecord:
            body = serialize(message)
            length = len(body)
            # An envelope with one field set is that field's tag, the length, and the event's own bytes: no second copy is built.
            head = heads[length] if length < len(heads) else tag + _varint(length)
            partition, key = place(read(message))
            return new(NewRecord, (partition, key, head + body))

        return record

    def _placer(self) -> Callable[[Any], tuple[int, bytes]]:
        """Function from the values of key fields to partition and record key. Remembers those met last: robots repeat themselves."""
        by, partitions = [self.key.index(name) for name in self.partition_by], self.topic.partitions

        @lru_cache(maxsize=PLACES)
        def place(values: Any) -> tuple[int, bytes]:
            parts = (values,) if len(self.key) == 1 else values
            return partition_of(encode_key([parts[index] for index in by]), partitions), encode_key(parts)

        return place


def _tag(field: FieldDescriptor) -> bytes:
    return _varint(field.number << 3 | 2)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _serializer(message: type[Message]) -> Callable[[Message], bytes]:
    """Equal messages give equal bytes. Only maps have no order of their own; asking for one costs as much again as the bytes."""
    if not _has_map(message.DESCRIPTOR, set()):
        return message.SerializeToString
    return lambda event: event.SerializeToString(deterministic=True)


def _has_map(descriptor: Descriptor, seen: set[str]) -> bool:
    seen.add(descriptor.full_name)
    inner = [field.message_type for field in descriptor.fields if field.message_type]
    return any(one.GetOptions().map_entry or (one.full_name not in seen and _has_map(one, seen)) for one in inner)


def schema_of(envelope: type[Message]) -> EventSchema:
    """Reads and checks the options of `envelope`. Raises MisdeclaredError naming the proto file and what to write there."""
    topic = _topic_of(envelope)
    events = _events_of(envelope)
    key, partition_by = tuple(topic.key), tuple(topic.partition_by) or tuple(topic.key)
    if not key:
        _wrong(envelope, "its topic has no key: set `key` in (aorist.v1.topic) to the fields that identify an entity")
    for name in key:
        for event in events:
            check_key_field(event.DESCRIPTOR, name, f"key of topic {topic.name}", like=next(iter(events)))
    for name in partition_by:
        if name not in key:
            problem = f"partition_by names `{name}`, which is not in the key"
            _wrong(envelope, f"{problem}: only what never changes for an entity can place it; add it to `key`")
    spec = TopicSpec(topic.name, topic.partitions, topic.retention_ms or None, topic.compacted)
    return EventSchema(envelope, spec, key, partition_by, events)


def _wrong(envelope: type[Message], problem: str) -> NoReturn:
    raise MisdeclaredError(f"{envelope.DESCRIPTOR.file.name}: {envelope.DESCRIPTOR.full_name}: {problem}")


def _topic_of(envelope: type[Message]) -> options_pb2.Topic:
    options = envelope.DESCRIPTOR.GetOptions()
    if not options.HasExtension(options_pb2.topic):
        _wrong(envelope, "is not an envelope: give it `option (aorist.v1.topic) = {...}`")
    topic = options.Extensions[options_pb2.topic]
    if not topic.name:
        _wrong(envelope, "its topic has no name: set `name` in (aorist.v1.topic)")
    if topic.partitions < 1:
        _wrong(envelope, "its topic has no partitions: set `partitions` in (aorist.v1.topic) to 1 or more, for ever")
    if not (topic.retention_ms > 0 or topic.compacted):
        _wrong(envelope, "does not say what its topic forgets: set `retention_ms` or `compacted` in (aorist.v1.topic)")
    return topic


def _events_of(envelope: type[Message]) -> dict[type[Message], str]:
    meta = envelope.DESCRIPTOR.fields_by_name.get("meta")
    if meta is None or meta.message_type is not event_pb2.EventMeta.DESCRIPTOR:
        _wrong(envelope, "has no `aorist.v1.EventMeta meta`: add it as the first field")
    oneof = envelope.DESCRIPTOR.oneofs_by_name.get("event")
    if oneof is None:
        _wrong(envelope, "has no `oneof event`: put the events of the domain into one")
    for field in oneof.fields:
        if field.message_type is None:
            _wrong(
                envelope, f"`{field.name}` in `oneof event` is not a message: an event is one, named in the past tense"
            )
    events = {class_of(field.message_type): field.name for field in oneof.fields}
    if len(events) < len(oneof.fields):
        _wrong(envelope, "two fields of `oneof event` have the same type: give every event a message of its own")
    return events


def check_key_field(descriptor: Descriptor, name: str, role: str, like: type[Message] | None = None) -> None:
    """Raises MisdeclaredError unless `descriptor` has a single text or whole-number field `name`, of the same kind as in `like`."""
    field = descriptor.fields_by_name.get(name)
    where = f"{descriptor.file.name}: {descriptor.full_name}"
    if field is None:
        raise MisdeclaredError(
            f"{where} has no field `{name}`, which is the {role}: add it, or correct the name in the options"
        )
    if field.is_repeated or field.cpp_type not in _TEXT | _WHOLE:
        raise MisdeclaredError(f"{where}: field `{name}` is the {role} and must be a single string or whole number")
    if like is not None and field.cpp_type != like.DESCRIPTOR.fields_by_name[name].cpp_type:
        raise MisdeclaredError(
            f"{where}: field `{name}` is the {role}: give it the type that it has in {like.__name__}"
        )


def check_whole_field(descriptor: Descriptor, name: str, role: str) -> None:
    """Raises MisdeclaredError, which begins with `role`, unless `descriptor` has a single whole-number field `name`."""
    field = descriptor.fields_by_name.get(name)
    if field is None or field.is_repeated or field.cpp_type not in _WHOLE:
        raise MisdeclaredError(
            f"{role} names `{name}`, which is no single whole number of {descriptor.name}: correct the name"
        )


def set_key_field(message: Message, name: str, text: str) -> None:
    """Sets field `name`, text or whole number, from its text in a key."""
    setattr(message, name, text if isinstance(getattr(message, name), str) else int(text))


def marked_fields(descriptor: Descriptor, option: str) -> list[FieldDescriptor]:
    """The fields of `descriptor` that carry the option `aorist.v1.<option>`."""
    extension = getattr(options_pb2, option)
    return [field for field in descriptor.fields if field.GetOptions().Extensions[extension]]


def field_of_type(descriptor: Descriptor, message: type[Message], *, repeated: bool = False) -> str | None:
    """Name of the only field of `descriptor` that holds `message`; None where there is none or more than one."""
    names = [f.name for f in descriptor.fields if f.message_type is message.DESCRIPTOR and f.is_repeated == repeated]
    return names[0] if len(names) == 1 else None


def service_named(full_name: str, near: type[Message], where: str) -> ServiceDescriptor:
    """The service of this full name. Raises MisdeclaredError; its code must have been imported, as by importing its messages."""
    try:
        return near.DESCRIPTOR.file.pool.FindServiceByName(full_name)
    except KeyError:
        raise MisdeclaredError(
            f"{where}: no such service: correct the name, or import the module generated from its proto file"
        ) from None
