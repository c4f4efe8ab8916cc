"""`aorist query-gateway`: the query services of the project, routed to whoever owns what is asked for."""

from __future__ import annotations

from pathlib import Path

import click

from aorist.cli.here import Here, flags_of, pass_here
from aorist.cli.serving import ANY_SERVER, Times, run, serving_flags, settings_to_serve

READING = ("max_wait_ms", "max_wait_limit_ms", "default_page_size", "max_page_size")


@click.command
@serving_flags
@flags_of("listen", "etcd", "etcd_prefix", *READING, *ANY_SERVER)
@pass_here
def query_gateway(
    here: Here, /, *, port: int | None, port_file: Path | None, duration: float | None, **flags: object
) -> None:
    """Answers queries: asks the materializers that own the keys.

    It holds no state: run as many as the readers need. Who owns what, it learns from etcd, and waits where there is none.
    SIGTERM or Ctrl-C ends it in order, a second one at once.
    """
    from aorist.app import serve_query_gateway

    settings, project = settings_to_serve(here, flags, port), here.project
    run(
        lambda on_ready, stop: serve_query_gateway(project, settings, on_ready, stop),
        lambda address: f"aorist answers queries of {project.root.name} at {address} ({settings.transport})",
        Times(port_file, duration),
    )
