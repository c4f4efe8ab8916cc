"""The worker's answers over ranges of time: windows in memory, noted with the header, then rows of the store that came before them."""

from __future__ import annotations

import asyncio
import base64
import heapq
import struct
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any, NamedTuple

from google.protobuf.message import Message

from aorist.declare.ranges import Held, Piece, pieces
from aorist.declare.series import SECOND_US
from aorist.declare.view import Query, View
from aorist.engine.series import ShardSeries
from aorist.engine.shard import Shard
from aorist.engine.stored import Stored
from aorist.errors import InvalidRequestError, Violation
from aorist.ports import LATEST_US
from aorist.v1 import read_pb2, worker_pb2

CHUNK = 50
"""Keys whose windows are noted under one hold of the shard's lock, and read from the store at once."""

MOST_WINDOWS = 100_000
"""Of the longest length in one range: eleven years of hours."""

TOKEN = b"w"
"""What a token begins with: the start of the first window of the next page follows."""


class _Whose(NamedTuple):
    """The key that is asked about. `state`, `header`: as they are now, under `lock`."""

    view: View[Any]
    key: bytes
    series: ShardSeries
    lock: AbstractContextManager[object]
    state: Callable[[], Any]
    header: Callable[[], read_pb2.ReadHeader]


async def answer_over_range(
    answer: worker_pb2.Answer, shard: Shard, query: Query, ask: Message, question: worker_pb2.Question, *, stale: bool
) -> None:
    """Fills in `answer`. Raises InvalidRequestError, StoreUnavailableError, and what `Shard.entry` and `Shard.parked_for` do."""
    series, key, copy = shard.series, question.key, question.standby_will_do
    assert series is not None  # checked at import
    if query.shape.kind == "list":
        answer.page.CopyFrom(await _page(shard, series, query, ask, question, stale=stale))
        return

    def header() -> read_pb2.ReadHeader:
        parked = shard.parked_for(key, question.read) if shard.parked else None
        return shard.header(stale=stale, as_copy=copy, parked_at=parked.at if parked else None)

    whose = _Whose(shard.view, key, series, shard.lock, lambda: shard.entry(key).state, header)
    answer.response = await _about_key(whose, query, ask, question)


async def answer_over_range_from_store(
    stored: Stored, view: View[Any], query: Query, ask: Message, question: worker_pb2.Question
) -> bytes:
    """About one key, from its last snapshot: all windows that are not in it any more had rows before it was written.

    Raises InvalidRequestError, StoreUnavailableError.
    """
    assert stored.series is not None  # checked at import
    whose = _Whose(view, question.key, stored.series, nullcontext(), lambda: stored.state, lambda: stored.header)
    return await _about_key(whose, query, ask, question)


async def _about_key(whose: _Whose, query: Query, ask: Message, question: worker_pb2.Question) -> bytes:
    answering = _windows if query.shape.kind == "windows" else _one
    response, header = await answering(whose, query, ask, question)
    query.shape.fill_in_key(response, whose.view.schema.key, whose.key)
    getattr(response, query.shape.header).CopyFrom(header)
    data: bytes = response.SerializeToString()
    return data


