"""A worker is ready while it owns what it should, is not late, and moves; what keeps it from that has a name."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from aorist.adapters.local import LocalOwnershipRegistry
from aorist.adapters.sqlite import Database, SqliteEventLog, SqliteSnapshotStore
from aorist.engine.materializer import Materializer
from aorist.engine.ownership import Owner
from aorist.engine.shard import Lag, Shard
from aorist.engine.threads import Thread
from aorist.errors import LogUnavailableError
from aorist.ports import Checkpoint, Member, NewRecord
from aorist.serve.readiness import Problem, Readiness, WorkerLook
from tests.harness.places import PATIENCE_S
from tests.harness.process import until
from tests.unit.engine.views import count_view

LATE_MS = 300


class Worker:
    """One on a file of its own, with all its threads and a registry in this process."""

    def __init__(self, folder: Path) -> None:
        numbers = count(1)
        self.view = count_view()
        self.database = Database(folder / "aorist.db")
        self.log = SqliteEventLog(self.database)
        self.log.create(self.view.schema.topic)
        self.materializer = Materializer([self.view], self.log, SqliteSnapshotStore(self.database), 3600)
        self.registry = LocalOwnershipRegistry(lambda: next(numbers))
        member = Member("ada", "ada:1", (self.view.build_name,))
        partitions = {self.view.build_name: self.view.schema.topic.partitions}
        self.owner = Owner(self.registry, member, partitions, self.materializer, standbys=1)
        self.look = WorkerLook(self.owner, self.materializer, LATE_MS)

    def abouts(self) -> list[str]:
        return [problem.about for problem in self.look()]

    async def ready(self) -> None:
        await until(lambda: not self.abouts(), "readiness", PATIENCE_S)

    async def unready(self, about: str) -> Problem:
        """Waits until that is the only reason, and returns it."""
        await until(lambda: self.abouts() == [about], about, PATIENCE_S)
        (problem,) = self.look()
        return problem

    def folding(self) -> Thread:
        (thread,) = [one for one in self.materializer.threads() if one.name.startswith("fold")]
        return thread

    def shard(self) -> Shard:
        return next(iter(self.materializer.shards.values()))


@asynccontextmanager
async def working(folder: Path) -> AsyncIterator[Worker]:
    """Started; it may not be ready yet."""
    made = Worker(folder)
    made.materializer.start()
    running = asyncio.create_task(made.owner.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await made.materializer.stop()
        await made.registry.close()
        made.database.close()


async def test_until_it_owns_what_it_should_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with working(tmp_path) as worker:
        assert worker.abouts() == ["membership"]
        monkeypatch.setattr(worker.materializer, "open", lambda _, **__: None)
        assert (await worker.unready("ownership")).text == "it does not own yet what it should: counts@1/0, counts@1/1"
        monkeypatch.undo()
        worker.materializer.on_change()
        await worker.ready()


async def test_without_a_lease_it_is_no_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with working(tmp_path) as worker:
        await worker.ready()
        monkeypatch.setattr(worker.owner._session, "valid_until", lambda: -math.inf)
        assert worker.abouts() == ["membership"]
        monkeypatch.undo()
        assert worker.abouts() == []


async def test_a_fold_that_hangs_is_named_though_it_holds_a_lock(tmp_path: Path) -> None:
    async with working(tmp_path) as worker:
        await worker.ready()
        worker.folding().still_s = 0.2
        shard = worker.shard()
        with shard.lock:  # the fold waits for it when it comes to the end of the log again
            assert (await worker.unready("fold counts@1")).text == "thread `fold counts@1` has not turned for 0.2 s"
        await worker.ready()


async def test_a_checkpointer_that_hangs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    async with working(tmp_path) as worker:
        await worker.ready()
        checkpointer = worker.materializer.checkpointer
        monkeypatch.setattr(checkpointer, "_commit", lambda *_: go_on.wait())
        checkpointer.thread.still_s = 0.2
        checkpointer.thread._due_at = time.monotonic()  # an hour's rest is over
        taking = threading.Thread(target=checkpointer.take, args=(worker.shard(),))
        taking.start()
        try:
            await worker.unready("checkpoint")
        finally:
            go_on.set()
            taking.join()


def test_who_rests_does_not_stand_still_nor_who_has_ended() -> None:
    resting, end = threading.Event(), threading.Event()

    def work() -> None:
        thread.turn(3600)
        thread.turn()  # by another meanwhile: cuts no rest short
        resting.set()
        end.wait()

    thread = Thread("resting", work, fate=None, still_s=0)  # type: ignore[arg-type]  # it does not die
    assert not thread.stands_still()
    thread.start()
    resting.wait()
    assert not thread.stands_still()
    thread._due_at = time.monotonic()
    assert thread.stands_still()
    end.set()
    thread.join()
    assert not thread.stands_still()


async def test_lag_ages_while_the_log_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> Any:
        raise LogUnavailableError("cut off")

    async with working(tmp_path) as worker:
        await worker.ready()
        (folder,) = worker.materializer._folders.values()
        monkeypatch.setattr(folder._reader, "poll", away)
        text = (await worker.unready("lag")).text
        assert text == "above max_lag_ms, 300: counts@1/0, counts@1/1"
        monkeypatch.undo()
        await worker.ready()


async def test_a_shard_that_is_late_for_a_moment_is_not_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with working(tmp_path) as worker:
        await worker.ready()
        monkeypatch.setattr(Shard, "lag", lambda _: Lag(1, 86_400_000))
        assert worker.abouts() == []
        assert worker.abouts() == ["lag"]
        monkeypatch.undo()
        assert worker.abouts() == []


async def test_a_standby_may_be_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with working(tmp_path) as worker:
        await worker.ready()
        for shard in worker.materializer.shards.values():
            monkeypatch.setattr(shard, "owned", False)
        monkeypatch.setattr(Shard, "lag", lambda _: Lag(1, 86_400_000))
        assert [worker.abouts(), worker.abouts()] == [[], []]


async def test_a_shard_that_stands_still_is_named_with_its_reason(tmp_path: Path) -> None:
    async with working(tmp_path) as worker:
        await worker.ready()
        worker.shard().halt("offset 9: no")
        assert [problem.text for problem in worker.look()] == [f"{worker.shard().name}: offset 9: no"]


async def test_who_leaves_says_so(tmp_path: Path) -> None:
    async with working(tmp_path) as worker:
        await worker.ready()
        await worker.owner.retire(PATIENCE_S)
        assert worker.abouts() == ["leaving"]


class Shown:
    """In the place of a listener."""

    def __init__(self) -> None:
        self.serving: list[bool] = []

    async def set_serving(self, *, serving: bool) -> None:
        self.serving.append(serving)


async def test_health_follows_and_the_log_has_changes_once() -> None:
    found: list[Problem] = [Problem("membership", "none")]
    shown = Shown()
    readiness = Readiness(lambda: found, shown)  # type: ignore[arg-type]
    with capture_logs() as logs:
        for now in ([*found], [*found], [], [], [Problem("lag", "a")], [Problem("lag", "a, b")], []):
            found[:] = now
            await readiness.look()
    assert shown.serving == [False, False, True, True, False, False, True]
    assert [(line["event"], line.get("problems")) for line in logs] == [
        ("not ready yet", ["none"]),
        ("ready", None),
        ("not ready any more", ["a"]),
        ("ready", None),
    ]


async def test_a_checkpoint_older_than_half_of_what_the_log_keeps_is_told(tmp_path: Path) -> None:
    async with working(tmp_path) as worker:
        await worker.ready()
        shard, keeps_ms = worker.shard(), worker.view.schema.topic.retention_ms
        assert keeps_ms is not None
        now_us = time.time_ns() // 1000
        shard.checkpoint = Checkpoint(shard.next_offset, 1, now_us - keeps_ms * 600)
        assert worker.abouts() == []  # nothing has come since
        record = NewRecord(shard.partition.number, b"a", b"")
        await worker.log.append(shard.partition.topic, [record])
        await until(lambda: shard.next_offset > 0, "the event", PATIENCE_S)
        shard.checkpoint = Checkpoint(0, 1, now_us - keeps_ms * 400)
        assert worker.abouts() == []
        shard.checkpoint = Checkpoint(0, 1, now_us - keeps_ms * 600)
        (problem,) = worker.look()
        assert problem.about == f"retention {shard.name}"
        assert "no restart can go on from it" in problem.text
