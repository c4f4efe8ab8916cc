"""Two builds of a view in one process, under load: they change places, and nobody's call fails. What differs has to be accepted."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from aorist.adapters.local import LocalOwnershipRegistry
from aorist.adapters.sqlite import Database, SqliteEventLog, SqliteSeriesStore, SqliteSnapshotStore
from aorist.app import _add_commands, _listener, _queries, _settled, _worker
from aorist.declare import Project, load_project
from aorist.errors import SettingError
from aorist.position import build_name
from aorist.serve.running import Watched
from aorist.settings import Settings
from aorist.v1.build_pb2 import Build, DropRequest, ListBuildsRequest, PromoteRequest, RollbackRequest
from aorist.v1.build_pb2_grpc import BuildServiceStub
from fleet.arms.v1.commands_pb2 import ReportJointPositionsRequest
from fleet.arms.v1.commands_pb2_grpc import ArmCommandServiceStub
from tests.chaos.counting import PROJECT
from tests.cluster.load import REPORTING, Load, check_final
from tests.cluster.system import until_status
from tests.cluster.witnesses import NewArms, Watches
from tests.harness.client import channel_to, refused, sample
from tests.harness.log_file import TOPIC, VIEW, LogFile


@dataclass
class System:
    """A gateway, and a worker for each build that was started."""

    settings: Settings
    ports: Any
    address: str
    builds: Any
    stop: asyncio.Event
    stack: AsyncExitStack
    workers: dict[int, AsyncExitStack] = field(default_factory=dict)

    async def start(self, build: int, step: int = 1, project: Project | None = None) -> None:
        """`step`: what it counts each event as. Returns once its shards are all owned and serve."""
        settings = replace(self.settings, member=f"build-{build}", worker_listen="127.0.0.1:0")
        made, watched = await self.stack.enter_async_context(AsyncExitStack()), Watched(asyncio.Event())
        owner, materializer, _, _ = await made.enter_async_context(
            _worker(project or project_of(build, step), [VIEW], settings, self.ports, watched)
        )
        assert await watched.unless_stopped(_settled(owner, materializer))
        self.workers[build] = made

    async def end(self, build: int) -> None:
        await self.workers.pop(build).aclose()

    async def promote(self, build: int, *, accept: bool = False) -> Any:
        return await self.builds.Promote(PromoteRequest(view=VIEW, build=build, accept_difference=accept))

    async def listed(self, *, digests: bool = False) -> dict[int, Build]:
        return {b.build: b for b in (await self.builds.ListBuilds(ListBuildsRequest(digests=digests))).builds}

    async def answering(self) -> list[int]:
        return [number for number, build in (await self.listed()).items() if build.answers]


def project_of(build: int, step: int = 1) -> Project:
    """As it would be loaded from code of another version."""
    project = load_project(PROJECT)
    view: Any = copy.copy(project.views[VIEW])
    view.build, view.build_name = build, build_name(VIEW, build)
    if step != 1:

        def counting(apply: Any) -> Any:
            def moved(state: Any, event: Any) -> None:
                apply(state, event)
                state.axes[0].position += step - 1

            return moved

        view.handlers = {name: counting(apply) for name, apply in view.handlers.items()}
    return replace(project, views={VIEW: view})


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[System]:
    settings = Settings(listen="127.0.0.1:0", db=str(folder / "dev.db"), drain_s=3.0, checkpoint_interval_s=0.1)
    stop, project = asyncio.Event(), project_of(1)
    async with AsyncExitStack() as stack:
        database = Database(settings.db)
        stack.callback(database.close)
        events, store = SqliteEventLog(database), SqliteSnapshotStore(database)
        stack.callback(events.close)
        registry = LocalOwnershipRegistry(database.next_revision)
        stack.push_async_callback(registry.close)
        for topic in project.topics():
            events.create(topic)
        listener = _listener(settings)
        _add_commands(listener, project, settings, events)
        await stack.enter_async_context(_queries(listener, project, settings, registry, Watched(stop)))
        address = await listener.start()
        stack.push_async_callback(listener.stop, 1.0)
        channel = await stack.enter_async_context(channel_to(address))
        ports = (events, store, SqliteSeriesStore(database, project.series()), registry)
        yield System(settings, ports, address, BuildServiceStub(channel), stop, stack)


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    async with running(tmp_path) as system:
        yield system


async def test_builds_change_places_under_load(system: System) -> None:
    load = Load(TOPIC, commands=system.address, queries=system.address)
    await system.start(1)
    async with Watches(load, REPORTING[:4], rebuilt=True) as watches:
        async with load, NewArms(load):
            await load.progress(30, 30)
            await system.start(2)
            assert await system.answering() == [1]
            # region change
            await system.promote(2)
            await load.progress(30, 30)  # nobody's call fails, and no answer is older than one before
            await system.builds.Rollback(RollbackRequest(view="arm_position"))
            await load.progress(30, 30)
            await system.promote(2)
            await system.end(1)  # whoever folded build 1
            # endregion
            await load.progress(30, 30)
        log = LogFile.of(Path(system.settings.db))
        await watches.saw_the_end(log)
    assert not load.failures, load.failures
    load.check(log)
    await check_final(load, log)
    listed = await system.listed()
    assert (list(listed), listed[2].answers, len(listed[2].shards)) == ([2], True, 8)


async def test_what_differs_is_refused_until_it_is_accepted(system: System) -> None:
    load = Load(TOPIC, commands=system.address, queries=system.address)
    await system.start(1)
    async with load:
        await load.progress(30, 30)
        await system.start(2)
        await system.start(3, step=2)
        wrong = await refused(system.promote(3))
        assert (wrong.code, wrong.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BUILDS_DIFFER")
        assert await system.answering() == [1]
    listed = await system.listed(digests=True)
    digests = {
        number: [(shard.keys, shard.key_digest, shard.state_digest) for shard in build.shards]
        for number, build in listed.items()
    }
    assert digests[1] == digests[2]
    for one, other in zip(digests[1], digests[3], strict=True):
        assert one[:2] == other[:2]
        assert (one[2] == other[2]) == (one[0] == 0)
    accepted = await system.promote(3, accept=True)
    assert sum(difference.other_states for difference in accepted.differences) == 18
    assert await system.answering() == [3]
    await system.builds.Rollback(RollbackRequest(view=VIEW))
    assert await system.answering() == [1]


async def test_what_is_not_there_or_answers_already_is_refused(system: System) -> None:
    nobody = await refused(system.promote(1))
    assert (nobody.code, nobody.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID")
    await system.start(1)
    again = await refused(system.promote(1))
    assert (again.code, again.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID")
    absent = await refused(system.promote(2, accept=True))
    assert (absent.code, absent.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BUILD_NOT_READY")
    none_before = await refused(system.builds.Rollback(RollbackRequest(view=VIEW)))
    assert none_before.code is grpc.StatusCode.INVALID_ARGUMENT
    await system.start(2)
    await system.end(1)
    gone = await refused(system.promote(2))
    assert gone.reason == "BUILDS_DIFFER"  # there is nothing to compare it with
    await system.promote(2, accept=True)
    assert await system.answering() == [2]
    not_there = await refused(system.builds.Rollback(RollbackRequest(view=VIEW)))
    assert not_there.reason == "BUILD_NOT_READY"


async def test_a_dropped_build_is_never_folded_again(system: System) -> None:
    async def drop(build: int) -> None:
        await system.builds.Drop(DropRequest(view=VIEW, build=build))

    await system.start(1)
    await system.start(2)
    await system.promote(2)
    answers, folded = await refused(drop(2)), await refused(drop(1))
    assert (answers.code, folded.code) == (grpc.StatusCode.INVALID_ARGUMENT,) * 2
    assert "is folded by build-1" in folded.fields["build"]
    await system.end(1)
    await drop(1)
    await drop(1)  # as before
    assert (await system.listed())[2].dropped == [1]
    none_before = await refused(system.builds.Rollback(RollbackRequest(view=VIEW)))
    assert none_before.code is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(SettingError, match=r"build 1 of arm_position was dropped.*a build above 2"):
        await system.start(1)
    assert await system.answering() == [2]


async def test_a_build_that_stands_still_can_be_left(system: System) -> None:
    """For another that does not, where the difference is accepted: it is why one rebuilds."""

    def breakable(apply: Any) -> Any:
        def moved(state: Any, event: Any) -> None:
            if event.arm_id == "bad":
                raise ArithmeticError("cannot take it")
            apply(state, event)

        return moved

    broken = project_of(1)
    view = broken.views[VIEW]
    view.handlers = {name: breakable(apply) for name, apply in view.handlers.items()}
    system.settings = replace(system.settings, max_quarantined_keys=0)
    await system.start(1, project=broken)
    async with channel_to(system.address) as channel:
        robot = ArmCommandServiceStub(channel)
        for arm in ("bad", *(f"arm-{number:02d}" for number in range(24))):
            await robot.ReportJointPositions(ReportJointPositionsRequest(sample=sample(arm)))
    await until_status(system.address, lambda shards: any(shard.phase == "HALTED" for shard in shards), "it halts")
    await system.start(2)
    wrong = await refused(system.promote(2))
    assert wrong.reason == "BUILDS_DIFFER"
    accepted = await system.promote(2, accept=True)
    assert any("cannot be compared" in difference.problem for difference in accepted.differences)
    assert await system.answering() == [2]
