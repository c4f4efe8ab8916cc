"""Messages, freshness and tables as text."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

from aorist.v1 import read_pb2

_PLAIN = re.compile(r"[\w./@+-]([\w ./@+-]*[\w./@+-])?|[\w./@+-][\w ./:@+-]*[\w./@+-]")
"""Texts that need no quotes."""


def as_data(message: Message) -> dict[str, Any]:
    """With names and order of the contract, and with zeros: axis 0 is an axis."""
    data = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return _ordered(data, message.DESCRIPTOR)


def _ordered(data: dict[str, Any], descriptor: Any) -> dict[str, Any]:
    """The JSON of protobuf puts fields that are zero last."""
    found = {}
    for field in descriptor.fields:
        value, inner = data.get(field.name), field.message_type
        if value is None:
            continue
        if inner is not None and not inner.GetOptions().map_entry and inner.file.package != "google.protobuf":
            value = [_ordered(one, inner) for one in value] if field.is_repeated else _ordered(value, inner)
        found[field.name] = value
    return found


def as_json(message: Message) -> str:
    return json.dumps(as_data(message), indent=2, ensure_ascii=False)


def as_text(message: Message, *, leave_out: Iterable[str] = ()) -> str:
    """Readable lines in the manner of YAML."""
    data = as_data(message)
    for name in leave_out:
        data.pop(name, None)
    return "\n".join(_lines(data, ""))


def _lines(data: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for name, value in data.items():
        if isinstance(value, dict) and not _is_flat(value):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(f"{indent}{name}:")
            for element in value:
                inner = [flow(element)] if _is_flat(element) else _lines(element, "")
                lines += [f"{indent}{'- ' if not i else '  '}{line}" for i, line in enumerate(inner)]
        else:
            lines.append(f"{indent}{name}: {flow(value)}")
    return lines


def _is_flat(data: dict[str, Any]) -> bool:
    return not any(isinstance(value, dict | list) for value in data.values())


def flow(value: Any) -> str:
    """One value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {flow(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def role_word(role: int) -> str:
    """OWNER, STANDBY, STORE; `-` for none."""
    name: str = read_pb2.Role.Name(role) if role in read_pb2.Role.values() else str(role)  # type: ignore[arg-type]
    return "-" if name == "ROLE_UNSPECIFIED" else name.removeprefix("ROLE_")


def freshness(header: read_pb2.ReadHeader) -> str:
    """One line: who answered, under which epoch, including what, how old at most."""
    position = header.position
    at = f"{position.topic}/{position.partition}@{position.offset}" if position.offset >= 0 else "no event yet"
    stale = " · STALE: not as fresh as asked for" if header.stale else ""
    role = role_word(header.role).lower()
    return f"{role} · epoch {header.epoch} · {at} · lag {header.lag_events} events, {header.lag_ms} ms{stale}"


def terminal() -> Console:
    """Standard output; where that is no terminal, so wide that no column is cut."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=4096, file=sys.stdout)


def plain_table(*columns: tuple[str, bool]) -> Table:
    """An empty table with these columns: title, and whether numbers are in it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, numeric in columns:
        table.add_column(title, justify="right" if numeric else "left", no_wrap=numeric)
    return table
