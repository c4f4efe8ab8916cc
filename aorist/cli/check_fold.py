"""`aorist check-fold`: whether views end in the same state when a log delivers events again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import islice
from typing import Any

import click
from google.protobuf.message import DecodeError, Message

from aorist.cli.failures import say
from aorist.cli.here import Here, flags_of, pass_here
from aorist.cli.reading import EARLIEST, read_events
from aorist.declare import View
from aorist.declare import check_fold as check
from aorist.declare.check_fold import EXAMPLES, Positioned
from aorist.errors import FoldCheckError, SettingError
from aorist.logs import set_up_logging
from aorist.ports import EventLog
from aorist.position import Partition, Position

PIECE = 24
"""Events of two keys that are refolded together, from each of their positions."""

MOST_READ = 20_000
"""Events of one partition that are looked at for pieces."""


@click.command("check-fold")
@click.argument("name", required=False)
@click.option(
    "--examples",
    type=click.IntRange(1, 1_000_000),
    default=EXAMPLES,
    show_default=True,
    metavar="N",
    help="Sequences of events for each view.",
)
@click.option("--log", "from_log", is_flag=True, help="Take the sequences from the log, instead of making them up.")
@flags_of("kafka", "db", "log_level", "log_format")
@pass_here
def check_fold(here: Here, /, *, name: str | None, examples: int, from_log: bool, **flags: object) -> None:
    """Looks for events that leave a view in another state when they come again.

    Of the view NAME, or of every view. A log delivers again what it delivered before: from an earlier position on, in
    order. The state must be the same then. It must also come through a snapshot, and depend on nothing but the events of
    its key: no clock, no chance, no order of a set. A counterexample is told with as few events as can be found, and with
    both states; exit code 1.

    With --log the events are pieces of the log: of Kafka, or of the file of `aorist dev` where no kafka is set; that file
    belongs to one process at a time, so end `aorist dev` first.
    """
    views, (settings, _) = chosen(here.project.views, name), here.settings(flags)
    set_up_logging(settings.log_level, settings.log_format)
    well = True
    with ExitStack() as stack:
        events: EventLog | None = None
        if from_log:
            from aorist.app import reading_log

            events = stack.enter_context(reading_log(settings))
        for view in views:
            well = passes(view, examples, events) and well
    if not well:
        raise click.exceptions.Exit(1)


def chosen(views: dict[str, View[Any]], name: str | None) -> list[View[Any]]:
    """Raises click.UsageError."""
    if name is None:
        return list(views.values())
    if name not in views:
        raise click.UsageError(f"no view {name} is declared; there are {', '.join(views) or 'none'}")
    return [views[name]]


def passes(view: View[Any], examples: int, events: EventLog | None) -> bool:
    """Checks one view, and says how it went."""
    began = time.monotonic()
    try:
        pieces = None if events is None else list(islice(pieces_of(view, events), examples))
        checked = check(view, examples=examples, pieces=pieces)
    except FoldCheckError as error:
        say(str(error))
        return False
    if not checked.sequences:
        raise SettingError(f"{view.name}: the log has no event that it folds: nothing was checked")
    took = f"{checked.sequences} sequences, {checked.events} events, {time.monotonic() - began:.1f} s"
    click.echo(f"{view.name} folds repeatably: {took}" + (f"; {checked.left_out}" if checked.left_out else ""))
    return True


def pieces_of(view: View[Any], events: EventLog) -> Iterator[list[Positioned]]:
    """What happened to two keys of a partition, piece by piece; of all partitions in turn."""
    topic = view.schema.topic.name
    found = [_of_partition(view, events, Partition(topic, n)) for n in range(events.describe(topic).partitions)]
    while found:
        for pieces in list(found):
            piece = next(pieces, None)
            if piece is None:
                found.remove(pieces)
            else:
                yield piece


def _of_partition(view: View[Any], events: EventLog, partition: Partition) -> Iterator[list[Positioned]]:
    by_key: dict[bytes, list[tuple[int, Message]]] = {}
    with closing(read_events(events, [partition], EARLIEST, follow=False)) as read:
        for one in islice(read, MOST_READ):
            event = _event(view, one.value)
            if event is not None and one.key is not None:
                by_key.setdefault(one.key, []).append((one.offset, event))
    keys = sorted(by_key, key=lambda key: -len(by_key[key]))
    for first, second in zip(keys[::2], [*keys[1::2], None], strict=False):
        both = sorted(by_key[first] + (by_key[second] if second is not None else []), key=lambda one: one[0])
        for begin in range(0, len(both), PIECE):
            yield [(str(Position(*partition, offset)), event) for offset, event in both[begin : begin + PIECE]]


def _event(view: View[Any], value: bytes | None) -> Message | None:
    """None for what the view would not fold, which `aorist log` shows."""
    if value is None:
        return None
    try:
        envelope: Any = view.schema.envelope.FromString(value)
    except DecodeError:
        return None
    field = envelope.WhichOneof("event")
    return getattr(envelope, field) if field in view.handlers else None
