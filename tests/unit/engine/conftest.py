"""A rig for each test, on a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.engine.rig import Rig
from tests.unit.engine.rig import rig as make
from tests.unit.engine.views import count_view


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """With the counting view."""
    with make(tmp_path, count_view()) as made:
        yield made
