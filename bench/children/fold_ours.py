"""`fold_ours TOPIC EVENTS`: aorist folds a backlog: Materializer, Folder and KafkaEventLog, as a worker runs them; no snapshots."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence

import uvloop

from aorist.adapters.kafka import KafkaEventLog
from aorist.app import set_up_process
from aorist.engine.materializer import Materializer
from aorist.logs import set_up_logging
from aorist.ports import Checkpoint, ShardRows, SnapshotRow
from aorist.position import ShardName
from bench.children.folding import FROM, PATIENCE_S, brokers, moment, report, rss_at_rest
from bench.project import view_on

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

    def close(self) -> None: ...


async def main(topic: str, events: int) -> None:
    set_up_logging("warning", "human")
    view, log = view_on(topic), KafkaEventLog(brokers())
    set_up_process()
    materializer = Materializer([view], log, NoStore(), NEVER_S)
    materializer.start()
    before = rss_at_rest()
    for number in range(view.schema.topic.partitions):
        materializer.open(ShardName(view.name, number))

    def count() -> int:
        return sum(shard.next_offset for shard in materializer.shards.values())

    until, began = time.monotonic() + PATIENCE_S, None
    while (seen := count()) < events and time.monotonic() < until:
        if began is None and seen >= events * FROM:
            began = moment(seen)
        await asyncio.sleep(0.002)
    assert began is not None, f"{seen} of {events} events in {PATIENCE_S} s"
    ended = moment(seen)
    keys = sum(len(shard.entries) for shard in materializer.shards.values())
    report(began, ended, before, keys=keys)
    await materializer.stop()
    log.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
