"""Fills topics with events, as fast as one thread can: time spent here is time not spent measuring."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from confluent_kafka import Producer

from aorist.position import partition_of
from bench.measure import NotMeasuredError
from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.events_pb2 import ArmEvent, JointPositionsChanged

PARTITIONS = 8
FIRST_US = 1_795_420_000_000_000
ROUND_US = 10_000
"""Time between two samples of one arm."""

PATTERNS = 8
"""Different positions that an arm goes through, again and again."""

PHASE = 80
"""Rounds for which an arm that `rests` moves, then rests, then moves..."""

JITTER = 1e-4
"""How far apart the two positions are between which an arm at rest goes to and fro."""

_SETTINGS = {
    "log_level": 0,
    "acks": "all",
    "enable.idempotence": True,
    "linger.ms": 20,
    "batch.size": 500_000,
    "queue.buffering.max.messages": 1_000_000,
    "queue.buffering.max.kbytes": 500_000,
    "compression.type": "lz4",
}
_QUEUED = 400_000


def arm_name(number: int) -> bytes:
    """As the load generator names them."""
    return f"arm-{number:06d}".encode()


def _event(arm: bytes, sampled_at_us: int, axes: int, pattern: float) -> bytes:
    # Every axis of every event carries a position that differs from the one before: nothing folds into itself.
    moved = [AxisPosition(axis=axis, position=(pattern + 1) * 0.1 + axis) for axis in range(axes)]
    event = JointPositionsChanged(arm_id=arm.decode(), sampled_at_us=sampled_at_us, axes=moved)
    return ArmEvent(joint_positions_changed=event).SerializeToString(deterministic=True)


def events_of(arm: bytes, sampled_at_us: int, axes: int) -> list[bytes]:
    """Serialised events of one arm at one time, each at another position."""
    return [_event(arm, sampled_at_us, axes, pattern) for pattern in range(PATTERNS)]


class _Template:
    """The bytes of an event before and after its time: of all that changes from round to round only the time has to be written."""

    def __init__(self, arm: bytes, axes: int) -> None:
        whole = events_of(arm, FIRST_US, axes)
        time_at = whole[0].index(varint(FIRST_US))
        after = time_at + len(varint(FIRST_US))
        resting = [_event(arm, FIRST_US, axes, JITTER * 10 * turn) for turn in range(2)]
        self.head, self.tails = whole[0][:time_at], [event[after:] for event in whole]
        self.tails_at_rest = [event[after:] for event in resting]
        self.arm, self.partition = arm, partition_of(arm, PARTITIONS)


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _messages(
    templates: Sequence[_Template], rounds: int, *, rests: bool = False
) -> Iterator[tuple[int, list[dict[str, object]]]]:
    """Partition and messages for `produce_batch`: every arm once in each round. Its time grows: no event is older than the last."""
    arms = [[one for one in templates if one.partition == partition] for partition in range(PARTITIONS)]
    for number in range(rounds):
        moment, at_rest = varint(FIRST_US + number * ROUND_US), rests and number // PHASE % 2 == 1
        for partition, here in enumerate(arms):
            tails = [one.tails_at_rest[number % 2] if at_rest else one.tails[number % PATTERNS] for one in here]
            # By partition: `produce_batch` does not look at that of a single message.
            yield (
                partition,
                [{"key": one.arm, "value": one.head + moment + tail} for one, tail in zip(here, tails, strict=True)],
            )


def fill(
    brokers: str, topic: str, *, events: int, arms: int, axes: int, rests: bool = False, timeout_s: float = 120
) -> int:
    """Appends about `events` events of `arms` arms, and returns how many. Raises NotMeasuredError.

    `rests`: arms rest half the time, jittering. Else all move all the time.
    """
    producer = Producer({**_SETTINGS, "bootstrap.servers": brokers})
    templates = [_Template(arm_name(number), axes) for number in range(arms)]
    rounds, until, count = max(1, events // arms), time.monotonic() + timeout_s, 0
    for partition, messages in _messages(templates, rounds, rests=rests):
        while len(producer) > _QUEUED:
            producer.poll(0.05)
            if time.monotonic() > until:
                raise NotMeasuredError(f"filling {topic} with {events} events took longer than {timeout_s:.0f} s")
        count += producer.produce_batch(topic, messages, partition=partition)
    if count != rounds * arms or producer.flush(max(1, until - time.monotonic())):
        raise NotMeasuredError(f"only {count - len(producer)} of {events} events could be written to {topic}")
    return count
