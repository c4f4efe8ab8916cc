"""The query gateway: finds the owner, asks, and merges what was scattered. Holds no state."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from aorist.declare.queries import Queries, QueryShape
from aorist.declare.schema import EventSchema
from aorist.errors import AoristError, InvalidRequestError, StaleError, Violation
from aorist.ports import Ownership
from aorist.position import ShardName, partition_of, view_and_build
from aorist.serve.errors import RelayedError, reason_of
from aorist.serve.routing import Router
from aorist.serve.rules import Rules
from aorist.serve.transport import Listener
from aorist.v1 import read_pb2, status_pb2, worker_pb2

LAST_US = 3_600_000_000
"""The range of a query that could ask for one and does not: so much up to now."""


@dataclass(frozen=True)
class Limits:
    """Settings of the same names."""

    max_wait_ms: int
    max_wait_limit_ms: int
    default_page_size: int
    max_page_size: int


def serve_queries(listener: Listener, queries: Queries, router: Router, limits: Limits) -> None:
    """Adds the service of `queries` to `listener`."""
    handlers = {}
    for shape in queries.shapes:
        gateway = Gateway(shape, queries.schema, router, limits)
        if shape.kind == "watch":
            handlers[shape.method.name] = listener.server_stream(gateway.watch, shape.request)
        else:
            handler = gateway.list if shape.kind == "list" else gateway.get
            handlers[shape.method.name] = listener.unary(handler, shape.request)
    listener.add(queries.service.full_name, handlers)


class Gateway:
    """One query at the gateway."""

    def __init__(self, shape: QueryShape, schema: EventSchema, router: Router, limits: Limits) -> None:
        self._shape, self._router, self._limits = shape, router, limits
        self._view, self._read, self._max_wait_s = shape.view, shape.read, limits.max_wait_ms / 1000
        self._over_range = bool(shape.range)
        self._rules = Rules(shape.request, max_skew_ms=0)
        self._key_of, self._partition_for = schema.key_of(), schema.partition_for()
        self._placed_by_key = schema.partition_by == schema.key
        self._request_type = shape.request.DESCRIPTOR.full_name
        self._topic, self._partitions = schema.topic.name, schema.topic.partitions

    async def get(self, request: Any) -> bytes:
        """One key: the owner's answer, passed on as it is."""
        self._rules.check(request)
        question = self._about_key(request)
        if self._shape.kind == "windows":
            question.limit = self._page_size(request)
        return (await self._router.ask(question, self._deadline(request))).response

    async def watch(self, request: Any) -> AsyncIterator[bytes]:
        """One key, now and on."""
        self._rules.check(request)
        question = self._about_key(request)
        interval_ms = request.min_interval_ms if self._shape.interval else 0
        async for response in self._router.watch(question, interval_ms, self._deadline(request) - time.monotonic()):
            yield response

    async def list(self, request: Any) -> Message:
        """All keys: every partition is asked for a page, and the pages are merged in the order of their keys, or of what stands for it.

        A partition that cannot answer is named in the answer; when none can, or one is staler than allowed, the call fails.
        """
        self._rules.check(request)
        size = self._page_size(request)
        after, deadline = _decode_token(request.page_token), self._deadline(request)
        asked = [self._ask_page(request, partition, after, size, deadline) for partition in range(self._partitions)]
        results = await asyncio.gather(*asked)
        response: Any = self._shape.response()
        pages: list[worker_pb2.Page] = []
        for partition, result in enumerate(results):
            if isinstance(result, AoristError):
                reason = reason_of(result.status) if isinstance(result, RelayedError) else result.reason
                if reason == StaleError.reason:
                    raise result
                getattr(response, self._shape.missing).add(partition=partition, reason=reason, message=str(result))
            else:
                pages.append(result)
                getattr(response, self._shape.header).append(result.header)
        if not pages:
            raise next(r for r in results if isinstance(r, AoristError))
        entries, last = _merge(pages, size)
        items = getattr(response, self._shape.items)
        for entry in entries:
            items.append(self._shape.item.FromString(entry.item))
        response.next_page_token = _encode_token(last) if last is not None else ""
        return response  # type: ignore[no-any-return]

    def _page_size(self, request: Any) -> int:
        size: int = request.page_size or self._limits.default_page_size
        if size > self._limits.max_page_size:
            raise InvalidRequestError(
                [Violation("page_size", f"is {size}, at most {self._limits.max_page_size} are given at once")]
            )
        return size

    async def _ask_page(
        self, request: Any, partition: int, after: bytes, size: int, deadline: float
    ) -> worker_pb2.Page | AoristError:
        question = self._question(request, partition, b"")
        question.after_key, question.limit = after, size
        try:
            return (await self._router.ask(question, deadline)).page
        except AoristError as error:
            return error

    def _check_positions(self, read: read_pb2.ReadOptions) -> None:
        """Positions elsewhere are ignored; one that this topic cannot have is a mistake, not a promise kept."""
        for index, position in enumerate(read.at_least):
            if position.topic == self._topic and not 0 <= position.partition < self._partitions:
                wrong = f"topic {self._topic} has no partition {position.partition}: pass on the position as a command answered it"
                raise InvalidRequestError([Violation(f"{self._shape.read}.at_least[{index}].partition", wrong)])
            if not position.topic:
                wrong = "is empty: pass on the position as a command answered it"
                raise InvalidRequestError([Violation(f"{self._shape.read}.at_least[{index}].topic", wrong)])

    def _about_key(self, request: Any) -> worker_pb2.Question:
        key = self._key_of(request)
        partition = partition_of(key, self._partitions) if self._placed_by_key else self._partition_for(request)
        return self._question(request, partition, key)

    def _question(self, request: Any, partition: int, key: bytes) -> worker_pb2.Question:
        if self._over_range and not request.HasField(self._shape.range):
            asked = getattr(request, self._shape.range)
            asked.upto_us = time.time_ns() // 1000
            asked.from_us = asked.upto_us - LAST_US
        return worker_pb2.Question(
            view=self._view,
            topic=self._topic,
            partition=partition,
            request_type=self._request_type,
            request=request.SerializeToString(),
            key=key,
            read=getattr(request, self._read) if request.HasField(self._read) else None,
            over_range=self._over_range,
        )

    def _deadline(self, request: Any) -> float:
        if not request.HasField(self._read):
            return time.monotonic() + self._max_wait_s
        read: read_pb2.ReadOptions = getattr(request, self._read)
        if read.at_least:
            self._check_positions(read)
        wait_ms = read.max_wait_ms if read.HasField("max_wait_ms") else self._limits.max_wait_ms
        if wait_ms > self._limits.max_wait_limit_ms:
            raise InvalidRequestError(
                [
                    Violation(
                        f"{self._shape.read}.max_wait_ms",
                        f"is {wait_ms}, at most {self._limits.max_wait_limit_ms} are waited",
                    )
                ]
            )
        return time.monotonic() + wait_ms / 1000


