"""The project around the working directory, read only by commands that need it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aorist.errors import SettingError
from aorist.settings import (
    FILE,
    SETTINGS,
    Setting,
    Settings,
    Value,
    check_value,
    find_root,
    load_settings,
    read_config,
)

if TYPE_CHECKING:
    from aorist.declare import Project

Command = TypeVar("Command", bound=Callable[..., Any])


class Here:
    """What lies around the working directory. Also outside a project; only `project` insists on one."""

    @cached_property
    def root(self) -> Path | None:
        return find_root(Path.cwd())

    @cached_property
    def config(self) -> dict[str, Any]:
        """aorist.toml, empty outside a project. Makes the project's own modules importable."""
        if self.root is None:
            return {}
        if str(self.root) not in sys.path:
            sys.path.insert(0, str(self.root))
        return read_config(self.root)

    @cached_property
    def project(self) -> Project:
        """Raises SettingError outside a project, MisdeclaredError when a file of it is wrong."""
        if self.root is None:
            raise SettingError(f"no {FILE} in {Path.cwd()} or above: run this inside a project")
        from aorist.declare import (
            load_project,  # a third of a second that `aorist --help` and `aorist status` need not spend
        )

        return load_project(self.root)

    def cli(self, name: str) -> object:
        """The entry `name` of `[cli]` in aorist.toml; None where there is none."""
        return self._table("cli").get(name)

    def settings(self, flags: Mapping[str, object | None]) -> tuple[Settings, dict[str, str]]:
        """The settings in force and where they came from.

        A database that no flag or variable names lies beside aorist.toml, wherever in the project the command runs.
        """
        settings, origins = load_settings(self._table("settings"), os.environ, flags)
        if self.root is not None and origins["db"] in ("default", FILE):
            settings = replace(settings, db=str(self.root / settings.db))
        return settings, origins

    def _table(self, name: str) -> Mapping[str, object]:
        table = self.config.get(name, {})
        if not isinstance(table, dict):
            raise SettingError(f"{FILE}: [{name}] is not a table")
        return table


pass_here = click.make_pass_decorator(Here, ensure=True)


class _SettingType(click.ParamType[Value]):
    """The value of a setting, by the setting's own rules."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        kind = "HOST:PORT" if setting.rule.is_address else setting.type.__name__
        self.name = "|".join(setting.rule.choices) or kind.upper()

    def convert(self, value: Any, _param: click.Parameter | None, context: click.Context | None) -> Value:
        try:
            return check_value(self.setting, value, f"flag {self.setting.flag}")
        except SettingError as error:
            raise click.UsageError(str(error), context) from None


def setting_flags(command: Command) -> Command:
    """Adds one flag per setting; values come in under the names of the settings, None where not given."""
    return flags_of(*SETTINGS)(command)


def flags_of(*names: str) -> Callable[[Command], Command]:
    """As `setting_flags`, of these settings alone."""

    def add(command: Command) -> Command:
        for setting in reversed([SETTINGS[name] for name in names]):
            default = f"  [default: {setting.default}]" if setting.default != "" else ""
            kind, doc = _SettingType(setting), setting.rule.doc + default
            click.option(setting.flag, setting.name, type=kind, metavar=kind.name, help=doc)(command)
        return command

    return add
