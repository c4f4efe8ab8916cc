"""A worker that has to catch up and is asked meanwhile, and takes a snapshot meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import NamedTuple

from aorist.settings import Settings
from bench.load import Load, Running, run
from bench.measure import Aim, Line, NotMeasuredError, Outcome, percentile
from bench.rig import Filled, Rig
from bench.status import Worker

HOW = (
    "A worker on a backlog (six axes) catches up at full speed while a gateway on the same core passes it 300 queries a second; after some "
    "seconds it takes the checkpoint that is due. Fold rate and query latency before and while it is taken, seen from outside through "
    "StatusService 50 times a second. Limits: the fold before the checkpoint; queries to the same worker once it has caught up."
)
RATE = 300.0
LOOK_S = 0.02
KNOWN = 1_000
"""Arms that are asked for: the first of each partition."""


class Look(NamedTuple):
    at_s: float
    folded: int
    least: int
    dirty: Sequence[int]
    checkpoints: Sequence[int]


class Round(NamedTuple):
    """Of one worker on one backlog. Rates per second, times in ms unless said otherwise."""

    rate_before: float
    rate_during: float
    checkpoint_s: float
    keys: int
    catchup_p50: float
    catchup_p99: float
    during_p99: float
    idle_p50: float
    idle_p99: float
    peak_mib: float
    rss_mib: float
    budget_mib: float


def measure(rig: Rig) -> Outcome:
    keys, events = (25_000, 1_400_000) if rig.quick else (100_000, 2_500_000)
    filled = rig.filled("catchup", events=events, arms=keys, axes=6)
    rounds: list[Round] = []
    outcome = Outcome()
    for number in rig.rounds():
        try:
            rounds.append(_round(rig, filled, keys, number))
        except NotMeasuredError as error:
            outcome.notes.append(f"round {number + 1} was not measured: {error}")
    if not rounds:
        raise NotMeasuredError("; ".join(outcome.notes))
    outcome.lines = _lines(rounds)
    return outcome


def _lines(rounds: Sequence[Round]) -> list[Line]:
    def of(name: str) -> list[float]:
        return [float(getattr(one, name)) for one in rounds]

    idle = "caught up"
    keys = f"{rounds[0].keys:,} changed keys"
    return [
        Line("query p50 during catch-up", "ms", of("catchup_p50"), of("idle_p50"), idle, less_is_better=True),
        Line("... p99", "ms", of("catchup_p99"), of("idle_p99"), idle, less_is_better=True, aim=Aim(20, 5)),
        Line(
            f"fold while {keys} are snapshotted",
            "/s",
            of("rate_during"),
            of("rate_before"),
            "before",
            aim=Aim(0.5, 0.85, of_limit=True),
        ),
        Line("... query p99", "ms", of("during_p99"), of("idle_p99"), idle, less_is_better=True, aim=Aim(20, 10)),
        Line("... the checkpoint takes", "s", of("checkpoint_s")),
        Line("memory of that worker at most", "MiB", of("peak_mib")),
        Line("... caught up", "MiB", of("rss_mib")),
        Line("... of it, what events not folded yet may take (fetch_memory_mb)", "MiB", of("budget_mib")),
    ]


def _round(rig: Rig, filled: Filled, keys: int, number: int) -> Round:
    interval_s = 2.0 if rig.quick else 4.0
    environ = {
        "AORIST_ETCD_PREFIX": f"/{filled.topic}-{number}",
        "AORIST_KEYSPACE": rig.new_keyspace(),
        "AORIST_CHECKPOINT_INTERVAL_S": str(interval_s),
    }
    with ExitStack() as stack:
        gateway = stack.enter_context(rig.child("role", "query-gateway", filled.topic, environ=environ))
        address = gateway.line("ready")
        worker = stack.enter_context(rig.child("role", "materializer", filled.topic, environ=environ))
        status = stack.enter_context(Worker(worker.line("ready")))
        looks = stack.enter_context(_looking(status))
        _wait(lambda: bool(looks) and looks[-1].least > KNOWN // 4, "the first events to be folded")
        load = Load("get", 16, 2, warm_s=0.2, measured_s=interval_s * 2.5, arms=KNOWN, rate=RATE, samples=True)
        busy = Running(address, load, rig.cores).served()
        _wait(lambda: looks[-1].folded >= filled.events, "the end of the backlog")
        idle = run(address, Load("get", 16, 2, 0.3, 1.0 if rig.quick else 2.0, arms=KNOWN, rate=RATE), rig.cores, [])
        peak_mib, rss_mib = worker.peak_bytes() / 2**20, worker.rss_bytes() / 2**20
    began, ended = _checkpoint(looks)
    end = next(look.at_s for look in looks if look.folded >= filled.events)
    if end < ended:
        raise NotMeasuredError(f"the backlog ended {ended - end:.1f} s before the checkpoint did")
    catchup = [ms for at, ms in busy.samples if at < began]
    during = [ms for at, ms in busy.samples if began <= at < ended]
    return Round(
        _rate(looks, looks[0].at_s, began),
        _rate(looks, began, ended),
        ended - began,
        keys,
        percentile(catchup, 0.5),
        percentile(catchup, 0.99),
        percentile(during, 0.99),
        idle.p50_ms,
        idle.p99_ms,
        peak_mib,
        rss_mib,
        Settings().fetch_memory_mb,
    )


@contextmanager
def _looking(status: Worker) -> Iterator[list[Look]]:
    looks: list[Look] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_S):
            shards = status.shards()
            offsets = [shard.offset + 1 for shard in shards]
            dirty, taken = [s.dirty_keys for s in shards], [s.checkpoint_offset for s in shards]
            looks.append(Look(time.time(), sum(offsets), min(offsets, default=0), dirty, taken))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield looks
    finally:
        ended.set()
        thread.join()


def _checkpoint(looks: Sequence[Look]) -> tuple[float, float]:
    """When the first checkpoint began (the changed keys of a shard are taken away) and ended (each shard has one)."""
    began = next((after.at_s for before, after in pairwise(looks) if _fewer_dirty(before, after)), None)
    ended = next((look.at_s for look in looks if look.checkpoints and min(look.checkpoints) >= 0), None)
    if began is None or ended is None:
        raise NotMeasuredError("no checkpoint of all shards was seen")
    return began, ended


def _fewer_dirty(before: Look, after: Look) -> bool:
    return any(x > y for x, y in zip(before.dirty, after.dirty, strict=False))


def _rate(looks: Sequence[Look], since: float, until: float) -> float:
    within = [look for look in looks if since <= look.at_s <= until]
    if len(within) < 2:
        raise NotMeasuredError("too short to be seen")
    return (within[-1].folded - within[0].folded) / (within[-1].at_s - within[0].at_s)


def _wait(done: Callable[[], bool], what: str, timeout_s: float = 90) -> None:
    until = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > until:
            raise NotMeasuredError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(LOOK_S)
