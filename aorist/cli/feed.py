"""What `watch` shows, kept up to date: all keys of a view asked for again and again, or some keys as they change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from aorist.cli.client import explained, path_of
from aorist.cli.queries import Query
from aorist.v1 import read_pb2

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
"""After a failure: doubled until the longest."""

Key = tuple[str, ...]


@dataclass
class Sheet:
    """All that is known now. `problems`: by what was asked ("" for the list). `heard`: when, monotonic, an answer came."""

    rows: dict[Key, Message] = field(default_factory=dict)
    headers: dict[object, read_pb2.ReadHeader] = field(default_factory=dict)
    missing: Sequence[read_pb2.MissingPartition] = ()
    problems: dict[str, str] = field(default_factory=dict)
    heard: float = field(default_factory=time.monotonic)


class Pause:
    """Waits longer after every failure, up to a bound."""

    def __init__(self) -> None:
        self._next_s = FIRST_PAUSE_S

    def reset(self) -> None:
        self._next_s = FIRST_PAUSE_S

    async def wait(self) -> None:
        await asyncio.sleep(self._next_s)
        self._next_s = min(2 * self._next_s, LONGEST_PAUSE_S)


@dataclass(frozen=True)
class Feed:
    """Sheets of one view. `address`: for messages; `channel` leads there."""

    channel: grpc.aio.Channel
    address: str
    interval_s: float
    timeout_s: float

    async def of_list(self, query: Query) -> AsyncGenerator[Sheet, None]:
        """A sheet of all keys every `interval_s`. After a failure: the one before, with the problem."""
        sheet, pause = Sheet(), Pause()
        while True:
            try:
                sheet = await self._read_list(query)
            except grpc.aio.AioRpcError as error:
                yield replace(sheet, problems={"": explained(error, self.address)})
                await pause.wait()
            else:
                pause.reset()
                yield sheet
                await asyncio.sleep(self.interval_s)

    async def _read_list(self, query: Query) -> Sheet:
        shape, sheet, token = query.shape, Sheet(), ""
        call = self.channel.unary_unary(
            path_of(shape.method), shape.request.SerializeToString, shape.response.FromString
        )
        while True:
            request: Any = query.request()
            request.page_token = token
            page: Any = await call(request, timeout=self.timeout_s)
            for item in getattr(page, shape.items):
                own = tuple(str(getattr(item, name)) for name in query.key if name in shape.keyed)
                sheet.rows[own or (str(len(sheet.rows)),)] = item
            sheet.headers.update({header.position.partition: header for header in getattr(page, shape.header)})
            gone = {lost.partition: lost for lost in (*sheet.missing, *getattr(page, shape.missing))}
            sheet.missing = [gone[partition] for partition in sorted(gone)]
            token = page.next_page_token
            if not token:
                return replace(sheet, heard=time.monotonic())

    async def of_keys(self, query: Query, keys: Sequence[Key]) -> AsyncGenerator[Sheet, None]:
        """One sheet: first when every key has an answer or a problem, then after changes, `interval_s` apart."""
        sheet, changed, waiting = Sheet(), asyncio.Event(), {*keys}
        followers = [asyncio.create_task(self._follow(query, key, sheet, waiting, changed)) for key in keys]
        for follower in followers:
            follower.add_done_callback(lambda _: changed.set())
        late = asyncio.get_running_loop().call_later(self.timeout_s, _give_up_waiting, sheet, waiting, changed)
        try:
            while True:
                await _wait(changed, LONGEST_PAUSE_S if sheet.problems else None)
                for follower in followers:
                    if follower.done():
                        follower.result()
                if not waiting:
                    if len(sheet.problems) < len(keys):  # at least one stream lives, even if its key rests
                        sheet.heard = time.monotonic()
                    yield sheet
                    await asyncio.sleep(self.interval_s)
        finally:
            late.cancel()
            for follower in followers:
                follower.cancel()
            await asyncio.gather(*followers, return_exceptions=True)

    async def _follow(self, query: Query, key: Key, sheet: Sheet, waiting: set[Key], changed: asyncio.Event) -> None:
        shape, pause = query.shape, Pause()
        call = self.channel.unary_stream(
            path_of(shape.method), shape.request.SerializeToString, shape.response.FromString
        )
        while True:
            try:
                async for answer in call(self._watch_request(query, key)):
                    sheet.rows[key] = query.part(answer)
                    sheet.headers[key] = getattr(answer, shape.header)
                    sheet.problems.pop(" ".join(key), None)
                    waiting.discard(key)
                    changed.set()
                    pause.reset()
                problem = "the gateway ended the stream; asking again"
            except grpc.aio.AioRpcError as error:
                problem = explained(error, self.address)
            sheet.problems[" ".join(key)] = problem
            waiting.discard(key)
            changed.set()
            await pause.wait()

    def _watch_request(self, query: Query, key: Key) -> Any:
        request = query.request(key)
        if query.shape.interval:
            request.min_interval_ms = int(self.interval_s * 1000)
        return request


def _give_up_waiting(sheet: Sheet, waiting: set[Key], changed: asyncio.Event) -> None:
    """What has no answer by now is shown as such; its stream goes on."""
    for key in waiting:
        sheet.problems[" ".join(key)] = "no answer yet"
    waiting.clear()
    changed.set()


async def _wait(changed: asyncio.Event, timeout_s: float | None) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await changed.wait()
    changed.clear()
