"""The shape of a query, read from its rpc: which view answers, by key or as a list, and where freshness goes in and out."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.descriptor import FieldDescriptor as Kind
from google.protobuf.message import Message

from aorist.declare.descriptors import FileDescriptor, MethodDescriptor, class_of
from aorist.declare.handlers import place_here
from aorist.declare.schema import (
    EventSchema,
    check_key_field,
    decode_key,
    field_of_type,
    marked_fields,
    schema_of,
    service_named,
    set_key_field,
)
from aorist.errors import MisdeclaredError
from aorist.v1 import options_pb2, read_pb2, series_pb2

_NUMBERS = {
    Kind.CPPTYPE_DOUBLE,
    Kind.CPPTYPE_FLOAT,
    Kind.CPPTYPE_INT32,
    Kind.CPPTYPE_INT64,
    Kind.CPPTYPE_UINT32,
    Kind.CPPTYPE_UINT64,
}


@dataclass(frozen=True)
class QueryShape:
    """One rpc of a query service. Names are those of fields.

    kind: `get` (one key), `watch` (one key, stream), `windows` (one key, page by page of its windows) or `list` (all keys).
    header: of the ReadHeader in the response (repeated in lists). read: of the ReadOptions in the request. keyed: where in an answer the
    key goes, as (field of the response or "" for itself, names). items: of lists and windows. missing: lists only. interval: whether a
    watch can be rate-limited. range: of the TimeRange in the request, if it asks for one. descending: what orders a list over a range.
    """

    method: MethodDescriptor
    view: str
    kind: str
    request: type[Message]
    response: type[Message]
    read: str
    header: str
    item: type[Message]
    items: str = ""
    missing: str = ""
    keyed_part: str = ""
    keyed: tuple[str, ...] = ()
    interval: bool = False
    range: str = ""
    descending: str = ""

    def fill_in_key(self, answer: Message, key_fields: tuple[str, ...], key: bytes) -> None:
        """Sets the fields of `answer` (of an item, in lists) that are marked as key."""
        if self.keyed:
            target = getattr(answer, self.keyed_part) if self.keyed_part else answer
            if len(key_fields) == 1:
                set_key_field(target, self.keyed[0], key.decode())
                return
            texts = decode_key(key, len(key_fields))
            for name in self.keyed:
                set_key_field(target, name, texts[key_fields.index(name)])


def methods_answered_by(file: FileDescriptor, view: str) -> list[MethodDescriptor]:
    """The rpcs of this file that name `view` in `(aorist.v1.answered_by)`."""
    return [m for s in file.services_by_name.values() for m in s.methods if _answerer(m) == view]


def _answerer(method: MethodDescriptor) -> str:
    return str(method.GetOptions().Extensions[options_pb2.answered_by])


def shape_of(request: type[Message], schema: EventSchema, view: str | None = None) -> QueryShape:
    """The rpc that takes `request`, checked against the key of `schema`. Raises MisdeclaredError that says what to change in the proto."""
    file = request.DESCRIPTOR.file
    method = next(
        (m for s in file.services_by_name.values() for m in s.methods if m.input_type is request.DESCRIPTOR), None
    )
    if method is None:
        raise MisdeclaredError(f"no service in {file.name} takes {request.DESCRIPTOR.name}: add an rpc for it")
    where = f"{file.name}: {method.full_name}"
    answerer = _answerer(method)
    if not answerer:
        raise MisdeclaredError(
            f'{where}: does not say which view answers: add `option (aorist.v1.answered_by) = "{view or "..."}"`'
        )
    if view is not None and answerer != view:
        raise MisdeclaredError(
            f"{where}: is answered by view `{answerer}`, not `{view}`: correct (aorist.v1.answered_by)"
        )
    if method.client_streaming:
        raise MisdeclaredError(f"{where}: a query is one request: remove `stream` before {request.DESCRIPTOR.name}")
    response = class_of(method.output_type)
    read = field_of_type(request.DESCRIPTOR, read_pb2.ReadOptions)
    if read is None:
        raise MisdeclaredError(f"{where}: {request.DESCRIPTOR.name} needs one field of type aorist.v1.ReadOptions")
    over = _range_in(where, method, request)
    paged = "page_token" in request.DESCRIPTOR.fields_by_name
    if paged and not (over and marked_fields(request.DESCRIPTOR, "route")):
        return _list_shape(where, method, answerer, request, response, read, over, schema)
    kind = "windows" if paged else "watch" if method.server_streaming else "get"
    header = field_of_type(response.DESCRIPTOR, read_pb2.ReadHeader)
    if header is None:
        raise MisdeclaredError(f"{where}: {response.DESCRIPTOR.name} needs one field of type aorist.v1.ReadHeader")
    routed = [f.name for f in marked_fields(request.DESCRIPTOR, "route")]
    if sorted(routed) != sorted(schema.key):
        raise MisdeclaredError(
            f"{where}: {request.DESCRIPTOR.name} must mark exactly the key of topic {schema.topic.name} ({', '.join(schema.key)}) with "
            f"[(aorist.v1.route) = true]; it marks {', '.join(routed) or 'nothing'}"
        )
    for name in routed:
        check_key_field(request.DESCRIPTOR, name, f"key of topic {schema.topic.name}", like=next(iter(schema.events)))
    part, keyed = _key_in(response, schema, where)
    interval = "min_interval_ms" in request.DESCRIPTOR.fields_by_name
    items, item = _windows_in(where, request, response) if kind == "windows" else ("", response)
    return QueryShape(
        method,
        answerer,
        kind,
        request,
        response,
        read,
        header,
        item,
        items,
        keyed_part=part,
        keyed=keyed,
        interval=interval,
        range=over,
    )


def _range_in(where: str, method: MethodDescriptor, request: type[Message]) -> str:
    over = field_of_type(request.DESCRIPTOR, series_pb2.TimeRange) or ""
    if over and method.server_streaming:
        raise MisdeclaredError(f"{where}: a range is asked for once: remove `stream`, or the aorist.v1.TimeRange")
    return over


def _windows_in(where: str, request: type[Message], response: type[Message]) -> tuple[str, type[Message]]:
    """The field that takes the windows of a page, and its type."""
    lacking = [name for name in ("window_s", "page_size") if name not in request.DESCRIPTOR.fields_by_name]
    if lacking:
        raise MisdeclaredError(
            f"{where}: {request.DESCRIPTOR.name} asks for windows page by page: give it `uint32 {lacking[0]}`"
        )
    items = [f for f in response.DESCRIPTOR.fields if f.is_repeated and f.message_type]
    if len(items) != 1 or "next_page_token" not in response.DESCRIPTOR.fields_by_name:
        raise MisdeclaredError(
            f"{where}: {response.DESCRIPTOR.name} needs `string next_page_token` and one repeated message field for its windows, it has "
            f"{len(items)}"
        )
    return items[0].name, class_of(items[0].message_type)


def _list_shape(
    where: str,
    method: MethodDescriptor,
    view: str,
    request: type[Message],
    response: type[Message],
    read: str,
    over: str,
    schema: EventSchema,
) -> QueryShape:
    if method.server_streaming or "page_size" not in request.DESCRIPTOR.fields_by_name:
        raise MisdeclaredError(f"{where}: a list is unary and its request has `page_size` and `page_token`")
    header = field_of_type(response.DESCRIPTOR, read_pb2.ReadHeader, repeated=True)
    missing = field_of_type(response.DESCRIPTOR, read_pb2.MissingPartition, repeated=True)
    if header is None or missing is None or "next_page_token" not in response.DESCRIPTOR.fields_by_name:
        raise MisdeclaredError(
            f"{where}: {response.DESCRIPTOR.name} needs `string next_page_token`, one `repeated aorist.v1.ReadHeader` and one "
            "`repeated aorist.v1.MissingPartition`"
        )
    items = [
        f for f in response.DESCRIPTOR.fields if f.is_repeated and f.message_type and f.name not in (header, missing)
    ]
    if len(items) != 1:
        raise MisdeclaredError(
            f"{where}: {response.DESCRIPTOR.name} needs one repeated message field for its items, it has {len(items)}"
        )
    item = class_of(items[0].message_type)
    keyed = _key_fields(item, schema, where)
    if sorted(keyed) != sorted(schema.key):
        raise MisdeclaredError(
            f"{where}: {item.DESCRIPTOR.name} must mark exactly the key of topic {schema.topic.name} ({', '.join(schema.key)}) with "
            f"[(aorist.v1.key) = true], or nobody could tell its items apart; it marks {', '.join(keyed) or 'nothing'}"
        )
    return QueryShape(
        method,
        view,
        "list",
        request,
        response,
        read,
        header,
        item,
        items[0].name,
        missing,
        keyed=keyed,
        range=over,
        descending=_order_of(where, item, over),
    )


def _order_of(where: str, item: type[Message], over: str) -> str:
    """The number that orders a list over a range; empty: the list is in the order of its keys."""
    marked = marked_fields(item.DESCRIPTOR, "descending")
    if bool(marked) != bool(over):
        raise MisdeclaredError(
            f"{where}: a list over a range, and no other, is ordered by a number: mark one of {item.DESCRIPTOR.name} with "
            "[(aorist.v1.descending) = true]"
            if over
            else f"{where}: {item.DESCRIPTOR.name}.{marked[0].name} is marked (aorist.v1.descending), but the list is in the order of its "
            "keys: unmark it, or ask for an aorist.v1.TimeRange"
        )
    if len(marked) > 1 or any(field.is_repeated or field.cpp_type not in _NUMBERS for field in marked):
        raise MisdeclaredError(f"{where}: {item.DESCRIPTOR.name} marks what is not one number (aorist.v1.descending)")
    return marked[0].name if marked else ""


def _key_in(response: type[Message], schema: EventSchema, where: str) -> tuple[str, tuple[str, ...]]:
    """Where the library fills in the key: in the response itself or in one of its fields."""
    own = _key_fields(response, schema, where)
    if own:
        return "", own
    for field in response.DESCRIPTOR.fields:
        if field.message_type is not None and not field.is_repeated and field.message_type.file.package != "aorist.v1":
            inner = _key_fields(class_of(field.message_type), schema, where)
            if inner:
                return field.name, inner
    return "", ()


def _key_fields(message: type[Message], schema: EventSchema, where: str) -> tuple[str, ...]:
    names = [field.name for field in marked_fields(message.DESCRIPTOR, "key")]
    for name in names:
        if name not in schema.key:
            raise MisdeclaredError(
                f"{where}: {message.DESCRIPTOR.name}.{name} is marked (aorist.v1.key), but the key of topic {schema.topic.name} is "
                f"{', '.join(schema.key)}: rename or unmark it"
            )
        check_key_field(message.DESCRIPTOR, name, f"key of topic {schema.topic.name}", like=next(iter(schema.events)))
    return tuple(names)


class Queries:
    """Declares a query service at the gateway: which events place its keys, and how scattered answers are merged.

    service: full name, such as "fleet.arms.v1.ArmQueryService". events: the envelope whose key and partitions route its queries.
    """

    def __init__(self, service: str, *, events: type[Message]) -> None:
        self.place = f"{place_here()}: {service}"
        """Where it is declared, for messages."""
        self.schema = schema_of(events)
        self.service = service_named(service, events, self.place)
        self.shapes = [shape_of(class_of(m.input_type), self.schema) for m in self.service.methods]
        self._merged: set[str] = set()

    def merge_by_key(self, request: type[Message]) -> None:
        """Lists asked for with `request` are merged in the order of their keys, page by page, each key once."""
        if self._list(request).descending:
            raise MisdeclaredError(
                f"{place_here()}: lists asked for with {request.DESCRIPTOR.name} are ordered by a number: use merge_descending"
            )
        self._merged.add(request.DESCRIPTOR.full_name)

    def merge_descending(self, request: type[Message]) -> None:
        """Lists over a range are merged by the number marked (aorist.v1.descending), highest first, each key once."""
        if not self._list(request).descending:
            raise MisdeclaredError(
                f"{place_here()}: nothing orders the lists asked for with {request.DESCRIPTOR.name} but their keys: use merge_by_key"
            )
        self._merged.add(request.DESCRIPTOR.full_name)

    def _list(self, request: type[Message]) -> QueryShape:
        shape = next((s for s in self.shapes if s.request is request), None)
        if shape is None or shape.kind != "list":
            raise MisdeclaredError(
                f"{place_here()}: {request.DESCRIPTOR.name} asks for no list of {self.service.full_name}: merge what its lists take"
            )
        return shape

    def complete(self) -> None:
        """Raises MisdeclaredError for a list nobody said how to merge."""
        for shape in self.shapes:
            if shape.kind == "list" and shape.request.DESCRIPTOR.full_name not in self._merged:
                how = "merge_descending" if shape.descending else "merge_by_key"
                raise MisdeclaredError(
                    f"{self.place}: nothing says how {shape.method.name} merges the partitions' answers: add "
                    f"`.{how}({shape.request.DESCRIPTOR.name})`"
                )
