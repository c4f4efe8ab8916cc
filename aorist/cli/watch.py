"""`aorist watch`: a view as a table that keeps up with it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager

import click
import grpc.aio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from aorist.cli.client import CHANNEL_OPTIONS, CallFailedError, client_options
from aorist.cli.columns import table_of
from aorist.cli.feed import Feed, Key, Sheet
from aorist.cli.here import Here, pass_here
from aorist.cli.queries import Query, find_query
from aorist.cli.text import role_word, terminal


@click.command
@click.argument("view")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option(
    "--interval", type=click.FloatRange(min=0.05), default=1.0, show_default=True, help="Seconds between two looks."
)
@click.option("--once", is_flag=True, help="Look once; exit code 1 if anything is missing.")
@click.option(
    "--give-up-after", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds without any answer."
)
@client_options
@pass_here
def watch(
    here: Here,
    /,
    *,
    view: str,
    keys: tuple[str, ...],
    interval: float,
    once: bool,
    give_up_after: float,
    address: str,
    timeout: float,
) -> None:
    """Shows VIEW as a live table: the KEYs given, or all.

    A key of several parts takes as many arguments. What cannot be had is named below the table and asked for again.
    """
    query = find_query(here.project, view, "watch" if keys else "list")
    parts = grouped(query, keys)
    whole = asyncio.run(
        watch_view(
            query, address, keys=parts, interval_s=interval, timeout_s=timeout, give_up_s=give_up_after, once=once
        )
    )
    if not whole:
        raise click.exceptions.Exit(1)


def grouped(query: Query, arguments: Sequence[str]) -> list[Key]:
    """Arguments as keys of as many parts as the view's keys have. Raises click.UsageError."""
    width = len(query.key)
    keys = [tuple(arguments[i : i + width]) for i in range(0, len(arguments), width)]
    for key in keys:
        query.request(key)
    return list(dict.fromkeys(keys))


async def watch_view(
    query: Query,
    address: str,
    *,
    keys: Sequence[Key] = (),
    interval_s: float,
    timeout_s: float = 10.0,
    give_up_s: float = 60.0,
    once: bool = False,
) -> bool:
    """Shows sheets until cancelled, or one with `once`; says whether that one was whole.

    Raises CallFailedError after `give_up_s` without any answer.
    """
    console = terminal()
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        feed = Feed(channel, address, interval_s, timeout_s)
        sheets = feed.of_keys(query, keys) if keys else feed.of_list(query)
        with _screen(console) as show:
            async with aclosing(sheets):
                async for sheet in sheets:
                    show(drawn(query, sheet, most=console.height if console.is_terminal else None))
                    if once:
                        return not (sheet.problems or sheet.missing)
                    _check_heard(sheet, address, give_up_s)
    return False


def _check_heard(sheet: Sheet, address: str, give_up_s: float) -> None:
    if sheet.problems and time.monotonic() - sheet.heard > give_up_s:
        raise CallFailedError(
            f"no answer from {address} for {give_up_s:g} s; last: {next(iter(sheet.problems.values()))}"
        )


@contextmanager
def _screen(console: Console) -> Iterator[Callable[[RenderableType], None]]:
    """Shows one thing after another: in place on a terminal, below each other elsewhere."""
    if not console.is_terminal:
        yield lambda picture: console.print(picture, Text(""))
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda picture: live.update(picture, refresh=True)


def drawn(query: Query, sheet: Sheet, most: int | None = None) -> RenderableType:
    """Table and footer, in `most` lines if given: rows are left out, and counted, rather than the footer."""
    footer = footer_of(query, sheet)
    room = max(1, most - len(footer) - 3) if most is not None else None
    key = query.key if query.shape.kind != "list" or query.shape.keyed else ("#",)
    table = table_of(sheet.rows, key, leave_out=(query.shape.header,), most=room)
    if room is not None and len(sheet.rows) > room:
        footer.insert(0, Text(f"and {len(sheet.rows) - room} more: name keys, or use a taller window", style="dim"))
    return Group(table, *footer)


def footer_of(query: Query, sheet: Sheet) -> list[Text]:
    """How fresh the whole is, and what is not in it."""
    return [
        Text(_freshness(query, sheet), style="dim"),
        *(
            Text(f"partition {m.partition} is missing: {m.reason} {m.message}".rstrip(), style="red")
            for m in sheet.missing
        ),
        *(
            Text(f"{what}: {problem}" if what else problem, style="red")
            for what, problem in sorted(sheet.problems.items())
        ),
    ]


def counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _freshness(query: Query, sheet: Sheet) -> str:
    if not sheet.headers:
        return f"{counted(len(sheet.rows), 'key')} · no answer yet"
    headers, listed = sheet.headers.values(), query.shape.kind == "list"
    roles = Counter(role_word(header.role).lower() for header in headers)
    partitions = len({header.position.partition for header in headers})
    stale = sum(header.stale for header in headers)
    return " · ".join(
        [
            counted(len(sheet.rows), "key"),
            f"{partitions} of {query.partitions} partitions" if listed else counted(partitions, "partition"),
            f"worst lag {max(h.lag_events for h in headers)} events, {max(h.lag_ms for h in headers)} ms",
            "from " + ", ".join(f"{count} {role}" for role, count in sorted(roles.items())),
            *([f"STALE: {stale} not as fresh as asked for"] if stale else []),
        ]
    )
