"""`aorist.v1.QuarantineService`: at a worker about its own shards, at a gateway by asking the workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from aorist.engine.materializer import Materializer
from aorist.engine.parked import Parked
from aorist.engine.shard import Shard
from aorist.errors import AoristError, InvalidRequestError, NoOwnerError, Violation
from aorist.position import ShardName
from aorist.serve.routing import Router
from aorist.serve.transport import Listener
from aorist.v1 import quarantine_pb2

SHOWN_BYTES = 256 * 1024
"""Of the events of one key that are shown themselves."""

LIST_S, REPLAY_S = 2.0, 60.0
"""How long a gateway waits for a worker."""

SERVICE = "aorist.v1.QuarantineService"
log = structlog.get_logger()


def serve_quarantine(listener: Listener, materializer: Materializer, check_lease: Callable[[], None]) -> None:
    """Adds it to a worker's `listener`. `check_lease`: raises once this process may have lost its shards."""

    def owned(view: str, partition: int) -> Shard:
        shard = materializer.shard(ShardName(view, partition))
        if not shard.owned:
            raise NoOwnerError(f"{shard.name} is not owned here")
        check_lease()
        return shard

    async def parked(ask: quarantine_pb2.ListParkedRequest) -> quarantine_pb2.ListParkedResponse:
        answer = quarantine_pb2.ListParkedResponse()
        for name, shard in sorted(materializer.shards.items()):
            if shard.owned and ask.view in ("", name.view, shard.view.name):
                with shard.lock:
                    keys = sorted(key for key in shard.parked if ask.key in (b"", key))
                    answer.keys.extend(_told(shard, key, shard.parked[key], whole=bool(ask.key)) for key in keys)
        return answer

    async def replay(ask: quarantine_pb2.ReplayParkedRequest) -> quarantine_pb2.ReplayParkedResponse:
        shard = owned(ask.view, ask.partition)
        await asyncio.to_thread(materializer.quarantine.replay, shard, ask.key)
        return quarantine_pb2.ReplayParkedResponse(left=_left(shard, ask.key))

    async def skip(ask: quarantine_pb2.SkipParkedRequest) -> quarantine_pb2.SkipParkedResponse:
        if not ask.why:
            raise InvalidRequestError([Violation("why", "is empty: say who skips the event, and why")])
        shard = owned(ask.view, ask.partition)
        await asyncio.to_thread(materializer.quarantine.skip, shard, ask.key, ask.offset, ask.why)
        return quarantine_pb2.SkipParkedResponse(left=_left(shard, ask.key))

    listener.add(
        SERVICE,
        {
            "ListParked": listener.unary(parked, quarantine_pb2.ListParkedRequest),
            "ReplayParked": listener.unary(replay, quarantine_pb2.ReplayParkedRequest),
            "SkipParked": listener.unary(skip, quarantine_pb2.SkipParkedRequest),
        },
    )


def relay_quarantine(listener: Listener, router: Router) -> None:
    """Adds it to a gateway's `listener`: lists are gathered, all else goes to the owner."""

    async def parked(ask: quarantine_pb2.ListParkedRequest) -> quarantine_pb2.ListParkedResponse:
        answer = quarantine_pb2.ListParkedResponse()
        workers = router.workers()
        asked = (worker.quarantine("ListParked", ask, LIST_S) for worker in workers.values())
        for member, found in zip(workers, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if isinstance(found, AoristError):
                answer.missing.append(member)
            elif isinstance(found, BaseException):
                raise found
            else:
                answer.keys.extend(found.keys)
        answer.keys.sort(key=lambda key: (key.view, key.partition, key.key))
        return answer

    async def replay(ask: quarantine_pb2.ReplayParkedRequest) -> quarantine_pb2.ReplayParkedResponse:
        worker = router.owner(ShardName(ask.view, ask.partition))
        answer: quarantine_pb2.ReplayParkedResponse = await worker.quarantine("ReplayParked", ask, REPLAY_S)
        return answer

    async def skip(ask: quarantine_pb2.SkipParkedRequest) -> quarantine_pb2.SkipParkedResponse:
        worker = router.owner(ShardName(ask.view, ask.partition))
        answer: quarantine_pb2.SkipParkedResponse = await worker.quarantine("SkipParked", ask, REPLAY_S)
        return answer

    listener.add(
        SERVICE,
        {
            "ListParked": listener.unary(parked, quarantine_pb2.ListParkedRequest),
            "ReplayParked": listener.unary(replay, quarantine_pb2.ReplayParkedRequest),
            "SkipParked": listener.unary(skip, quarantine_pb2.SkipParkedRequest),
        },
    )


def _left(shard: Shard, key: bytes) -> quarantine_pb2.ParkedKey | None:
    with shard.lock:
        queue = shard.parked.get(key)
        return _told(shard, key, queue, whole=False) if queue is not None else None


def _told(shard: Shard, key: bytes, queue: Parked, *, whole: bool) -> quarantine_pb2.ParkedKey:
    """Under the shard's lock. `whole`: with its events."""
    told = quarantine_pb2.ParkedKey(
        view=shard.name.view,
        partition=shard.name.partition,
        key=key,
        offset=queue.at,
        events_held=len(queue.events),
        reason=queue.reason,
    )
    shown = 0
    for event in queue.events.values() if whole else ():
        value = event.value or b""
        shown += len(value)
        told.events.add(
            offset=event.offset,
            state=event.state.name,
            reason=event.reason,
            time_us=event.time_us,
            size=len(value),
            value=value if shown <= SHOWN_BYTES else b"",
        )
    return told
