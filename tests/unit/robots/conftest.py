"""Recordings of real arms, and a gateway to send to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.unit.robots.gateway_double import GatewayDouble

ROOT = Path(__file__).parents[3]


@pytest.fixture
def recording() -> Callable[[str], Path]:
    """Finds a recording by the first word of its name. Fails, rather than skips, where there is none."""
    folder = Path(os.environ.get("RECORDINGS") or ROOT.parent / "shared" / "robot-data").resolve()

    def find(robot: str) -> Path:
        found = sorted(folder.glob(f"{robot}*.csv.gz"))
        if len(found) != 1:
            pytest.fail(f"no recording {robot}*.csv.gz in {folder}: set RECORDINGS to the folder of recorded arms")
        return found[0]

    return find


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayDouble]:
    """Running; the test may end it and start it again."""
    double = GatewayDouble()
    await double.start()
    yield double
    await double.kill()
