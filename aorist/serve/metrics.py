"""Metrics: what each is called and means, and where its values are read when somebody asks for them.

Nothing is measured for them: shards are looked at when scraped, without their locks, and what is counted is a plain number. They are
served by `aorist.serve.scraping`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from aorist.engine.materializer import Materializer
from aorist.engine.ownership import Owner
from aorist.engine.shard import Phase, Shard
from aorist.serve.readiness import Readiness
from aorist.serve.routing import Router
from aorist.serve.transport import Listener

SHARD = ("view", "partition")
ROLES = ("OWNER", "STANDBY")
PHASES = tuple(phase.value for phase in Phase if phase is not Phase.CLOSED)
WORKER, GATEWAY, ANY = "materializer", "query gateway", "any"


class Metric(NamedTuple):
    """As it is documented. A counter's name ends in `_total`, a summary is a count and a sum. `where`: which processes have it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    where: str
    doc: str


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("aorist_ready", "gauge", (), WORKER, "1 while gRPC health says SERVING, else 0."),
        Metric("aorist_shard_role", "gauge", (*SHARD, "role"), WORKER, "1 for the role that the shard has, 0 for others."),
        Metric("aorist_shard_phase", "gauge", (*SHARD, "phase"), WORKER, "1 for the phase that it is in, 0 for others."),
        Metric("aorist_shard_position", "gauge", SHARD, WORKER, "Offset of the last event folded, -1: none."),
        Metric("aorist_shard_lag_events", "gauge", SHARD, WORKER, "Events known to be ahead in the log."),
        Metric("aorist_shard_lag_seconds", "gauge", SHARD, WORKER, "How old an answer may be. Ages while the log is away."),
        Metric("aorist_shard_keys", "gauge", SHARD, WORKER, "Keys in memory."),
        Metric("aorist_shard_changed_keys", "gauge", SHARD, WORKER, "Keys changed since the last checkpoint."),
        Metric("aorist_shard_quarantined_keys", "gauge", SHARD, WORKER, "Keys parked with an event that cannot be folded."),
        Metric("aorist_shard_checkpoint_position", "gauge", SHARD, WORKER, "Last offset in it. Absent: there is none."),
        Metric("aorist_shard_checkpoint_age_seconds", "gauge", SHARD, WORKER, "Time since it was taken. Absent: there is none."),
        Metric("aorist_unknown_events_total", "counter", SHARD, WORKER, "Events of types unknown here, passed over."),
        Metric("aorist_takeovers_total", "counter", ("kind",), WORKER, "Shards claimed: free, planned, suspected."),
        Metric("aorist_checkpoint_duration_seconds", "summary", (), WORKER, "Time that checkpoints took that wrote something."),
        Metric("aorist_checkpoint_failures_total", "counter", (), WORKER, "Checkpoints that the store did not take."),
        Metric("aorist_calls_total", "counter", ("request", "reason"), ANY, "Calls ended: OK, or the reason of the error."),
        Metric("aorist_stream_items_total", "counter", ("request", "outcome"), "command gateway", "Of command streams: accepted, refused."),
        Metric("aorist_view_partitions", "gauge", ("view",), GATEWAY, "Partitions declared: shards of the build that answers."),
        Metric("aorist_view_owned_partitions", "gauge", ("view",), GATEWAY, "Of those, how many a member owns."),
        Metric("aorist_members", "gauge", (), GATEWAY, "Processes that can own shards, by the registry."),
    )
}  # fmt: skip


class Value(NamedTuple):
    """Of one metric now. `total`: of a summary, what its `value` things add up to."""

    metric: str
    labels: tuple[str, ...]
    value: float
    total: float = 0.0


Source = Callable[[], Iterable[Value]]
"""Called from another thread than the loop's."""


def of_worker(owner: Owner, materializer: Materializer, readiness: Readiness) -> Source:
    """Of the shards that a process holds, and of what it does with them."""

    def read() -> Iterator[Value]:
        yield Value("aorist_ready", (), not readiness.problems)
        for shard in materializer.shards.copy().values():
            yield from _shard(shard)
        for kind, count in owner.takeovers.items():
            yield Value("aorist_takeovers_total", (kind,), count)
        taken = materializer.checkpointer
        yield Value("aorist_checkpoint_duration_seconds", (), taken.taken, taken.taken_s)
        yield Value("aorist_checkpoint_failures_total", (), taken.failed)

    return read


def _shard(shard: Shard) -> Iterator[Value]:
    name, lag, checkpoint = (shard.name.view, str(shard.name.partition)), shard.lag(), shard.checkpoint
    for role in ROLES:
        yield Value("aorist_shard_role", (*name, role), role == (ROLES[0] if shard.owned else ROLES[1]))
    for phase in PHASES:
        yield Value("aorist_shard_phase", (*name, phase), phase == shard.phase)
    yield Value("aorist_shard_position", name, shard.next_offset - 1)
    yield Value("aorist_shard_lag_events", name, lag.events)
    yield Value("aorist_shard_lag_seconds", name, lag.ms / 1000)
    yield Value("aorist_shard_keys", name, len(shard.entries))
    yield Value("aorist_shard_changed_keys", name, len(shard.dirty))
    yield Value("aorist_shard_quarantined_keys", name, len(shard.parked))
    if checkpoint is not None:
        yield Value("aorist_shard_checkpoint_position", name, checkpoint.next_offset - 1)
        yield Value("aorist_shard_checkpoint_age_seconds", name, max(0.0, time.time() - checkpoint.time_us / 1e6))
    yield Value("aorist_unknown_events_total", name, shard.unknown_events)


def of_listener(listener: Listener) -> Source:
    """Of the calls to one address."""

    def read() -> Iterator[Value]:
        for (metric, request), counts in listener.counts.copy().items():
            for outcome, count in counts.copy().items():
                yield Value(metric, (request, outcome), count)

    return read


def of_router(router: Router, partitions: Mapping[str, int]) -> Source:
    """Of the whole system, as its registry has it: also when no process is left to tell of itself. `partitions`: of each view."""

    def read() -> Iterator[Value]:
        ownership = router.ownership
        yield Value("aorist_members", (), len(ownership.members))
        for view, count in partitions.items():
            answering = ownership.answers(view)
            owned = [
                shard
                for shard, claim in ownership.claims.items()
                if (shard.view, claim.member in ownership.members) == (answering, True)
            ]
            yield Value("aorist_view_partitions", (answering,), count)
            yield Value("aorist_view_owned_partitions", (answering,), len(owned))

    return read
