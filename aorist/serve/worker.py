"""The worker: answers questions about the shards that this process holds, from memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import structlog
from google.protobuf.message import Message

from aorist.declare.view import Query, View
from aorist.engine.materializer import Materializer
from aorist.engine.shard import Shard
from aorist.errors import (
    AoristError,
    InvalidRequestError,
    NoOwnerError,
    StaleError,
    StoreUnavailableError,
    UnknownKeyError,
    Violation,
)
from aorist.position import NOTHING, ShardName
from aorist.serve.digests import digest_page
from aorist.serve.errors import status_of
from aorist.serve.ranges import answer_over_range, answer_over_range_from_store
from aorist.serve.readiness import Problem
from aorist.serve.transport import BugError, Listener
from aorist.v1 import read_pb2, status_pb2, worker_pb2

CHUNK = 50
"""Keys of a list answered under one hold of the shard's lock."""

MOST_EXAMINED = 10_000
"""Keys of a list looked at for one page: a filter that leaves nearly everything out does not hold up the rest."""

MOST_READING = 64
"""Questions for which the store is read at once; others wait for their turn."""

STORE_S = 8.0
"""How long one of them may take: less than the gateway waits, which would take the worker for dead."""

log = structlog.get_logger()


def serve_worker(
    listener: Listener,
    materializer: Materializer,
    check_lease: Callable[[], None],
    problems: Callable[[], Iterable[Problem]],
    member: str,
) -> None:
    """Adds the worker's services to `listener`. `check_lease`: raises once this process may have lost its shards. `problems`: why it is
    not ready.
    """
    worker = WorkerService(materializer, check_lease)
    listener.add(
        "aorist.v1.WorkerService",
        {
            "Ask": listener.unary(worker.ask, worker_pb2.AskRequest),
            "Watch": listener.server_stream(worker.watch, worker_pb2.WatchRequest),
            "Digest": listener.unary(worker.digest, worker_pb2.DigestRequest),
        },
    )

    async def status(_: status_pb2.GetStatusRequest) -> status_pb2.GetStatusResponse:
        shards = sorted(materializer.shards.items())
        itself = status_pb2.MemberStatus(member=member, problems=[problem.text for problem in problems()])
        return status_pb2.GetStatusResponse(
            shards=[shard_status(shard, member) for _, shard in shards], members=[itself]
        )

    listener.add("aorist.v1.StatusService", {"GetStatus": listener.unary(status, status_pb2.GetStatusRequest)})


