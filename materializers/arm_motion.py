"""Motion: how long an arm and each of its axes were in motion or still, in windows of a second, a minute and an hour.

A resting arm still jitters, so a difference between two samples says little. Each axis has an anchor: a sample that leaves the band around
it moves the anchor there. The axis is in motion until it has stayed within its band for a while; the arm is when any axis is. Time between
two samples takes the verdict at the later one; what lies between samples too far apart was not observed.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from aorist.declare import Codec, InRange, Series, View, Window, Windows
from aorist.v1.series_pb2 import TimeRange
from fleet.arms.v1.events_pb2 import ArmEvent
from fleet.arms.v1.motion_pb2 import (
    ArmMotionState,
    ArmUtilisation,
    AxisMotion,
    AxisMotionState,
    AxisTotals,
    CompareMotionRequest,
    GetMotionRequest,
    GetMotionResponse,
    ListMotionWindowsRequest,
    Motion,
    MotionTotals,
    MotionWindow,
)
from fleet.arms.v1.stand_ins_pb2 import JointPositionsByAxis

BAND = 5e-4
"""rad, or m: half the width of the band. Arms at rest were measured to jitter by up to 1e-4."""

SETTLE_US = 200_000
"""An axis is in motion until it has been in its band for so long."""

MAX_GAP_US = 1_000_000
"""Between samples further apart nothing was observed."""

NEVER_US = -3_600_000_000
"""Longer ago than any of these, at any time since 1970."""


# region totals
@dataclass(slots=True)
class Totals:
    """Microseconds of a window in which the arm, and each axis by its number, moved or was still."""

    moving_us: int = 0
    still_us: int = 0
    moving_axes: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    still_axes: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))


def add(into: Totals, more: Totals) -> None:
    into.moving_us += more.moving_us
    into.still_us += more.still_us
    for axes, amounts in ((into.moving_axes, more.moving_axes), (into.still_axes, more.still_axes)):
        for number, us in amounts.items():
            axes[number] += us


def pack_totals(totals: Totals) -> MotionTotals:
    moving, still = totals.moving_axes, totals.still_axes
    axes = [AxisTotals(axis=n, moving_us=moving.get(n, 0), still_us=still.get(n, 0)) for n in sorted({*moving, *still})]
    return MotionTotals(moving_us=totals.moving_us, still_us=totals.still_us, axes=axes)


def unpack_totals(message: MotionTotals) -> Totals:
    totals = Totals(message.moving_us, message.still_us)
    for axis in message.axes:
        if axis.moving_us:
            totals.moving_axes[axis.axis] = axis.moving_us
        if axis.still_us:
            totals.still_axes[axis.axis] = axis.still_us
    return totals


motion = Series(Totals, add=add, codec=Codec.through(MotionTotals, pack_totals, unpack_totals))
# endregion


@dataclass(slots=True)
class Axis:
    """`left_us`: when a sample last left the band around `anchor`."""

    anchor: float
    sampled_at_us: int
    left_us: int = NEVER_US


# region state
@dataclass(slots=True)
class Arm:
    """`left_us`: when any axis last left its band."""

    sampled_at_us: int = NEVER_US
    left_us: int = NEVER_US
    axes: dict[int, Axis] = field(default_factory=dict)
    windows: Windows[Totals] = field(default_factory=motion.windows)


# endregion


def pack(arm: Arm) -> ArmMotionState:
    axes = [
        AxisMotionState(axis=n, anchor=axis.anchor, sampled_at_us=axis.sampled_at_us, left_us=axis.left_us)
        for n, axis in sorted(arm.axes.items())
    ]
    return ArmMotionState(sampled_at_us=arm.sampled_at_us, left_us=arm.left_us, axes=axes, windows=arm.windows.pack())


def unpack(message: ArmMotionState) -> Arm:
    axes = {axis.axis: Axis(axis.anchor, axis.sampled_at_us, axis.left_us) for axis in message.axes}
    return Arm(message.sampled_at_us, message.left_us, axes, motion.unpack(message.windows))


# region view
arm_motion = View(
    "arm_motion",
    events=ArmEvent,
    state=Arm,
    codec=Codec.through(ArmMotionState, pack, unpack),
    ordered_by="sampled_at_us",
)


@arm_motion.apply
def moved(arm: Arm, event: JointPositionsByAxis) -> None:
    at_us, positions, axes, over = event.sampled_at_us, event.axes, arm.axes, arm.windows.over
    settled_us, left = at_us - SETTLE_US, False
    cut_us: int | None = None
    spans: Sequence[tuple[Totals, int]] = ()
    for number in positions:
        position = positions[number]
        if (axis := axes.get(number)) is None:
            axes[number] = Axis(position, at_us)
            continue
        if axis.sampled_at_us != cut_us:  # else as the axis before: mostly all are sampled together
            if not was_observed(axis, position, at_us):
                continue
            cut_us = axis.sampled_at_us
            spans = over(cut_us, at_us)
            if in_one := len(spans) == 1:  # as mostly: found once for all axes
                ((totals, us),) = spans
                moving, still = totals.moving_axes, totals.still_axes
        axis.sampled_at_us = at_us
        if not -BAND <= position - axis.anchor <= BAND:
            axis.anchor, axis.left_us, left = position, at_us, True
        if in_one:
            (moving if axis.left_us > settled_us else still)[number] += us
        else:
            count_axis(spans, number, moves=axis.left_us > settled_us)
    if left:
        arm.left_us = max(arm.left_us, at_us)
    if at_us > arm.sampled_at_us:
        count(spans if arm.sampled_at_us == cut_us else spans_of(arm, at_us), moves=arm.left_us > settled_us)
        arm.sampled_at_us = at_us


def was_observed(axis: Axis, position: float, at_us: int) -> bool:
    """Whether the time since the last sample counts. Robots retry: late repeats change nothing. After a gap the axis begins anew."""
    gap_us = at_us - axis.sampled_at_us
    if gap_us > MAX_GAP_US:
        axis.anchor, axis.sampled_at_us = position, at_us
    return 0 < gap_us <= MAX_GAP_US


def spans_of(arm: Arm, at_us: int) -> Sequence[tuple[Totals, int]]:
    """Since the last sample of any axis."""
    return arm.windows.over(arm.sampled_at_us, at_us) if at_us - arm.sampled_at_us <= MAX_GAP_US else ()


def count_axis(spans: Sequence[tuple[Totals, int]], number: int, *, moves: bool) -> None:
    for totals, us in spans:
        (totals.moving_axes if moves else totals.still_axes)[number] += us


def count(spans: Sequence[tuple[Totals, int]], *, moves: bool) -> None:
    """For the arm as a whole."""
    for totals, us in spans:
        if moves:
            totals.moving_us += us
        else:
            totals.still_us += us


# endregion


def shares(moving_us: int, still_us: int, range_us: int) -> Motion:
    seen_us = moving_us + still_us
    return Motion(
        moving=moving_us / range_us,
        still=still_us / range_us,
        unobserved=(range_us - seen_us) / range_us,
        utilisation=moving_us / seen_us if seen_us else 0.0,
        moving_us=moving_us,
        still_us=still_us,
    )


def of_axes(totals: Totals, range_us: int) -> list[AxisMotion]:
    moving, still = totals.moving_axes, totals.still_axes
    return [
        AxisMotion(axis=n, motion=shares(moving.get(n, 0), still.get(n, 0), range_us))
        for n in sorted({*moving, *still})
    ]


# region queries
@arm_motion.get
def get(arm: Arm, ask: GetMotionRequest, found: InRange[Totals]) -> GetMotionResponse:
    totals, range_us = found.totals, found.upto_us - found.from_us
    return GetMotionResponse(
        range=TimeRange(from_us=found.from_us, upto_us=found.upto_us),
        motion=shares(totals.moving_us, totals.still_us, range_us),
        coverage=(totals.moving_us + totals.still_us) / range_us,
        axes=of_axes(totals, range_us),
    )


@arm_motion.windows
def window(arm: Arm, ask: ListMotionWindowsRequest, found: Window[Totals]) -> MotionWindow:
    totals, range_us = found.totals, found.window_s * 1_000_000
    return MotionWindow(
        start_us=found.start_us,
        motion=shares(totals.moving_us, totals.still_us, range_us),
        open=found.open,
        axes=of_axes(totals, range_us),
    )


@arm_motion.list
def compare(arm: Arm, ask: CompareMotionRequest, found: InRange[Totals]) -> ArmUtilisation | None:
    seen_us = found.totals.moving_us + found.totals.still_us
    coverage = seen_us / (found.upto_us - found.from_us)
    if not seen_us or coverage < ask.min_coverage:
        return None
    stated = TimeRange(from_us=found.from_us, upto_us=found.upto_us)
    return ArmUtilisation(utilisation=found.totals.moving_us / seen_us, coverage=coverage, range=stated)


# endregion
