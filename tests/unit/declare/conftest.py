"""A project on the disk for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.declare.things import Things


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Things:
    return Things(tmp_path, monkeypatch)