class WorkerService:
    """Handlers of `aorist.v1.WorkerService`."""

    def __init__(self, materializer: Materializer, check_lease: Callable[[], None]) -> None:
        self._materializer, self._check_lease = materializer, check_lease
        self._reading = asyncio.Semaphore(MOST_READING)

    async def ask(self, request: worker_pb2.AskRequest) -> worker_pb2.AskResponse:
        """All answers, in order. Those that ask for more than there is wait for it, side by side; all others are given at once."""
        response, late = worker_pb2.AskResponse(), []
        for question in request.questions:
            answer = response.answers.add()  # filled in place: to put them together afterwards would copy each
            if question.store_will_do or question.over_range or (question.HasField("read") and self._is_late(question)):
                late.append(self._wait_and_answer(question, answer))
            else:
                self._answer(question, answer, stale=False)
        if late:
            await asyncio.gather(*late)
        return response

    def _is_late(self, question: worker_pb2.Question) -> bool:
        """Whether it asks for more than there is."""
        read = question.read
        if not read.at_least and not read.HasField("max_staleness_ms"):
            return False
        shard = self._materializer.shards.get(ShardName(question.view, question.partition))
        return shard is not None and not shard.is_fresh(read)

    async def _wait_and_answer(self, question: worker_pb2.Question, answer: worker_pb2.Answer) -> None:
        try:
            if question.store_will_do:
                await self._answer_from_store(question, answer)
                return
            shard = self._materializer.shard(ShardName(question.view, question.partition))
            late = question.HasField("read") and self._is_late(question)
            stale = await shard.fresh(question.read, question.timeout_ms / 1000) if late else False
            if question.over_range:
                await self._answer_over_range(question, answer, stale=stale)
                return
        except Exception as error:  # noqa: BLE001  # the store's answers go through domain code, too
            _fail(answer, error, question)
        else:
            self._answer(question, answer, stale=stale)

    async def _answer_over_range(
        self, question: worker_pb2.Question, answer: worker_pb2.Answer, *, stale: bool
    ) -> None:
        """As `_answer`, with the store of time series read on other threads meanwhile."""
        shard, query, ask = self._find(question)
        self._check_role(shard, question)
        answer.epoch = shard.epoch
        try:
            async with self._reading_range(shard.name):
                await answer_over_range(answer, shard, query, ask, question, stale=stale)
        except UnknownKeyError as error:  # is an answer, as above
            if stale:
                raise StaleError(f"{error}, which is not as fresh as asked for") from None
            answer.error.CopyFrom(status_of(error))
        self._check_role(shard, question)

    async def _answer_from_store(self, question: worker_pb2.Question, answer: worker_pb2.Answer) -> None:
        name = ShardName(question.view, question.partition)
        stored = await asyncio.to_thread(self._materializer.stored, name, question.key)
        view = self._materializer.views[name.view]
        query, ask = _query(view, question)
        if question.over_range:
            async with self._reading_range(name):
                answer.response = await answer_over_range_from_store(stored, view, query, ask, question)
            return
        answer.response = _completed(query.function(stored.state, ask), query, view, question.key, stored.header)

    @asynccontextmanager
    async def _reading_range(self, name: ShardName) -> AsyncIterator[None]:
        """Around what reads the store of time series. Raises StoreUnavailableError when that takes too long."""
        try:
            async with self._reading, asyncio.timeout(STORE_S):
                yield
        except TimeoutError:
            raise StoreUnavailableError(f"{name}: {STORE_S:.0f} s were not enough to read the range") from None

    def _answer(self, question: worker_pb2.Question, answer: worker_pb2.Answer, *, stale: bool) -> None:
        """Fills in `answer`."""
        try:
            shard, query, ask = self._find(question)
            self._check_role(shard, question)  # half restored, it would not know keys that it has
            answer.epoch = shard.epoch
            try:
                if query.shape.kind == "list":
                    answer.page.CopyFrom(_page(shard, query, ask, question, stale=stale))
                else:
                    copy = question.standby_will_do
                    answer.response = _one(shard, query, ask, question, stale=stale, as_copy=copy).response
            except UnknownKeyError as error:  # is an answer: another owner may know the key by now
                answer.error.CopyFrom(status_of(error))
            self._check_role(shard, question)
        except Exception as error:  # noqa: BLE001  # a handler is domain code; others travel with this question
            _fail(answer, error, question)

    async def watch(self, request: worker_pb2.WatchRequest) -> AsyncIterator[worker_pb2.WatchResponse]:
        """Now, then whenever the key changes. What changes while the last answer is on its way is conflated into the next."""
        question = request.question
        shard, query, ask = self._find(question)
        with shard.watching(question.key) as changed:
            while True:
                stale = await shard.fresh(question.read, question.timeout_ms / 1000)
                changed.clear()  # before the answer is built: what comes after is in it, or sets the event again
                try:
                    answer = _one(shard, query, ask, question, stale=stale, as_copy=question.standby_will_do)
                finally:  # also of a key that is not known: another owner may know it by now
                    self._check_role(shard, question)
                sent = time.monotonic()
                answer.epoch = shard.epoch
                yield answer
                await changed.wait()
                rest = sent + request.min_interval_ms / 1000 - time.monotonic()
                if rest > 0:
                    await asyncio.sleep(rest)

    async def digest(self, request: worker_pb2.DigestRequest) -> worker_pb2.DigestResponse:
        """Walks the shard beside the loop, a chunk at a time."""
        shard = self._materializer.shard(ShardName(request.view, request.partition))
        wanted = [request.at_least] if request.HasField("at_least") else []
        await shard.fresh(read_pb2.ReadOptions(at_least=wanted), request.timeout_ms / 1000)
        answer = await asyncio.to_thread(digest_page, shard, request)
        self._check_role(shard, worker_pb2.Question())
        return answer

    def _check_role(self, shard: Shard, question: worker_pb2.Question) -> None:
        """After the answer was built, before it leaves: what it says was true while we had that role."""
        shard.check_held()
        if question.standby_will_do:
            return  # as a copy, whoever owns it
        if not shard.owned:
            raise NoOwnerError(f"{shard.name} is not owned here")
        self._check_lease()

    def _find(self, question: worker_pb2.Question) -> tuple[Shard, Query, Message]:
        shard = self._materializer.shard(ShardName(question.view, question.partition))
        return shard, *_query(shard.view, question)


