"""Current position: the latest known position of every axis of an arm, with the time it was sampled."""

from array import array
from dataclasses import dataclass, field

from aorist.declare import Codec, View
from fleet.arms.v1.events_pb2 import ArmEvent, JointPositionsChanged
from fleet.arms.v1.queries_pb2 import (
    ArmPosition,
    GetArmPositionRequest,
    GetArmPositionResponse,
    ListArmPositionsRequest,
    WatchArmPositionRequest,
    WatchArmPositionResponse,
)
from fleet.arms.v1.snapshots_pb2 import ArmPositionSnapshot

NEVER = -(2**63) - 1
"""Before any time that an event can tell."""

AXES = 32
"""As the contract numbers them. Others, from producers that do not keep to it, are held apart: a list up to their number could be huge."""


@dataclass(slots=True)
class Arm:
    """By axis: rad (m for prismatic axes), and when it was read, microseconds since 1970. Objects for axes would weigh twice that."""

    positions: "array[float]" = field(default_factory=lambda: array("d"))
    sampled_at_us: list[int] = field(default_factory=list)
    others: dict[int, tuple[float, int]] | None = None


def add(arm: Arm, axis: int, position: float, at_us: int) -> None:
    """A reading of an axis that the lists do not reach."""
    if axis < AXES:
        gap = axis - len(arm.positions)
        arm.positions.extend([*[0.0] * gap, position])
        arm.sampled_at_us.extend([*[NEVER] * gap, at_us])
    else:
        arm.others = others = arm.others or {}
        if axis not in others or at_us >= others[axis][1]:
            others[axis] = position, at_us


def readings(arm: Arm) -> list[tuple[int, float, int]]:
    """Axis, position and time of those known, in the order of their numbers."""
    lists = zip(range(AXES), arm.positions, arm.sampled_at_us, strict=False)
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
    snapshot, times = ArmPositionSnapshot(), arm.sampled_at_us
    if arm.others or NEVER in times:
        snapshot.axes.extend(pack(arm).axes)
    elif times:
        snapshot.positions.extend(arm.positions.tolist())
        snapshot.sampled_at_us.extend(times[:1] if times.count(times[0]) == len(times) else times)
    return snapshot


def thaw(snapshot: ArmPositionSnapshot) -> Arm:
    positions = snapshot.positions[:]
    if positions:
        times = snapshot.sampled_at_us[:]
        if len(times) not in (1, len(positions)):
            raise ValueError(f"{len(positions)} positions, but {len(times)} times")
        return Arm(array("d", positions), times if len(times) > 1 else times * len(positions))
    arm = Arm()
    for reading in snapshot.axes:
        add(arm, reading.axis, reading.position, reading.sampled_at_us)
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
def moved(arm: Arm, event: JointPositionsChanged) -> None:
    positions, times, at_us = arm.positions, arm.sampled_at_us, event.sampled_at_us
    for new in event.axes[:]:  # a copy is walked faster
        axis = new.axis
        if axis >= len(times):
            add(arm, axis, new.position, at_us)
        elif at_us >= times[axis]:  # robots retry: late repeats must not win
            positions[axis], times[axis] = new.position, at_us


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
