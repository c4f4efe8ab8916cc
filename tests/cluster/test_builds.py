"""Two builds of one view on the real servers, under load: one takes the place of the other, goes back, comes again, and its owner dies.

Nobody's call fails, and no answer is untrue. A build that holds something else, or is not there, is not let in; nor is one that comes too
late for the log, unless it begins with the snapshots of the older one.
"""

from __future__ import annotations

import asyncio

from confluent_kafka import TopicPartition

from aorist.v1.read_pb2 import ROLE_OWNER, ROLE_STANDBY
from aorist.v1.status_pb2 import ShardStatus
from tests.cluster.load import REPORTING, Load, check_final
from tests.cluster.system import Cluster, until_status
from tests.cluster.test_lost_logs import admin, halted
from tests.cluster.witnesses import NewArms, Watches
from tests.harness.places import PATIENCE_S
from tests.integration.cli.system import Ran
from tests.integration.cli.test_roles import answers, report

OLD, NEW = ("ada", "finn"), ("cleo", "kim")


class Views:
    """`aorist view` at the gateway that the load asks."""

    def __init__(self, cluster: Cluster, queries: str) -> None:
        self._cluster, self._queries = cluster, queries

    async def ran(self, *arguments: str) -> Ran:
        return await asyncio.to_thread(
            self._cluster.run, "view", *arguments, "--address", self._queries, "--timeout", "60"
        )

    async def promote(self, build: int) -> None:
        done = await self.ran("promote", "arm_position", str(build))
        assert (done.code, f"build {build} of arm_position answers" in done.out) == (0, True), done

    async def rollback(self) -> None:
        done = await self.ran("rollback", "arm_position")
        assert done.code == 0, done

    async def refused(self, build: int, *reasons: str) -> None:
        done = await self.ran("promote", "arm_position", str(build))
        assert done.code == 1, done
        for reason in reasons:
            assert reason in done.err, done

    async def held(self, build: int, *members: str) -> None:
        """Each shard of the build is served by an owner and, if there are two members, by a standby."""

        def enough(shards: list[ShardStatus]) -> bool:
            found = sorted(
                (shard.partition, shard.role)
                for shard in shards
                if (shard.view, shard.phase) == (f"arm_position@{build}", "SERVING") and shard.member in members
            )
            roles = (ROLE_OWNER, ROLE_STANDBY)[: len(members)]
            return found == [(number, role) for number in range(self._cluster.partitions) for role in roles]

        await until_status(self._queries, enough, f"build {build} held by {members}")

    async def answering(self) -> set[str]:
        return {shard.view for shard in await until_status(self._queries, bool, "any") if not shard.beside}


async def test_builds_change_places_under_load(cluster: Cluster) -> None:
    gateway, asked = cluster.gateways()
    load = Load(cluster.topic, commands=await gateway.ready(), queries=await asked.ready())
    views = Views(cluster, load.queries)
    try:
        old = [cluster.materializer(member) for member in OLD]
        async with Watches(load, REPORTING[:4], rebuilt=True) as watches:
            async with load, NewArms(load):
                await views.held(1, *OLD)
                await load.progress()
                new = {member: cluster.materializer(member, TESTED_BUILD="2") for member in NEW}
                await views.held(2, *NEW)
                assert await views.answering() == {"arm_position@1"}

                await views.promote(2)
                assert await views.answering() == {"arm_position@2"}
                await load.progress()
                await views.rollback()
                assert await views.answering() == {"arm_position@1"}
                await load.progress()
                await views.promote(2)
                new["cleo"].kill()
                await load.progress()
                await views.held(2, "kim")
                for role in old:
                    await role.stop()
                await load.progress()

                wrong = cluster.materializer("dora", TESTED_BUILD="3", TESTED_STEP="2")
                await views.held(3, "dora")
                await views.refused(3, "BUILDS_DIFFER", "in another state")
                await views.refused(4, "BUILD_NOT_READY", "nobody owns arm_position@4/")
                assert await views.answering() == {"arm_position@2"}
                await load.progress()
            log = await cluster.log()
            await watches.saw_the_end(log)
        assert not load.failures, load.failures
        load.check(log)
        await check_final(load, log)
        accepted = await views.ran("promote", "arm_position", "3", "--accept-difference")
        assert (accepted.code, "accepted: partition 0" in accepted.out) == (0, True), accepted
        cluster.check_quiet()
        for role in (new["kim"], wrong, gateway, asked):
            await role.stop()
        print(load.summary(), f"{load.others} by copies, {load.stale} stale")  # noqa: T201
    except BaseException as error:
        error.add_note(cluster.told())
        raise


async def test_a_build_that_comes_too_late_for_the_log_begins_with_older_snapshots(cluster: Cluster) -> None:
    gateway, asked = cluster.gateways()
    commands, queries = await gateway.ready(), await asked.ready()
    views = Views(cluster, queries)
    try:
        old = cluster.materializer("ada")
        await old.ready()
        await answers(queries, await report(commands, 0))
        await old.stop()
        log = await cluster.log()
        assert {number: saved.next_offset for number, saved in log.checkpoints.items()} == log.ends
        gone = [TopicPartition(cluster.topic, number, end) for number, end in log.ends.items()]
        client = admin(cluster)  # it must outlive its answers
        for answer in client.delete_records(gone).values():
            await asyncio.to_thread(answer.result, PATIENCE_S)
        old = cluster.materializer("ada")
        await old.ready()
        await report(commands, 1)

        late = cluster.materializer("cleo", TESTED_BUILD="2")
        shards = await until_status(queries, lambda found: len(halted(found)) == cluster.partitions, "build 2 refused")
        for shard in shards:
            assert (shard.view == "arm_position@2") == ("is only in the build" in shard.problem), shard
        await views.refused(2, "BUILD_NOT_READY")

        begun = cluster.materializer("kim", TESTED_BUILD="3", TESTED_SEED="1")
        await views.held(3, "kim")
        await views.promote(3)
        found = await answers(queries, await report(commands, 2))
        assert {arm.axes[0].position for arm in found.values()} == {3}  # the first of them is in the log no more
        for role in (begun, late, old, gateway, asked):
            await role.stop()
        cluster.check_quiet()
    except BaseException as error:
        error.add_note(cluster.told())
        raise
