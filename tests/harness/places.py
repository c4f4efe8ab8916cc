"""Where things are, and how long tests wait for what must happen."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AORIST = Path(sys.executable).with_name("aorist")

PATIENCE_S = 60.0
"""Reached only by a test that fails."""

KUKA, STAUBLI = "kuka-kr300-r2500_runs-A-B-C_250Hz", "staubli-tx40_5kHz"
TIAGO, UR5E = "tiago-arm_joint-positions_100Hz", "ur5e_rtde-standstill_10Hz"


def recordings() -> dict[str, Path]:
    """The four recordings by name without ending. Fails the test that asks where they are missing."""
    folder = Path(os.environ.get("RECORDINGS") or ROOT.parent / "shared" / "robot-data")
    found = {name: folder / f"{name}.csv.gz" for name in (KUKA, STAUBLI, TIAGO, UR5E)}
    missing = [path.name for path in found.values() if not path.is_file()]
    if missing:
        pytest.fail(
            f"{folder} lacks recordings of real arms ({', '.join(missing)}): put them there, "
            "or name the folder that has them: RECORDINGS=/path make test"
        )
    return found


def clean_environment(**variables: str) -> dict[str, str]:
    """That of the test run without settings of aorist, and with `variables`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AORIST_")}
    cache = {name: os.environ[name] for name in ("AORIST_CACHE",) if name in os.environ}
    return inherited | cache | variables
