"""`fold_ours TOPIC EVENTS`: aorist folds a backlog: Materializer, Folder and KafkaEventLog, as a worker runs them; no snapshots."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import uvloop

from aorist.adapters.kafka import KafkaEventLog
from aorist.app import set_up_process
from aorist.engine.materializer import Materializer
from aorist.logs import set_up_logging
from aorist.ports import Checkpoint, ParkedEvent, SeriesRows, ShardRows, SnapshotRow, WindowRow
from aorist.position import ShardName
from bench.children.folding import FROM, PATIENCE_S, brokers, moment, report, rss_at_rest
from bench.project import VIEW, view_on

NEVER_S = 3600.0


class NoStore:
    """Keeps nothing: snapshots have a figure of their own."""

    def write_rows(self, shard: ShardRows, rows: Sequence[SnapshotRow]) -> None: ...

    def write_checkpoint(self, shard: ShardRows, checkpoint: Checkpoint) -> None: ...

    def read_checkpoint(self, _shard: ShardRows) -> Checkpoint | None:
        return None

    def read_rows(self, _shard: ShardRows) -> Iterator[Sequence[SnapshotRow]]:
        return iter(())

    def read_row(self, _shard: ShardRows, _key: bytes) -> SnapshotRow | None:
        return None

    def write_windows(self, series: SeriesRows, rows: Sequence[WindowRow]) -> None: ...

    def read_windows(
        self, _series: SeriesRows, _keys: Sequence[bytes], _from_us: int, _upto_us: int, _limit: int
    ) -> dict[bytes, Sequence[WindowRow]]:
        return {}

    def write_parked(self, shard: ShardRows, events: Sequence[ParkedEvent]) -> None: ...

    def read_parked(self, _shard: ShardRows) -> Sequence[ParkedEvent]:
        return ()

    def close(self) -> None: ...


def keys(materializer: Materializer) -> Mapping[str, int]:
    return {"keys": sum(len(shard.entries) for shard in materializer.shards.values())}


async def fold(name: str, topic: str, events: int, more: Callable[[Materializer], Mapping[str, int]]) -> None:
    """`more`: what else to report of what came of it."""
    set_up_logging("warning", "human")
    view, log, store = view_on(topic, name), KafkaEventLog(brokers()), NoStore()
    set_up_process()
    materializer = Materializer([view], log, store, NEVER_S, series=store)
    materializer.start()
    before = rss_at_rest()
    for number in range(view.schema.topic.partitions):
        materializer.open(ShardName(view.build_name, number))

    def count() -> int:
        return sum(shard.next_offset for shard in materializer.shards.values())

    until, began = time.monotonic() + PATIENCE_S, None
    while (seen := count()) < events and time.monotonic() < until:
        if began is None and seen >= events * FROM:
            began = moment(seen)
        await asyncio.sleep(0.002)
    assert began is not None, f"{seen} of {events} events in {PATIENCE_S} s"
    ended = moment(seen)
    report(began, ended, before, **more(materializer))
    await materializer.stop()
    log.close()


if __name__ == "__main__":
    uvloop.run(fold(VIEW, sys.argv[1], int(sys.argv[2]), keys))
