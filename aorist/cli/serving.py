"""What all commands that serve have in common: where, for how long, how others learn the address, how they end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from aorist.cli.here import Here
from aorist.logs import set_up_logging
from aorist.settings import SETTINGS, Settings, parse_address

Command = TypeVar("Command", bound=Callable[..., Any])

Serve = Callable[[Callable[[str], None], asyncio.Event], Coroutine[Any, Any, None]]
"""A role: calls its first argument with its address once it is ready, and serves until the second is set."""

Beside = Callable[[str], Awaitable[None]]
"""What runs beside the server, given its address, until it ends or is cancelled."""

ANY_SERVER = ("metrics_listen", "transport", "max_message_bytes", "drain_s", "log_level", "log_format")
"""Settings of everything that listens."""


class Times(NamedTuple):
    """As asked for by flags. `port_file`: where the address is written once serving. `duration_s`: from then on."""

    port_file: Path | None
    duration_s: float | None


def serving_flags(command: Command) -> Command:
    """Adds --port, --port-file and --duration. `chosen` takes the first, `Times` the others."""
    for option in (
        click.option(
            "--duration", type=click.FloatRange(min=0), metavar="S", help="End by itself after S seconds of serving."
        ),
        click.option(
            "--port-file",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="PATH",
            help="Write the address here once serving.",
        ),
        click.option(
            "--port",
            type=click.IntRange(0, 65_535),
            metavar="N",
            help="Short for the flag of the address with this port; 0: any free one.",
        ),
    ):
        option(command)
    return command


def with_port(here: Here, flags: dict[str, object], port: int | None, address: str = "listen") -> dict[str, object]:
    """`flags` with --port made into the setting `address`, whose host stays. Raises click.UsageError when both are given."""
    if port is None:
        return flags
    if flags[address] is not None:
        raise click.UsageError(f"--port and {SETTINGS[address].flag} both say where: leave one out")
    host, _ = parse_address(getattr(here.settings({})[0], address), address)
    return {**flags, address: f"{host}:{port}"}


def settings_to_serve(here: Here, flags: dict[str, object], port: int | None, address: str = "listen") -> Settings:
    """The settings in force for a role that listens at the setting `address`; from here on there is a log."""
    settings, _ = here.settings(with_port(here, flags, port, address))
    set_up_logging(settings.log_level, settings.log_format)
    return settings


def run(serve: Serve, ready: Callable[[str], str], times: Times, beside: Beside | None = None) -> None:
    """Runs a role to its end. `ready`: the line to print once it serves at this address."""
    import uvloop

    if times.port_file is not None:
        times.port_file.unlink(missing_ok=True)  # one of an earlier run would send readers to nobody
    uvloop.run(_serve(serve, ready, times, beside))


async def _serve(serve: Serve, ready: Callable[[str], str], times: Times, beside: Beside | None) -> None:
    """Serves until a signal, for the time given from when it is ready, or until `beside` fails; then stops in order."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    _stop_on_signals(stop)
    extra: list[asyncio.Future[None]] = []

    def on_ready(address: str) -> None:
        if times.port_file is not None:
            write_whole(times.port_file, address + "\n")
        click.echo(ready(address))
        if times.duration_s is not None:
            loop.call_later(times.duration_s, stop.set)
        if beside is not None:
            task = asyncio.ensure_future(beside(address))
            task.add_done_callback(lambda done: stop.set() if not done.cancelled() and done.exception() else None)
            extra.append(task)

    serving = asyncio.ensure_future(serve(on_ready, stop))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    for task in extra:
        task.cancel()
    outcomes = await asyncio.gather(serving, *extra, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome


def write_whole(path: Path, text: str) -> None:
    """Writes a file that nobody ever sees in part."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    part.replace(path)


def _stop_on_signals(stop: asyncio.Event) -> None:
    def asked() -> None:
        if stop.is_set():
            if sys.stdout.isatty():
                sys.stdout.write("\x1b[?25h")  # a live table hides the cursor
                sys.stdout.flush()
            os._exit(130)
        click.echo("stopping in order; once more ends it at once", err=True)
        stop.set()

    for one in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(one, asked)
