"""`aorist replay` and `aorist simulate`: recorded and simulated arms, sent to a gateway as robot controllers would."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Sequence
from pathlib import Path

import click

from robots.console import (
    Board,
    InterruptedByUserError,
    LeftError,
    Link,
    UnusableError,
    link_options,
    report,
    run_until_stopped,
)
from robots.feeds import paced, simulate_into, starts
from robots.outcome import Outcome
from robots.recordings import Anchor, Asked, Recording, RecordingError, Start, open_recording, parse_anchor
from robots.sender import Sender, SendError

__all__ = ["commands", "replay", "simulate", "simulate_into"]


def _names(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    return tuple(name.strip() for name in next(csv.reader([value], skipinitialspace=True), []))


def _anchor(_context: click.Context, _option: click.Parameter, value: str) -> Anchor:
    try:
        return parse_anchor(value)
    except RecordingError as error:
        raise click.BadParameter(str(error)) from error


def _delimiter(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    mark = {"tab": "\t", "\\t": "\t", "space": " "}.get(value or "", value)
    if mark is not None and len(mark) != 1:
        raise click.BadParameter("one character, or tab, or space")
    return mark


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option(
    "--columns", callback=_names, metavar="A,B,...", help="Columns of positions, in axis order; * is any text."
)
@click.option(
    "--unit", callback=_names, metavar="U[,U...]", help="rad, deg, m or mm; one for all axes or one for each."
)
@click.option(
    "--arm", "arms", multiple=True, metavar="NAME", help="Arm: once for all files, or once for each. See above."
)
@click.option("--arm-column", metavar="NAME", help="The column that tells arms apart; '' for none.")
@click.option("--time-column", metavar="NAME", help="The column of times.")
@click.option("--time-unit", metavar="U", help="s, ms or us.")
@click.option("--delimiter", callback=_delimiter, metavar="CHAR", help="Between cells; `space` is any white space.")
@click.option("--anchor", callback=_anchor, default="now", show_default=True, metavar="TIME", help="See above.")
@click.option(
    "--speed",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="X",
    help="1: as recorded; 10: ten times as fast; 0: as fast as it is taken.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 5_000),  # of 32 axes: half of what gRPC takes as one message
    default=200,
    show_default=True,
    metavar="N",
    help="Samples sent together, at most.",
)
@click.option("--skip-bad-rows", is_flag=True, help="Count rows that cannot be used instead of stopping at the first.")
@link_options
def replay(
    *,
    files: tuple[Path, ...],
    columns: tuple[str, ...] | None,
    unit: tuple[str, ...] | None,
    arms: tuple[str, ...],
    arm_column: str | None,
    time_column: str | None,
    time_unit: str | None,
    delimiter: str | None,
    anchor: Anchor,
    speed: float,
    batch: int,
    skip_bad_rows: bool,
    **link: object,
) -> None:
    """Send recordings of arms to a gateway, all files at once.

    A FILE is a text table with a header row (commas, semicolons, tabs or spaces between cells; may be gzipped). What
    its columns mean is guessed from their names and printed.

    In the name of an arm, {file} stands for the file's name without its ending, {arm} for the cell of the column that
    tells arms apart, {n} for the arm's number in the file. Arms that follow one another in a file are sent so.

    The anchor is when each arm's recording starts: an ISO time (UTC unless it says otherwise), seconds or microseconds
    since 1970, `recorded` (its times are since 1970), or `now`. Faster than real time, `now` is when it ends: the
    gateway refuses times ahead of the clock. With a fixed anchor, a second replay sends the same again.

    Exit code 0: everything was acknowledged. 1: something was refused or not acknowledged. 2: a file or an option
    cannot be used. 130: interrupted.
    """
    if len(arms) not in (0, 1, len(files)):
        raise UnusableError(f"{len(arms)} --arm for {len(files)} files: give it once for all, or once for each")
    asked = Asked(delimiter, time_column, time_unit, columns, unit, arm_column)
    names = arms if len(arms) == len(files) else (arms or (None,)) * len(files)
    way = Link(**link)  # type: ignore[arg-type]  # click has checked them
    claimed: dict[str, Recording] = {}
    try:
        opened = [
            open_recording(path, asked, arm=name, skip_bad_rows=skip_bad_rows)
            for path, name in zip(files, names, strict=True)
        ]
        if not way.quiet:
            for recording in opened:
                click.echo(f"{recording.path.name}: {recording.layout.describe()}")
        feeds = [(recording, starts(recording, anchor, speed, claimed)) for recording in opened]
    except RecordingError as error:
        raise UnusableError(str(error)) from error
    _replay(way, feeds, speed, batch)


def _replay(way: Link, feeds: Sequence[tuple[Recording, Start]], speed: float, batch: int) -> None:
    """Sends, reports, and fails with the exit codes of `replay`."""
    with Board(way) as board:
        senders = [board.sender(recording.path.name, recording.fraction_read) for recording, _ in feeds]

        async def all_files(stop: asyncio.Event) -> list[BaseException]:
            async def one(sender: Sender, recording: Recording, start: Start) -> None:
                try:
                    await sender.run(paced(recording.samples(start), speed, batch, stop))
                except (RecordingError, SendError):
                    stop.set()  # the others end with what they have read so far
                    raise

            work = (one(sender, *feed) for sender, feed in zip(senders, feeds, strict=True))
            return [end for end in await asyncio.gather(*work, return_exceptions=True) if end is not None]

        errors, interrupted = run_until_stopped(board, all_files)
    for recording, _ in feeds:
        _tell_skipped(recording)
    left = report([(f.path.name, s.outcome) for (f, _), s in zip(feeds, senders, strict=True)], quiet=way.quiet)
    for error in errors or ():
        if isinstance(error, RecordingError):
            raise UnusableError(str(error)) from error
        if isinstance(error, SendError):
            raise LeftError(str(error)) from error
        raise error
    if interrupted:
        raise InterruptedByUserError(f"interrupted; {left:,} of the samples sent are not acknowledged")
    if left:
        raise LeftError(f"{left:,} samples were refused")


def _tell_skipped(recording: Recording) -> None:
    for note in recording.skipped_notes:
        click.echo(f"skipped: {note}", err=True)
    if recording.skipped_rows:
        click.echo(f"{recording.path.name}: {recording.skipped_rows:,} rows skipped", err=True)


@click.command()
@click.option("--arms", type=click.IntRange(1, 10_000), default=3, show_default=True, metavar="N", help="How many.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0.001, max=1000),
    default=20.0,
    show_default=True,
    metavar="HZ",
    help="Samples of each arm in a second.",
)
@click.option("--axes", type=click.IntRange(1, 32), default=6, show_default=True, metavar="N", help="Of each arm.")
@click.option("--seed", type=int, default=1, show_default=True, help="Another seed makes other arms.")
@click.option("--duration", type=click.FloatRange(min=0), metavar="S", help="Stop after so long; else at Ctrl-C.")
@link_options
def simulate(*, arms: int, rate: float, axes: int, seed: int, duration: float | None, **link: object) -> None:
    """Stream simulated arms, arm-001 and so on, to a gateway.

    They move from pose to pose with limited speed and acceleration, rest in between, and tremble as encoders do. The
    same seed makes the same arms: simulated again, they go on where they would have been.

    Exit code 0: everything was acknowledged. 1: something was refused or not acknowledged.
    """
    way = Link(**link)  # type: ignore[arg-type]  # click has checked them
    error: SendError | None = None
    with Board(way) as board:
        sender = board.sender(f"{arms} arms")

        async def work(stop: asyncio.Event) -> Outcome:
            return await simulate_into(
                way.address, arms, rate, duration, seed, axes=axes, stop=stop, sender=lambda _address: sender
            )

        try:
            run_until_stopped(board, work)
        except SendError as failed:
            error = failed
    left = report([(f"{arms} arms", sender.outcome)], quiet=way.quiet)
    if error:
        raise LeftError(str(error)) from error
    if left:
        raise LeftError(f"{left:,} samples were refused or not acknowledged")


commands = [replay, simulate]
