"""Owners that come, leave, die and stand still while robots send and readers ask: nobody waits in vain, nobody is told what is old.

Who should own what depends on the members' names alone; of those used here each owns something beside any of the others.
"""

from __future__ import annotations

import asyncio
import signal
import time

from aorist.v1.read_pb2 import ROLE_OWNER
from tests.chaos.counting import counted
from tests.cluster.direct import ask_directly
from tests.cluster.load import Load, check_final
from tests.cluster.oracle import Told
from tests.cluster.system import STOPPED_S, Cluster, Process, status, until_owned

FIRST, SECOND, THIRD = "finn", "ada", "cleo"


async def test_owners_come_leave_die_and_stand_still(cluster: Cluster) -> None:
    gateway, asked = cluster.gateways()
    first, second = cluster.materializer(FIRST), cluster.materializer(SECOND)
    commands, queries = await gateway.ready(), await asked.ready()
    await asyncio.gather(first.ready(), second.ready())
    count = cluster.partitions
    await until_owned(queries, count, FIRST, SECOND)
    try:
        async with Load(cluster.topic, commands=commands, queries=queries) as load:
            await load.progress()
            third = cluster.materializer(THIRD)
            await third.ready()
            await until_owned(queries, count, FIRST, SECOND, THIRD)
            await load.progress()

            await first.stop()
            await until_owned(queries, count, SECOND, THIRD)
            await load.progress()

            third.kill()
            await until_owned(queries, count, SECOND)
            await load.progress()

            third = cluster.materializer(THIRD)
            await third.ready()
            await until_owned(queries, count, SECOND, THIRD)
            await load.progress()

            late = await stand_still(second, (await second.ready()), load, queries, count)
            (await cluster.log()).check_snapshots(counted)  # those of the late one among them
            await until_owned(queries, count, SECOND, THIRD)
            await load.progress()
        log = await cluster.log()
        load.check(log)
        load.check_told(log, late)
        assert not load.failures, load.failures
        await check_final(load, log)
        for role in (second, third, gateway, asked):
            await role.stop()
        log = await cluster.log()
        log.check_snapshots(counted)
        assert {p: saved.next_offset for p, saved in log.checkpoints.items()} == log.ends
        cluster.check_quiet()
        print(load.summary(), f"{len(late)} answers of the late one")  # noqa: T201
    except BaseException as error:
        error.add_note(cluster.told())
        raise


async def stand_still(process: Process, address: str, load: Load, queries: str, partitions: int) -> list[Told]:
    """Stops it for a while, and asks it before it can know that it was: what it answers then."""
    process.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    await until_owned_by_others(queries, partitions)
    epochs = {s.partition: s.epoch for s in await status(queries) if s.role == ROLE_OWNER and s.phase == "SERVING"}
    while time.monotonic() < stopped + STOPPED_S:
        await load.progress(20, 20)
    asking = asyncio.create_task(ask_directly(address, load))  # these wait in its sockets
    await asyncio.sleep(0.2)
    process.signal(signal.SIGCONT)
    told = await asking
    for answer in told:
        assert answer.epoch >= epochs[answer.partition], f"{answer}: of an ownership that had ended, now {epochs}"
    return told


async def until_owned_by_others(queries: str, partitions: int) -> None:
    await until_owned(queries, partitions, THIRD)
