"""`aorist schema`: the tables of snapshots and time series in Cassandra."""

from __future__ import annotations

import click

from aorist.cli.here import Here, flags_of, pass_here
from aorist.logs import set_up_logging


@click.group
def schema() -> None:
    """Keeps the keyspace and tables of snapshots and time series."""


@schema.command
@flags_of("cassandra", "keyspace", "replicas", "log_level", "log_format")
@pass_here
def apply(here: Here, /, **flags: object) -> None:
    """Makes the keyspace and tables that are missing, and has time series kept as long as the project declares.

    Another time holds for the rows that are written from then on. Outside a project there are only the tables of snapshots. Run
    one at a time; again is harmless.
    """
    from aorist.app import apply_schema

    settings, _ = here.settings(flags)
    set_up_logging(settings.log_level, settings.log_format)
    done = apply_schema(settings, here.project.series() if here.root else [])
    for one in done:
        click.echo(one)
    if not done:
        click.echo(f"nothing was missing: keyspace {settings.keyspace} is as it should be")
