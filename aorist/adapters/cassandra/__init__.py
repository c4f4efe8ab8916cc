"""Snapshots in Cassandra: rows that never go backwards, whichever process writes them, in whichever order."""

from aorist.adapters.cassandra.schema import apply_schema
from aorist.adapters.cassandra.snapshots import CassandraSnapshotStore

__all__ = ["CassandraSnapshotStore", "apply_schema"]
