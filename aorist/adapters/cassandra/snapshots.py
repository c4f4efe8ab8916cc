"""SnapshotStore on Cassandra: batches of a bucket out, pages of a bucket in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from cassandra.query import PreparedStatement

from aorist.adapters.cassandra.batches import batches
from aorist.adapters.cassandra.cluster import check_keyspace, split_address
from aorist.adapters.cassandra.failures import FAILURES, Place
from aorist.adapters.cassandra.link import Link
from aorist.adapters.cassandra.pages import pages
from aorist.adapters.cassandra.requests import Requests
from aorist.adapters.cassandra.rows import (
    Values,
    bucket_of,
    bucket_values,
    checkpoint_values,
    parked_values,
    parse_checkpoint,
    parse_parked,
    parse_rows,
    shard_values,
)
from aorist.adapters.cassandra.series import CassandraSeriesStore
from aorist.adapters.cassandra.statements import Statements, bound, prepare
from aorist.errors import SettingError
from aorist.ports import Checkpoint, ParkedEvent, ShardRows, SnapshotRow

REQUEST_TIMEOUT_S = 6.0
"""A little longer than the servers' own limits (5 s reading, 2 s writing), whose errors say more than ours."""

BATCHES_IN_FLIGHT = 8
"""Over all threads. From 4 on a node is kept busy; more only wait there instead of here."""

PARKED_PAGE = 32
"""Parked events in a page: each may be as large as an event can be."""

AGAIN = "whether these rows are durable is not known, and writing them again is harmless"
READ_AGAIN = "nothing is lost by reading again"


class CassandraSnapshotStore:
    """Connects with the first call; until that succeeds, and whenever Cassandra is away, calls raise StoreUnavailableError.

    Methods block, for a bounded time each; call them off the event loop, from any thread. Not to be used after a fork.
    """

    def __init__(
        self,
        contact_points: Sequence[str],
        keyspace: str,
        *,
        datacenter: str = "",
        request_timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        """`contact_points`: HOST:PORT of some nodes. `datacenter`: the one to talk to; empty: that of the contact points.

        Raises SettingError for what cannot be meant.
        """
        if not contact_points:
            raise SettingError("no contact point of Cassandra: give at least one HOST:PORT")
        for address in contact_points:
            split_address(address)
        self._place = Place(tuple(contact_points), check_keyspace(keyspace), datacenter)
        self._link = Link(self._place, request_timeout_s, partial(prepare, place=self._place))
        self._answer_timeout_s = 2 * request_timeout_s
        self._writes = Requests(BATCHES_IN_FLIGHT, self._answer_timeout_s)

    def write_rows(self, shard: ShardRows, rows: Sequence[SnapshotRow]) -> None:
        statements = self._link.get()
        sent = ((None, batch) for batch in batches(statements.write_row, statements.buckets, shard, rows))
        try:
            for _ in self._writes.answers(statements.session, sent):
                pass
        except FAILURES as error:
            # Batches still on their way may become durable, now or later: that is as good as writing them again.
            raise self._link.failed(error, AGAIN) from error
        self._link.worked()

    def write_checkpoint(self, shard: ShardRows, checkpoint: Checkpoint) -> None:
        statements = self._link.get()
        self._one(statements, statements.write_checkpoint, checkpoint_values(shard, checkpoint), AGAIN)

    def read_checkpoint(self, shard: ShardRows) -> Checkpoint | None:
        statements = self._link.get()
        row = self._one(statements, statements.read_checkpoint, shard_values(shard), READ_AGAIN)
        return parse_checkpoint(row[0]) if row else None

    def read_rows(self, shard: ShardRows) -> Iterator[Sequence[SnapshotRow]]:
        """Holds at most a few pages of about a megabyte, however slowly they are taken. May be left unfinished."""
        statements = self._link.get()
        try:
            yield from pages(
                statements.session, statements.read_rows, shard, statements.buckets, self._answer_timeout_s
            )
        except FAILURES as error:
            raise self._link.failed(error, READ_AGAIN) from error
        self._link.worked()

    def read_row(self, shard: ShardRows, key: bytes) -> SnapshotRow | None:
        statements = self._link.get()
        bucket = bucket_values(shard, bucket_of(key, statements.buckets))
        row = self._one(statements, statements.read_row, [*bucket, key], READ_AGAIN)
        return parse_rows([row])[0] if row else None

    def write_parked(self, shard: ShardRows, events: Sequence[ParkedEvent]) -> None:
        statements = self._link.get()
        sent = ((None, bound(statements.write_parked, parked_values(shard, event))) for event in events)
        try:
            for _ in self._writes.answers(statements.session, sent):
                pass
        except FAILURES as error:
            raise self._link.failed(error, AGAIN) from error
        self._link.worked()

    def read_parked(self, shard: ShardRows) -> Sequence[ParkedEvent]:
        statements = self._link.get()
        statement = bound(statements.read_parked, shard_values(shard), fetch_size=PARKED_PAGE)
        try:
            found = [parse_parked(*row) for row in statements.session.execute(statement)]
        except FAILURES as error:
            raise self._link.failed(error, READ_AGAIN) from error
        self._link.worked()
        return found

    def series(self) -> CassandraSeriesStore:
        """The store of time series beside it. Shares its connections, and ends with it."""
        return CassandraSeriesStore(self._link, self._place, self._answer_timeout_s)

    def close(self) -> None:
        """Ends its connections. What was not acknowledged fails."""
        self._link.close()

    def _one(self, statements: Statements, statement: PreparedStatement, values: Values, then: str) -> Any:
        """Executes it, and returns its first row, if it has any."""
        try:
            row = statements.execute(statement, values)
        except FAILURES as error:
            raise self._link.failed(error, then) from error
        self._link.worked()
        return row
