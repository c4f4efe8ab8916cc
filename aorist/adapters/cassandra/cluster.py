"""How the driver is set up, with the reason beside each setting that is not its default."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

from cassandra import ConsistencyLevel
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.policies import (
    DCAwareRoundRobinPolicy,
    ExponentialReconnectionPolicy,
    NoSpeculativeExecutionPolicy,
    RetryPolicy,
    TokenAwarePolicy,
)
from cassandra.protocol import OverloadedErrorMessage
from cassandra.query import tuple_factory

from aorist.errors import SettingError

PROTOCOL_VERSION = 5
"""Of Cassandra 4.0 and later. Left to choose, the driver tries versions that servers refuse, and gives up."""

CONNECT_TIMEOUT_S = 5.0
"""For one node to take a connection; a node that is there does within milliseconds."""

HEARTBEAT_S = 5.0
"""A node that vanished without a word (power, network) is noticed after two of these; nothing else notices it."""

FIRST_RECONNECTION_S, LAST_RECONNECTION_S = 0.25, 4.0
"""Between attempts to reach a node that is down: grows from the first to the last. The driver's own end is ten minutes."""

_KEYSPACE = re.compile(r"[a-z][a-z0-9_]{0,47}")

# The driver logs every attempt to reach a node that is down, with a traceback. That Cassandra is away is told once, by
# `link`, and again to every caller by the error.
logging.getLogger("cassandra").setLevel(logging.CRITICAL)


class RetryOnce(RetryPolicy):  # type: ignore[misc]  # no stubs exist
    """Asks one other node where the first could not be asked or knew too few replicas, and leaves the rest to the caller.

    The driver's own policy asks the next node after any error, without end: also after "overloaded", which spreads
    the load that was too much, and after writes that are not idempotent. Timeouts are not retried here: the replicas
    have the request and are slow, and the caller comes back later than we would.
    """

    def on_read_timeout(self, *_: Any, **__: Any) -> tuple[int, None]:
        return self.RETHROW, None

    def on_write_timeout(self, *_: Any, **__: Any) -> tuple[int, None]:
        return self.RETHROW, None

    def on_unavailable(self, *_: Any, retry_num: int, **__: Any) -> tuple[int, None]:
        return (self.RETRY_NEXT_HOST if retry_num == 0 else self.RETHROW), None

    def on_request_error(self, query: Any, _consistency: Any, error: Exception, retry_num: int) -> tuple[int, None]:
        again = retry_num == 0 and query.is_idempotent and not isinstance(error, OverloadedErrorMessage)
        return (self.RETRY_NEXT_HOST if again else self.RETHROW), None


def make_cluster(contact_points: Sequence[str], datacenter: str, timeout_s: float) -> Cluster:
    """Looks up the names of the contact points, but connects to none of them yet."""
    profile = ExecutionProfile(
        # To a replica of the row, in our own data center; the others are for their own workers.
        load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(datacenter)),
        retry_policy=RetryOnce(),
        # Whoever takes a shard over reads all that was acknowledged, with any one node of three away.
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
        request_timeout=timeout_s,
        row_factory=tuple_factory,
        speculative_execution_policy=NoSpeculativeExecutionPolicy(),
    )
    return Cluster(
        contact_points=[split_address(address) for address in contact_points],
        protocol_version=PROTOCOL_VERSION,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        # Without an end: the default gives a node up after 64 attempts.
        reconnection_policy=ExponentialReconnectionPolicy(FIRST_RECONNECTION_S, LAST_RECONNECTION_S, max_attempts=None),
        connect_timeout=min(CONNECT_TIMEOUT_S, timeout_s),
        control_connection_timeout=min(CONNECT_TIMEOUT_S, timeout_s),
        idle_heartbeat_interval=HEARTBEAT_S,
        idle_heartbeat_timeout=HEARTBEAT_S,
        metrics_enabled=False,
        # Of all keyspaces and tables only the replication of ours is ever looked at: `Link` fetches that.
        schema_metadata_enabled=False,
        # Nodes that come and go are told to every client at once; a second spreads their questions.
        topology_event_refresh_window=1,
        status_event_refresh_window=1,
    )


def split_address(address: str) -> tuple[str, int]:
    """Host and port of "host:port"; an IPv6 address stands in brackets. Raises SettingError."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise SettingError(
            f"{address!r} is no contact point of Cassandra: it has to be HOST:PORT, as in cassandra-0:9042"
        )
    return host, int(port)


def check_keyspace(keyspace: str) -> str:
    """Raises SettingError for what cannot stand in a statement unquoted."""
    if not _KEYSPACE.fullmatch(keyspace):
        raise SettingError(
            f"{keyspace!r} is no name for a keyspace: up to 48 of a-z, 0-9 and _, beginning with a letter"
        )
    return keyspace
