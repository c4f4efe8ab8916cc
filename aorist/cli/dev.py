"""`aorist dev`: every role of the project in one process, on one file."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import click

from aorist.cli.here import Here, pass_here, setting_flags
from aorist.declare import Project
from aorist.logs import set_up_logging
from aorist.settings import Settings, parse_address

Beside = Callable[[str], Awaitable[None]]
"""What runs beside the server, given its address, until it ends or is cancelled."""


@click.command
@click.option(
    "--port", type=click.IntRange(0, 65_535), metavar="N", help="Short for --listen with this port; 0: any free one."
)
@click.option(
    "--port-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PATH",
    help="Write the address here once serving.",
)
@click.option("--duration", type=click.FloatRange(min=0), metavar="S", help="End by itself after S seconds of serving.")
@click.option(
    "--demo", is_flag=True, help="Put simulated robots in and show them; on a file that is thrown away unless --db."
)
@click.option(
    "--arms", type=click.IntRange(1), metavar="N", default=12, show_default=True, help="How many, with --demo."
)
@setting_flags
@pass_here
def dev(
    here: Here,
    /,
    *,
    port: int | None,
    port_file: Path | None,
    duration: float | None,
    demo: bool,
    arms: int,
    **flags: object,
) -> None:
    """Serves this project: all roles in one process, on one file.

    Ctrl-C or SIGTERM ends it in order: no new calls, those in flight finished, a checkpoint, ownership released.
    A second one ends it at once, which loses nothing that was acknowledged.
    """
    if port is not None:
        if flags["listen"] is not None:
            raise click.UsageError("--port and --listen both say where: leave one out")
        host, _ = parse_address(here.settings({})[0].listen, "listen")
        flags["listen"] = f"{host}:{port}"
    if demo:
        from aorist.cli.demo import run_demo

        run_demo(
            here, flags, lambda settings, beside: _run(here.project, settings, duration, port_file, beside), arms=arms
        )
        return
    settings, _ = here.settings(flags)
    set_up_logging(settings.log_level, settings.log_format)
    _run(here.project, settings, duration, port_file, None)


def _run(
    project: Project, settings: Settings, duration_s: float | None, port_file: Path | None, beside: Beside | None
) -> None:
    import uvloop

    if port_file is not None:
        port_file.unlink(missing_ok=True)  # one of an earlier run would send readers to nobody
    uvloop.run(serve(project, settings, duration_s=duration_s, port_file=port_file, beside=beside))


async def serve(
    project: Project,
    settings: Settings,
    *,
    duration_s: float | None = None,
    port_file: Path | None = None,
    beside: Beside | None = None,
) -> None:
    """Serves until a signal, for `duration_s` from when it is ready, or until `beside` fails; then stops in order."""
    from aorist.app import serve_dev

    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    _stop_on_signals(stop)
    extra: list[asyncio.Future[None]] = []

    def on_ready(address: str) -> None:
        if port_file is not None:
            write_whole(port_file, address + "\n")
        click.echo(f"aorist serves {project.root.name} at {address} ({settings.transport}, {settings.db})")
        if duration_s is not None:
            loop.call_later(duration_s, stop.set)
        if beside is not None:
            task = asyncio.ensure_future(beside(address))
            task.add_done_callback(lambda done: stop.set() if not done.cancelled() and done.exception() else None)
            extra.append(task)

    serving = asyncio.ensure_future(serve_dev(project, settings, on_ready, stop))
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
