"""`raw_commands TOPIC AXES`: the least that a command gateway does: take a call, produce bytes made beforehand, answer when acknowledged.

Same transport, producer settings and number of wake-ups as aorist's. Nothing is parsed but what the answer needs, nothing is checked. A
batch of samples goes to one partition by one call, and the report of its last event stands for all.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from functools import partial
from itertools import cycle
from typing import Any

import grpc
import pygrpc_native.aio
import uvloop
from confluent_kafka import Message, Producer

from aorist.adapters.kafka.client import PRODUCER
from bench.children.folding import brokers
from bench.fill import FIRST_US, PARTITIONS, arm_name, events_of
from fleet.arms.v1.commands_pb2 import (
    ReportJointPositionsResponse,
    StreamJointPositionsRequest,
    StreamJointPositionsResponse,
)

SERVICE = "fleet.arms.v1.ArmCommandService"


class Acknowledgements:
    """One thread polls; what it heard is handed to the loop once per poll."""

    def __init__(self, producer: Producer, loop: asyncio.AbstractEventLoop) -> None:
        self._producer, self._loop = producer, loop
        self._heard: list[tuple[asyncio.Future[int], int]] = []
        threading.Thread(target=self._poll, daemon=True).start()

    def future(self) -> asyncio.Future[int]:
        return self._loop.create_future()

    def hear(self, future: asyncio.Future[int], _error: object, message: Message) -> None:
        self._heard.append((future, message.offset() or 0))

    def _poll(self) -> None:
        while True:
            self._producer.poll(0.1)
            if self._heard:
                heard, self._heard = self._heard, []
                self._loop.call_soon_threadsafe(self._settle, heard)

    @staticmethod
    def _settle(heard: list[tuple[asyncio.Future[int], int]]) -> None:
        for future, offset in heard:
            if not future.done():
                future.set_result(offset)


class RawGateway:
    def __init__(self, topic: str, axes: int) -> None:
        self._topic = topic
        self._producer = Producer({**PRODUCER, "bootstrap.servers": brokers()})
        self._acknowledgements = Acknowledgements(self._producer, asyncio.get_running_loop())
        self._key = arm_name(0)
        self._values = [
            event for _, event in zip(range(200), cycle(events_of(self._key, FIRST_US, axes)), strict=False)
        ]
        self._partitions = cycle(range(PARTITIONS))

    async def report(self, _request: bytes, _context: object) -> bytes:
        future = self._acknowledgements.future()
        heard = partial(self._acknowledgements.hear, future)
        self._producer.produce(self._topic, self._values[0], self._key, 0, on_delivery=heard)
        response = ReportJointPositionsResponse()
        response.position.topic, response.position.offset = self._topic, await future
        return response.SerializeToString()

    async def stream(self, requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
        waiting: asyncio.Queue[tuple[int, asyncio.Future[int]] | None] = asyncio.Queue()
        reading = asyncio.create_task(self._read(requests, waiting))
        while (first := await waiting.get()) is not None:
            sequence, future = first
            await future
            yield StreamJointPositionsResponse(acknowledged_sequence=sequence).SerializeToString()
        await reading

    async def _read(self, requests: AsyncIterator[bytes], waiting: asyncio.Queue[Any]) -> None:
        async for data in requests:
            request = StreamJointPositionsRequest.FromString(data)
            future = self._acknowledgements.future()
            messages: list[dict[str, Any]] = [
                {"key": self._key, "value": value} for value in self._values[: len(request.samples)]
            ]
            messages[-1]["callback"] = partial(self._acknowledgements.hear, future)
            self._producer.produce_batch(self._topic, messages, partition=next(self._partitions))
            waiting.put_nowait((request.sequence, future))
        waiting.put_nowait(None)


async def main(topic: str, axes: int) -> None:
    gateway, server = RawGateway(topic, axes), pygrpc_native.aio.server()
    handlers: dict[str, Any] = {
        "ReportJointPositions": grpc.unary_unary_rpc_method_handler(gateway.report),
        "StreamJointPositions": grpc.stream_stream_rpc_method_handler(gateway.stream),
    }
    server.add_registered_method_handlers(SERVICE, handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
