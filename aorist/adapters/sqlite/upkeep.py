"""Retention, compaction, removal of deleted topics and old windows, a bounded piece at a time so that appends are not held up."""

from __future__ import annotations

import sqlite3

PIECE_EVENTS = 1_000
"""Events looked at in one piece: about 10 ms of the writer."""

_LIMITED = """
SELECT no, retention_ms, compacted FROM partitions JOIN topics ON name = topic
WHERE retention_ms IS NOT NULL OR compacted
"""

_PURGE_EVENTS = """
DELETE FROM events WHERE partition_no = ? AND offset IN (SELECT offset FROM events WHERE partition_no = ? LIMIT ?)
"""
_PURGE_NEWEST = """
DELETE FROM newest WHERE partition_no = ? AND key IN (SELECT key FROM newest WHERE partition_no = ? LIMIT ?)
"""

_EXPIRE_WINDOWS = """
DELETE FROM windows WHERE (series_no, key, start_us) IN
(SELECT series_no, key, start_us FROM windows WHERE expires_us <= ? LIMIT ?)
"""


def tidy(connection: sqlite3.Connection, now_us: int, tombstones_kept_us: int) -> bool:
    """One piece of work; says whether there may be more to do at once."""
    left = PIECE_EVENTS
    for (no,) in connection.execute("SELECT partition_no FROM dropped").fetchall():
        left -= _purge(connection, no, left)
        if left <= 0:
            return True
    for no, retention_ms, compacted in connection.execute(_LIMITED).fetchall():
        if compacted:
            left -= _compact(connection, no, now_us + tombstones_kept_us, left)
            left -= _expire(connection, no, now_us, left)
        else:
            left -= _trim(connection, no, now_us - retention_ms * 1000, left)
        if left <= 0:
            return True
    return connection.execute(_EXPIRE_WINDOWS, (now_us, left)).rowcount == left


def _purge(connection: sqlite3.Connection, no: int, limit: int) -> int:
    """Removes events of deleted topics."""
    removed = connection.execute(_PURGE_EVENTS, (no, no, limit)).rowcount
    removed += connection.execute(_PURGE_NEWEST, (no, no, limit - removed)).rowcount
    if removed < limit:
        connection.execute("DELETE FROM dropped WHERE partition_no = ?", (no,))
    return removed


def _trim(connection: sqlite3.Connection, no: int, before_us: int, limit: int) -> int:
    """Removes what is older than `before_us` from the front, up to the first event that is not."""
    oldest = connection.execute(
        "SELECT offset, time_us FROM events WHERE partition_no = ? ORDER BY offset LIMIT ?", (no, limit)
    )
    old = start = 0
    for offset, time_us in oldest:  # mostly the first one is young: the others are not even read
        if time_us >= before_us:
            break
        old += 1
        start = offset + 1
    oldest.close()
    if old:
        connection.execute("DELETE FROM events WHERE partition_no = ? AND offset < ?", (no, start))
        connection.execute('UPDATE partitions SET "start" = ? WHERE no = ?', (start, no))
    return old


def _compact(connection: sqlite3.Connection, no: int, expires_us: int, limit: int) -> int:
    """Goes over events not compacted yet, in order: each removes the older one of its key, which `newest` remembers."""
    (clean,) = connection.execute("SELECT clean FROM partitions WHERE no = ?", (no,)).fetchone()
    events = connection.execute(
        "SELECT offset, key, value IS NULL FROM events WHERE partition_no = ? AND offset >= ? ORDER BY offset LIMIT ?",
        (no, clean, limit),
    ).fetchall()
    if not events:
        return 0
    for offset, key, tombstone in events:
        older = connection.execute("SELECT offset FROM newest WHERE partition_no = ? AND key = ?", (no, key)).fetchone()
        if older:
            connection.execute("DELETE FROM events WHERE partition_no = ? AND offset = ?", (no, older[0]))
        connection.execute(
            "INSERT OR REPLACE INTO newest (partition_no, key, offset, expires_us) VALUES (?, ?, ?, ?)",
            (no, key, offset, expires_us if tombstone else None),
        )
    connection.execute("UPDATE partitions SET clean = ? WHERE no = ?", (events[-1][0] + 1, no))
    return len(events)


def _expire(connection: sqlite3.Connection, no: int, now_us: int, limit: int) -> int:
    """Removes tombstones that everybody had the time to read."""
    expired = connection.execute(
        "SELECT key, offset FROM newest WHERE partition_no = ? AND expires_us <= ? LIMIT ?", (no, now_us, limit)
    ).fetchall()
    connection.executemany("DELETE FROM events WHERE partition_no = ? AND offset = ?", [(no, o) for _, o in expired])
    connection.executemany("DELETE FROM newest WHERE partition_no = ? AND key = ?", [(no, key) for key, _ in expired])
    return len(expired)
