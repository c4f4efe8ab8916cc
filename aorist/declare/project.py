"""Loads what a project declares: `aorist.toml` names the role folders, every file in them declares something."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aorist.declare.commands import Commands
from aorist.declare.queries import Queries
from aorist.declare.view import View
from aorist.errors import MisdeclaredError, SettingError
from aorist.ports import SeriesSpec, TopicSpec
from aorist.settings import FILE, read_config

ROLES: dict[str, type] = {"command_gateway": Commands, "materializers": View, "query_gateway": Queries}
LATER: dict[str, type] = {"write_models": str, "republishers": str}
CLI: dict[str, type] = {"plugins": list, "demo": str}
TABLES = ("roles", "cli", "settings")
T = TypeVar("T")


@dataclass
class Project:
    """Everything declared below `root`, checked by itself and against each other. `config`: the rest of aorist.toml."""

    root: Path
    views: dict[str, View[Any]] = field(default_factory=dict)
    commands: list[Commands] = field(default_factory=list)
    queries: list[Queries] = field(default_factory=list)
    plugins: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)

    def topics(self) -> list[TopicSpec]:
        """Every topic that is published or folded, once."""
        declared: list[Any] = [*self.commands, *self.views.values()]
        return list({one.schema.topic.name: one.schema.topic for one in declared}.values())

    def series(self) -> list[SeriesSpec]:
        """Windows of every length that a view keeps."""
        return [spec for view in self.views.values() for spec in view.series_specs()]


def load_project(root: Path) -> Project:
    """Imports every file of the role folders of the project at `root`. Raises MisdeclaredError, SettingError."""
    config = read_config(root)
    roles, cli = _table(root, config, "roles", {**ROLES, **LATER}), _table(root, config, "cli", CLI)
    for name in config:
        if name not in TABLES:
            raise SettingError(f"{root / FILE}: no table [{name}]: there are {', '.join(f'[{t}]' for t in TABLES)}")
    project = Project(root, plugins=list(cli.get("plugins", [])), config=config)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    for role, folder in roles.items():
        if role in ROLES:
            _load_role(project, role, folder)
    _check_together(project)
    return project


def _table(root: Path, config: dict[str, Any], name: str, known: Mapping[str, object]) -> dict[str, Any]:
    """One table of aorist.toml with the names that it may have; the values are text, or lists of text where `known` says so."""
    where, table = f"{root / FILE}: [{name}]", config.get(name, {})
    if not isinstance(table, dict):
        raise SettingError(f"{where}: is {table!r}: it must be a table")
    for key, value in table.items():
        if key not in known:
            raise SettingError(f"{where}: no `{key}`: there are {', '.join(known)}")
        texts = value if known[key] is list and isinstance(value, list) else [value]
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise SettingError(
                f"{where}: {key} is {value!r}: it must be {'a list of texts' if known[key] is list else 'a text'}"
            )
    return table


def _load_role(project: Project, role: str, folder: str) -> None:
    path = project.root / folder
    if not path.is_dir():
        raise SettingError(
            f"{project.root / FILE}: role {role} names the folder `{folder}`, which is not there: make it, or remove the line"
        )
    for file in sorted(path.glob("[!_]*.py")):
        try:
            module = importlib.import_module(f"{folder}.{file.stem}".replace("/", "."))
        except SyntaxError as error:
            raise MisdeclaredError(f"{error.filename}:{error.lineno}: {error.msg}") from error
        declared: list[Any] = [value for value in vars(module).values() if isinstance(value, ROLES[role])]
        if not declared:
            raise MisdeclaredError(f"{file}: declares no {ROLES[role].__name__}: every file in {folder}/ declares one")
        for one in declared:
            one.complete()
            _add(project, one)


def _add(project: Project, declared: object) -> None:
    if isinstance(declared, View):
        if project.views.get(declared.name, declared) is not declared:
            other = project.views[declared.name].place
            raise MisdeclaredError(f"{declared.place}: its name is taken, by {other}: rename one of them")
        project.views[declared.name] = declared
    elif isinstance(declared, Commands):
        project.commands.append(declared)
    elif isinstance(declared, Queries):
        project.queries.append(declared)


def _check_together(project: Project) -> None:
    publishers: dict[str, str] = {}
    for commands in project.commands:
        topic = commands.schema.topic.name
        if topic in publishers:
            second = f"would be a second publisher of topic {topic}, beside {publishers[topic]}"
            raise MisdeclaredError(f"{commands.place}: {second}: give one of them its own topic")
        publishers[topic] = commands.place
    for queries in project.queries:
        for shape in queries.shapes:
            view = project.views.get(shape.view)
            if view is None:
                raise MisdeclaredError(
                    f"{queries.place}: {shape.method.name} is answered by view `{shape.view}`, which no file of role materializers "
                    "declares: add it, or correct (aorist.v1.answered_by)"
                )
            if shape.request.DESCRIPTOR.full_name not in view.queries:
                raise MisdeclaredError(
                    f"{view.place}: has no handler for {shape.method.full_name}: add one that takes {shape.request.__name__}"
                )
            if view.schema.topic.name != queries.schema.topic.name:
                raise MisdeclaredError(
                    f"{queries.place}: routes by topic {queries.schema.topic.name}, but {view.place} folds {view.schema.topic.name}: "
                    "name the same envelope in both"
                )
    _check_served(project)


def _check_served(project: Project) -> None:
    served = {shape.request.DESCRIPTOR.full_name for queries in project.queries for shape in queries.shapes}
    for view in project.views.values():
        for request, query in view.queries.items():
            if request not in served:
                service = query.shape.method.containing_service.full_name
                raise MisdeclaredError(
                    f"{view.place}: answers {query.shape.method.name}, but no file of role query_gateway serves {service}: add one with "
                    f'`Queries("{service}", events={view.schema.envelope.__name__})`'
                )
