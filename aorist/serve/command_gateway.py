"""The command gateway: validate, publish, answer once durable. Holds no state."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from google.protobuf.message import Message

from aorist.budget import Budget
from aorist.declare.commands import Command, Commands
from aorist.errors import AoristError, InvalidRequestError, Violation
from aorist.failpoints import failpoint
from aorist.ports import EventLog, NewRecord
from aorist.serve.errors import bad_request
from aorist.serve.rules import ItemRules, Rules
from aorist.serve.transport import Counts, Listener
from aorist.v1 import position_pb2

BREATH = 200
"""Samples of one batch that are checked before others get their turn: ~2 ms, the most that one robot holds up the rest."""

MOST_ITEMS = 10_000
"""Of a batch. All of them may be refused, and the answer that names each has to fit into a message."""

REFUSAL_BYTES = 1_000
"""What a refused sample may cost here until its acknowledgement has left: counted as unacknowledged beside the bytes that came."""

MOST_REFUSED = 2_000
"""In one acknowledgement, unless a single batch has more: clients take messages of 4 MiB at most, and a refusal is some 100 bytes."""


def serve_commands(
    listener: Listener, commands: Commands, events: EventLog, max_skew_ms: int, max_unacknowledged_bytes: int
) -> None:
    """Adds the service of `commands` to `listener`."""
    handlers = {}
    for name, command in commands.commands.items():
        if command.shape.streamed:
            stream = CommandStream(commands, command, events, max_skew_ms, max_unacknowledged_bytes)
            stream.counts = listener.counting("aorist_stream_items_total", command.shape.request)
            handlers[name] = listener.both_stream(stream.serve, command.shape.request)
        else:
            handlers[name] = listener.unary(_unary(commands, command, events, max_skew_ms), command.shape.request)
    listener.add(commands.service.full_name, handlers)


def _unary(commands: Commands, command: Command, events: EventLog, max_skew_ms: int) -> Any:
    topic, record, shape = commands.schema.topic.name, commands.recorder(command), command.shape
    rules = Rules(shape.request, max_skew_ms)

    async def handle(request: Message) -> Message:
        rules.check(request)
        new = record(request)
        offsets = await events.append(topic, [new])
        failpoint("after_append")
        response = shape.response()
        position = getattr(response, shape.positions)
        position.topic, position.partition, position.offset = topic, new.partition, offsets[0]
        return response

    return handle


@dataclass(slots=True)
class Batch:
    """On its way to the log. `refused`: (index, rules broken)."""

    sequence: int
    records: Sequence[NewRecord]
    size: int
    durable: asyncio.Future[Sequence[int]]
    refused: Sequence[tuple[int, list[Violation]]]


class CommandStream:
    """Batches in, cumulative acknowledgements out.

    Reads on only while less than `limit` bytes are unacknowledged: the rest waits in the sender, by flow control.
    """

    def __init__(self, commands: Commands, command: Command, events: EventLog, max_skew_ms: int, limit: int) -> None:
        self._topic, self._record = commands.schema.topic.name, commands.recorder(command)
        self._shape, self._events, self._limit = command.shape, events, limit
        self.counts: Counts = defaultdict(int)
        self._rules = ItemRules(command.shape.request, command.shape.items, max_skew_ms)

    async def serve(self, requests: AsyncIterator[Any]) -> AsyncIterator[Message]:
        """One stream. An error of the log or in the requests ends it, after the acknowledgement of all before."""
        waiting: deque[Batch] = deque()  # bounded by bytes, through `room`
        room, arrived = Budget(self._limit), asyncio.Event()
        reading = asyncio.create_task(self._read(requests, waiting, room, arrived))
        reading.add_done_callback(lambda _: arrived.set())
        try:
            while await _any(waiting, arrived, reading):
                await asyncio.wait((waiting[0].durable,))
                done = list(_done(waiting))
                good = list(takewhile(lambda batch: batch.durable.exception() is None, done))
                if good:
                    failpoint("after_append")
                    yield self._acknowledge(good)
                for batch in good:
                    waiting.popleft()
                    room.give(batch.size)
                if len(good) < len(done):
                    waiting[0].durable.result()  # raises
            await reading
        finally:
            reading.cancel()
            for batch in waiting:
                # Nobody asks any more. What the log has not taken yet must not be taken after a batch before it was given up: sent again,
                # that one would come behind it.
                batch.durable.cancel()
                batch.durable.add_done_callback(lambda durable: durable.cancelled() or durable.exception())

    async def _read(
        self, requests: AsyncIterator[Any], waiting: deque[Batch], room: Budget, arrived: asyncio.Event
    ) -> None:
        last, failures = -1, list[AoristError]()
        async for request in requests:
            if request.sequence <= last:
                wrong = f"is {request.sequence} after {last}: it must grow along a stream"
                raise InvalidRequestError([Violation("sequence", wrong)])
            last = request.sequence
            count = len(getattr(request, self._shape.items))
            if count > MOST_ITEMS:
                wrong = f"{count} in batch {last}, at most {MOST_ITEMS} are taken at once: send smaller batches"
                raise InvalidRequestError([Violation(self._shape.items, wrong)])
            records, refused = await self._sort(request)
            size = max(request.ByteSize(), 1) + REFUSAL_BYTES * len(refused)
            await room.take(size)
            durable = asyncio.ensure_future(self._append(records, failures))  # taken in this order
            waiting.append(Batch(last, records, size, durable, refused))
            arrived.set()

    async def _append(self, records: Sequence[NewRecord], failures: list[AoristError]) -> Sequence[int]:
        """One batch. After one that failed none is taken: sent again, that one would come behind it."""
        if failures:
            raise failures[0]
        try:
            return await self._events.append(self._topic, records)
        except AoristError as error:
            failures.append(error)
            raise

    async def _sort(self, request: Any) -> tuple[list[NewRecord], list[tuple[int, list[Violation]]]]:
        records: list[NewRecord] = []
        refused: list[tuple[int, list[Violation]]] = []
        for start, batch in self._breaths(request):
            if start:
                await asyncio.sleep(0)
            broken = self._rules.broken_in(batch)
            good: Iterable[Any] = getattr(batch, self._shape.items)
            if broken:
                good = [item for index, item in enumerate(good) if index not in broken]
                refused.extend((start + index, broken[index]) for index in sorted(broken))
            records.extend(map(self._record, good))
        return records, refused

    def _breaths(self, request: Any) -> Iterator[tuple[int, Any]]:
        """Batches of the items of `request`, none larger than `BREATH`, each with the index of its first one there."""
        name = self._shape.items
        items = getattr(request, name)
        if len(items) <= BREATH:
            yield 0, request
            return
        for start in range(0, len(items), BREATH):
            yield start, self._shape.request(**{name: items[start : start + BREATH]})

    def _acknowledge(self, batches: Sequence[Batch]) -> Message:
        shape = self._shape
        response: Any = shape.response(acknowledged_sequence=batches[-1].sequence)
        newest: dict[int, int] = {}
        for batch in batches:
            self.counts["accepted"] += len(batch.records)
            self.counts["refused"] += len(batch.refused)
            for record, offset in zip(batch.records, batch.durable.result(), strict=True):
                newest[record.partition] = offset
            for index, broken in batch.refused:
                getattr(response, shape.refused).add(
                    sequence=batch.sequence, index=index, violations=bad_request(broken)
                )
        positions = [position_pb2.Position(topic=self._topic, partition=p, offset=o) for p, o in sorted(newest.items())]
        getattr(response, shape.positions).extend(positions)
        return response  # type: ignore[no-any-return]


def _done(waiting: Iterable[Batch]) -> Iterator[Batch]:
    """The first ones, as far as the log has answered, and no more than go into one acknowledgement."""
    refused = 0
    for batch in waiting:
        refused += len(batch.refused)
        if not batch.durable.done() or (refused > MOST_REFUSED and refused > len(batch.refused)):
            return
        yield batch


async def _any(waiting: deque[Batch], arrived: asyncio.Event, reading: asyncio.Task[None]) -> bool:
    """Waits for a batch; False when there will be none any more."""
    while not waiting and not reading.done():
        arrived.clear()
        await arrived.wait()
    return bool(waiting)
