"""Digests of a shard's keys, to compare two builds by.

A state is that of the last event in it. Where two builds have folded a key up to the same event, their states can be compared, whatever
was folded of other keys meanwhile: so nothing has to stand still for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from itertools import islice
from typing import Any

from aorist.engine.shard import Shard
from aorist.v1 import position_pb2, worker_pb2

CHUNK = 50
"""Keys looked at under one hold of the shard's lock."""

MOST_KEYS = 1_000
"""In one answer."""


def digest_of(*texts: bytes) -> int:
    """64 bits."""
    return int.from_bytes(blake2b(b"".join(texts), digest_size=8).digest(), "big")


def digest_page(shard: Shard, request: worker_pb2.DigestRequest) -> worker_pb2.DigestResponse:
    """The keys asked for, or those after one, in order. What is folded while this goes on may be in it or not."""
    page = worker_pb2.DigestResponse(last_key=request.after_key, more=not request.keys)
    with shard.lock:
        at = position_pb2.Position(
            topic=shard.partition.topic, partition=shard.partition.number, offset=shard.next_offset - 1
        )
        page.position.CopyFrom(at)
        if request.keys:
            _add(page, shard, sorted(request.keys)[:MOST_KEYS])
    most = min(request.limit or MOST_KEYS, MOST_KEYS)
    while page.more and len(page.keys) < most:
        with shard.lock:
            keys = list(islice(shard.keys_after(page.last_key), min(CHUNK, most - len(page.keys))))
            _add(page, shard, keys)
        page.more = bool(keys)
        page.last_key = keys[-1] if keys else page.last_key
    return page


def _add(page: worker_pb2.DigestResponse, shard: Shard, keys: Iterable[bytes]) -> None:
    """Of those that have a state."""
    for key in keys:
        entry = shard.entries.get(key)
        if entry is not None:
            page.keys.add(key=key, offset=entry.offset, digest=digest_of(_encoded(shard, entry.state)))


def _encoded(shard: Shard, state: Any) -> bytes:
    """Without closed windows: how many still wait in it for the store is a matter of when checkpoints were taken."""
    encode = shard.view.codec.encode
    if shard.series is None:
        return encode(state)
    windows = shard.series.windows(state)
    waiting, windows.closed = windows.closed, []
    try:
        return encode(state)
    finally:
        windows.closed = waiting
