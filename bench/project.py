"""The project at the root of this repository, as measurements serve it: on topics of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from aorist.declare import Project, load_project
from aorist.declare.view import View

ROOT = Path(__file__).parents[1]
VIEW = "arm_position"


def project_on(topic: str, root: Path = ROOT) -> Project:
    """Everything as declared, but for the name of the topic: each figure finds there what it has put there, and nothing else."""
    project = load_project(root)
    declared: list[Any] = [*project.commands, *project.queries, *project.views.values()]
    for one in declared:
        one.schema = replace(one.schema, topic=replace(one.schema.topic, name=topic))
    return project


def view_on(topic: str, name: str = VIEW) -> View[Any]:
    return project_on(topic).views[name]
