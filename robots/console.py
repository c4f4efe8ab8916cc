"""What the commands of this folder share: progress on the terminal, Ctrl-C, the closing report."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Self, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from robots.link import Link
from robots.outcome import Outcome
from robots.sender import Sender

T = TypeVar("T")


class LeftError(click.ClickException):
    """Something was refused or not acknowledged."""

    exit_code = 1


class UnusableError(click.ClickException):
    """A recording or an option cannot be used."""

    exit_code = 2


class InterruptedByUserError(click.ClickException):
    """Ctrl-C or SIGTERM came before the end."""

    exit_code = 130  # as shells say it


class Board:
    """Progress on a terminal, a line for each sender; elsewhere only what goes wrong. For use in a `with`."""

    def __init__(self, link: Link) -> None:
        console = Console(stderr=True)
        self._link = link
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[words]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=link.quiet or not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, words: str) -> None:
        """Prints a line above the progress."""
        if not self._link.quiet:
            self._bars.console.print(words, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def sender(self, name: str, fraction: Callable[[], float] | None = None) -> Sender:
        """A sender whose progress is shown; `fraction` (0 to 1) where there is an end to it."""
        link = self._link
        task = self._bars.add_task(name, total=1.0 if fraction else None, words="")
        began = time.monotonic()

        def changed() -> None:
            total = sender.outcome.total
            rate = total.acknowledged / max(time.monotonic() - began, 1e-3)
            refused = f", {total.refused:,} refused" if total.refused else ""
            words = f"{total.sent:,} sent, {total.acknowledged:,} acknowledged{refused}, {rate:,.0f}/s"
            self._bars.update(task, completed=fraction() if fraction else 0.0, words=words)

        sender = Sender(
            link.address,
            in_flight=link.in_flight,
            ack_timeout_s=link.ack_timeout_s,
            give_up_after_s=link.give_up_after_s,
            changed=changed,
            notice=self.say,
        )
        return sender


def run_until_stopped(board: Board, work: Callable[[asyncio.Event], Awaitable[T]]) -> tuple[T | None, bool]:
    """Runs `work(stop)`; also says whether Ctrl-C or SIGTERM came.

    The first sets `stop`: the work ends when all it has sent is acknowledged. The second ends it at once, with None.
    """
    interrupted = False

    async def watched() -> T | None:
        stop = asyncio.Event()
        task = asyncio.ensure_future(work(stop))

        def interrupt() -> None:
            nonlocal interrupted
            if interrupted:
                task.cancel()
            else:
                board.say("stopping: waiting for acknowledgements; once more to stop at once")
            interrupted = True
            stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError, RuntimeError):  # signals reach the main thread only: elsewhere there are none
                loop.add_signal_handler(number, interrupt)
        try:
            return await task
        except asyncio.CancelledError:
            if interrupted:
                return None
            raise

    return asyncio.run(watched()), interrupted


def report(outcomes: Sequence[tuple[str, Outcome]], *, quiet: bool) -> int:
    """Prints a line for each arm and, even when quiet, why samples were refused. Returns how many are unacknowledged."""
    left = 0
    for name, outcome in outcomes:
        left += outcome.total.sent - outcome.total.acknowledged
        if not quiet:
            for arm_id, arm in outcome.arms.items():
                click.echo(f"{arm_id}: {arm.sent:,} sent, {arm.acknowledged:,} acknowledged, {arm.refused:,} refused")
            if outcome.connections_lost:
                click.echo(
                    f"{name}: {outcome.connections_lost} connections lost, {outcome.resent:,} samples sent again"
                )
        for reason in outcome.reasons:
            click.echo(f"refused: {reason}", err=True)
        more = outcome.total.refused - len(outcome.reasons)
        if more > 0:
            click.echo(f"refused: {name}: {more:,} more", err=True)
    return left
