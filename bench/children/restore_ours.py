"""`restore_ours TOPIC KEYS fold|restore`: a worker that folds KEYS keys and snapshots them, or one that comes back to them.

Materializer, KafkaEventLog and CassandraSnapshotStore as a worker runs them. Prints what the snapshot took, or how long it was until
every shard could answer; and what the keys cost in memory.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

import uvloop

from aorist.adapters.cassandra import CassandraSnapshotStore
from aorist.adapters.kafka import KafkaEventLog
from aorist.app import set_up_process
from aorist.engine.checkpoint import checkpoint
from aorist.engine.materializer import Materializer
from aorist.engine.shard import Phase, Shard
from aorist.logs import set_up_logging
from aorist.position import ShardName
from bench.children.folding import PATIENCE_S, brokers, moment, report, rss_at_rest
from bench.project import view_on

NEVER_S = 3600.0


async def main(topic: str, keys: int, what: str) -> None:
    set_up_logging("warning", "human")
    view, log = view_on(topic), KafkaEventLog(brokers())
    set_up_process()
    store = CassandraSnapshotStore(os.environ["AORIST_CASSANDRA"].split(","), os.environ["AORIST_KEYSPACE"])
    materializer = Materializer([view], log, store, NEVER_S)
    materializer.start()
    before, began = rss_at_rest(), moment(0)
    for number in range(view.schema.topic.partitions):
        materializer.open(ShardName(view.build_name, number))
    until = time.monotonic() + PATIENCE_S
    while not _done(list(materializer.shards.values()), view.schema.topic.partitions, keys):
        assert time.monotonic() < until, f"not done in {PATIENCE_S} s"
        await asyncio.sleep(0.002)
    ended = moment(keys)
    if what == "fold":
        began = moment(0)
        await asyncio.to_thread(_snapshot, list(materializer.shards.values()), store)
        ended = moment(keys)
    settled = rss_at_rest()
    report(began, ended, before, per_key=(settled - before) / keys, settled=settled)
    os._exit(0)  # without the last checkpoint of a shard that is closed


def _snapshot(shards: list[Shard], store: CassandraSnapshotStore) -> None:
    for shard in shards:
        checkpoint(shard, store, lambda *_: None)


def _done(shards: list[Shard], partitions: int, keys: int) -> bool:
    answering = [shard for shard in shards if shard.phase is Phase.SERVING]
    return len(answering) == partitions and sum(len(shard.entries) for shard in shards) >= keys


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
