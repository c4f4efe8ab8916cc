"""The project that counts events, and what its view must say, told without it."""

from __future__ import annotations

from pathlib import Path

from fleet.arms.v1.commands_pb2 import JointSample
from fleet.arms.v1.events_pb2 import JointPositionsChanged
from fleet.arms.v1.queries_pb2 import ArmPosition
from tests.harness.client import all_arms, at_least, sample
from tests.harness.log_file import LogFile

PROJECT = Path(__file__).parent / "counting_project"

ARMS = [f"arm-{number:02d}" for number in range(24)]  # on all partitions


def batch(number: int) -> list[JointSample]:
    """The same samples for the same number, as a robot's resends are."""
    return [sample(arm, number * 1000 + n) for n, arm in enumerate(ARMS)]


def counted(events: list[JointPositionsChanged]) -> ArmPosition:
    total = 0
    for event in events:
        total = (total * 31 + event.sampled_at_us) % (2**61 - 1)
    position = ArmPosition(arm_id=events[0].arm_id)
    position.axes.add(position=len(events), sampled_at_us=total)
    return position


async def check_answers(address: str, log: LogFile) -> None:
    """Every arm's answer is what all events in the log make: none skipped, none doubled, none swapped."""
    ends = [(partition, end - 1) for partition, end in log.ends.items() if end]
    assert await all_arms(address, at_least(ends)) == log.folded(counted)
