"""Poison events while robots send and readers ask: only their keys are parked, whoever owns them, and nothing is lost.

The fold is broken for a position that no robot of the load is ever at. Owners die while keys are parked and right after one was released.
"""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64decode
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import grpc
from click.testing import CliRunner, Result

from aorist.cli.main import aorist
from aorist.v1.position_pb2 import Position
from aorist.v1.read_pb2 import ON_STALE_FAIL, ON_STALE_RETURN, ReadOptions
from aorist.v1.status_pb2 import GetStatusRequest
from aorist.v1.status_pb2_grpc import StatusServiceStub
from fleet.arms.v1.commands_pb2 import ReportJointPositionsRequest
from fleet.arms.v1.commands_pb2_grpc import ArmCommandServiceStub
from fleet.arms.v1.events_pb2 import JointPositionsChanged
from fleet.arms.v1.queries_pb2 import ArmPosition, GetArmPositionRequest, GetArmPositionResponse
from fleet.arms.v1.queries_pb2_grpc import ArmQueryServiceStub
from tests.chaos.counting import counted
from tests.cluster.load import REPORTING, WAIT_MS, Load, check_final
from tests.cluster.oracle import DEADLINE_S
from tests.cluster.system import Cluster, Process, owners, status, until_owned, until_status
from tests.harness.client import BASE_US, channel_to, refused, sample
from tests.harness.log_file import Fold
from tests.harness.places import PATIENCE_S

OWNER, OTHER = "ada", "finn"
"""The first owns the partition of the doomed beside the second, which owns some, too."""

POISON = 0.625
BROKEN = {"TESTED_POISON": str(POISON)}

DOOMED = ("doomed-0", "doomed-2", "doomed-3")
"""Arms that are all in one partition."""

SELDOM = {"AORIST_CHECKPOINT_INTERVAL_S": "600"}

SKIPPED = 1_000_000
"""Number of a sample that nobody else sends."""


