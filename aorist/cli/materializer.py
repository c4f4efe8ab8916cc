"""`aorist materializer`: a worker that folds views, and owns its share of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from aorist.cli.here import Here, flags_of, pass_here
from aorist.cli.serving import ANY_SERVER, Times, run, serving_flags, settings_to_serve
from aorist.errors import SettingError

SYSTEMS = ("kafka", "cassandra", "keyspace", "etcd", "etcd_prefix")
OWNING = (
    "member",
    "lease_s",
    "heartbeat_s",
    "suspect_after_s",
    "standbys",
    "checkpoint_interval_s",
    "max_uncheckpointed_events",
    "fetch_memory_mb",
    "max_lag_ms",
    "max_quarantined_keys",
)


@click.command
@click.argument("views", nargs=-1, metavar="[VIEW]...")
@serving_flags
@flags_of("worker_listen", "advertise", *SYSTEMS, *OWNING, *ANY_SERVER)
@pass_here
def materializer(
    here: Here,
    /,
    *,
    views: tuple[str, ...],
    port: int | None,
    port_file: Path | None,
    duration: float | None,
    **flags: object,
) -> None:
    """Folds VIEWs, or all of the project, and answers for its share of them.

    Those that run share the partitions of each view and stand by for each other: when one ends, others take over. It is
    ready once it answers for all that is its own, and waits where Kafka, Cassandra or etcd is not there yet. SIGTERM or
    Ctrl-C ends it in order, with a last checkpoint; a second one at once, which loses nothing.
    """
    from aorist.app import serve_materializer

    settings, project = settings_to_serve(here, flags, port, "worker_listen"), here.project
    chosen = chosen_views(views, project.views)
    run(
        lambda on_ready, stop: serve_materializer(project, chosen, settings, on_ready, stop),
        lambda address: f"aorist folds {', '.join(chosen)} of {project.root.name} at {address} ({settings.transport})",
        Times(port_file, duration),
    )


def chosen_views(asked: Sequence[str], known: Mapping[str, object]) -> list[str]:
    """The views named, each once; all when none is. Raises click.UsageError for one that is not declared."""
    if not known:
        raise SettingError("this project declares no view: there is nothing to fold")
    unknown = [view for view in asked if view not in known]
    if unknown:
        raise click.UsageError(f"no view {', '.join(unknown)}: this project declares {', '.join(known)}")
    return list(dict.fromkeys(asked)) or list(known)
