"""`raw_hop worker`, `raw_hop gateway WORKER_ADDRESS`: two hops that pass bytes on, with aorist's transport and coalescing and nothing else.

The worker answers every question with the same bytes, as many as an answer about an arm of six axes has.
"""

from __future__ import annotations

import asyncio
import marshal
import sys
from typing import Any

import grpc
import pygrpc_native.aio
import uvloop

from aorist.v1.read_pb2 import ROLE_OWNER, ReadHeader
from bench.fill import FIRST_US
from fleet.arms.v1.queries_pb2 import ArmPosition, AxisReading, GetArmPositionResponse

HOP = "/bench.Hop/Ask"
IN_FLIGHT, BATCH = 4, 128  # as aorist's gateway: calls to a worker at once, questions in each


def answer() -> bytes:
    axes = [AxisReading(axis=axis, position=axis + 0.1, sampled_at_us=FIRST_US) for axis in range(6)]
    header = ReadHeader(epoch=42, role=ROLE_OWNER, lag_ms=42)
    header.position.topic, header.position.partition, header.position.offset = "a-topic-of-the-bench", 3, 123_456
    return GetArmPositionResponse(header=header, arm=ArmPosition(arm_id="arm-000042", axes=axes)).SerializeToString()


class Coalescing:
    """Questions that wait together travel together."""

    def __init__(self, address: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._call: Any = grpc.aio.insecure_channel(address).unary_unary(HOP)
        self._waiting: list[tuple[bytes, asyncio.Future[bytes]]] = []
        self._in_flight: set[asyncio.Task[None]] = set()
        self._scheduled = False

    def ask(self, question: bytes) -> asyncio.Future[bytes]:
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting.append((question, future))
        self._schedule()
        return future

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._in_flight) < IN_FLIGHT:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            task = self._loop.create_task(self._send(batch))
            self._in_flight.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if self._waiting:
            self._schedule()

    async def _send(self, batch: list[tuple[bytes, asyncio.Future[bytes]]]) -> None:
        answers = marshal.loads(await self._call(marshal.dumps([question for question, _ in batch])))  # noqa: S302  # from our own worker
        for (_, future), one in zip(batch, answers, strict=True):
            future.set_result(one)


async def main(address: str | None) -> None:
    server, fixed = pygrpc_native.aio.server(), answer()
    if address is None:

        async def work(request: bytes, _context: object) -> bytes:
            return marshal.dumps([fixed] * len(marshal.loads(request)))  # noqa: S302  # from our own gateway

        server.add_registered_method_handlers("bench.Hop", {"Ask": grpc.unary_unary_rpc_method_handler(work)})
    else:
        coalescing = Coalescing(address)

        async def pass_on(request: bytes, _context: object) -> bytes:
            return await coalescing.ask(request)

        handlers: dict[str, Any] = {"GetArmPosition": grpc.unary_unary_rpc_method_handler(pass_on)}
        server.add_registered_method_handlers("fleet.arms.v1.ArmQueryService", handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[2] if sys.argv[1] == "gateway" else None))
