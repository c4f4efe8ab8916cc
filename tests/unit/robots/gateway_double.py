"""A stand-in for the gateway, over real gRPC: it notes what arrives and acknowledges when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
from google.rpc.error_details_pb2 import BadRequest

from aorist.v1.position_pb2 import Position
from fleet.arms.v1 import commands_pb2_grpc
from fleet.arms.v1.commands_pb2 import (
    RefusedSample,
    ReportJointPositionsRequest,
    ReportJointPositionsResponse,
    StreamJointPositionsRequest,
    StreamJointPositionsResponse,
)

BOUND_S = 20.0  # for whatever a test waits for

Rule = Callable[[StreamJointPositionsRequest], StreamJointPositionsResponse | None]


def acknowledge(batch: StreamJointPositionsRequest) -> StreamJointPositionsResponse:
    """Takes everything; the position is the batch's number."""
    at = Position(topic="fleet.arms.v1", partition=0, offset=batch.sequence)
    return StreamJointPositionsResponse(acknowledged_sequence=batch.sequence, positions=[at])


def refuse_index(index: int) -> Rule:
    """Takes all samples of a batch but this one."""

    def rule(batch: StreamJointPositionsRequest) -> StreamJointPositionsResponse:
        answer = acknowledge(batch)
        broken = BadRequest.FieldViolation(field="sampled_at_us", description="is ahead of the clock")
        violations = BadRequest(field_violations=[broken])
        answer.refused.append(RefusedSample(sequence=batch.sequence, index=index, violations=violations))
        return answer

    return rule


def silent(batch: StreamJointPositionsRequest) -> None:
    """Never acknowledges."""


class GatewayDouble(commands_pb2_grpc.ArmCommandServiceServicer):
    """Runs on one port for all its lives. `streams` holds the batches of every stream, as bytes, in order of arrival."""

    def __init__(self) -> None:
        self.address = "127.0.0.1:0"
        self.streams: list[list[bytes]] = []
        self.rule: Rule = acknowledge
        self.status: tuple[grpc.StatusCode, str] | None = None  # answer every stream with this
        self._arrived = asyncio.Condition()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listens, on the port it had before if it had one."""
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        commands_pb2_grpc.add_ArmCommandServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(self.address)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def kill(self) -> None:
        """Ends every stream without a word and stops listening."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def received(self) -> list[StreamJointPositionsRequest]:
        """All batches of all streams."""
        return [StreamJointPositionsRequest.FromString(batch) for stream in self.streams for batch in stream]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until what has arrived meets the condition."""
        async with asyncio.timeout(BOUND_S), self._arrived:
            await self._arrived.wait_for(condition)

    async def ReportJointPositions(  # noqa: N802  # the contract's name
        self, request: ReportJointPositionsRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> ReportJointPositionsResponse:
        """Not what these tests are about."""
        raise NotImplementedError

    async def StreamJointPositions(  # noqa: N802  # the contract's name
        self,
        request_iterator: AsyncIterator[StreamJointPositionsRequest],
        context: grpc.aio.ServicerContext[StreamJointPositionsRequest, StreamJointPositionsResponse],
    ) -> AsyncIterator[StreamJointPositionsResponse]:
        """Notes each batch, then answers by the rule in force."""
        if self.status is not None:
            await context.abort(*self.status)
        stream: list[bytes] = []
        self.streams.append(stream)
        answer: StreamJointPositionsResponse | None = StreamJointPositionsResponse()
        async for batch in request_iterator:
            stream.append(batch.SerializeToString(deterministic=True))
            async with self._arrived:
                self._arrived.notify_all()
            answer = self.rule(batch)
            if answer is not None:
                yield answer
        if answer is None:  # what is not acknowledged keeps the stream open
            await asyncio.Event().wait()
