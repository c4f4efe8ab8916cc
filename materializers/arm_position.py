"""Current position: the latest known position of every axis of an arm, with the time it was sampled."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aorist.declare import Codec, View
from fleet.arms.v1.events_pb2 import ArmEvent
from fleet.arms.v1.queries_pb2 import (
    ArmPosition,
    GetArmPositionRequest,
    GetArmPositionResponse,
    ListArmPositionsRequest,
    WatchArmPositionRequest,
    WatchArmPositionResponse,
)
from fleet.arms.v1.snapshots_pb2 import ArmPositionSnapshot
from fleet.arms.v1.stand_ins_pb2 import JointPositionsByAxis

NEVER = -(2**63) - 1
"""Before any time that an event can tell."""

AXES = 32
"""As the contract numbers them. Others, from producers that do not keep to it, are held apart: a list up to their number could be huge."""


@dataclass(slots=True)
class Arm:
    """By axis: rad (m for prismatic axes), and when it was read, microseconds since 1970. Objects for axes would weigh more."""

    positions: list[float] = field(default_factory=list)
    sampled_at_us: int = NEVER
    """When all axes were read, where they were read at once, as mostly; else `each_at_us` says it."""
    each_at_us: list[int] | None = field(default_factory=list)
    others: dict[int, tuple[float, int]] | None = None


def times_of(arm: Arm) -> list[int]:
    return [arm.sampled_at_us] * len(arm.positions) if arm.each_at_us is None else arm.each_at_us


def keep_times(arm: Arm, times: list[int]) -> None:
    if times and times[0] == times[-1] and times.count(times[0]) == len(times):
        arm.sampled_at_us, arm.each_at_us = times[0], None
    else:
        arm.sampled_at_us, arm.each_at_us = NEVER, times


def merge(arm: Arm, axes: Mapping[int, float], at_us: int) -> None:
    """Any axes, read at any time."""
    positions, times = arm.positions, times_of(arm)
    for axis in axes:
        if axis >= len(times):
            add(arm, times, axis, axes[axis], at_us)
        elif at_us >= times[axis]:  # robots retry: late repeats must not win
            positions[axis], times[axis] = axes[axis], at_us
    keep_times(arm, times)


def add(arm: Arm, times: list[int], axis: int, position: float, at_us: int) -> None:
    """A reading of an axis that the lists do not reach."""
    if axis < AXES:
        gap = axis - len(times)
        arm.positions.extend([*[0.0] * gap, position])
        times.extend([*[NEVER] * gap, at_us])
    else:
        arm.others = others = arm.others or {}
        if axis not in others or at_us >= others[axis][1]:
            others[axis] = position, at_us


def readings(arm: Arm) -> list[tuple[int, float, int]]:
    """Axis, position and time of those known, in the order of their numbers."""
    lists = zip(range(AXES), arm.positions, times_of(arm), strict=False)
    known = [reading for reading in lists if reading[2] != NEVER]
    return known + [(axis, *other) for axis, other in sorted(arm.others.items())] if arm.others else known


def pack(arm: Arm, message: ArmPosition | None = None) -> ArmPosition:
    """Into `message`, or into a new one. Filled in place, an answer costs half of what lists and named arguments do."""
    message = ArmPosition() if message is None else message
    add_reading = message.axes.add
    for axis, position, at_us in readings(arm):
        reading = add_reading()
        reading.axis, reading.position, reading.sampled_at_us = axis, position, at_us
    return message


def freeze(arm: Arm) -> ArmPositionSnapshot:
    snapshot, times = ArmPositionSnapshot(), arm.each_at_us
    if arm.others or (times is not None and NEVER in times):
        snapshot.axes.extend(pack(arm).axes)
    else:
        snapshot.positions.extend(arm.positions)
        snapshot.sampled_at_us.extend([arm.sampled_at_us] if times is None else times)
    return snapshot


def thaw(snapshot: ArmPositionSnapshot) -> Arm:
    positions, times = snapshot.positions[:], snapshot.sampled_at_us[:]
    if positions and len(times) == 1:
        return Arm(positions, times[0], None)
    if len(times) != len(positions):
        raise ValueError(f"{len(positions)} positions, but {len(times)} times")
    arm = Arm(positions)
    keep_times(arm, times)
    for reading in snapshot.axes:
        merge(arm, {reading.axis: reading.position}, reading.sampled_at_us)
    return arm


# region view
arm_position = View(
    "arm_position",
    events=ArmEvent,
    state=Arm,
    codec=Codec.through(ArmPositionSnapshot, freeze, thaw),
    build=2,
    ordered_by="sampled_at_us",
)


@arm_position.apply
def moved(arm: Arm, event: JointPositionsByAxis) -> None:
    axes, at_us, positions = event.axes, event.sampled_at_us, arm.positions
    if arm.each_at_us is not None or at_us < arm.sampled_at_us or len(axes) != len(positions):
        merge(arm, axes, at_us)
        return
    try:
        for axis in axes:  # mostly all that are known, read at once
            positions[axis] = axes[axis]
        arm.sampled_at_us = at_us
    except IndexError:  # as many, but not the same
        merge(arm, axes, at_us)


@arm_position.get
def get(arm: Arm, ask: GetArmPositionRequest) -> GetArmPositionResponse:
    response = GetArmPositionResponse()
    pack(arm, response.arm)
    return response


@arm_position.list
def each(arm: Arm, ask: ListArmPositionsRequest) -> ArmPosition | None:
    return pack(arm)


@arm_position.watch
def watch(arm: Arm, ask: WatchArmPositionRequest) -> WatchArmPositionResponse:
    return WatchArmPositionResponse(arm=pack(arm))


# endregion
