"""The command `aorist`: its own commands, those of the project's plug-ins, one clear line for what goes wrong."""

from __future__ import annotations

import importlib
from types import MappingProxyType

import click

from aorist.cli.failures import Failed, sentence
from aorist.cli.here import Here
from aorist.cli.plugins import plugged_in

COMMANDS = MappingProxyType(
    {
        "dev": "Serves this project: all roles in one process, on one file.",
        "command-gateway": "Takes commands, and answers each once what it causes is durable in Kafka.",
        "query-gateway": "Answers queries: asks the materializers that own the keys.",
        "materializer": "Folds VIEWs, or all of the project, and answers for its share of them.",
        "topics": "Makes the project's topics in Kafka, and compares them.",
        "schema": "Keeps the keyspace and tables of snapshots and time series.",
        "check-fold": "Looks for events that leave a view in another state when they come again.",
        "get": "Asks VIEW for one KEY and says how fresh the answer is.",
        "watch": "Shows VIEW as a live table: the KEYs given, or all.",
        "status": "Shows every shard: its owner, epoch, lag and checkpoint; and why a process that folds...",
        "view": "Builds of a view: one answers, others are folded beside it, until they are promoted.",
        "quarantine": "Keys whose events could not be folded: the first such event and all later ones of the...",
        "log": "Shows the events of TOPIC, each with its position.",
        "config": "Shows every setting: its value, where that came from, what it means.",
    }
)
"""Name -> how its help begins: `aorist --help` tells that without importing the module of `aorist.cli` that is named so."""


SHORT = 90
"""Characters of a line of it."""


class Aorist(click.Group):
    """The commands of aorist, then those of plug-ins; a plug-in that is broken breaks nothing else."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(plugged_in(ctx.ensure_object(Here)))]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            word = name.replace("-", "_")
            command: click.Command = getattr(importlib.import_module(f"aorist.cli.{word}"), word)
            return command
        return plugged_in(ctx.ensure_object(Here)).get(name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        plugged = sorted(plugged_in(ctx.ensure_object(Here)).items())
        shown = [(name, command.get_short_help_str(SHORT)) for name, command in plugged if not command.hidden]
        for title, rows in (("Commands", list(COMMANDS.items())), ("Commands of this project", shown)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # the last: `aorist log ... | head`; click ends without a word
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None  # as shells say it
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            raise Failed(sentence(error)) from error


def _show_version(context: click.Context, _option: click.Parameter, asked: bool) -> None:  # noqa: FBT001
    if asked:
        from importlib.metadata import PackageNotFoundError, version  # reads mail headers: 30 ms

        try:
            click.echo(f"aorist {version('aorist')}")
        except PackageNotFoundError:
            click.echo("aorist, run from its sources without being installed")
        context.exit()


@click.group(cls=Aorist, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
@click.option("--debug", is_flag=True, help="Show where errors come from.")
def aorist(debug: bool) -> None:  # noqa: FBT001  # click passes by name
    """Event sourcing for fleets of robots: gRPC at both ends.

    Run inside a project, a folder with an aorist.toml, it serves what the project declares: `dev` in one process on one
    file; the gateways and materializers each in processes of their own, on Kafka, Cassandra and etcd. `get`, `watch` and
    `status` ask a gateway: that of `dev`, unless --address or AORIST_ADDRESS says another.
    """


def main() -> None:
    """Entry point of the program."""
    aorist(prog_name="aorist")
