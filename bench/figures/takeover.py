"""Owners that are killed, stopped, join and stand still, and what clients see of it, beside the least that a takeover can take."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from statistics import median

import uvloop

from aorist.position import partition_of
from aorist.v1.read_pb2 import ON_STALE_FAIL, ON_STALE_RETURN, OnStale
from bench.asking import Asking, Seen
from bench.fill import PARTITIONS
from bench.fleet import MEMBERS, Fleet
from bench.machine import on_cores
from bench.measure import Aim, Line, Outcome, percentile
from bench.rig import ROUNDS, Rig
from fleet.arms.v1.queries_pb2_grpc import ArmQueryServiceStub
from tests.cluster.load import Load
from tests.cluster.oracle import untrue
from tests.cluster.plain import kafka_events
from tests.harness.client import channel_to
from tests.harness.log_file import LogFile

HOW = (
    "Three `aorist materializer`, each shard with one warm standby, and both gateways on one core, under some 350 commands a second. On "
    "connections of their own clients ask for a key of each of the victim's shards all the time, each call for what was acknowledged last "
    "of it, with the gateway's own patience. Told is, of each shard, the time from the signal to the first answer of the next owner (of "
    "a higher epoch, as fresh as asked); of a handover the longest time without an owner's answer. Limit: a stream to the victim breaks, "
    "one transaction of etcd, one partition more for a consumer that runs."
)
ARMS_A_SHARD = 2
CONNECTIONS = 2

ENDING_S = 30.0
"""Of a figure's time: to hold all answers against the log, and to stop everything."""

MODES = {ON_STALE_FAIL: "on_stale FAIL", ON_STALE_RETURN: "on_stale RETURN"}


@dataclass(frozen=True)
class Plan:
    """Of a round, in this order. Ends before, but for one of each, when the round has had its time."""

    raws: int
    handovers: int
    stills: int
    kills: int


QUICK, FULL = Plan(raws=4, handovers=1, stills=1, kills=5), Plan(raws=8, handovers=8, stills=2, kills=100)


@dataclass
class Round:
    """What was seen of each."""

    raw: dict[str, list[float]] = field(default_factory=dict)
    stops: list[Seen] = field(default_factory=list)
    joins: list[Seen] = field(default_factory=list)
    stills: list[Seen] = field(default_factory=list)
    kills: dict[OnStale.ValueType, list[Seen]] = field(default_factory=lambda: {mode: [] for mode in MODES})

    @property
    def killed(self) -> list[Seen]:
        return [seen for kills in self.kills.values() for seen in kills]


def measure(rig: Rig) -> Outcome:
    with on_cores(rig.cores.load):  # where clients are
        return uvloop.run(_measure(rig))


async def _measure(rig: Rig) -> Outcome:
    topic, reporting = rig.topic("takeover"), _arms("arm", ARMS_A_SHARD)
    async with AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(Fleet(rig, topic))
        await fleet.settled()
        load = Load(
            topic,
            reporting=[arm for arms in reporting for arm in arms],
            commands=fleet.commands,
            queries=fleet.queries,
            streaming=[arm for arms in _arms("streaming", 1) for arm in arms],
        )
        async with load:
            await load.progress()
            channels = [await stack.enter_async_context(channel_to(fleet.queries)) for _ in range(CONNECTIONS)]
            stubs = [ArmQueryServiceStub(channel) for channel in channels]
            trial = Trial(
                rig, fleet, lambda shards, mode: Asking(load, stubs, {s: reporting[s][0] for s in shards}, mode)
            )
            began, left_s = time.monotonic(), rig.ends - ENDING_S - time.monotonic()
            rounds = [await trial.round(began + left_s * number / ROUNDS) for number in range(1, ROUNDS + 1)]
        log = LogFile(*await asyncio.to_thread(kafka_events, rig.kafka, topic, PARTITIONS), [], {}, {}, 0)
    return Outcome([*_lines(rounds), _truth(load, log)], _notes(rounds, load))


def _arms(name: str, count: int) -> list[list[str]]:
    """So many of each shard."""
    found: list[list[str]] = [[] for _ in range(PARTITIONS)]
    for number in itertools.count():
        arm = f"{name}-{number:02d}"
        arms = found[partition_of(arm.encode(), PARTITIONS)]
        if len(arms) < count:
            arms.append(arm)
        elif all(len(arms) == count for arms in found):
            break
    return found


