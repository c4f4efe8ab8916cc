"""Named places in the protocol where a test ends the process as `kill -9` does.

    AORIST_FAILPOINTS="after_rows=3"    dies the third time rows have become durable

Without the variable `failpoint` is a function that does nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from aorist.errors import SettingError

STEPS = ("after_append", "after_poll", "after_apply", "after_rows", "after_checkpoint", "after_commit")
QUARANTINE_STEPS = ("after_parked", "after_skipped", "after_replayed", "after_released")
NAMES = STEPS + QUARANTINE_STEPS


def parse(text: str) -> dict[str, int]:
    """Name -> at which passing to die, from 1. Raises SettingError."""
    left: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, count = part.partition("=")
        if name not in NAMES or not count.isdigit() or int(count) < 1:
            raise SettingError(
                f"AORIST_FAILPOINTS: `{part}`: write NAME=COUNT, with a NAME of {', '.join(NAMES)} and a COUNT from 1"
            )
        left[name] = int(count)
    return left


def _nothing(name: str) -> None:
    """Off."""


def _deadly(left: dict[str, int]) -> Callable[[str], None]:
    def failpoint(name: str) -> None:
        if name in left:
            left[name] -= 1
            if left[name] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return failpoint


_armed = parse(os.environ.get("AORIST_FAILPOINTS", ""))
failpoint: Callable[[str], None] = _deadly(_armed) if _armed else _nothing