def _wanted(series: ShardSeries, asked: Any, field: str) -> list[Piece]:
    """The windows that totals of a range are made of."""
    _check(asked, field)
    wanted = pieces(series.declared, asked.from_us, asked.upto_us)
    if (count := (wanted[0].upto_us - wanted[0].from_us) // SECOND_US // wanted[0].window_s) > MOST_WINDOWS:
        longest_s = wanted[0].window_s
        _refuse(field, f"takes {count} windows of {longest_s} s, at most {MOST_WINDOWS} are added up")
    return wanted


def _check(asked: Any, field: str) -> None:
    if asked.from_us < 0 or asked.upto_us > LATEST_US:
        _refuse(field, "must lie between 1970 and 2100: give microseconds since 1970")
    if asked.upto_us <= asked.from_us:
        _refuse(f"{field}.upto_us", f"is {asked.upto_us}, which is not after from_us, {asked.from_us}")


def _refuse(field: str, problem: str) -> None:
    raise InvalidRequestError([Violation(field, problem)])


async def _one(whose: _Whose, query: Query, ask: Any, _: worker_pb2.Question) -> tuple[Any, read_pb2.ReadHeader]:
    """The totals of a range."""
    asked = getattr(ask, query.shape.range)
    wanted = _wanted(whose.series, asked, query.shape.range)
    noted, header = _noted(whose, wanted)
    await asyncio.to_thread(_read, whose.series, {whose.key: noted}, wanted)
    with whose.lock:  # by now the state may be newer than the header says; what is added up is not
        return query.function(whose.state(), ask, noted.total(asked.from_us, asked.upto_us)), header


def _noted(whose: _Whose, wanted: Sequence[Piece]) -> tuple[Held[Any], read_pb2.ReadHeader]:
    """The windows in memory, and the header to go with them: a copy, as a shard has one for all answers."""
    header = read_pb2.ReadHeader()
    with whose.lock:
        noted = Held(whose.series.windows(whose.state()), wanted)
        header.CopyFrom(whose.header())
    return noted, header


def _read(series: ShardSeries, held: dict[bytes, Held[Any]], wanted: Sequence[Piece]) -> None:
    """Adds to each key's windows what the store has of them. Blocks."""
    keys = list(held)
    for window_s, from_us, upto_us in wanted:
        most = (upto_us - from_us) // SECOND_US // window_s
        for key, rows in series.read(window_s, keys, from_us, upto_us, most).items():
            held[key].read(window_s, ((row.start_us, row.totals) for row in rows))


async def _windows(
    whose: _Whose, query: Query, ask: Any, question: worker_pb2.Question
) -> tuple[Any, read_pb2.ReadHeader]:
    """One page of the windows."""
    asked, window_s, series = getattr(ask, query.shape.range), ask.window_s, whose.series
    _check(asked, query.shape.range)
    known = [length.window_s for length in series.declared.lengths]
    if window_s not in known:
        _refuse("window_s", f"is {window_s}: there are windows of {', '.join(map(str, known))} s")
    from_us = max(asked.from_us, _decode_token(ask.page_token))
    noted, header = _noted(whose, [Piece(window_s, from_us, asked.upto_us)])
    rows = await asyncio.to_thread(series.read, window_s, [whose.key], from_us, asked.upto_us, question.limit + 1)
    noted.read(window_s, ((row.start_us, row.totals) for row in rows.get(whose.key, ())))
    found = noted.windows(window_s)
    response: Any = query.shape.response()
    with whose.lock:
        state = whose.state()
        for window in found[: question.limit]:
            getattr(response, query.shape.items).append(query.function(state, ask, window))
    if len(found) > question.limit:
        response.next_page_token = _encode_token(found[question.limit].start_us)
    return response, header


def _encode_token(start_us: int) -> str:
    return base64.urlsafe_b64encode(TOKEN + start_us.to_bytes(8, "big")).decode()


def _decode_token(token: str) -> int:
    if not token:
        return 0
    try:
        data = base64.b64decode(token, altchars=b"-_", validate=True)
    except ValueError:
        data = b""
    if not data.startswith(TOKEN) or len(data) != len(TOKEN) + 8:
        _refuse("page_token", "is not one that was given: pass next_page_token on as it is")
    return int.from_bytes(data[len(TOKEN) :], "big")


# --- all keys, the highest number first ---


async def _page(
    shard: Shard,
    series: ShardSeries,
    query: Query,
    ask: Any,
    question: worker_pb2.Question,
    *,
    stale: bool,
) -> worker_pb2.Page:
    """The first `limit` keys of those whose place is beyond `after_key`. Every key is looked at for it."""
    asked = getattr(ask, query.shape.range)
    wanted = _wanted(series, asked, query.shape.range)
    with shard.lock:
        parked_at = min((queue.at for queue in shard.parked.values()), default=None)
        header = shard.header(stale=stale, as_copy=question.standby_will_do, parked_at=parked_at)
        page = worker_pb2.Page(header=header)
    entries: list[tuple[bytes, bytes]] = []
    last = b""
    while True:
        with shard.lock:
            keys = list(islice(shard.keys_after(last), CHUNK))
            held = {key: Held(series.windows(shard.entry(key).state), wanted) for key in keys}
        if not keys:
            break
        last = keys[-1]
        totals = await asyncio.to_thread(_totals, series, held, wanted, asked)
        with shard.lock:
            items: list[tuple[bytes, Any]] = [
                (key, query.function(shard.entry(key).state, ask, totals[key])) for key in keys
            ]
        for key, item in items:
            if item is not None:
                query.shape.fill_in_key(item, shard.view.schema.key, key)
                place = _descending(getattr(item, query.shape.descending)) + key
                if place > question.after_key:
                    entries.append((place, item.SerializeToString()))
    best = heapq.nsmallest(question.limit + 1, entries)
    for place, data in best[: question.limit]:
        page.entries.add(key=place, item=data)
        page.last_key = place
    page.more = len(best) > question.limit
    return page


def _totals(series: ShardSeries, held: dict[bytes, Held[Any]], wanted: Sequence[Piece], asked: Any) -> dict[bytes, Any]:
    _read(series, held, wanted)
    return {key: one.total(asked.from_us, asked.upto_us) for key, one in held.items()}


def _descending(number: float) -> bytes:
    """Eight bytes that are the smaller the higher the number is."""
    (bits,) = struct.unpack(">Q", struct.pack(">d", number + 0.0))  # of -0.0 that makes 0.0
    ascending = bits ^ (0xFFFFFFFFFFFFFFFF if bits >> 63 else 1 << 63)
    return struct.pack(">Q", ascending ^ 0xFFFFFFFFFFFFFFFF)
