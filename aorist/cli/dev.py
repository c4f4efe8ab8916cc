"""`aorist dev`: every role of the project in one process, on one file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from aorist.cli.here import Here, pass_here, setting_flags
from aorist.cli.serving import Beside, Times, run, serving_flags, settings_to_serve, with_port
from aorist.settings import Settings

DEMO_ARMS = 12


@click.command
@serving_flags
@click.option(
    "--demo", is_flag=True, help="Put simulated robots in and show them; on a file that is thrown away unless --db."
)
@click.option("--arms", type=click.IntRange(1), metavar="N", help="How many, with --demo; 12 if not given.")
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
    arms: int | None,
    **flags: object,
) -> None:
    """Serves this project: all roles in one process, on one file.

    Ctrl-C or SIGTERM ends it in order: no new calls, those in flight finished, a checkpoint, ownership released.
    A second one ends it at once, which loses nothing that was acknowledged.
    """
    times = Times(port_file, duration)
    if arms is not None and not demo:
        raise click.UsageError("--arms says how many arms --demo sets in motion: give both, or neither")
    if demo:
        from aorist.cli.demo import run_demo

        run_demo(here, with_port(here, flags, port), partial(_run, here, times), arms=arms or DEMO_ARMS)
    else:
        _run(here, times, settings_to_serve(here, flags, port))


def _run(here: Here, times: Times, settings: Settings, beside: Beside | None = None) -> None:
    from aorist.app import serve_dev

    project = here.project
    run(
        lambda on_ready, stop: serve_dev(project, settings, on_ready, stop),
        lambda address: f"aorist serves {project.root.name} at {address} ({settings.transport}, {settings.db})",
        times,
        beside,
    )
