"""`aorist view`: builds of a view, folded side by side, and which of them answers."""

from __future__ import annotations

from typing import TypeVar

import click
import grpc
from google.protobuf.message import Message
from rich.text import Text

from aorist.cli.client import ask, channel_to, client_options
from aorist.cli.text import as_json, plain_table, terminal
from aorist.serve.differences import in_words
from aorist.v1 import build_pb2

M = TypeVar("M", bound=Message)
_SERVICE = build_pb2.DESCRIPTOR.services_by_name["BuildService"]

COLUMNS = (
    ("view", False),
    ("build", True),
    ("answers", False),
    ("partition", True),
    ("owner", False),
    ("phase", False),
    ("offset", True),
    ("lag", True),
    ("keys", True),
)
DIGESTS = (("key_digest", False), ("state_digest", False))


@click.group
def view() -> None:
    """Builds of a view: one answers, others are folded beside it, until they are promoted."""


@view.command
@click.argument("name", default="")
@click.option(
    "--digests", is_flag=True, help="Also digests of all keys and states, to compare where nothing is written."
)
@click.option("--json", "as_is", is_flag=True, help="As JSON, with all fields.")
@client_options
def status(*, name: str, digests: bool, as_is: bool, address: str, timeout: float) -> None:
    """Shows every build of the view NAME, or of all views: which answers, who owns its shards, how far they are."""
    with channel_to(address) as channel:
        request = build_pb2.ListBuildsRequest(view=name, digests=digests)
        found = _ask(channel, "ListBuilds", request, build_pb2.ListBuildsResponse, timeout)
    if as_is:
        click.echo(as_json(found))
        return
    table = plain_table(*COLUMNS, *(DIGESTS if digests else ()), ("problem", False))
    for build in found.builds:
        for shard in build.shards:
            shown = (f"{shard.key_digest:016x}", f"{shard.state_digest:016x}") if digests else ()
            table.add_row(*map(Text, (*_cells(build, shard), *shown, shard.problem)))
    terminal().print(table)
    for build in found.builds:
        if build.dropped:
            click.echo(f"{build.view}: dropped are builds {', '.join(map(str, build.dropped))}")


@view.command
@click.argument("name")
@click.argument("build", type=click.IntRange(min=1))
@click.option(
    "--accept-difference", is_flag=True, help="Also where the builds do not hold the same, or cannot be compared."
)
@client_options
def promote(*, name: str, build: int, accept_difference: bool, address: str, timeout: float) -> None:
    """Lets BUILD of the view NAME answer from now on, if it is not behind, and holds what the one does that answers now.

    Every key of both is looked at. No query fails meanwhile: at worst it is asked once more.
    """
    request = build_pb2.PromoteRequest(view=name, build=build, accept_difference=accept_difference)
    with channel_to(address) as channel:
        done = _ask(channel, "Promote", request, build_pb2.PromoteResponse, timeout)
    for difference in done.differences:
        click.secho(f"accepted: {in_words(difference, done.before, build)}", fg="yellow")
    click.echo(f"build {build} of {name} answers; until now it was build {done.before}")


@view.command
@click.argument("name")
@client_options
def rollback(*, name: str, address: str, timeout: float) -> None:
    """Lets the build of the view NAME answer that did before, if it is still folded and not behind."""
    with channel_to(address) as channel:
        done = _ask(channel, "Rollback", build_pb2.RollbackRequest(view=name), build_pb2.RollbackResponse, timeout)
    click.echo(f"build {done.build} of {name} answers; until now it was build {done.before}")


@view.command
@click.argument("name")
@click.argument("build", type=click.IntRange(min=1))
@client_options
def drop(*, name: str, build: int, address: str, timeout: float) -> None:
    """Gives BUILD of the view NAME up for good, once nobody folds it. Its number is never used again; its rows are never read again."""
    with channel_to(address) as channel:
        _ask(channel, "Drop", build_pb2.DropRequest(view=name, build=build), build_pb2.DropResponse, timeout)
    click.echo(f"build {build} of {name} is dropped: a process that would fold it is refused")


def _cells(build: build_pb2.Build, shard: build_pb2.BuildShard) -> tuple[str, ...]:
    return (
        build.view,
        str(build.build),
        "yes" if build.answers else "before" if build.before else "",
        str(shard.partition),
        shard.member or "nobody",
        shard.phase,
        str(shard.offset) if shard.offset >= 0 else "-",
        str(shard.lag_events),
        str(shard.keys),
    )


def _ask(channel: grpc.Channel, method: str, request: Message, answer: type[M], timeout: float) -> M:
    return ask(channel, _SERVICE.methods_by_name[method], request, answer, timeout)
