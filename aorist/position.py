"""Where things are: partitions, positions, shards; and which partition a key belongs to."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

NOTHING = -1
"""Offset before the first: nothing folded, nothing stored."""


class Partition(NamedTuple):
    """One ordered piece of a topic. `number` from 0."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.number}"


class Position(NamedTuple):
    """The place of one event."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}"


@lru_cache(maxsize=1024)  # for every question
def build_name(view: str, build: int) -> str:
    """A build of a view, NAME@BUILD: what is folded, owned and asked for. Each has rows and shards of its own."""
    return f"{view}@{build}"


@lru_cache(maxsize=1024)
def view_and_build(name: str) -> tuple[str, int]:
    """Of such a name. Raises ValueError for any other text."""
    view, _, build = name.rpartition("@")
    if not view:
        raise ValueError(f"{name!r} is not NAME@BUILD")
    return view, int(build)


class ShardName(NamedTuple):
    """One partition of one build of a view: the unit that is owned. `view`: NAME@BUILD."""

    view: str
    partition: int

    def __str__(self) -> str:
        return f"{self.view}/{self.partition}"


@lru_cache(maxsize=65_536)  # robots repeat themselves; hashing costs 3 us, a hit 0.1
def partition_of(partition_by: bytes, partitions: int) -> int:
    """The partition of these bytes among `partitions`: Kafka's default for Java producers (murmur2, seed 0x9747b28c, sign bit off).

    Foreign producers that leave partitioning to their client agree with it where the whole key is `partition_by`.
    """
    return (_murmur2(partition_by) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    m, mask, length = 0x5BD1E995, 0xFFFFFFFF, len(data)
    h = (0x9747B28C ^ length) & mask
    whole = length & ~3
    for i in range(0, whole, 4):
        k = (int.from_bytes(data[i : i + 4], "little") * m) & mask
        h = ((h * m) & mask) ^ (((k ^ (k >> 24)) * m) & mask)
    if whole < length:
        h = ((h ^ int.from_bytes(data[whole:], "little")) * m) & mask
    h = ((h ^ (h >> 13)) * m) & mask
    return h ^ (h >> 15)
