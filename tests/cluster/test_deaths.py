"""Materializers that die at each named place of the protocol while robots send and readers ask.

Each dies alone and is started again; then beside another that stands by and takes over. After each death the tables are read directly:
no checkpoint is ahead of its rows, every row is what the events up to its position make.
"""

from __future__ import annotations

from tests.chaos.counting import counted
from tests.cluster.load import Load, check_final
from tests.cluster.system import Cluster, Process, until_owned

DYING, STANDING_BY = "ada", "finn"  # the first owns more than the other where they share

COUNTS = {
    "after_poll": (60, 90),
    "after_apply": (60, 90),
    "after_rows": (9, 14),
    "after_checkpoint": (9, 14),
    "after_commit": (9, 14),
}
"""At which passing: alone, and beside the other."""


async def test_deaths(cluster: Cluster) -> None:
    gateway, asked = cluster.gateways()
    try:
        async with Load(cluster.topic, commands=await gateway.ready(), queries=await asked.ready()) as load:
            for place, (alone, beside) in COUNTS.items():
                await die(cluster, cluster.materializer(DYING, failpoints=f"{place}={alone}"))
                again = cluster.materializer(DYING, failpoints=f"{place}={beside}")
                other = cluster.materializer(STANDING_BY)
                await die(cluster, again)
                await other.ready()
                await until_owned(load.queries, cluster.partitions, STANDING_BY)
                await load.progress()
                other.kill()
            last = cluster.materializer(DYING)
            await last.ready()
            await until_owned(load.queries, cluster.partitions, DYING)
            await load.progress()
        log = await cluster.log()
        load.check(log)
        await check_final(load, log)
        for role in (last, gateway, asked):
            await role.stop()
        log = await cluster.log()
        log.check_snapshots(counted)
        assert {p: saved.next_offset for p, saved in log.checkpoints.items()} == log.ends
        cluster.check_quiet()
        print(load.summary())  # noqa: T201
    except BaseException as error:
        error.add_note(cluster.told())
        raise


async def die(cluster: Cluster, process: Process) -> None:
    """At its failpoint; what it leaves behind is true."""
    await process.died()
    (await cluster.log()).check_snapshots(counted)
