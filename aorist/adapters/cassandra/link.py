"""One session, made when it is first needed and for as long as it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog
from cassandra import RequestValidationException
from cassandra.cluster import Cluster, NoHostAvailable, Session
from cassandra.protocol import LazyProtocolHandler, ProtocolHandler

from aorist.adapters.cassandra.cluster import make_cluster
from aorist.adapters.cassandra.failures import FAILURES, Place
from aorist.errors import StoreUnavailableError

ATTEMPT_EVERY_S = 0.5
"""Callers that come again at once are told the last failure until this has passed."""

START_ANEW_AFTER_S = 15.0
"""Without any node for so long, the names are looked up again. The driver tries the addresses it knows for ever, but nodes
in containers come back under others."""

P = TypeVar("P")

log = structlog.get_logger()


class Link(Generic[P]):
    """Holds what `prepare` makes of a session. May be used from any thread."""

    def __init__(self, place: Place, timeout_s: float, prepare: Callable[[Session], P]) -> None:
        """Connects to nothing. `prepare` may raise StoreUnavailableError; it is then called again later."""
        self._place, self._timeout_s, self._prepare = place, timeout_s, prepare
        self._lock = threading.RLock()  # held while connecting
        self._cluster: Cluster | None = None
        self._session: Session | None = None
        self._prepared: P | None = None
        self._refused: tuple[float, str] | None = None
        self._away_since: float | None = None
        self._without_node_since = 0.0  # or since it was last started anew
        self._closed = False

    def get(self) -> P:
        """Connects unless that is done. Blocks for a bounded time. Raises StoreUnavailableError."""
        prepared = self._prepared  # looked at once: another thread may take it away
        if prepared is not None:
            return prepared
        if not self._lock.acquire(timeout=2 * self._timeout_s):
            raise self._place.unusable("is still being connected to; try again")
        try:
            return self._connected()
        finally:
            self._lock.release()

    def worked(self) -> None:
        """A call came back well."""
        if self._away_since is not None:
            with self._lock:
                if self._away_since is not None:
                    log.info("cassandra answers again", away_s=round(time.monotonic() - self._away_since, 1))
                self._away_since = None

    def failed(self, error: Exception, then: str) -> StoreUnavailableError:
        """A call came back with `error`: the error to raise. Decides whether the session is still good."""
        if isinstance(error, RequestValidationException):
            self._prepared = None  # perhaps a table is not there any more: look again
            return self._place.unavailable(error, "it will do so again until that is changed")
        failure = self._place.unavailable(error, then)
        worn: Cluster | None = None
        with self._lock:
            now = time.monotonic()
            if self._away_since is None:
                self._away_since = self._without_node_since = now
                log.warning("cassandra is away", problem=str(failure))
            if isinstance(error, NoHostAvailable) and now - self._without_node_since > START_ANEW_AFTER_S:
                worn, self._without_node_since = self._forget(), now
        if worn is not None:
            worn.shutdown()
        return failure

    def close(self) -> None:
        with self._lock:
            self._closed = True
            cluster = self._forget()
        if cluster is not None:
            cluster.shutdown()

    def _forget(self) -> Cluster | None:
        cluster, self._cluster, self._session, self._prepared = self._cluster, None, None, None
        return cluster

    def _connected(self) -> P:
        if self._closed:
            raise self._place.unusable("this store is closed")
        if self._prepared is None:
            if self._refused and time.monotonic() < self._refused[0] + ATTEMPT_EVERY_S:
                raise StoreUnavailableError(self._refused[1])
            try:
                self._prepared = self._connect()
            except StoreUnavailableError as error:
                self._refused = time.monotonic(), str(error)
                raise
        return self._prepared

    def _connect(self) -> P:
        try:
            session = self._session or self._make_session()
            # All of the schema that the driver needs: which nodes hold the rows of this keyspace.
            session.cluster.refresh_keyspace_metadata(self._place.keyspace, 0)
            return self._prepare(session)
        except FAILURES as error:
            raise self.failed(error, "connecting again with the next call") from error

    def _make_session(self) -> Session:
        cluster = make_cluster(self._place.contact_points, self._place.datacenter, self._timeout_s)
        try:
            session = cluster.connect()
        except BaseException:
            cluster.shutdown()
            raise
        # Every write says its own timestamp; see `rows`.
        session.use_client_timestamp = False
        # Rows are parsed where they are taken, not in one go by the driver's thread while everything else waits for the
        # interpreter's lock. (None where the driver came without its compiled parts.)
        session.client_protocol_handler = LazyProtocolHandler or ProtocolHandler
        self._cluster, self._session = cluster, session
        return session
