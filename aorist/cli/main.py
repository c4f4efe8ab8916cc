"""The command `aorist`: its own commands, those of the project's plug-ins, one clear line for what goes wrong."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType

import click

from aorist.cli.failures import Failed, sentence
from aorist.cli.here import Here
from aorist.cli.plugins import plugged_in

SERVING = ("dev", "command-gateway", "query-gateway", "materializer")
PREPARING = ("topics", "schema")
CHECKING = ("check-fold",)
ASKING = ("get", "watch", "status", "quarantine", "log", "config")
COMMANDS = MappingProxyType({name: name.replace("-", "_") for name in (*SERVING, *PREPARING, *CHECKING, *ASKING)})
"""Name -> module in `aorist.cli`, and command in that module; imported when it is needed."""


class Aorist(click.Group):
    """The commands of aorist, then those of plug-ins; a plug-in that is broken breaks nothing else."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(plugged_in(ctx.ensure_object(Here)))]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            module = importlib.import_module(f"aorist.cli.{COMMANDS[name]}")
            command: click.Command = getattr(module, COMMANDS[name])
            return command
        return plugged_in(ctx.ensure_object(Here)).get(name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        plugged = plugged_in(ctx.ensure_object(Here))
        for title, names in (("Commands", list(COMMANDS)), ("Commands of this project", sorted(plugged))):
            found = [(name, self.get_command(ctx, name)) for name in names]
            shown = [
                (name, command.get_short_help_str(90)) for name, command in found if command and not command.hidden
            ]
            if shown:
                with formatter.section(title):
                    formatter.write_dl(shown)

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
