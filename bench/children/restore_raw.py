"""`restore_raw TOPIC_ID KEYS`: reads the rows of a view with the driver alone, by bucket, a few at once, and looks at none of them."""

from __future__ import annotations

import os
import sys
import threading
from itertools import product
from queue import SimpleQueue
from typing import Any
from uuid import UUID

from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.query import tuple_factory

from aorist.adapters.cassandra.schema import BUCKETS, bucket_column
from bench.children.folding import collect_as_ours, moment, report, rss_at_rest
from bench.fill import PARTITIONS
from bench.project import VIEW, view_on

AT_ONCE = 8
PAGE_ROWS = 5_000
BUILD = view_on("any").build


class Reading:
    def __init__(self, session: Any, topic_id: UUID) -> None:
        where = f"view_name = ? AND build = ? AND topic_id = ? AND partition = ? AND {bucket_column(BUCKETS)} = ?"
        self._session = session
        self._select = session.prepare(f"SELECT key, cell FROM snapshots WHERE {where}")  # noqa: S608  # names of ours
        self._select.fetch_size = PAGE_ROWS
        self._waiting = iter(product(range(PARTITIONS), range(BUCKETS)))
        self._topic_id = topic_id
        self._pages: SimpleQueue[Any] = SimpleQueue()
        self._lock = threading.Lock()

    def count(self) -> int:
        under_way, rows = sum(self._next() for _ in range(AT_ONCE)), 0
        while under_way:
            future = self._pages.get(timeout=30)
            rows += len(future.result().current_rows)
            if future.has_more_pages:
                future.start_fetching_next_page()
            elif not self._next():
                under_way -= 1
        return rows

    def _next(self) -> bool:
        piece = next(self._waiting, None)
        if piece is not None:
            future = self._session.execute_async(self._select, [VIEW, BUILD, self._topic_id, *piece])
            future.add_callbacks(lambda _: self._pages.put(future), lambda _: self._pages.put(future))
        return piece is not None


def main(topic_id: UUID, keys: int) -> None:
    profile = ExecutionProfile(row_factory=tuple_factory, request_timeout=30)
    address = [point.split(":") for point in os.environ["AORIST_CASSANDRA"].split(",")]
    cluster = Cluster(
        [(host, int(port)) for host, port in address],
        protocol_version=5,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
    )
    reading = Reading(cluster.connect(os.environ["AORIST_KEYSPACE"]), topic_id)
    collect_as_ours()
    before, began = rss_at_rest(), moment(0)
    rows = reading.count()
    assert rows == keys, f"{rows} rows for {keys} keys"
    report(began, moment(rows), before)
    cluster.shutdown()


if __name__ == "__main__":
    main(UUID(sys.argv[1]), int(sys.argv[2]))
