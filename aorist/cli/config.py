"""`aorist config`: every setting in force and where it came from."""

from __future__ import annotations

import json

import click
from rich.text import Text

from aorist.cli.here import Here, pass_here, setting_flags
from aorist.cli.text import plain_table, terminal
from aorist.settings import SETTINGS


@click.command
@click.option("--json", "as_is", is_flag=True, help="As JSON.")
@setting_flags
@pass_here
def config(here: Here, /, *, as_is: bool, **flags: object) -> None:
    """Shows every setting: its value, where that came from, what it means.

    With the flags of `aorist dev`: what that would run with. Later ones win: default, aorist.toml, environment, flag.
    """
    settings, origins = here.settings(flags)
    if as_is:
        found = {
            name: {"value": getattr(settings, name), "from": origins[name], "doc": setting.rule.doc}
            for name, setting in SETTINGS.items()
        }
        click.echo(json.dumps(found, indent=2))
        return
    table = plain_table(("setting", False), ("value", False), ("from", False), ("meaning", False))
    for name, setting in SETTINGS.items():
        value = str(getattr(settings, name))
        style = "dim" if origins[name] == "default" else None
        table.add_row(name, Text(value or '""'), Text(origins[name]), Text(setting.rule.doc), style=style)
    terminal().print(table)
