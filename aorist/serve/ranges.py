"""The worker's answers over ranges of time: windows in memory, noted with the header, then rows of the store that came before them."""

from __future__ import annotations

import asyncio
import base64
import heapq
import struct
from collections.abc import Sequence
from itertools import islice
from typing import Any

from google.protobuf.message import Message

from aorist.declare.ranges import Held, Piece, pieces
from aorist.declare.series import SECOND_US
from aorist.declare.view import Query
from aorist.engine.series import ShardSeries
from aorist.engine.shard import Shard
from aorist.errors import InvalidRequestError, Violation
from aorist.ports import LATEST_US
from aorist.v1 import read_pb2, worker_pb2

CHUNK = 50
"""Keys whose windows are noted under one hold of the shard's lock, and read from the store at once."""

MOST_WINDOWS = 100_000
"""Of the longest length in one range: eleven years of hours."""

TOKEN = b"w"
"""What a token begins with: the start of the first window of the next page follows."""


async def answer_over_range(
    answer: worker_pb2.Answer, shard: Shard, query: Query, ask: Message, question: worker_pb2.Question, *, stale: bool
) -> None:
    """Fills in `answer`. Raises InvalidRequestError, UnknownKeyError, StoreUnavailableError."""
    series = shard.series
    assert series is not None  # checked at import
    asked = getattr(ask, query.shape.range)
    _check(asked, query.shape.range)
    if query.shape.kind == "windows":
        answer.response = await _windows(shard, series, query, ask, question, stale=stale)
        return
    wanted = pieces(series.declared, asked.from_us, asked.upto_us)
    if (count := (wanted[0].upto_us - wanted[0].from_us) // SECOND_US // wanted[0].window_s) > MOST_WINDOWS:
        longest_s = wanted[0].window_s
        _refuse(query.shape.range, f"takes {count} windows of {longest_s} s, at most {MOST_WINDOWS} are added up")
    if query.shape.kind == "list":
        answer.page.CopyFrom(await _page(shard, series, query, ask, question, wanted, stale=stale))
    else:
        answer.response = await _one(
            shard, series, query, ask, question.key, wanted, stale=stale, copy=question.standby_will_do
        )


def _check(asked: Any, field: str) -> None:
    if asked.from_us < 0 or asked.upto_us > LATEST_US:
        _refuse(field, "must lie between 1970 and 2100: give microseconds since 1970")
    if asked.upto_us <= asked.from_us:
        _refuse(f"{field}.upto_us", f"is {asked.upto_us}, which is not after from_us, {asked.from_us}")


def _refuse(field: str, problem: str) -> None:
    raise InvalidRequestError([Violation(field, problem)])


async def _one(
    shard: Shard,
    series: ShardSeries,
    query: Query,
    ask: Any,
    key: bytes,
    wanted: Sequence[Piece],
    *,
    stale: bool,
    copy: bool,
) -> bytes:
    """The totals of a range, of one key."""
    with shard.lock:
        held = {key: Held(series.windows(shard.entry(key).state), wanted)}
        header = _header_now(shard, stale=stale, copy=copy)
    asked = getattr(ask, query.shape.range)
    await asyncio.to_thread(_read, series, held, wanted)
    with shard.lock:  # by now the state may be newer than the header says; what is added up is not
        response: Any = query.function(shard.entry(key).state, ask, held[key].total(asked.from_us, asked.upto_us))
    return _finished(response, shard, query, key, header)


def _header_now(shard: Shard, *, stale: bool, copy: bool) -> read_pb2.ReadHeader:
    """Under the lock. The shard's own is for all answers, and changes while the store is read for this one."""
    header = read_pb2.ReadHeader()
    header.CopyFrom(shard.header(stale=stale, as_copy=copy))
    return header


def _finished(response: Any, shard: Shard, query: Query, key: bytes, header: read_pb2.ReadHeader) -> bytes:
    query.shape.fill_in_key(response, shard.view.schema.key, key)
    getattr(response, query.shape.header).CopyFrom(header)
    data: bytes = response.SerializeToString()
    return data


def _read(series: ShardSeries, held: dict[bytes, Held[Any]], wanted: Sequence[Piece]) -> None:
    """Adds to each key's windows what the store has of them. Blocks."""
    keys = list(held)
    for window_s, from_us, upto_us in wanted:
        most = (upto_us - from_us) // SECOND_US // window_s
        for key, rows in series.read(window_s, keys, from_us, upto_us, most).items():
            held[key].read(window_s, ((row.start_us, row.totals) for row in rows))


async def _windows(
    shard: Shard, series: ShardSeries, query: Query, ask: Any, question: worker_pb2.Question, *, stale: bool
) -> bytes:
    """One page of the windows of one key."""
    asked, window_s, key = getattr(ask, query.shape.range), ask.window_s, question.key
    known = [length.window_s for length in series.declared.lengths]
    if window_s not in known:
        _refuse("window_s", f"is {window_s}: there are windows of {', '.join(map(str, known))} s")
    copy = question.standby_will_do
    from_us = max(asked.from_us, _decode_token(ask.page_token))
    piece = Piece(window_s, from_us, asked.upto_us)
    with shard.lock:
        held = Held(series.windows(shard.entry(key).state), [piece])
        header = _header_now(shard, stale=stale, copy=copy)
    rows = await asyncio.to_thread(series.read, window_s, [key], from_us, asked.upto_us, question.limit + 1)
    held.read(window_s, ((row.start_us, row.totals) for row in rows.get(key, ())))
    found = held.windows(window_s)
    response: Any = query.shape.response()
    with shard.lock:
        state = shard.entry(key).state
        for window in found[: question.limit]:
            getattr(response, query.shape.items).append(query.function(state, ask, window))
    if len(found) > question.limit:
        response.next_page_token = _encode_token(found[question.limit].start_us)
    return _finished(response, shard, query, key, header)


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
    wanted: Sequence[Piece],
    *,
    stale: bool,
) -> worker_pb2.Page:
    """The first `limit` keys of those whose place is beyond `after_key`. Every key is looked at for it."""
    asked = getattr(ask, query.shape.range)
    with shard.lock:
        page = worker_pb2.Page(header=shard.header(stale=stale, as_copy=question.standby_will_do))
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