def _fail(answer: worker_pb2.Answer, error: Exception, question: worker_pb2.Question) -> None:
    if not isinstance(error, AoristError):
        log.error("a query failed in a way it should not", request=question.request_type, exc_info=error)
        error = BugError(f"{type(error).__name__}: see the server's log")
    answer.Clear()  # what is not ours to say any more, and under which epoch
    answer.error.CopyFrom(status_of(error))


def _query(view: View[Any], question: worker_pb2.Question) -> tuple[Query, Message]:
    query = view.queries.get(question.request_type)
    if query is None:
        wrong = f"view `{question.view}` answers no {question.request_type}: is the gateway of another version?"
        raise InvalidRequestError([Violation("request_type", wrong)])
    return query, query.shape.request.FromString(question.request)


def _completed(
    response: Message | None, query: Query, view: View[Any], key: bytes, header: read_pb2.ReadHeader
) -> bytes:
    """An answer about one key with key and header filled in, serialised."""
    assert response is not None
    query.shape.fill_in_key(response, view.schema.key, key)
    getattr(response, query.shape.header).CopyFrom(header)
    return response.SerializeToString()


def _one(
    shard: Shard, query: Query, ask: Message, question: worker_pb2.Question, *, stale: bool, as_copy: bool
) -> worker_pb2.WatchResponse:
    """Answer about one key, serialised under the lock, and the offset up to which it holds. `stale`: not as fresh as asked for.

    Raises what `Shard.entry` does, and StaleError: what is staler than asked for does not show that a key is unknown.
    """
    key = question.key
    with shard.lock:
        parked = shard.parked_for(key, question.read) if shard.parked else None
        try:
            entry = shard.entry(key)
        except UnknownKeyError as error:
            if stale:
                raise StaleError(f"{error}, which is not as fresh as asked for") from None
            raise
        response = query.function(entry.state, ask)
        header = shard.header(stale=stale, as_copy=as_copy, parked_at=parked.at if parked else None)
        return worker_pb2.WatchResponse(
            response=_completed(response, query, shard.view, key, header),
            offset=header.position.offset,
            parked=parked is not None,
        )


def _page(shard: Shard, query: Query, ask: Message, question: worker_pb2.Question, *, stale: bool) -> worker_pb2.Page:
    """Up to `limit` keys beyond `after_key`, a chunk at a time. The header holds for all: later chunks can only be newer.

    Parked keys are among them as they were, and the header says no more than holds for them.
    """
    with shard.lock:
        parked_at = min((queue.at for queue in shard.parked.values()), default=None)
        header = shard.header(stale=stale, as_copy=question.standby_will_do, parked_at=parked_at)
        page = worker_pb2.Page(header=header, last_key=question.after_key, more=True)
    for _ in range(MOST_EXAMINED // CHUNK):
        with shard.lock:
            if not _add_chunk(page, shard, query, ask, question.limit):
                break
    return page


def _add_chunk(page: worker_pb2.Page, shard: Shard, query: Query, ask: Message, limit: int) -> bool:
    """Says whether to go on."""
    for examined, key in enumerate(shard.keys_after(page.last_key)):
        if len(page.entries) >= limit:
            return False
        if examined == CHUNK:
            return True
        page.last_key = key
        item = query.function(shard.entry(key).state, ask)
        if item is not None:
            query.shape.fill_in_key(item, shard.view.schema.key, key)
            page.entries.add(key=key, item=item.SerializeToString())
    page.more = False
    return False


def shard_status(shard: Shard, member: str) -> status_pb2.ShardStatus:
    """One shard as this process sees it. Without its lock, which a fold that hangs would not give back."""
    lag, checkpoint = shard.lag(), shard.checkpoint
    return status_pb2.ShardStatus(
        view=shard.name.view,
        partition=shard.name.partition,
        member=member,
        epoch=shard.epoch,
        role=shard.role,
        phase=shard.phase.value,
        offset=shard.next_offset - 1,
        lag_events=lag.events,
        lag_ms=lag.ms,
        keys=len(shard.entries),
        dirty_keys=len(shard.dirty),
        checkpoint_offset=checkpoint.next_offset - 1 if checkpoint else NOTHING,
        checkpoint_age_ms=max(0, (time.time_ns() // 1000 - checkpoint.time_us) // 1000) if checkpoint else -1,
        unknown_events=shard.unknown_events,
        problem=shard.problem or shard.trouble,
        quarantined_keys=len(shard.parked),
    )
