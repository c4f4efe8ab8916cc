"""Simulated arms that move as real ones do: from pose to pose with trapezoidal speed, all axes together, then a rest.

An arm is a pure function of its seed and of time. So a test needs no clock, and an arm whose simulation is started
again goes on where it would have been. Time runs in periods: in each the arm moves to the pose of that period and rests
until the next.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from hashlib import blake2b
from math import floor, sqrt

from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.commands_pb2 import JointSample
from robots.layout import MAX_AXES

# The share of a move spent speeding up, and the same slowing down; then the peaks of a move over 1 in a time of 1.
_RAMP = 0.25
_PEAK_SPEED = 1 / (1 - _RAMP)
_PEAK_ACCELERATION = _PEAK_SPEED / _RAMP


@dataclass(frozen=True, slots=True)
class AxisLimits:
    """What one axis can do. rad, rad/s, rad/s^2; poses lie within +-reach."""

    reach: float
    velocity: float
    acceleration: float

    def time_for(self, distance: float) -> float:
        """The shortest move over a distance, in seconds."""
        way = abs(distance)
        return max(way * _PEAK_SPEED / self.velocity, sqrt(way * _PEAK_ACCELERATION / self.acceleration))


@dataclass(frozen=True, slots=True)
class _Move:
    period: int
    origin: tuple[float, ...]
    target: tuple[float, ...]
    duration_s: float


class SimulatedArm:
    """One arm. Equal seeds give equal arms."""

    def __init__(self, seed: int | str, axes: int = 6) -> None:
        """Raises ValueError unless there are 1 to 32 axes."""
        if not 1 <= axes <= MAX_AXES:
            raise ValueError(f"an arm has 1 to {MAX_AXES} axes, not {axes}")
        self._seed = f"{seed}"
        dice = random.Random(f"arm {seed}")
        self.limits = tuple(
            AxisLimits(dice.uniform(0.5, 1.5), dice.uniform(0.8, 2.0), dice.uniform(2.0, 5.0)) for _ in range(axes)
        )
        self.noise = 10 ** dice.uniform(-5, -4)  # rad; readings lie within +-noise of the truth
        longest_s = max(axis.time_for(2 * axis.reach) for axis in self.limits)
        self.period_s = longest_s * dice.uniform(1.1, 1.8)
        self._phase_s = dice.uniform(0, self.period_s)
        self._key = blake2b(self._seed.encode(), digest_size=32).digest()
        self._move = self._plan(0)

    def at(self, t: float) -> list[float]:
        """What the encoders read at a time in seconds: one position (rad) for each axis."""
        true = self.path(t)
        # One hash gives two bytes for each axis: noise that depends on nothing but seed and microsecond.
        moment = round(t * 1_000_000).to_bytes(8, "big", signed=True)
        dice = blake2b(moment, key=self._key, digest_size=2 * len(true)).digest()
        scale = self.noise / 32768
        return [p + ((dice[2 * i] << 8 | dice[2 * i + 1]) - 32767.5) * scale for i, p in enumerate(true)]

    def path(self, t: float) -> list[float]:
        """Where the arm truly is at a time in seconds: without noise."""
        period = floor((t + self._phase_s) / self.period_s)
        if period != self._move.period:
            self._move = self._plan(period)
        move = self._move
        done = _trapezoid((t + self._phase_s - period * self.period_s) / move.duration_s)
        return [a + (b - a) * done for a, b in zip(move.origin, move.target, strict=True)]

    def sample(self, arm_id: str, sampled_at_us: int) -> JointSample:
        """What the arm's controller would send."""
        readings = self.at(sampled_at_us / 1_000_000)
        axes = [AxisPosition(axis=axis, position=position) for axis, position in enumerate(readings)]
        return JointSample(arm_id=arm_id, sampled_at_us=sampled_at_us, axes=axes)

    def _plan(self, period: int) -> _Move:
        origin, target = self._pose(period - 1), self._pose(period)
        times = [axis.time_for(b - a) for axis, a, b in zip(self.limits, origin, target, strict=True)]
        return _Move(period, origin, target, max(*times, 1e-3))

    def _pose(self, period: int) -> tuple[float, ...]:
        dice = random.Random(f"{self._seed} pose {period}")
        return tuple(dice.uniform(-axis.reach, axis.reach) for axis in self.limits)


def _trapezoid(share: float) -> float:
    """How much of a move is done after this share of its time."""
    if share >= 1:
        return 1.0
    if share < _RAMP:
        return _PEAK_ACCELERATION * share * share / 2
    if share > 1 - _RAMP:
        return 1 - _PEAK_ACCELERATION * (1 - share) * (1 - share) / 2
    return _PEAK_SPEED * (share - _RAMP / 2)


def simulated_arms(count: int, seed: int = 1, axes: int = 6) -> dict[str, SimulatedArm]:
    """Arms `arm-001`, `arm-002`, ...; each the same however many there are."""
    names = (f"arm-{number:03d}" for number in range(1, count + 1))
    return {name: SimulatedArm(f"{seed} {name}", axes) for name in names}
