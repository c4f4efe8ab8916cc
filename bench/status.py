"""How far a worker is, asked as `aorist status` asks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import grpc

from aorist.v1.status_pb2 import GetStatusRequest, ShardStatus
from aorist.v1.status_pb2_grpc import StatusServiceStub
from bench.measure import NotMeasuredError

PATIENCE_S = 120.0


class Worker:
    """A client of one worker's StatusService."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._stub = StatusServiceStub(self._channel)

    def shards(self) -> Sequence[ShardStatus]:
        return self._stub.GetStatus(GetStatusRequest(), timeout=10).shards

    def folded(self) -> int:
        """Events, over all its shards of topics that begin at 0."""
        return sum(shard.offset + 1 for shard in self.shards())

    def wait_folded(self, events: int) -> None:
        """Raises NotMeasuredError."""
        until = time.monotonic() + PATIENCE_S
        while (seen := self.folded()) < events:
            if time.monotonic() > until:
                raise NotMeasuredError(f"the worker folded {seen} of {events} events in {PATIENCE_S:.0f} s")
            time.sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._channel.close()
