"""`fold_raw TOPIC EVENTS`: the least that a fold in Python does: take a batch, parse, change slots, inline. No locks, no dispatch.

The same client with the same settings as aorist's, on a thread beside an idle event loop, as in a worker.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition

from aorist.adapters.kafka.client import CONSUMER
from bench.children.folding import brokers, follow, report, rss_at_rest
from bench.fill import PARTITIONS
from fleet.arms.v1.events_pb2 import ArmEvent

BATCH = 1_000


class Axis:
    __slots__ = ("position", "sampled_at_us")

    def __init__(self, position: float, sampled_at_us: int) -> None:
        self.position, self.sampled_at_us = position, sampled_at_us


class Raw:
    def __init__(self, topic: str, events: int) -> None:
        self.topic, self.events, self.count = topic, events, 0
        self.arms: dict[bytes, dict[int, Axis]] = {}

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
                arm = arms[name] = {}
            for new in event.axes:
                axis = arm.get(new.axis)
                if axis is None:
                    arm[new.axis] = Axis(new.position, at)
                elif at >= axis.sampled_at_us:
                    axis.position, axis.sampled_at_us = new.position, at


if __name__ == "__main__":
    raw = Raw(sys.argv[1], int(sys.argv[2]))
    before = rss_at_rest()
    thread = threading.Thread(target=raw.run, daemon=True)
    thread.start()
    began, ended = follow(lambda: raw.count, raw.events)
    report(began, ended, before, keys=len(raw.arms))
    thread.join()
