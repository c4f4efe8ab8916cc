"""`aorist command-gateway`: the command services of the project, on Kafka."""

from __future__ import annotations

from pathlib import Path

import click

from aorist.cli.here import Here, flags_of, pass_here
from aorist.cli.serving import ANY_SERVER, Times, run, serving_flags, settings_to_serve


@click.command
@serving_flags
@flags_of("listen", "kafka", "max_skew_ms", "max_unacknowledged_bytes", *ANY_SERVER)
@pass_here
def command_gateway(
    here: Here, /, *, port: int | None, port_file: Path | None, duration: float | None, **flags: object
) -> None:
    """Takes commands, and answers each once what it causes is durable in Kafka.

    It holds no state: run as many as the robots need. Without Kafka or the project's topics it waits for them; make the
    topics with `aorist topics apply`. SIGTERM or Ctrl-C ends it in order, a second one at once.
    """
    from aorist.app import serve_command_gateway

    settings, project = settings_to_serve(here, flags, port), here.project
    run(
        lambda on_ready, stop: serve_command_gateway(project, settings, on_ready, stop),
        lambda address: f"aorist takes commands of {project.root.name} at {address} ({settings.transport})",
        Times(port_file, duration),
    )
