"""`fold_raw TOPIC EVENTS`: the least that a fold in Python does: take a batch, parse, change equally flat states. No locks, no dispatch.

The same client with the same settings as aorist's, on a thread beside an idle event loop, as in a worker.
"""

from __future__ import annotations

import sys
import threading
from array import array
from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition

from aorist.adapters.kafka.client import CONSUMER
from bench.children.folding import brokers, collect_as_ours, follow, report, rss_at_rest
from bench.fill import PARTITIONS
from fleet.arms.v1.events_pb2 import ArmEvent

BATCH = 1_000


class Arm:
    __slots__ = ("positions", "times")

    def __init__(self) -> None:
        self.positions: array[float] = array("d")
        self.times: list[int] = []


class Raw:
    def __init__(self, topic: str, events: int) -> None:
        self.topic, self.events, self.count = topic, events, 0
        self.arms: dict[bytes, Arm] = {}

    def run(self) -> None:
        consumer = Consumer(
            {**CONSUMER, "enable.partition.eof": False, "bootstrap.servers": brokers(), "group.id": "bench-raw"}
        )
        consumer.assign([TopicPartition(self.topic, number, 0) for number in range(PARTITIONS)])
        while self.count < self.events:
            messages = consumer.consume(BATCH, 0.05)
            self.fold(messages)
            self.count += len(messages)
        consumer.close()

    def fold(self, messages: list[Message]) -> None:
        arms, parse = self.arms, ArmEvent.FromString
        key: Any = Message.key
        value: Any = Message.value
        for message in messages:
            event = parse(value(message)).joint_positions_changed
            name, at = key(message), event.sampled_at_us
            arm = arms.get(name)
            if arm is None:
                arm = arms[name] = Arm()
            positions, times = arm.positions, arm.times
            for new in event.axes[:]:
                axis = new.axis
                if axis >= len(times):
                    gap = axis - len(times)
                    positions.extend([*[0.0] * gap, new.position])
                    times.extend([*[-1] * gap, at])
                elif at >= times[axis]:
                    positions[axis], times[axis] = new.position, at


if __name__ == "__main__":
    raw = Raw(sys.argv[1], int(sys.argv[2]))
    collect_as_ours()
    before = rss_at_rest()
    thread = threading.Thread(target=raw.run, daemon=True)
    thread.start()
    began, ended = follow(lambda: raw.count, raw.events)
    report(began, ended, before, keys=len(raw.arms))
    thread.join()
