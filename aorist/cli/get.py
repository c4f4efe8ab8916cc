"""`aorist get`: one key of a view."""

from __future__ import annotations

import click

from aorist.cli.client import ask, channel_to, client_options
from aorist.cli.here import Here, pass_here
from aorist.cli.queries import find_query, read_flags, read_options
from aorist.cli.text import as_json, as_text, freshness
from aorist.v1 import position_pb2


@click.command
@click.argument("view")
@click.argument("key", nargs=-1, required=True)
@read_flags
@click.option("--json", "as_is", is_flag=True, help="The whole answer as JSON, its read header included.")
@client_options
@pass_here
def get(
    here: Here,
    /,
    *,
    view: str,
    key: tuple[str, ...],
    at_least: tuple[position_pb2.Position, ...],
    max_wait_ms: int | None,
    max_staleness_ms: int | None,
    on_stale: str | None,
    as_is: bool,
    address: str,
    timeout: float,
) -> None:
    """Asks VIEW for one KEY and says how fresh the answer is.

    A key of several parts takes as many arguments. --timeout counts beyond --max-wait-ms.
    """
    query = find_query(here.project, view, "get")
    request = query.request(key, read_options(at_least, max_wait_ms, max_staleness_ms, on_stale))
    shape, waits_s = query.shape, (max_wait_ms or 0) / 1000
    with channel_to(address) as channel:
        answer = ask(channel, shape.method, request, shape.response, timeout + waits_s)
    if as_is:
        click.echo(as_json(answer))
        return
    click.echo(as_text(query.part(answer), leave_out=[shape.header]))
    click.secho(f"# {freshness(getattr(answer, shape.header))}", dim=True)
