"""The CLI, run in this repository against a gateway of the test's own."""

from __future__ import annotations

import logging
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner, Result

from aorist.cli.main import aorist
from tests.unit.cli.double import Arms, Gateway, Server

ROOT = Path(__file__).parents[3]


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    served = Gateway(Arms())
    yield served
    served.stop()


@pytest.fixture
def arms(gateway: Gateway) -> Arms:
    return gateway.arms


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this repository, with nothing set from outside."""
    monkeypatch.chdir(ROOT)
    for name in [name for name in os.environ if name.startswith("AORIST_") or name == "FORCE_COLOR"]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture
def run() -> Callable[..., Result]:
    """Runs `aorist` with these arguments."""

    def run(*arguments: str, **environ: str) -> Result:
        return CliRunner(env=environ).invoke(aorist, list(arguments), prog_name="aorist")

    return run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    double = Server()
    module: Any = types.ModuleType("aorist.app")
    for role in ("dev", "command_gateway", "query_gateway", "materializer"):
        setattr(module, f"serve_{role}", getattr(double, f"serve_{role}"))
    monkeypatch.setitem(sys.modules, "aorist.app", module)
    return double
