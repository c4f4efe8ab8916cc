"""Snapshots and time series in Cassandra: rows that never go backwards, whichever process writes them, in whichever order."""

from aorist.adapters.cassandra.schema import apply_schema
from aorist.adapters.cassandra.series import CassandraSeriesStore
from aorist.adapters.cassandra.snapshots import CassandraSnapshotStore

__all__ = ["CassandraSeriesStore", "CassandraSnapshotStore", "apply_schema"]
