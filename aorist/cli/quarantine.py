"""`aorist quarantine`: keys whose events could not be folded, and what to do about them."""

from __future__ import annotations

import getpass
import socket
from typing import Any, TypeVar

import click
import grpc
from google.protobuf.message import Message
from rich.text import Text

from aorist.cli.client import CallFailedError, ask, channel_to, client_options
from aorist.cli.text import as_json, plain_table, terminal
from aorist.v1 import quarantine_pb2

M = TypeVar("M", bound=Message)
_SERVICE = quarantine_pb2.DESCRIPTOR.services_by_name["QuarantineService"]
_view_option = click.option(
    "--view", default="", help="The view, or NAME@BUILD for one build of it, where several have such a key parked."
)


@click.group
def quarantine() -> None:
    """Keys whose events could not be folded: the first such event and all later ones of the key are held back."""


@quarantine.command("list")
@click.option("--json", "as_is", is_flag=True, help="As JSON, with all fields.")
@_view_option
@client_options
def list_(*, as_is: bool, view: str, address: str, timeout: float) -> None:
    """Lists every parked key with the event that could not be folded. Exit code 1 if a worker did not answer."""
    with channel_to(address) as channel:
        found = _parked(channel, view, b"", timeout)
    if as_is:
        click.echo(as_json(found))
    else:
        columns = (
            ("view", False),
            ("partition", True),
            ("key", False),
            ("offset", True),
            ("events", True),
            ("reason", False),
        )
        table = plain_table(*columns)
        for key in found.keys:
            cells = (key.view, str(key.partition), _text(key.key), str(key.offset), str(key.events_held), key.reason)
            table.add_row(*map(Text, cells))
        terminal().print(table)
    if found.missing:
        click.secho(f"no answer from {', '.join(found.missing)}: their keys are missing", fg="red", err=True)
        raise click.exceptions.Exit(1)


@quarantine.command
@click.argument("key")
@_view_option
@client_options
def show(*, key: str, view: str, address: str, timeout: float) -> None:
    """Shows KEY and all its events that are held back, as JSON."""
    with channel_to(address) as channel:
        click.echo(as_json(_find(channel, view, key, timeout)))


@quarantine.command
@click.argument("key")
@_view_option
@client_options
def replay(*, key: str, view: str, address: str, timeout: float) -> None:
    """Folds the events of KEY with the code that runs now. Exit code 1 if one of them fails again."""
    with channel_to(address) as channel:
        found = _find(channel, view, key, timeout)
        request = quarantine_pb2.ReplayParkedRequest(view=found.view, partition=found.partition, key=found.key)
        answer = _ask(channel, "ReplayParked", request, quarantine_pb2.ReplayParkedResponse, timeout)
    _tell(key, answer)


@quarantine.command
@click.argument("key")
@click.option("--offset", type=int, required=True, help="Of the first event that is held back, as `list` tells it.")
@click.option("--why", required=True, help="For those who look later. Who and where is added.")
@_view_option
@client_options
def skip(*, key: str, offset: int, why: str, view: str, address: str, timeout: float) -> None:
    """Leaves the first event of KEY out for ever, then folds the rest. Exit code 1 if one of them fails."""
    with channel_to(address) as channel:
        found = _find(channel, view, key, timeout)
        who = f"skipped by {getpass.getuser()} at {socket.gethostname()}: {why}"
        request = quarantine_pb2.SkipParkedRequest(
            view=found.view, partition=found.partition, key=found.key, offset=offset, why=who
        )
        answer = _ask(channel, "SkipParked", request, quarantine_pb2.SkipParkedResponse, timeout)
    _tell(key, answer)


def _tell(key: str, answer: Any) -> None:
    if answer.HasField("left"):
        left = answer.left
        click.secho(f"{key} is parked at offset {left.offset}, {left.events_held} events: {left.reason}", fg="red")
        raise click.exceptions.Exit(1)
    click.echo(f"{key} is free: all its events are folded")


def _find(channel: grpc.Channel, view: str, key: str, timeout: float) -> quarantine_pb2.ParkedKey:
    found = _parked(channel, view, key.encode(), timeout)
    if len(found.keys) == 1:
        return found.keys[0]
    if found.keys:
        raise CallFailedError(
            f"{key} is parked in several views: give one of {', '.join(k.view for k in found.keys)} by --view"
        )
    missing = f"; no answer from {', '.join(found.missing)}" if found.missing else ""
    raise CallFailedError(f"{key} is not parked{missing}: `aorist quarantine list` shows what is")


def _parked(channel: grpc.Channel, view: str, key: bytes, timeout: float) -> quarantine_pb2.ListParkedResponse:
    request = quarantine_pb2.ListParkedRequest(view=view, key=key)
    return _ask(channel, "ListParked", request, quarantine_pb2.ListParkedResponse, timeout)


def _ask(channel: grpc.Channel, method: str, request: Message, answer: type[M], timeout: float) -> M:
    return ask(channel, _SERVICE.methods_by_name[method], request, answer, timeout)


def _text(key: bytes) -> str:
    return key.decode(errors="replace")
