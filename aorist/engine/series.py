"""Series: closed windows become rows of the store of time series, and only then leave the states that they are in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any
from uuid import UUID

from aorist.declare.series import Closed, Series, Windows
from aorist.declare.view import View
from aorist.ports import SeriesRows, SeriesStore, WindowRow

WRITE = 10_000
"""Windows handed to the store at a time."""

MOST_BEYOND = 2_000_000
"""Events that a view with series folds beyond a shard's checkpoint before it pauses: as many windows may wait in memory for the store."""

Waiting = Mapping[bytes, tuple[int, Sequence[Closed]]]
"""By key: the offset of its last event, and windows that had closed by then."""


class ShardSeries:
    """The series of one shard: where its states hold windows, and where these become rows."""

    def __init__(self, view: View[Any], topic_id: UUID, store: SeriesStore) -> None:
        assert view.series is not None
        self.declared: Series[Any] = view.series
        self._windows_of: Any = attrgetter(view.windows_field)
        self._store = store
        self._rows = {
            length.window_s: SeriesRows(view.name, view.build, topic_id, length.window_s)
            for length in self.declared.lengths
        }
        self._noted_at, self._noted = 0, dict[bytes, Sequence[Closed]]()

    def windows(self, state: Any) -> Windows[Any]:
        """Those in a state."""
        windows: Windows[Any] = self._windows_of(state)
        return windows

    def write(self, waiting: Waiting) -> None:
        """Returns when all are durable. Raises StoreUnavailableError; writing again is harmless."""
        by_length: dict[int, list[WindowRow]] = {window_s: [] for window_s in self._rows}
        for key, (offset, windows) in waiting.items():
            for window_s, start_us, totals in windows:
                by_length[window_s].append(WindowRow(key, start_us, totals, offset))
        for window_s, rows in by_length.items():
            for first in range(0, len(rows), WRITE):
                self._store.write_windows(self._rows[window_s], rows[first : first + WRITE])

    def read(
        self, window_s: int, keys: Sequence[bytes], from_us: int, upto_us: int, limit: int
    ) -> Mapping[bytes, Sequence[WindowRow]]:
        """Windows that start in a range, by key, in the order of their starts. Blocks. Raises StoreUnavailableError."""
        return self._store.read_windows(self._rows[window_s], keys, from_us, upto_us, limit)

    # --- a standby, which writes nothing ---

    def forget(self, key: bytes, state: Any, next_offset: int, *, all_of_it: bool) -> Sequence[Closed]:
        """Under the shard's lock: drops windows that the owner has made durable, its checkpoint being at `next_offset`. Those that stay.

        Of a key without events from there on that is all. Of others those noted when this shard had folded no further than that: whoever
        took the checkpoint had folded the same events, and wrote their windows before it.
        """
        windows = self.windows(state)
        if all_of_it:
            windows.acknowledged(windows.closed)
        elif self._noted_at <= next_offset and key in self._noted:
            windows.acknowledged(self._noted[key])
        return tuple(windows.closed)

    def note(self, waiting: Mapping[bytes, Sequence[Closed]], folded_upto: int, next_offset: int) -> None:
        """Notes what stayed in memory, to be dropped once a checkpoint covers `folded_upto`, where this shard is now or was later.

        Not while the note before is still to be covered: it would never come to that.
        """
        if self._noted_at <= next_offset:
            self._noted = {key: windows for key, windows in waiting.items() if windows}
            self._noted_at = folded_upto
