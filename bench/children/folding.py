"""What the two folds have in common: the same waiting, the same clocks, the same report."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from aorist.app import COLLECT_AFTER
from bench.machine import cpu_s, rss_bytes

PATIENCE_S = 120
FROM = 0.05
"""The share of the backlog after which it is measured: connecting is left out."""


class Moment(NamedTuple):
    at_s: float
    cpu_s: float
    events: int


def moment(events: int) -> Moment:
    return Moment(time.perf_counter(), cpu_s(), events)


def report(began: Moment, ended: Moment, rss_before: int, **more: float) -> None:
    print(
        json.dumps(
            {
                "events": ended.events - began.events,
                "seconds": ended.at_s - began.at_s,
                "cpu_s": ended.cpu_s - began.cpu_s,
                "rss_before": rss_before,
                "rss_after": rss_bytes(),
                **more,
            }
        ),
        flush=True,
    )


def collect_as_ours() -> None:
    """For limits: garbage is looked for as rarely as a process of aorist does."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def rss_at_rest() -> int:
    gc.collect()
    return rss_bytes()


def brokers() -> str:
    return os.environ["AORIST_KAFKA"]


def follow(count: Callable[[], int], events: int, rest: Callable[[float], None] = time.sleep) -> tuple[Moment, Moment]:
    """Looks on while another thread folds `events` events."""
    until, began = time.monotonic() + PATIENCE_S, None
    while (seen := count()) < events:
        if began is None and seen >= events * FROM:
            began = moment(seen)
        if time.monotonic() > until:
            raise TimeoutError(f"{seen} of {events} events in {PATIENCE_S} s")
        rest(0.002)
    assert began is not None, "too few events to measure"
    return began, moment(events)
