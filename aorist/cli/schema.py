"""`aorist schema`: the tables of snapshots in Cassandra."""

from __future__ import annotations

import click

from aorist.cli.here import Here, flags_of, pass_here
from aorist.logs import set_up_logging


@click.group
def schema() -> None:
    """Keeps the keyspace and tables of snapshots."""


@schema.command
@flags_of("cassandra", "keyspace", "replicas", "log_level", "log_format")
@pass_here
def apply(here: Here, /, **flags: object) -> None:
    """Makes the keyspace and tables that are missing. Run one at a time; again is harmless."""
    from aorist.app import apply_schema

    settings, _ = here.settings(flags)
    set_up_logging(settings.log_level, settings.log_format)
    made = apply_schema(settings)
    for one in made:
        click.echo(f"made {one}")
    if not made:
        click.echo(f"nothing was missing: keyspace {settings.keyspace} is as it should be")
