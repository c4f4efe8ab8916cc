"""Columns for a list of messages of any one type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from rich.table import Table
from rich.text import Text

from aorist.cli.text import as_data, flow, plain_table

MOST_INDEXES = 64
"""Of one repeated field, as columns; with more, its first integer is hardly an index."""

_WHOLE = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}
_REAL = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}

Rows = Mapping[tuple[str, ...], Message]


class Column(NamedTuple):
    """`read`: the cell of one message."""

    title: str
    numeric: bool
    read: Callable[[Message], str]


def columns_of(rows: Sequence[Message], leave_out: Sequence[str]) -> list[Column]:
    """One column per field; a repeated field of numbered elements gives one per number, with the value beside it."""
    columns: list[Column] = []
    for field in rows[0].DESCRIPTOR.fields if rows else ():
        if field.name in leave_out:
            continue
        if field.message_type is None and not field.is_repeated:
            columns.append(Column(field.name, field.cpp_type in _WHOLE | _REAL, _scalar(field.name)))
            continue
        numbered = _numbered(field)
        indexes = _indexes(rows, field.name, numbered[0].name) if numbered else []
        if numbered and len(indexes) <= MOST_INDEXES:
            columns += [_indexed(field.name, *numbered, index) for index in indexes]
        else:
            columns.append(Column(field.name, False, _flowing(field.name)))
    return columns


def table_of(rows: Rows, key: Sequence[str], leave_out: Sequence[str], most: int | None = None) -> Table:
    """The first `most` rows in the order of their keys, key first."""
    shown = sorted(rows.items())[:most]
    columns = columns_of([message for _, message in shown], [*key, *leave_out])
    table = plain_table(*((name, False) for name in key), *((c.title, c.numeric) for c in columns))
    for parts, message in shown:
        table.add_row(*map(Text, parts), *(Text(column.read(message)) for column in columns))
    return table


def number(value: float) -> str:
    """Steady width for what moves: four decimals while they say something."""
    steady = value == 0 or 1e-4 <= abs(value) < 1e9
    return f"{value:.4f}" if steady else f"{value:.4g}"


def _scalar(name: str) -> Callable[[Message], str]:
    def read(message: Message) -> str:
        field = message.DESCRIPTOR.fields_by_name[name]
        if field.has_presence and not message.HasField(name):
            return ""
        value = getattr(message, name)
        if isinstance(value, float):
            return number(value)
        if field.enum_type is not None:
            known = field.enum_type.values_by_number.get(value)
            return known.name if known is not None else str(value)
        return value.hex() if isinstance(value, bytes) else str(value)

    return read


def _flowing(name: str) -> Callable[[Message], str]:
    def read(message: Message) -> str:
        value = as_data(message).get(name)
        return "" if value is None or value == [] else flow(value)

    return read


def _numbered(field: Any) -> tuple[Any, Any] | None:
    """Index and value of the elements of `field`: an integer first, then a scalar."""
    if not field.is_repeated or field.message_type is None or field.message_type.GetOptions().map_entry:
        return None
    first, *others = field.message_type.fields or [None]
    if first is None or first.is_repeated or first.cpp_type not in _WHOLE:
        return None
    value = next((f for f in others if f.message_type is None and not f.is_repeated), None)
    return (first, value) if value is not None else None


def _indexes(rows: Sequence[Message], name: str, by: str) -> list[int]:
    return sorted({getattr(element, by) for row in rows for element in getattr(row, name)})


def _indexed(name: str, by: Any, value: Any, index: int) -> Column:
    read_value = _scalar(value.name)

    def read(message: Message) -> str:
        element = next((e for e in getattr(message, name) if getattr(e, by.name) == index), None)
        return read_value(element) if element is not None else ""

    return Column(f"{by.name} {index}", value.cpp_type in _WHOLE | _REAL, read)
