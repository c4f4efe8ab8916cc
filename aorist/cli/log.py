"""`aorist log`: what has happened, event by event."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import click
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from aorist.cli.here import Here, flags_of, pass_here
from aorist.cli.reading import EARLIEST, LATEST, Moment, Read, Start, read_events
from aorist.cli.text import as_data, flow
from aorist.declare import Project
from aorist.declare.schema import EventSchema, set_key_field
from aorist.logs import set_up_logging
from aorist.position import Partition

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SHOWN_BYTES = 32
"""Of what cannot be decoded, on a line for people."""


class StartType(click.ParamType[Start]):
    """What --from takes."""

    name = "earliest|latest|OFFSET|TIME"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Start:
        if not isinstance(value, str) or value in (EARLIEST, LATEST):
            return value  # type: ignore[no-any-return]  # a default, or converted already
        if value.isascii() and value.isdigit():
            return int(value)
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is not earliest, latest, an offset, or a time such as 2026-01-31T08:00:00Z", param, context
            )
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return Moment((aware - EPOCH) // timedelta(microseconds=1))


@click.command
@click.argument("topic")
@click.option(
    "--key", "key", multiple=True, metavar="PART", help="Only events of this key; once for each of its parts."
)
@click.option("--partition", type=click.IntRange(0), metavar="N", help="Only this partition.")
@click.option(
    "--from",
    "start",
    type=StartType(),
    default=EARLIEST,
    show_default=True,
    metavar=StartType.name,
    help="An offset of one partition, or a time at which events were appended, UTC unless it says otherwise.",
)
@click.option("--follow", is_flag=True, help="Go on with what is appended from now on.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="End after so many events.")
@click.option("--json", "as_is", is_flag=True, help="One JSON object a line.")
@flags_of("kafka", "db", "log_level", "log_format")
@pass_here
def log(
    here: Here,
    /,
    *,
    topic: str,
    key: tuple[str, ...],
    partition: int | None,
    start: Start,
    follow: bool,
    limit: int | None,
    as_is: bool,
    **flags: object,
) -> None:
    """Shows the events of TOPIC, each with its position.

    They are read from Kafka, or from the file of `aorist dev` where no kafka is set; that file belongs to one process at a
    time, so end `aorist dev` first. Ends at the end of the log as it was at the start, unless --follow. Order holds within a
    partition. What is not an event that this project declares is shown as what it is.
    """
    from aorist.app import reading_log

    schema, (settings, _) = declared_schema(here.project, topic), here.settings(flags)
    if follow and not settings.kafka:
        raise click.UsageError("--follow would show nothing: while this reads the file, nobody can write to it")
    set_up_logging(settings.log_level, settings.log_format)
    wanted = key_of(schema, key) if key else None
    if wanted is not None and partition is not None:
        raise click.UsageError("--key and --partition both say which partition: leave one out")
    with reading_log(settings) as events:
        count = events.describe(topic).partitions
        numbers = chosen(count, partition if wanted is None else wanted[0], start)
        partitions = [Partition(topic, number) for number in numbers]
        with closing(read_events(events, partitions, start, follow=follow)) as found:
            asked = (read for read in found if wanted is None or read.key == wanted[1])
            show(islice(asked, limit), as_json if as_is else as_line, schema)


def declared_schema(project: Project, topic: str) -> EventSchema:
    """How the events of `topic` look. Raises click.UsageError."""
    declared: list[Any] = [*project.commands, *project.views.values()]
    schemas: dict[str, EventSchema] = {one.schema.topic.name: one.schema for one in declared}
    if topic not in schemas:
        raise click.UsageError(f"no topic {topic} is declared; there are {', '.join(schemas) or 'none'}")
    return schemas[topic]


def key_of(schema: EventSchema, parts: tuple[str, ...]) -> tuple[int, bytes]:
    """Partition and record key of the entity with this key. Raises click.UsageError."""
    if len(parts) != len(schema.key):
        raise click.UsageError(f"a key of {schema.topic.name} is {' '.join(schema.key)}: {len(schema.key)} times --key")
    event: Message = next(iter(schema.events))()
    for name, part in zip(schema.key, parts, strict=True):
        try:
            set_key_field(event, name, part)
        except ValueError:
            raise click.UsageError(f"{name} is a whole number, which {part!r} is not, or not one that fits") from None
    return schema.partition_for()(event), schema.key_of()(event)


def chosen(count: int, number: int | None, start: Start) -> list[int]:
    """Which of `count` partitions to read. Raises click.UsageError."""
    if number is not None and number >= count:
        raise click.UsageError(f"there is no partition {number}: the topic has {count}, from 0")
    if number is None and count > 1 and isinstance(start, int):
        raise click.UsageError(f"--from {start} is an offset of one partition: say which, by --partition or --key")
    return list(range(count)) if number is None else [number]


def show(found: Iterable[Read], shown: Callable[[dict[str, Any]], str], schema: EventSchema) -> None:
    for read in found:
        click.echo(shown(told(read, schema)))


def told(read: Read, schema: EventSchema) -> dict[str, Any]:
    """One event as data. `event` is null for what is none that is declared; `problem` says what it is instead."""
    (topic, partition), when = read.partition, time_of(read.time_us)
    about = {"topic": topic, "partition": partition, "offset": read.offset, "time": when, "key": text_of(read.key)}
    if read.value is None:
        return about | {"event": None, "problem": "a tombstone"}
    raw = {"value": base64.b64encode(read.value).decode()}
    try:
        envelope: Any = schema.envelope.FromString(read.value)
    except DecodeError:
        return about | {"event": None, "problem": f"not a {schema.envelope.DESCRIPTOR.full_name}", **raw}
    field = envelope.WhichOneof("event")
    if field is None:
        unknown = UnknownFieldSet(envelope)
        strange = ", ".join(str(unknown[i].field_number) for i in range(len(unknown)))
        problem = f"an event this project does not know, field {strange}" if strange else "an envelope without event"
        return about | {"event": None, "problem": problem, **raw}
    event = getattr(envelope, field)
    meta = {"meta": as_data(envelope.meta)} if envelope.HasField("meta") else {}
    return about | {"event": event.DESCRIPTOR.name, **meta, "data": as_data(event)}


def time_of(time_us: int) -> str | None:
    """As ISO 8601; None for what no clock says."""
    try:
        moment = EPOCH + timedelta(microseconds=time_us)
    except OverflowError:
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if time_us > 0 else None


def text_of(key: bytes | None) -> str | None:
    """Readable whatever it is made of."""
    return None if key is None else key.decode(errors="backslashreplace")


def as_json(event: dict[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False)


def as_line(event: dict[str, Any]) -> str:
    where = f"{event['topic']}/{event['partition']}@{event['offset']}"
    key = "without key" if event["key"] is None else flow(event["key"])
    line = f"{where} {event['time'] or '-'} {key} "
    if event["event"] is None:
        value = base64.b64decode(event.get("value", ""))
        rest = f" ... {len(value)} bytes" if len(value) > SHOWN_BYTES else ""
        return line + f"({event['problem']}) {value[:SHOWN_BYTES].hex()}{rest}".rstrip()
    meta = f" meta {flow(event['meta'])}" if "meta" in event else ""
    return line + f"{event['event']} {flow(event['data'])}{meta}"
