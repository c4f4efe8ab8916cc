"""Snapshot stores that do to a checkpoint what a real one does rarely."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from aorist.errors import StoreUnavailableError
from aorist.ports import Checkpoint, ParkedEvent, ShardRows, SnapshotRow, SnapshotStore


class WrappedStore:
    """A real store; `before` is called with the name of each method and its arguments."""

    def __init__(self, store: SnapshotStore, before: Callable[..., object]) -> None:
        self._store, self._before = store, before

    def write_rows(self, shard: ShardRows, rows: Sequence[SnapshotRow]) -> None:
        self._before("write_rows", rows)
        self._store.write_rows(shard, rows)

    def write_checkpoint(self, shard: ShardRows, checkpoint: Checkpoint) -> None:
        self._before("write_checkpoint", checkpoint)
        self._store.write_checkpoint(shard, checkpoint)

    def read_checkpoint(self, shard: ShardRows) -> Checkpoint | None:
        self._before("read_checkpoint")
        return self._store.read_checkpoint(shard)

    def read_rows(self, shard: ShardRows) -> Iterator[Sequence[SnapshotRow]]:
        self._before("read_rows")
        return self._store.read_rows(shard)

    def read_row(self, shard: ShardRows, key: bytes) -> SnapshotRow | None:
        self._before("read_row", key)
        return self._store.read_row(shard, key)

    def write_parked(self, shard: ShardRows, events: Sequence[ParkedEvent]) -> None:
        self._before("write_parked", events)
        self._store.write_parked(shard, events)

    def read_parked(self, shard: ShardRows) -> Sequence[ParkedEvent]:
        self._before("read_parked")
        return self._store.read_parked(shard)

    def close(self) -> None:
        self._store.close()


class HookedStore(WrappedStore):
    """`after_read` is called once a row has been read and before it is returned."""

    def __init__(self, store: SnapshotStore, after_read: Callable[[], object]) -> None:
        super().__init__(store, lambda *_: None)
        self._after_read = after_read

    def read_row(self, shard: ShardRows, key: bytes) -> SnapshotRow | None:
        row = super().read_row(shard, key)
        self._after_read()
        return row


class FailingStore(WrappedStore):
    """One method fails, from its `nth` call on."""

    def __init__(self, store: SnapshotStore, method: str, nth: int = 1) -> None:
        super().__init__(store, self._fail)
        self._method, self._left = method, nth

    def _fail(self, method: str, *_: Any) -> None:
        if method == self._method:
            self._left -= 1
            if self._left <= 0:
                raise StoreUnavailableError(f"{method} is down")
