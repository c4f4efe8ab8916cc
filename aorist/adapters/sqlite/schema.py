"""The file: its tables, its format version, and who may open it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path

from aorist.errors import SettingError

APPLICATION_ID = 0x616F7273  # "aors": tells our files from other people's
FORMAT = 1
"""Raised with every change of the tables that an older aorist could not live with."""

BUSY_TIMEOUT_S = 2.0
"""How long a transaction waits for a stranger, such as a backup tool, to let go of the file."""

TABLES = """
CREATE TABLE topics (
    name         TEXT PRIMARY KEY,
    id           BLOB NOT NULL,
    partitions   INTEGER NOT NULL,
    retention_ms INTEGER,
    compacted    INTEGER NOT NULL
) WITHOUT ROWID;

-- One partition of one life of a topic: AUTOINCREMENT gives no number twice, so events of a deleted topic stay apart.
-- "end" only grows: it is what makes offsets unique after everything was trimmed. Below "clean", compaction is done.
CREATE TABLE partitions (
    no      INTEGER PRIMARY KEY AUTOINCREMENT,
    topic   TEXT NOT NULL,
    idx     INTEGER NOT NULL,
    "start" INTEGER NOT NULL DEFAULT 0,
    "end"   INTEGER NOT NULL DEFAULT 0,
    clean   INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, idx)
);

CREATE TABLE events (
    partition_no INTEGER NOT NULL,
    offset       INTEGER NOT NULL,
    time_us      INTEGER NOT NULL,
    key          BLOB NOT NULL,
    value        BLOB,
    PRIMARY KEY (partition_no, offset)
) WITHOUT ROWID;

-- Newest event of each key below "clean". expires_us: set for a tombstone.
CREATE TABLE newest (
    partition_no INTEGER NOT NULL,
    key          BLOB NOT NULL,
    offset       INTEGER NOT NULL,
    expires_us   INTEGER,
    PRIMARY KEY (partition_no, key)
) WITHOUT ROWID;
CREATE INDEX newest_tombstones ON newest (partition_no, expires_us) WHERE expires_us IS NOT NULL;

-- Partitions of deleted topics whose events are still to be removed.
CREATE TABLE dropped (partition_no INTEGER PRIMARY KEY);

-- For lag tools only.
CREATE TABLE committed (
    reader_group TEXT NOT NULL,
    topic        TEXT NOT NULL,
    idx          INTEGER NOT NULL,
    next_offset  INTEGER NOT NULL,
    PRIMARY KEY (reader_group, topic, idx)
) WITHOUT ROWID;

CREATE TABLE shards (
    no       INTEGER PRIMARY KEY,
    view     TEXT NOT NULL,
    build    INTEGER NOT NULL,
    topic_id BLOB NOT NULL,
    idx      INTEGER NOT NULL,
    UNIQUE (view, build, topic_id, idx)
);

CREATE TABLE snapshots (
    shard_no INTEGER NOT NULL,
    key      BLOB NOT NULL,
    state    BLOB NOT NULL,
    offset   INTEGER NOT NULL,
    epoch    INTEGER NOT NULL,
    PRIMARY KEY (shard_no, key)
) WITHOUT ROWID;

CREATE TABLE checkpoints (
    shard_no    INTEGER PRIMARY KEY,
    next_offset INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    time_us     INTEGER NOT NULL,
    leader_epoch INTEGER NOT NULL
);

CREATE TABLE registry (revision INTEGER NOT NULL);
INSERT INTO registry VALUES (0);
"""

LATER_TABLES = """
CREATE TABLE IF NOT EXISTS series (
    no       INTEGER PRIMARY KEY,
    view     TEXT NOT NULL,
    build    INTEGER NOT NULL,
    topic_id BLOB NOT NULL,
    window_s INTEGER NOT NULL,
    UNIQUE (view, build, topic_id, window_s)
);

CREATE TABLE IF NOT EXISTS windows (
    series_no  INTEGER NOT NULL,
    key        BLOB NOT NULL,
    start_us   INTEGER NOT NULL,
    totals     BLOB NOT NULL,
    offset     INTEGER NOT NULL,
    expires_us INTEGER NOT NULL,
    PRIMARY KEY (series_no, key, start_us)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS windows_by_expiry ON windows (expires_us);

CREATE TABLE IF NOT EXISTS quarantine (
    shard_no INTEGER NOT NULL,
    key      BLOB NOT NULL,
    offset   INTEGER NOT NULL,
    value    BLOB,
    reason   TEXT NOT NULL,
    time_us  INTEGER NOT NULL,
    state    INTEGER NOT NULL,
    PRIMARY KEY (shard_no, key, offset)
) WITHOUT ROWID;
"""
"""Made in every file that lacks them, new or not. An older aorist lives with them, so they raise no format."""


class FileLock:
    """Keeps every other opener out, also one in the same process, until it is released or the process ends.

    On a file of its own: closing any descriptor of the database file would drop SQLite's own locks on it.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise SettingError(f"{path}: cannot be opened: {error.strerror}; choose another path", path=path) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise SettingError(
                f"{path}: is open elsewhere, and an embedded database belongs to one process at a time; "
                "stop the other process or choose another path",
                path=path,
            ) from error

    def release(self) -> None:
        os.close(self._descriptor)


def connect(path: Path) -> sqlite3.Connection:
    """A connection without Python's implicit transactions. Acknowledged means on the disk: synchronous=FULL."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(path: Path) -> sqlite3.Connection:
    """Opens the file, makes the tables in a new one, refuses one that is not ours or is newer than we are."""
    connection: sqlite3.Connection | None = None
    try:
        connection = connect(path)
        _check(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise SettingError(
                f"{path}: not usable as an aorist database: {error}; choose another path", path=path
            ) from error
        raise
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application == 0 and version == 0 and tables == 0:
        ours = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};"
        connection.executescript(f"BEGIN IMMEDIATE; {TABLES} {ours} COMMIT;")
    elif application != APPLICATION_ID:
        raise SettingError(f"{path}: holds another program's database; choose another path", path=path)
    elif version > FORMAT:
        raise SettingError(
            f"{path}: has format {version}, this aorist knows up to {FORMAT}; use the newer aorist that wrote it",
            path=path,
        )
    connection.executescript(f"BEGIN IMMEDIATE; {LATER_TABLES} COMMIT;")
