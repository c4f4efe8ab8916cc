"""`aorist dev --demo`: the simulated robots of the project beside the server, a live table, and three lines to copy.

What is simulated, the project says: `[cli] demo` of aorist.toml names a coroutine function
`simulate(address, *, arms, rate_hz, duration_s, seed)`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path

import click
import grpc.aio

from aorist.cli.client import CHANNEL_OPTIONS
from aorist.cli.feed import Feed, Key
from aorist.cli.here import Here
from aorist.cli.plugins import hook
from aorist.cli.queries import Query, find_query
from aorist.cli.text import terminal
from aorist.cli.watch import watch_view
from aorist.declare import Project
from aorist.errors import SettingError
from aorist.logs import set_up_logging
from aorist.settings import Settings, parse_address

RATE_HZ = 20.0
SEED = 1
LIVE_INTERVAL_S, PLAIN_INTERVAL_S = 0.25, 3.0
"""Of the table: on a terminal, and where every look is printed below the one before."""

Simulate = Callable[..., Awaitable[object]]
Beside = Callable[[str], Awaitable[None]]


def run_demo(
    here: Here, flags: Mapping[str, object | None], run: Callable[[Settings, Beside], None], *, arms: int
) -> None:
    """Runs the server by `run`, with robots and table beside it. Raises SettingError where there is nothing to show."""
    simulate: Simulate = partial(hook(here, "demo"), arms=arms, rate_hz=RATE_HZ, duration_s=None, seed=SEED)
    project = here.project
    view = _listed_view(project)
    with tempfile.TemporaryDirectory(prefix="aorist-demo-") as folder:
        chosen = dict(flags)
        if chosen.get("db") is None:
            chosen["db"] = str(Path(folder) / "demo.db")
        settings, origins = here.settings(chosen)
        if origins["listen"] == "default" and is_taken(settings.listen):
            settings, origins = here.settings({**chosen, "listen": "127.0.0.1:0"})
        # What is no news is not written across the table, unless it was asked for.
        set_up_logging("warning" if origins["log_level"] == "default" else settings.log_level, settings.log_format)
        run(settings, lambda address: _show(project, view, address, simulate))


def _listed_view(project: Project) -> str:
    for queries in project.queries:
        for shape in queries.shapes:
            if shape.kind == "list":
                return shape.view
    raise SettingError("no view of this project can be listed, so that a demo would have nothing to show")


def is_taken(address: str) -> bool:
    host, port = parse_address(address, "listen")
    with socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError:
            return True
    return False


async def _show(project: Project, view: str, address: str, simulate: Simulate) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_simulate(simulate, address))
        group.create_task(_watch(find_query(project, view, "get"), find_query(project, view, "list"), address))


async def _simulate(simulate: Simulate, address: str) -> None:
    await simulate(address)


async def _watch(one: Query, every: Query, address: str) -> None:
    key = await _first_key(every, address)
    click.echo("\n".join(["", *lines_to_copy(one, key, address), ""]))
    await watch_view(every, address, interval_s=LIVE_INTERVAL_S if terminal().is_terminal else PLAIN_INTERVAL_S)


async def _first_key(every: Query, address: str) -> Key:
    """A key to show how to ask for, once there is one."""
    async with (
        grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel,
        aclosing(Feed(channel, address, interval_s=0.1, timeout_s=10.0).of_list(every)) as sheets,
    ):
        return await anext(min(sheet.rows) async for sheet in sheets if sheet.rows)


def lines_to_copy(query: Query, key: Key, address: str) -> list[str]:
    """The same question in three ways, each to be run in another terminal in this folder."""
    method, request = query.shape.method, query.shape.request.DESCRIPTOR
    service = method.containing_service
    fields = {name: getattr(query.request(key), name) for name in query.key}
    module = service.file.name.removesuffix(".proto").replace("/", ".")
    package, _, stem = module.rpartition(".")
    asked = ", ".join(f"{name}={json.dumps(value)}" for name, value in fields.items())
    code = (
        f"import grpc; from {package} import {stem}_pb2 as q, {stem}_pb2_grpc as s; "
        f'print(s.{service.name}Stub(grpc.insecure_channel("{address}")).{method.name}(q.{request.name}({asked})))'
    )
    return [
        f"grpcurl -plaintext -d {shlex.quote(json.dumps(fields))} {address} {service.full_name}/{method.name}",
        f"{program('aorist')} get {query.shape.view} {shlex.join(key)} --address {address}",
        f"{program('python')} -c {shlex.quote(code)}",
    ]


def program(name: str) -> str:
    """How to call a program of this environment from this folder: by its name where the shell finds just that one."""
    own = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if found is not None and Path(found) == own:
        return name
    return os.path.relpath(own) if own.is_relative_to(Path.cwd()) else str(own)