def _merge(pages: Sequence[worker_pb2.Page], size: int) -> tuple[list[worker_pb2.Entry], bytes | None]:
    """The next `size` entries in the order of keys, and the key to go on after; None: there are no more.

    A page that says there is more speaks only for keys up to its last: nothing beyond the least of those is taken.
    """
    frontier = min((page.last_key for page in pages if page.more), default=None)
    entries = sorted((entry for page in pages for entry in page.entries), key=lambda entry: entry.key)
    known = [entry for entry in entries if frontier is None or entry.key <= frontier]
    taken = known[:size]
    if len(taken) < len(entries) and len(taken) == size:
        return taken, taken[-1].key
    return taken, frontier


TOKEN = b"k"  # what a token begins with: a key follows


def _encode_token(key: bytes) -> str:
    return base64.urlsafe_b64encode(TOKEN + key).decode().rstrip("=")


def _decode_token(token: str) -> bytes:
    if not token:
        return b""
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:
        data = b""
    if not data.startswith(TOKEN):
        raise InvalidRequestError(
            [
                Violation(
                    "page_token",
                    "is not a token of this service: pass on next_page_token of the page before, or nothing",
                )
            ]
        )
    return data[len(TOKEN) :]


def _builds(ownership: Ownership, partitions: Mapping[str, int]) -> dict[str, int]:
    """NAME@BUILD -> partitions: every build that answers, or that a member folds. `partitions`: of each view."""
    names = {name for member in ownership.members.values() for name in member.views}
    names |= {ownership.answers(view) for view in partitions}
    return {name: partitions.get(view_and_build(name)[0], 0) for name in names}


def serve_status(listener: Listener, router: Router, partitions: dict[str, int], timeout_s: float = 2.0) -> None:
    """Adds `aorist.v1.StatusService` for the whole system. `partitions`: of each view."""

    async def status(_: status_pb2.GetStatusRequest) -> status_pb2.GetStatusResponse:
        shards: list[status_pb2.ShardStatus] = []
        members: list[status_pb2.MemberStatus] = []
        seen: set[ShardName] = set()
        answering = {router.ownership.answers(view) for view in partitions}
        for member, address, answer in await router.status(timeout_s):
            if isinstance(answer, AoristError):
                members.append(status_pb2.MemberStatus(member=member, address=address, problems=[str(answer)]))
                claimed = [name for name, claim in router.ownership.claims.items() if claim.member == member]
                shards += [
                    status_pb2.ShardStatus(
                        view=n.view,
                        beside=n.view not in answering,
                        partition=n.partition,
                        member=member,
                        address=address,
                        phase="UNREACHABLE",
                        problem=str(answer),
                        offset=-1,
                        checkpoint_offset=-1,
                        checkpoint_age_ms=-1,
                    )
                    for n in claimed
                ]
                seen |= set(claimed)
                continue
            for one in answer.members:
                one.address = address
                members.append(one)
            for shard in answer.shards:
                shard.address, shard.beside = address, shard.view not in answering
                seen.add(ShardName(shard.view, shard.partition))
                shards.append(shard)
        for name, count in _builds(router.ownership, partitions).items():
            for partition in range(count):
                if ShardName(name, partition) not in seen:
                    shards.append(
                        status_pb2.ShardStatus(
                            view=name,
                            beside=name not in answering,
                            partition=partition,
                            phase="NO_OWNER",
                            problem="nobody owns it",
                            offset=-1,
                            checkpoint_offset=-1,
                            checkpoint_age_ms=-1,
                        )
                    )
        return status_pb2.GetStatusResponse(
            shards=sorted(shards, key=lambda s: (s.view, s.partition, s.member)),
            members=sorted(members, key=lambda m: m.member),
        )

    listener.add("aorist.v1.StatusService", {"GetStatus": listener.unary(status, status_pb2.GetStatusRequest)})
