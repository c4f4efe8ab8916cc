"""Sends joint samples over `ArmCommandService.StreamJointPositions` until every one of them is acknowledged.

What a robot controller has to do, in one place:

1. Batches get growing sequence numbers and are kept, as sent, until they are acknowledged. At most `in_flight` are
   kept; the source is not asked for more before one of them is acknowledged: a slow log slows the source down, memory
   stays flat.
2. When the connection is lost, or nothing is acknowledged for `ack_timeout_s`, the sender connects again, waiting
   longer from time to time, and sends what was not acknowledged: in order, byte for byte, nothing else.
3. It gives up when nothing was acknowledged for `give_up_after_s`, or when the service says that trying again is no
   use.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import grpc
import structlog

from fleet.arms.v1.commands_pb2 import (
    JointSample,
    RefusedSample,
    StreamJointPositionsRequest,
    StreamJointPositionsResponse,
)
from fleet.arms.v1.commands_pb2_grpc import ArmCommandServiceStub
from robots.outcome import Outcome

Batches = AsyncGenerator[Sequence[JointSample], None]
_Call = grpc.aio.StreamStreamCall[StreamJointPositionsRequest, StreamJointPositionsResponse]

# The service may be away or may have handed the work on; everything else would fail in the same way again.
_RETRYABLE = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED}
)
# What grpc.aio reports, in place of the service's status, when a write fails because the service has just ended the stream.
_MASKED = (grpc.StatusCode.INTERNAL, "Internal error from Core")
_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 5.0
_CAREFUL_S = 0.2
# Each attempt makes a connection of its own: gRPC's shared ones keep a back-off of their own, which would add to ours.
_CHANNEL = (("grpc.use_local_subchannel_pool", 1),)


class SendError(Exception):
    """Samples were left unacknowledged, for good. The message says why, and what to do where that is known."""


class _LostError(Exception):
    """The conversation broke off; another may go on."""


@dataclass(slots=True)
class _Batch:
    request: StreamJointPositionsRequest
    written_at: float = 0.0  # last; by the loop's clock


def _log(words: str) -> None:
    structlog.get_logger().warning(words)


class Sender:
    """One stream to one gateway; any number of arms. For one `run`."""

    def __init__(
        self,
        address: str,
        *,
        in_flight: int = 16,
        ack_timeout_s: float = 30.0,
        give_up_after_s: float = 60.0,
        changed: Callable[[], None] = lambda: None,
        notice: Callable[[str], None] = _log,
    ) -> None:
        """Takes `in_flight` in batches.

        `changed` is called after each acknowledgement, `notice` with a sentence at each lost connection.
        """
        self.outcome = Outcome()
        self._address = address
        self._ack_timeout_s = ack_timeout_s
        self._give_up_after_s = give_up_after_s
        self._changed = changed
        self._notice = notice
        self._room = asyncio.Semaphore(in_flight)
        self._unacknowledged: deque[_Batch] = deque()  # at most in_flight
        self._written = 0  # how many of them were written in this conversation
        self._acknowledged_at = 0.0
        self._sequence = 0
        self._source_ended = False
        self._careful = False
        self._more = asyncio.Event()

    async def run(self, source: Batches) -> Outcome:
        """Sends every batch of the source; returns when all samples are acknowledged, or refused: see the outcome.

        An error raised by the source is raised here once everything before it has been acknowledged. Raises SendError.
        """
        feeding = asyncio.create_task(self._feed(source))
        try:
            await self._deliver()
            await feeding
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
        return self.outcome

    async def _feed(self, source: Batches) -> None:
        try:
            async with aclosing(source):
                while True:
                    await self._room.acquire()
                    samples = await anext(source, None)
                    if samples is None:
                        return
                    if not samples:
                        self._room.release()
                        continue
                    self._sequence += 1
                    request = StreamJointPositionsRequest(sequence=self._sequence, samples=samples)
                    self._unacknowledged.append(_Batch(request))
                    self._more.set()
        finally:
            self._source_ended = True
            self._more.set()

    async def _deliver(self) -> None:
        """One conversation after the other, until there is nothing left to say."""
        clock = asyncio.get_running_loop().time
        progress_at, failures = clock(), 0
        while not (self._source_ended and not self._unacknowledged):
            acknowledged_at = self._acknowledged_at
            try:
                await self._converse()
                continue
            except _LostError as error:
                lost = error
            self.outcome.connections_lost += 1
            if self._acknowledged_at > acknowledged_at:
                progress_at, failures = clock(), 0
            elif not self._unacknowledged:
                progress_at = clock()  # nobody waits for anything yet
            left_s = progress_at + self._give_up_after_s - clock()
            if left_s <= 0:
                raise SendError(
                    f"{self._address}: gave up after {self._give_up_after_s:g} s without an acknowledgement ({lost});"
                    f" {self._left()} samples sent or held are unacknowledged. Is a gateway running there?"
                )
            delay_s = min(left_s, _LONGEST_DELAY_S, _FIRST_DELAY_S * 2**failures) * random.uniform(0.5, 1.0)
            failures = min(failures + 1, 10)
            self._notice(f"{self._address}: {lost}; trying again in {delay_s:.1f} s")
            await asyncio.sleep(delay_s)

    def _left(self) -> int:
        return sum(len(batch.request.samples) for batch in self._unacknowledged)

    async def _converse(self) -> None:
        """One stream. Returns when the source has ended and all is acknowledged; raises _LostError or SendError."""
        self._written = 0
        async with grpc.aio.insecure_channel(self._address, options=_CHANNEL) as channel:
            call: _Call = ArmCommandServiceStub(channel).StreamJointPositions()
            tasks = [asyncio.create_task(self._write(call)), asyncio.create_task(self._read(call))]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()
            finally:
                call.cancel()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, call: _Call) -> None:
        """Writes what is unacknowledged, then what comes.

        After a masked status one batch at a time, until one is acknowledged: so no write can hide the status again.
        """
        clock = asyncio.get_running_loop().time
        try:
            if self._careful:
                await asyncio.sleep(_CAREFUL_S)  # time for the service to refuse the stream as such
            while True:
                while self._written == len(self._unacknowledged) or (self._careful and self._written):
                    if self._source_ended and self._written == len(self._unacknowledged):
                        await call.done_writing()
                        return
                    self._more.clear()
                    await self._more.wait()
                batch = self._unacknowledged[self._written]
                self._written += 1
                self._count_write(batch)
                batch.written_at = clock()
                await call.write(batch.request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the stream has ended: `_read` learns how

    def _count_write(self, batch: _Batch) -> None:
        if batch.written_at:
            self.outcome.resent += len(batch.request.samples)
        else:
            self.outcome.count_sent(batch.request)

    async def _read(self, call: _Call) -> None:
        while True:
            try:
                response = await self._next(call)
            except grpc.aio.AioRpcError as error:
                raise self._ended(error.code(), error.details() or "no more is known") from error
            if response is None:
                if self._source_ended and not self._unacknowledged:
                    return
                raise _LostError("the service ended the stream")
            self._take(response)

    def _ended(self, code: grpc.StatusCode, details: str) -> Exception:
        self._careful = (code, details) == _MASKED
        words = "the stream ended during a write" if self._careful else f"{code.name}: {details}"
        return _LostError(words) if self._careful or code in _RETRYABLE else SendError(f"{self._address}: {words}")

    async def _next(self, call: _Call) -> StreamJointPositionsResponse | None:
        """The next answer; None at the end. Raises _LostError when something written waits for too long."""
        clock = asyncio.get_running_loop().time
        reading = asyncio.ensure_future(call.read())
        try:
            while not reading.done():
                left_s = self._ack_timeout_s
                if self._written:
                    left_s += max(self._unacknowledged[0].written_at, self._acknowledged_at) - clock()
                    if left_s <= 0:
                        raise _LostError(f"no acknowledgement for {self._ack_timeout_s:g} s")
                await asyncio.wait({reading}, timeout=left_s)
            response = reading.result()
            return response if isinstance(response, StreamJointPositionsResponse) else None
        finally:
            reading.cancel()

    def _take(self, response: StreamJointPositionsResponse) -> None:
        """Counts what an answer settles and makes room for as much."""
        refused: dict[int, list[RefusedSample]] = {}
        for sample in response.refused:
            refused.setdefault(sample.sequence, []).append(sample)
        while self._written and self._unacknowledged[0].request.sequence <= response.acknowledged_sequence:
            batch = self._unacknowledged.popleft()
            self._written -= 1
            self.outcome.settle(batch.request, refused.pop(batch.request.sequence, []))
            self._room.release()
            self._acknowledged_at = asyncio.get_running_loop().time()
            self._careful = False
            self._more.set()
        self.outcome.reach(response.positions)
        self._changed()
