"""Commands of a project: `[cli] plugins` of aorist.toml names modules with `commands: list[click.Command]`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import click

from aorist.cli.failures import say, sentence
from aorist.cli.here import Here
from aorist.errors import AoristError, SettingError
from aorist.settings import FILE


@cache
def plugged_in(here: Here) -> dict[str, click.Command]:
    """Commands by name. A plug-in that cannot be had is told of once, and left out."""
    found: dict[str, click.Command] = {}
    try:
        names = here.cli("plugins") or []
        if not isinstance(names, list):
            raise SettingError(f"{FILE}: [cli] plugins is not a list of module names")
    except AoristError as error:
        say(str(error))
        return found
    for name in names:
        try:
            found |= _commands_of(str(name))
        except Exception as error:  # noqa: BLE001  # whatever a foreign module does at import, the other commands go on
            say(f"plug-in {name} of {FILE} is left out: {sentence(error)}")
    return found


def _commands_of(name: str) -> dict[str, click.Command]:
    commands = getattr(importlib.import_module(name), "commands", None)
    if not isinstance(commands, list) or not all(isinstance(one, click.Command) and one.name for one in commands):
        raise SettingError("it has no `commands: list[click.Command]`")
    return {command.name: command for command in commands}


def hook(here: Here, entry: str) -> Callable[..., Any]:
    """The function that `[cli] <entry>` names as module:function. Raises SettingError."""
    named = here.cli(entry)
    if not isinstance(named, str) or not all(named.partition(":")):
        raise SettingError(f'{FILE}: [cli] {entry} names no function: write {entry} = "module:function"')
    module, _, name = named.partition(":")
    try:
        function: Any = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise SettingError(f"{FILE}: [cli] {entry} = {named!r} cannot be imported: {error}") from error
    if not callable(function):
        raise SettingError(f"{FILE}: [cli] {entry} = {named!r}: {module} has no function {name}")
    found: Callable[..., Any] = function
    return found
