"""What the commands do once click has read what was typed: recordings and simulated arms, sent to the end, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click

from robots.console import Board, InterruptedByUserError, LeftError, UnusableError, report, run_until_stopped
from robots.feeds import paced, simulate_into, starts
from robots.layout import Asked
from robots.link import Link
from robots.outcome import Outcome
from robots.recordings import Anchor, Recording, RecordingError, Start, open_recording
from robots.sender import Sender, SendError


def replay_files(
    way: Link,
    files: Sequence[Path],
    asked: Asked,
    arms: tuple[str, ...],
    anchor: Anchor,
    speed: float,
    batch: int,
    *,
    skip_bad_rows: bool,
) -> None:
    """All files at once. Fails with the exit codes of `aorist replay`."""
    if len(arms) not in (0, 1, len(files)):
        raise UnusableError(f"{len(arms)} --arm for {len(files)} files: give it once for all, or once for each")
    names = arms if len(arms) == len(files) else (arms or (None,)) * len(files)
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


def simulate_arms(way: Link, arms: int, rate: float, duration: float | None, seed: int, axes: int) -> None:
    """Until stopped, or for so long. Fails with the exit codes of `aorist simulate`."""
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
