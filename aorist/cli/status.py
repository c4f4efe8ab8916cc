"""`aorist status`: every shard, who owns it and how far it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click
from rich.text import Text

from aorist.cli.client import ask, channel_to, client_options
from aorist.cli.text import as_json, plain_table, role_word, terminal
from aorist.v1 import read_pb2, status_pb2

UNWELL = ("NO_OWNER", "UNREACHABLE", "HALTED")
"""Phases in which a shard answers nothing, and will not without somebody's doing or another owner."""

COLUMNS = (
    ("view", False),
    ("partition", True),
    ("owner", False),
    ("epoch", True),
    ("role", False),
    ("phase", False),
    ("offset", True),
    ("lag", True),
    ("lag_ms", True),
    ("keys", True),
    ("dirty", True),
    ("checkpoint", True),
    ("age", True),
    ("unknown", True),
    ("parked", True),
    ("problem", False),
)


@click.command
@click.option("--json", "as_is", is_flag=True, help="As JSON, with all fields.")
@client_options
def status(*, as_is: bool, address: str, timeout: float) -> None:
    """Shows every shard: its owner, epoch, lag and checkpoint; and why a process that folds is not ready.

    Exit code 1 if a shard has no owner or stands still.
    """
    method = status_pb2.DESCRIPTOR.services_by_name["StatusService"].methods_by_name["GetStatus"]
    with channel_to(address) as channel:
        answer = ask(channel, method, status_pb2.GetStatusRequest(), status_pb2.GetStatusResponse, timeout)
    unwell = unwell_shards(answer.shards)
    if as_is:
        click.echo(as_json(answer))
    else:
        _print(answer.shards)
        for line in unready_members(answer.members):
            click.secho(line, fg="yellow")
        if unwell:
            click.secho(f"{len(unwell)} without an owner that serves: {', '.join(unwell)}", fg="red")
    if unwell:
        raise click.exceptions.Exit(1)


def unwell_shards(shards: Iterable[status_pb2.ShardStatus]) -> list[str]:
    """Names of the shards that no owner serves, or comes to serve; troubles of standbys, and of builds that do not answer, do not count."""
    well: dict[str, bool] = {}
    for shard in shards:
        if shard.beside:
            continue
        owned = shard.role == read_pb2.ROLE_OWNER and bool(shard.member) and shard.phase not in UNWELL
        name = f"{shard.view}/{shard.partition}"
        well[name] = well.get(name, False) or owned
    return [name for name, good in well.items() if not good]


def unready_members(members: Iterable[status_pb2.MemberStatus]) -> list[str]:
    """A line for each of them and each reason."""
    return [f"{m.member} ({m.address}) is not ready: {problem}" for m in members for problem in m.problems]


def _print(shards: Sequence[status_pb2.ShardStatus]) -> None:
    table = plain_table(*COLUMNS)
    for shard in shards:
        cells = _cells(shard)
        table.add_row(*map(Text, cells), style="red" if shard.phase in UNWELL or not shard.member else None)
    terminal().print(table)


def _cells(shard: status_pb2.ShardStatus) -> tuple[str, ...]:
    return (
        shard.view,
        str(shard.partition),
        f"{shard.member} ({shard.address})" if shard.address else shard.member or "nobody",
        str(shard.epoch),
        role_word(shard.role),
        shard.phase,
        _offset(shard.offset),
        str(shard.lag_events),
        str(shard.lag_ms),
        str(shard.keys),
        str(shard.dirty_keys),
        _offset(shard.checkpoint_offset),
        f"{shard.checkpoint_age_ms / 1000:.1f} s" if shard.checkpoint_age_ms >= 0 else "never",
        str(shard.unknown_events),
        str(shard.quarantined_keys),
        shard.problem,
    )


def _offset(offset: int) -> str:
    return str(offset) if offset >= 0 else "-"
