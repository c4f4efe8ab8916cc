"""The rows of a shard, read bucket by bucket, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from queue import SimpleQueue

from cassandra.cluster import ResponseFuture, Session
from cassandra.query import PreparedStatement

from aorist.adapters.cassandra.rows import bucket_values, parse_rows
from aorist.adapters.cassandra.statements import bound
from aorist.ports import ShardRows, SnapshotRow

BUCKETS_AT_ONCE = 4
"""While one page is looked at, the next ones are on their way; more than these would only wait."""

PAGE_BYTES = 1_000_000
MOST_ROWS, FIRST_ROWS = 5_000, 32
"""Cassandra counts pages in rows. How many make PAGE_BYTES is learned from the pages so far, beginning with few: states may
be large. At most four times more than before, in case the first ones were not like the others."""


def pages(
    session: Session, read_rows: PreparedStatement, shard: ShardRows, buckets: int, answer_timeout_s: float
) -> Iterator[list[SnapshotRow]]:
    """Asks for the next page of a bucket when the one before is taken: a slow taker holds one page of each.

    Raises what the driver raises, and queue.Empty.
    """
    arrived: SimpleQueue[tuple[int, ResponseFuture]] = SimpleQueue()
    page_rows = FIRST_ROWS

    def ask(bucket: int, paging_state: bytes | None) -> None:
        statement = bound(read_rows, bucket_values(shard, bucket), fetch_size=page_rows)
        future = session.execute_async(statement, paging_state=paging_state)
        # On a thread of the driver: nothing is done there but to hand it over.
        future.add_callbacks(lambda _: arrived.put((bucket, future)), lambda _: arrived.put((bucket, future)))

    waiting = iter(range(buckets))
    under_way = 0
    for bucket in islice(waiting, BUCKETS_AT_ONCE):
        ask(bucket, None)
        under_way += 1
    while under_way:
        bucket, future = arrived.get(timeout=answer_timeout_s)
        page = future.result()
        rows = parse_rows(page.current_rows)
        page_rows = _next_size(page_rows, rows)
        if page.paging_state:
            ask(bucket, page.paging_state)
        elif (following := next(waiting, None)) is not None:
            ask(following, None)
        else:
            under_way -= 1
        if rows:
            yield rows


def _next_size(page_rows: int, rows: list[SnapshotRow]) -> int:
    if not rows:
        return page_rows
    size = sum(len(row.key) + len(row.state) for row in rows)
    return max(1, min(MOST_ROWS, 4 * page_rows, PAGE_BYTES * len(rows) // size if size else MOST_ROWS))
