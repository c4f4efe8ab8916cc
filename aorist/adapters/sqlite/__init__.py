"""The embedded default: log, snapshots, time series and revision counter in one SQLite file that one process owns."""

from aorist.adapters.sqlite.database import Database
from aorist.adapters.sqlite.log import SqliteEventLog
from aorist.adapters.sqlite.series import SqliteSeriesStore
from aorist.adapters.sqlite.snapshots import SqliteSnapshotStore

__all__ = ["Database", "SqliteEventLog", "SqliteSeriesStore", "SqliteSnapshotStore"]