@dataclass
class Arms:
    """Those whose events are poison, and who asks for them. What is acknowledged goes to the load's oracle."""

    load: Load
    next: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    async def report(self, arm: str, position: float = 0.5, number: int | None = None) -> Position:
        number = self.next[arm] if number is None else number
        self.next[arm] = number + 1
        async with channel_to(self.load.commands) as channel:
            request = ReportJointPositionsRequest(sample=sample(arm, number, position))
            at = (await ArmCommandServiceStub(channel).ReportJointPositions(request, timeout=DEADLINE_S)).position
        self.load.acknowledge(arm, number, {at.partition: at.offset})
        return at

    async def begin(self, *arms: str) -> None:
        """A harmless event of each. What is listed of their partition may be old from now on."""
        partitions = {(await self.report(arm)).partition for arm in arms}
        assert {owners(await status(self.load.queries))[partition] for partition in partitions} == {OWNER}
        self.load.parked |= partitions

    async def poison(self, arm: str, number: int | None = None) -> list[Position]:
        """An event that cannot be folded, and one behind it."""
        return [await self.report(arm, POISON, number), await self.report(arm)]

    async def get(self, arm: str, *at_least: Position, **read: Any) -> GetArmPositionResponse:
        asked = ReadOptions(at_least=at_least, **{"max_wait_ms": WAIT_MS} | read)
        async with channel_to(self.load.queries) as channel:
            request = GetArmPositionRequest(arm_id=arm, read=asked)
            return await ArmQueryServiceStub(channel).GetArmPosition(request, timeout=DEADLINE_S)

    async def check_parked(self, arm: str, first: Position, last: Position, events: int = 1) -> None:
        """At or past the event there is a reason; else the state before it, which says so."""
        for wanted in (
            self.get(arm, first),  # waits until it is folded, or parked
            self.get(arm, last),
            self.get(arm, last, on_stale=ON_STALE_RETURN),
            self.get(arm, on_stale=ON_STALE_FAIL),
        ):
            refusal = await refused(wanted)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "QUARANTINED"), refusal
        before = await self.get(arm)
        assert before.arm.axes[0].position == events
        assert (before.header.stale, before.header.position.offset) == (True, first.offset - 1)

    async def check_free(self, arm: str, last: Position, events: int) -> None:
        answer = await self.get(arm, last)
        assert (answer.arm.axes[0].position, answer.header.stale) == (events, False)

    async def quarantine(self, *arguments: str) -> Result:
        """The command line."""
        command = ["quarantine", *arguments, "--address", self.load.queries, "--timeout", str(PATIENCE_S)]
        return await asyncio.to_thread(CliRunner().invoke, aorist, command, prog_name="aorist")

    async def until_parked(self, *arms: str) -> None:
        """All workers say that just these are: also none that has died and is not known to be gone yet."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            listed = await self.quarantine("list", "--json")
            found = [b64decode(key["key"]).decode() for key in json.loads(listed.stdout).get("keys", [])]
            if listed.exit_code == 0 and found == list(arms):
                return
            assert time.monotonic() < give_up, f"not within {PATIENCE_S:g} s: {arms} parked; {listed.output}"
            await asyncio.sleep(0.05)

    async def queue(self, arm: str) -> list[tuple[int, str, bool]]:
        """Offset, state, and whether it is told why the fold failed, of all that is held back of an arm."""
        shown = await self.quarantine("show", arm)
        assert shown.exit_code == 0, shown.output
        events = json.loads(shown.stdout)["events"]
        return [(int(e["offset"]), e["state"], "raised ArithmeticError: poison" in e["reason"]) for e in events]

    async def replay_in_vain(self, arm: str) -> None:
        ran = await self.quarantine("replay", arm)
        assert ran.exit_code == 1
        assert "raised ArithmeticError: poison" in ran.stdout, ran.output

    async def replay(self, arm: str) -> None:
        ran = await self.quarantine("replay", arm)
        assert (ran.exit_code, ran.stdout) == (0, f"{arm} is free: all its events are folded\n"), ran.output

    async def skip(self, arm: str, at: Position) -> None:
        ran = await self.quarantine("skip", arm, "--offset", str(at.offset), "--why", "a test")
        assert (ran.exit_code, ran.stdout) == (0, f"{arm} is free: all its events are folded\n"), ran.output


def without_skipped(events: list[JointPositionsChanged]) -> ArmPosition:
    return counted([event for event in events if event.sampled_at_us != BASE_US + SKIPPED])


async def test_only_the_key_is_parked_whoever_owns_it_and_nothing_is_lost(cluster: Cluster) -> None:
    gateway, asked = cluster.gateways()
    # The second takes no checkpoint: what it knows of keys released elsewhere, it knows since it took them over.
    owner, other = cluster.materializer(OWNER, **BROKEN), cluster.materializer(OTHER, **BROKEN, **SELDOM)
    commands, queries, *_ = await asyncio.gather(*(role.ready() for role in (gateway, asked, owner, other)))
    count, (replayed, skipped, _) = cluster.partitions, DOOMED
    await until_owned(queries, count, OWNER, OTHER)
    try:
        async with Load(cluster.topic, commands=commands, queries=queries) as load:
            arms = Arms(load)
            await arms.begin(replayed, skipped)
            first, last = await arms.poison(replayed)
            poison, behind = await arms.poison(skipped, SKIPPED)
            await arms.check_parked(replayed, first, last)
            await arms.check_parked(skipped, poison, behind)
            await load.progress()
            await arms.until_parked(replayed, skipped)
            await arms.replay_in_vain(replayed)
            queue = await arms.queue(replayed)
            assert queue == [(first.offset, "PARKED", True), (last.offset, "PARKED", False)]

            owner.kill()  # the other has parked them as a standby
            await until_owned(queries, count, OTHER)
            assert await arms.queue(replayed) == queue
            await arms.until_parked(replayed, skipped)
            last = await arms.report(replayed)
            await arms.check_parked(replayed, first, last)
            queue.append((last.offset, "PARKED", False))
            await load.progress()

            owner = cluster.materializer(OWNER)  # mended; what it holds back it has from the store
            await owner.ready()
            await until_owned(queries, count, OWNER, OTHER)
            assert await arms.queue(replayed) == queue
            await arms.skip(skipped, poison)
            owner.kill()
            await until_owned(queries, count, OTHER)
            await arms.until_parked(replayed)
            await arms.check_free(skipped, behind, 2)
            await arms.check_parked(replayed, first, last)
            await load.progress()

            owner = cluster.materializer(OWNER)
            await owner.ready()
            await other.stop()
            await until_owned(queries, count, OWNER)
            await arms.replay(replayed)
            await arms.check_free(replayed, last, 4)
            await arms.until_parked()
            await load.progress()
        assert not load.failures, load.failures
        await check_end(cluster, load, without_skipped, owner, gateway, asked)
    except BaseException as error:
        error.add_note(cluster.told())
        raise


async def until_not_ready(address: str, problem: str) -> None:
    """A worker says so, with the reason: it looks once in a while."""
    give_up = time.monotonic() + PATIENCE_S
    async with channel_to(address) as channel:
        while True:
            now = await StatusServiceStub(channel).GetStatus(GetStatusRequest(), timeout=PATIENCE_S)
            if any(problem in told for member in now.members for told in member.problems):
                return
            assert time.monotonic() < give_up, f"not within {PATIENCE_S:g} s: {problem}; {now.members}"
            await asyncio.sleep(0.05)


async def check_end(cluster: Cluster, load: Load, fold: Fold, *roles: Process) -> None:
    """All answers were true, all arms are what the whole log makes, and so is what is left when all have stopped."""
    log = await cluster.log()
    load.check(log)
    await check_final(load, log, fold)
    for role in roles:
        await role.stop()
    log = await cluster.log()
    log.check_snapshots(fold)
    assert {p: saved.next_offset for p, saved in log.checkpoints.items()} == log.ends
    cluster.check_quiet()
    print(load.summary())  # noqa: T201


async def test_a_bad_deploy_halts_a_shard_and_says_so(cluster: Cluster) -> None:
    gateway, asked = cluster.gateways()
    broken = cluster.materializer(OWNER, **BROKEN, AORIST_MAX_QUARANTINED_KEYS="2")
    commands, queries = await gateway.ready(), await asked.ready()
    await broken.ready()
    count = cluster.partitions
    await until_owned(queries, count, OWNER)
    try:
        load = Load(cluster.topic, commands=commands, queries=queries)  # one oracle more: nobody sends by himself here
        arms = Arms(load)
        newest = {arm: await arms.report(arm) for arm in (*REPORTING, *DOOMED)}
        partition = newest[DOOMED[0]].partition
        firsts = {}
        for arm in DOOMED:
            firsts[arm], newest[arm] = await arms.poison(arm)
        shards = await until_status(queries, lambda now: any(s.phase == "HALTED" for s in now), "a shard that halts")
        (halted,) = (shard for shard in shards if shard.phase == "HALTED")
        assert (halted.partition, halted.offset) == (partition, firsts[DOOMED[2]].offset - 1)
        assert halted.quarantined_keys == 2
        assert "raised ArithmeticError: poison" in halted.problem
        assert "2 keys are parked already, as many as max_quarantined_keys allows" in halted.problem
        await until_not_ready(queries, halted.problem)
        await arms.until_parked(*DOOMED[:2])
        for arm in REPORTING:
            if newest[arm].partition != partition:
                await arms.check_free(arm, newest[arm], 1)
        assert (await refused(arms.get(DOOMED[2], newest[DOOMED[2]], max_wait_ms=0))).reason == "HALTED"

        await broken.stop()
        mended = cluster.materializer(OWNER)
        await mended.ready()
        await arms.check_free(DOOMED[2], newest[DOOMED[2]], 3)
        for arm in DOOMED[:2]:
            await arms.check_parked(arm, firsts[arm], newest[arm])
            await arms.replay(arm)
            await arms.check_free(arm, newest[arm], 3)
        await check_end(cluster, load, counted, mended, gateway, asked)
    except BaseException as error:
        error.add_note(cluster.told())
        raise
