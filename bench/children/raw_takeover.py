"""`raw_takeover TOPIC TIMES`: the least that a takeover can take: a stream breaks, one transaction of etcd, one partition more.

The owner is a process that holds a stream open and is killed. Who takes over has its connections, and a consumer that follows another
partition; it ends with the first event of the one it takes.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from itertools import cycle
from multiprocessing.connection import Connection
from typing import Any

import grpc
import pygrpc_native.aio
import uvloop
from confluent_kafka import Consumer, TopicPartition

from aorist.adapters.etcd.client import Client
from aorist.adapters.etcd.v3 import rpc_pb2 as pb
from aorist.adapters.kafka.client import CONSUMER
from bench.children.folding import brokers
from bench.fill import PARTITIONS

SERVICE, METHOD = "bench.Owner", "Hold"
FOLLOWED = 0
"""The partition that the consumer has before."""

SETTLE_S = 0.2
"""For the consumer to read all that there is."""

PATIENCE_S = 10.0


class Owner:
    """Made before this process has any thread or connection: it is a fork."""

    def __init__(self) -> None:
        processes = multiprocessing.get_context("fork")
        self._address, told = processes.Pipe(duplex=False)
        self._process = processes.Process(target=lambda: uvloop.run(own(told)), daemon=True)
        self._process.start()

    @property
    def address(self) -> str:
        assert self._address.poll(PATIENCE_S), "the owner does not serve"
        return str(self._address.recv())

    def kill(self) -> None:
        self._process.kill()


async def own(told: Connection) -> None:
    """Until killed."""

    async def hold(_request: bytes, _context: object) -> AsyncIterator[bytes]:
        yield b"held"
        await asyncio.Event().wait()

    server = pygrpc_native.aio.server()
    server.add_registered_method_handlers(SERVICE, {METHOD: grpc.unary_stream_rpc_method_handler(hold)})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    told.send(f"127.0.0.1:{port}")
    await server.wait_for_termination()


class Heir:
    """Takes over again and again."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._etcd = Client(os.environ["AORIST_ETCD"].split(","))
        self._claim, self._epoch = f"/{topic}-raw/{os.getpid()}".encode(), 0
        self._consumer = Consumer({**CONSUMER, "bootstrap.servers": brokers(), "group.id": "raw"})
        _, end = self._consumer.get_watermark_offsets(TopicPartition(topic, FOLLOWED), PATIENCE_S)
        self._consumer.assign([TopicPartition(topic, FOLLOWED, end)])

    async def take_over(self, owner: Owner, partition: int) -> list[float]:
        """Milliseconds from the owner's death to: its stream breaks; the claim is ours; the first event is here."""
        async with grpc.aio.insecure_channel(owner.address) as channel:
            hold: Any = channel.unary_stream(f"/{SERVICE}/{METHOD}")
            stream = hold(b"")
            await stream.read()
            await self.claim()
            self._poll_until(None, SETTLE_S)
            at = time.perf_counter()
            owner.kill()
            moments = [await broken(stream), await self.claim()]
            moments.append(self._assigned(partition))
        self._consumer.incremental_unassign([TopicPartition(self._topic, partition)])
        return [(moment - at) * 1000 for moment in moments]

    async def claim(self) -> float:
        put = pb.RequestOp(request_put=pb.PutRequest(key=self._claim, value=b"mine"))
        seen = pb.Compare(target=pb.Compare.TARGET_MOD, key=self._claim, mod_revision=self._epoch)
        answer = await self._etcd.txn(pb.TxnRequest(compare=[seen], success=[put]))
        assert answer.succeeded, "somebody else claimed it"
        self._epoch = answer.header.revision
        return time.perf_counter()

    def _assigned(self, partition: int) -> float:
        self._consumer.incremental_assign([TopicPartition(self._topic, partition, 0)])
        return self._poll_until(partition, PATIENCE_S)

    def _poll_until(self, partition: int | None, timeout_s: float) -> float:
        """Until there is an event of `partition`. None: for `timeout_s`."""
        until = time.perf_counter() + timeout_s
        while (left := until - time.perf_counter()) > 0:
            message = self._consumer.poll(left)
            if message is not None and message.error() is None and message.partition() == partition:
                return time.perf_counter()
        assert partition is None, f"no event of partition {partition} within {timeout_s:.0f} s"
        return until


async def broken(stream: Any) -> float:
    try:
        await stream.read()
    except grpc.aio.AioRpcError:
        return time.perf_counter()
    raise AssertionError("the stream did not break")


async def main(topic: str, owners: Sequence[Owner]) -> None:
    heir = Heir(topic)
    others = cycle(number for number in range(PARTITIONS) if number != FOLLOWED)
    taken = [await heir.take_over(owner, partition) for owner, partition in zip(owners, others, strict=False)]
    print(json.dumps(dict(zip(("broken", "claimed", "taken"), zip(*taken, strict=True), strict=True))), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], [Owner() for _ in range(int(sys.argv[2]))]))
