"""`aorist replay` and `aorist simulate`: recorded and simulated arms, sent to a gateway as robot controllers would.

What sends is imported when a command runs: `aorist --help` reads this file, and has no use for gRPC.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robots.layout import Asked, RecordingError
from robots.link import Link, link_options

if TYPE_CHECKING:
    from robots.recordings import Anchor

__all__ = ["commands", "replay", "simulate"]


def _names(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    return tuple(name.strip() for name in next(csv.reader([value], skipinitialspace=True), []))


def _anchor(_context: click.Context, _option: click.Parameter, value: str) -> Anchor:
    from robots.recordings import parse_anchor

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
    from robots.sending import replay_files

    asked = Asked(delimiter, time_column, time_unit, columns, unit, arm_column)
    replay_files(Link(**link), files, asked, arms, anchor, speed, batch, skip_bad_rows=skip_bad_rows)  # type: ignore[arg-type]  # click has checked them


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
    from robots.sending import simulate_arms

    simulate_arms(Link(**link), arms, rate, duration, seed, axes)  # type: ignore[arg-type]  # click has checked them


commands = [replay, simulate]