class Trial:
    """What is done to owners, one at a time, each in turn. All are settled again when a method returns."""

    def __init__(self, rig: Rig, fleet: Fleet, asking: Callable[[Sequence[int], OnStale.ValueType], Asking]) -> None:
        """`asking`: clients of these shards."""
        self._rig, self._fleet, self._asking = rig, fleet, asking
        self._plan = QUICK if rig.quick else FULL
        self._victims = itertools.cycle(MEMBERS)
        self._modes = itertools.cycle(MODES)

    async def round(self, until: float) -> Round:
        """`until`: `time.monotonic()`, when it should be over."""
        seen, plan = Round(), self._plan

        def goes_on(number: int) -> bool:
            return not number or time.monotonic() < until

        seen.raw = await self._raw(plan.raws)
        for _ in filter(goes_on, range(plan.handovers)):
            stop, join = await self._hand_over(next(self._victims))
            seen.stops.append(stop)
            seen.joins.append(join)
        for _ in filter(goes_on, range(plan.stills)):
            seen.stills.append(await self._stand_still(next(self._victims)))
        for _ in filter(goes_on, range(plan.kills)):
            mode = next(self._modes)
            seen.kills[mode].append(await self._kill(next(self._victims), mode))
        return seen

    async def _raw(self, times: int) -> dict[str, list[float]]:
        with self._rig.child("raw_takeover", self._fleet.topic, times) as child:
            return await asyncio.to_thread(child.result, 60)

    async def _kill(self, victim: str, mode: OnStale.ValueType) -> Seen:
        async with self._asking(self._fleet.owned_by(victim), mode) as asking:
            at_s = time.monotonic()
            self._fleet.signal(victim, SIGKILL)
            await asking.moved()
        await self._fleet.bury(victim)
        await self._fleet.start(victim)
        await self._fleet.settled()
        return asking.since(at_s)

    async def _hand_over(self, victim: str) -> tuple[Seen, Seen]:
        """It leaves, and joins again: what was seen of both."""
        shards = self._fleet.owned_by(victim)
        async with self._asking(shards, ON_STALE_FAIL) as leaving:
            self._fleet.signal(victim, SIGTERM)
            await leaving.moved()
        await self._fleet.bury(victim)
        async with self._asking(shards, ON_STALE_FAIL) as joining:
            await self._fleet.start(victim)
            await joining.moved()
        await self._fleet.settled()
        return leaving.gaps(), joining.gaps()

    async def _stand_still(self, victim: str) -> Seen:
        async with self._asking(self._fleet.owned_by(victim), ON_STALE_FAIL) as asking:
            at_s = time.monotonic()
            self._fleet.signal(victim, SIGSTOP)
            try:
                await asking.moved()
            finally:
                self._fleet.signal(victim, SIGCONT)
        await self._fleet.settled()
        return asking.since(at_s)


# --- what is told of it ---


def _lines(rounds: Sequence[Round]) -> list[Line]:
    kills = [r.killed for r in rounds]
    raw = [r.raw["taken"] for r in rounds]
    gap_aims = (None, Aim(50, 10))
    return [
        *_times("kill -9 of an owner, next fresh answer", _shards(kills), (Aim(150, 30), Aim(500, 150)), raw),
        *_times("... all shards of that owner", [[max(s.shards_ms) for s in seen] for seen in kills])[:2],
        *(
            line
            for mode, name in MODES.items()
            for line in (
                _share(f"... failed calls, {name}", [r.kills[mode] for r in rounds], lambda seen: seen.failed),
                _share("... by a standby or called stale", [r.kills[mode] for r in rounds], lambda seen: seen.weak),
            )
        ),
        *_times("stop of an owner, longest gap", _shards([r.stops for r in rounds]), gap_aims),
        _share("... failed calls", [r.stops for r in rounds], lambda seen: seen.failed, Aim(0, 0)),
        *_times("join of a better place, longest gap", _shards([r.joins for r in rounds]), gap_aims),
        _share("... failed calls", [r.joins for r in rounds], lambda seen: seen.failed, Aim(0, 0)),
        *_times("SIGSTOP of an owner, next fresh answer", _shards([r.stills for r in rounds])),
        _share("... failed calls", [r.stills for r in rounds], lambda seen: seen.failed),
    ]


def _shards(rounds: Sequence[Sequence[Seen]]) -> list[list[float]]:
    return [[ms for seen in one for ms in seen.shards_ms] for one in rounds]


def _times(
    name: str,
    rounds: Sequence[Sequence[float]],
    aims: tuple[Aim | None, Aim | None] = (None, None),
    raw: Sequence[Sequence[float]] = (),
) -> list[Line]:
    """p50, p99 and the worst of each round."""
    names = (f"{name}, p50", 0.5, aims[0]), ("... p99", 0.99, aims[1]), ("... worst", 1.0, None)
    return [
        Line(
            line,
            "ms",
            [percentile(times, share) for times in rounds],
            [percentile(times, share) for times in raw],
            "raw",
            less_is_better=True,
            aim=aim,
        )
        for line, share, aim in names
    ]


def _share(name: str, rounds: Sequence[Sequence[Seen]], count: Callable[[Seen], int], aim: Aim | None = None) -> Line:
    """Of all calls of all rounds, in per cent: a failure in one round is not made good by none in two others."""
    seen = [one for seen in rounds for one in seen]
    asked = sum(one.asked for one in seen)
    return Line(name, "%", [100 * sum(map(count, seen)) / asked] if asked else [], less_is_better=True, aim=aim)


def _truth(load: Load, log: LogFile) -> Line:
    wrong = len(load.older) + len(load.lower) + len(untrue(log, load.told)) + len(load.lost(log))
    unknown = sum(failure.code.name == "NOT_FOUND" for failure in load.failures)
    return Line(
        "answers too old or untrue, events lost", "in all", [wrong + unknown], less_is_better=True, aim=Aim(0, 0)
    )


def _notes(rounds: Sequence[Round], load: Load) -> list[str]:
    killed = [seen for r in rounds for seen in r.killed]
    (times,) = _shards([killed])
    told = ", ".join(
        f"{name} {percentile(times, share):.0f}" for name, share in (("p50", 0.5), ("p99", 0.99), ("worst", 1))
    )
    raw = {what: median(ms for r in rounds for ms in r.raw[what]) for what in rounds[0].raw}
    return [
        f"{len(killed)} kills, {len(times)} shards that changed owners: {told} ms",
        *(f"{name}: {_sum([s for r in rounds for s in r.kills[mode]])}" for mode, name in MODES.items()),
        f"stops: {_sum([s for r in rounds for s in r.stops])}; joins: {_sum([s for r in rounds for s in r.joins])}",
        "limit, median: " + ", ".join(f"{what} after {ms:.1f} ms" for what, ms in raw.items()),
        f"held against the log: {load.summary()}",
    ]


def _sum(seen: Sequence[Seen]) -> str:
    asked, failed, weak = (sum(getattr(one, name) for one in seen) for name in ("asked", "failed", "weak"))
    return f"of {asked} calls {failed} failed, {weak} were answered by a standby or as stale"
