"""What has become of the samples that were sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aorist.v1.position_pb2 import Position
from fleet.arms.v1.commands_pb2 import JointSample, RefusedSample, StreamJointPositionsRequest

_MOST_REASONS = 5


@dataclass(slots=True)
class ArmCount:
    """Samples of one arm. What is neither acknowledged nor refused may be lost."""

    sent: int = 0
    acknowledged: int = 0
    refused: int = 0


@dataclass(slots=True)
class Outcome:
    """Counts of samples, growing while a sender runs. Sent again does not count as sent."""

    total: ArmCount = field(default_factory=ArmCount)
    arms: dict[str, ArmCount] = field(default_factory=dict)
    resent: int = 0
    connections_lost: int = 0
    reasons: list[str] = field(default_factory=list)  # of the first few refused samples, in words
    positions: dict[tuple[str, int], int] = field(default_factory=dict)  # last offset by (topic, partition)

    def at_least(self) -> list[Position]:
        """For `ReadOptions.at_least`: a query with these sees everything acknowledged so far."""
        return [Position(topic=t, partition=p, offset=offset) for (t, p), offset in sorted(self.positions.items())]

    def count_sent(self, batch: StreamJointPositionsRequest) -> None:
        """Counts a batch that is sent for the first time."""
        self.total.sent += len(batch.samples)
        for sample in batch.samples:
            self.arms.setdefault(sample.arm_id, ArmCount()).sent += 1

    def settle(self, batch: StreamJointPositionsRequest, refused: Sequence[RefusedSample]) -> None:
        """Counts a batch that is acknowledged but for these samples of it."""
        reasons = {refusal.index: refusal for refusal in refused}
        for index, sample in enumerate(batch.samples):
            arm = self.arms[sample.arm_id]
            refusal = reasons.get(index)
            if refusal is None:
                arm.acknowledged += 1
                self.total.acknowledged += 1
                continue
            arm.refused += 1
            self.total.refused += 1
            if len(self.reasons) < _MOST_REASONS:
                self.reasons.append(_words(sample, refusal))

    def reach(self, positions: Iterable[Position]) -> None:
        """Notes where in the log the samples have arrived."""
        for position in positions:
            partition = (position.topic, position.partition)
            self.positions[partition] = max(position.offset, self.positions.get(partition, -1))


def _words(sample: JointSample, refusal: RefusedSample) -> str:
    rules = "; ".join(f"{v.field}: {v.description}" for v in refusal.violations.field_violations)
    try:
        when = datetime.fromtimestamp(sample.sampled_at_us / 1_000_000, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError):
        when = f"{sample.sampled_at_us} us"
    return f"{sample.arm_id} at {when}: {rules or 'no reason was given'}"
