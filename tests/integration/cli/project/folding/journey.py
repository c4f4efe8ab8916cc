"""Counts events: each time one is folded counts, and so does the order. Nothing that a later event could cover up.

Axis 0 of the answer: `position` is the number of events, `sampled_at_us` a hash of all their times in order. Broken for events whose first
axis is at TESTED_POISON, until a process starts without it: a bug, and its fix.
TESTED_BUILD is its build; with TESTED_STEP it counts wrongly; it begins with the snapshots of build TESTED_SEED.
"""

import os

from envelope import Envelope  # type: ignore[import-not-found]

from aorist.declare import Seed, View
from fleet.arms.v1.events_pb2 import JointPositionsChanged
from fleet.arms.v1.queries_pb2 import (
    ArmPosition,
    GetArmPositionRequest,
    GetArmPositionResponse,
    ListArmPositionsRequest,
    WatchArmPositionRequest,
    WatchArmPositionResponse,
)

POISON, STEP = os.environ.get("TESTED_POISON", ""), int(os.environ.get("TESTED_STEP", "1"))

BUILD, SEED = int(os.environ.get("TESTED_BUILD", "1")), int(os.environ.get("TESTED_SEED", "0"))


def before(old: bytes) -> ArmPosition:
    return ArmPosition.FromString(old)


arm_position = View(
    "arm_position",
    events=Envelope,
    state=ArmPosition,
    build=BUILD,
    seeded_from=Seed(SEED, before) if SEED else None,
)


@arm_position.apply
def moved(arm: ArmPosition, event: JointPositionsChanged) -> None:
    count = arm.axes[0] if arm.axes else arm.axes.add()
    count.position += STEP
    if POISON and event.axes[0].position == float(POISON):
        raise ArithmeticError("poison")  # half-way through
    count.sampled_at_us = (count.sampled_at_us * 31 + event.sampled_at_us) % (2**61 - 1)


@arm_position.get
def get(arm: ArmPosition, ask: GetArmPositionRequest) -> GetArmPositionResponse:
    return GetArmPositionResponse(arm=arm)


@arm_position.list
def each(arm: ArmPosition, ask: ListArmPositionsRequest) -> ArmPosition | None:
    return ArmPosition(axes=arm.axes)


@arm_position.watch
def watch(arm: ArmPosition, ask: WatchArmPositionRequest) -> WatchArmPositionResponse:
    return WatchArmPositionResponse(arm=arm)
