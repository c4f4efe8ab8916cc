"""From what was typed to a query: which rpc of which view, for which key, how fresh."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from google.protobuf.message import Message

from aorist.declare import Project
from aorist.declare.queries import QueryShape
from aorist.declare.schema import set_key_field
from aorist.v1 import position_pb2, read_pb2

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Query:
    """An rpc of a view, the fields of its key, and into how many partitions its keys are spread."""

    shape: QueryShape
    key: tuple[str, ...]
    partitions: int

    def request(self, parts: Sequence[str] = (), read: read_pb2.ReadOptions | None = None) -> Any:
        """A request for the key made of `parts`; without: for all. Raises click.UsageError."""
        request: Message = self.shape.request()
        if parts and len(parts) != len(self.key):
            wanted = f"{' '.join(self.key)}: {len(self.key)} argument(s), not {len(parts)}"
            raise click.UsageError(f"view {self.shape.view} is asked by {wanted}")
        for name, part in zip(self.key, parts, strict=False):
            try:
                set_key_field(request, name, part)
            except ValueError:
                raise click.UsageError(
                    f"{name} is a whole number, which {part!r} is not, or not one that fits"
                ) from None
        if read is not None and read.ByteSize():
            getattr(request, self.shape.read).CopyFrom(read)
        return request

    def part(self, response: Message) -> Message:
        """Where in a response of get or watch the key and its state are."""
        part: Message = getattr(response, self.shape.keyed_part) if self.shape.keyed_part else response
        return part


def find_query(project: Project, view: str, kind: str) -> Query:
    """The first rpc of this kind (get, list, watch) that `view` answers. Raises click.UsageError."""
    known = sorted({shape.view for queries in project.queries for shape in queries.shapes})
    if view not in known:
        near = difflib.get_close_matches(view, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
        raise click.UsageError(f"no view {view} answers queries; {hint}")
    for queries in project.queries:
        for shape in queries.shapes:
            if shape.view == view and shape.kind == kind:
                return Query(shape, queries.schema.key, queries.schema.topic.partitions)
    raise click.UsageError(f"view {view} has no {kind}: its proto declares no such rpc")


class PositionType(click.ParamType[position_pb2.Position]):
    """TOPIC/PARTITION@OFFSET, as positions are printed."""

    name = "TOPIC/PARTITION@OFFSET"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> position_pb2.Position:
        if isinstance(value, position_pb2.Position):
            return value
        match = re.fullmatch(r"(.+)/(\d{1,9})@(\d{1,18})", value)
        if match is None:
            self.fail(f"{value!r} is not TOPIC/PARTITION@OFFSET, such as fleet.arms.v1/3@1200", param, context)
        return position_pb2.Position(topic=match[1], partition=int(match[2]), offset=int(match[3]))


def read_flags(command: Command) -> Command:
    """Adds the flags of ReadOptions; `read_options` takes what comes in."""
    milliseconds = click.IntRange(0, 2**32 - 1)
    for option in (
        click.option(
            "--on-stale", type=click.Choice(["fail", "return"]), help="What to do when it cannot be so fresh."
        ),
        click.option("--max-staleness-ms", type=milliseconds, help="How far the answer may lag the log."),
        click.option("--max-wait-ms", type=milliseconds, help="How long to wait for a fresh enough answer."),
        click.option(
            "--at-least",
            multiple=True,
            type=PositionType(),
            help="The answer must include this event. May be repeated.",
        ),
    ):
        option(command)
    return command


def read_options(
    at_least: Sequence[position_pb2.Position],
    max_wait_ms: int | None,
    max_staleness_ms: int | None,
    on_stale: str | None,
) -> read_pb2.ReadOptions:
    """ReadOptions as the flags say; what was not given stays unset."""
    stale = read_pb2.OnStale.Value(f"ON_STALE_{on_stale.upper()}") if on_stale else read_pb2.ON_STALE_UNSPECIFIED
    return read_pb2.ReadOptions(
        at_least=at_least, max_wait_ms=max_wait_ms, max_staleness_ms=max_staleness_ms, on_stale=stale
    )
