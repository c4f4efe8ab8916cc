"""Motion of real arms comes out as computed over the raw files; windows of all lengths add up; repeats change nothing."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

import pytest

from aorist.declare import Windows, given
from aorist.declare.series import SECOND_US
from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.events_pb2 import JointPositionsChanged
from fleet.arms.v1.stand_ins_pb2 import JointPositionsByAxis
from materializers.arm_motion import BAND, MAX_GAP_US, SETTLE_US, Arm, Totals, arm_motion, motion, moved
from robots.recordings import open_recording
from tests.harness.places import KUKA, STAUBLI, TIAGO, UR5E, recordings

T0 = 1_767_225_600 * SECOND_US
IN_MOTION = {
    f"{KUKA}-A": 0.9404,
    f"{KUKA}-B": 0.9368,
    f"{KUKA}-C": 0.9188,
    STAUBLI: 0.8689,
    TIAGO: 0.8056,
    UR5E: 0.0,
}
"""Computed apart, in seconds as floating point: there some samples 0.2 s after count as less. Here times are whole microseconds."""


def samples() -> Iterator[JointPositionsChanged]:
    for path in recordings().values():
        for sample in open_recording(path).samples(lambda _arm_id, _first_us: T0):
            yield JointPositionsChanged(arm_id=sample.arm_id, sampled_at_us=sample.sampled_at_us, axes=sample.axes)


def fold(events: Iterable[JointPositionsChanged], arms: dict[str, Arm] | None = None) -> dict[str, Arm]:
    folded = {} if arms is None else arms
    for event in events:
        moved(folded.setdefault(event.arm_id, Arm()), JointPositionsByAxis.FromString(event.SerializeToString()))
    return folded


def by_length(windows: Windows[Totals], window_s: int) -> dict[int, Totals]:
    closed = {w.start_us: motion.codec.decode(w.totals) for w in windows.closed if w.window_s == window_s}
    return closed | {w.start_us: w.totals for w in windows.open() if w.window_s == window_s}


@pytest.fixture(scope="module")
def arms() -> dict[str, Arm]:
    return fold(samples())


def test_recorded_arms_were_in_motion_as_computed_over_the_files(arms: dict[str, Arm]) -> None:
    shares = dict[str, float]()
    for name, arm in arms.items():
        for window_s in (1, 60, 3600):
            total = motion.sum(list(by_length(arm.windows, window_s).values()))
            share = total.moving_us / (total.moving_us + total.still_us)
            assert shares.setdefault(name, share) == share
    assert shares == {name: pytest.approx(share, abs=0.001) for name, share in IN_MOTION.items()}


def test_what_was_observed_is_the_time_between_first_and_last_sample(arms: dict[str, Arm]) -> None:
    for arm in arms.values():
        total = motion.sum(list(by_length(arm.windows, 3600).values()))
        assert total.moving_us + total.still_us == arm.sampled_at_us - T0
        for number in arm.axes:
            assert total.moving_axes[number] + total.still_axes[number] == arm.sampled_at_us - T0
            assert total.moving_axes[number] <= total.moving_us


def test_windows_of_each_length_add_up_to_those_of_the_next(arms: dict[str, Arm]) -> None:
    for arm in arms.values():
        for finer_s, coarser_s in ((1, 60), (60, 3600)):
            finer, coarser = by_length(arm.windows, finer_s), by_length(arm.windows, coarser_s)
            length_us = coarser_s * SECOND_US
            for start_us, total in coarser.items():
                inside = [t for at_us, t in finer.items() if at_us // length_us * length_us == start_us]
                assert motion.sum(inside) == total


def test_replay_with_duplicates_and_rewinds_changes_nothing() -> None:
    """The oracle folds each sample once."""
    chosen, events = random.Random(1), [e for e in samples() if KUKA in e.arm_id]
    once, often = fold(events), fold(events[:2_000])
    reached = 2_000
    while reached < len(events):
        back, reached = reached - chosen.randrange(2_000), min(len(events), reached + chosen.randrange(500))
        fold((e for e in events[back:reached] for _ in range(chosen.choice([1, 1, 2]))), often)
    assert often == once
    fold(events, often)
    assert often == once
    codec = arm_motion.codec
    assert {name: codec.decode(codec.encode(arm)) for name, arm in once.items()} == once


# --- the rule, step by step ---


def at(us: int, *positions: float, first: int = 0) -> JointPositionsChanged:
    """`us` after the start; axes from number `first` on."""
    axes = [AxisPosition(axis=n, position=position) for n, position in enumerate(positions, start=first)]
    return JointPositionsChanged(arm_id="a", sampled_at_us=T0 + us, axes=axes)


def total(*events: JointPositionsChanged) -> Totals:
    (arm,) = fold(events).values()
    return motion.sum(list(by_length(arm.windows, 3600).values()))


def amounts(*events: JointPositionsChanged) -> tuple[int, int]:
    """Moving and still, of the arm."""
    found = total(*events)
    return found.moving_us, found.still_us


def test_one_sample_says_nothing() -> None:
    (arm,) = fold([at(0, 1.0)]).values()
    assert arm.windows == Arm().windows


def test_jitter_within_the_band_is_rest() -> None:
    assert amounts(at(0, 1.0), at(100_000, 1.0 + BAND * 0.9), at(200_000, 1.0 - BAND * 0.9)) == (0, 200_000)


def test_leaving_the_band_is_motion_until_it_has_settled() -> None:
    leaves = at(100_000, 1.0 + 2 * BAND)
    stays = [at(100_000 + n, 1.0 + 2 * BAND) for n in (SETTLE_US - 1, SETTLE_US)]
    assert amounts(at(0, 1.0), leaves) == (100_000, 0)
    assert amounts(at(0, 1.0), leaves, *stays) == (100_000 + SETTLE_US - 1, 1)


def test_a_slow_drift_is_seen_whatever_the_rate() -> None:
    slow = [at(n * 10_000, 1.0 + n * BAND / 5) for n in range(200)]
    moving, still = amounts(*slow)
    assert moving / (moving + still) > 0.95


def test_a_gap_is_unobserved_and_begins_anew() -> None:
    events = at(0, 1.0), at(MAX_GAP_US, 1.0), at(2 * MAX_GAP_US + 1, 5.0), at(2 * MAX_GAP_US + 11, 5.0)
    assert amounts(*events) == (0, MAX_GAP_US + 10)


def test_the_arm_moves_if_any_axis_does() -> None:
    found = total(at(0, 1.0, 1.0), at(1000, 1.0, 2.0))
    assert (found.moving_us, found.still_us) == (1000, 0)
    assert (found.moving_axes, found.still_axes) == ({1: 1000}, {0: 1000})


def test_axes_that_report_apart_are_counted_apart() -> None:
    """Axis 1 reports later and rarer than axis 0; the arm is observed whenever any of them is."""
    first = [at(n * 100_000, 0.0) for n in range(11)]
    second = [at(50_000, 0.0, first=1), at(950_000, 1.0, first=1)]
    found = total(*sorted([*first, *second], key=lambda e: e.sampled_at_us))
    assert found.still_axes == {0: 1_000_000}
    assert found.moving_axes == {1: 900_000}
    assert (found.moving_us, found.still_us) == (100_000, 900_000)


def test_an_axis_that_arrives_late_counts_for_itself_but_not_for_the_arm() -> None:
    found = total(at(0, 0.0, 0.0), at(1000, 0.0), at(500, 0.0, first=1))
    assert found.still_axes == {0: 1000, 1: 500}
    assert (found.moving_us, found.still_us) == (0, 1000)


def test_an_axis_named_twice_counts_once_as_it_was_named_last() -> None:
    twice = at(1000, 9.0)
    twice.axes.add(axis=0, position=0.0)
    assert total(at(0, 0.0), twice) == total(at(0, 0.0), at(1000, 0.0))


def test_late_and_repeated_samples_change_nothing() -> None:
    events = [at(n * 4000, n * 0.01, 0.0) for n in range(100)]
    stale: Sequence[JointPositionsChanged] = [at(n * 4000, 7.0, 7.0) for n in range(100)]
    assert fold([*events, *stale, *events]) == fold(events)


def test_a_long_rest_costs_no_more_windows_than_were_observed() -> None:
    (arm,) = fold([at(0, 0.0), at(10, 0.0), at(10**12, 0.0), at(10**12 + 10, 0.0)]).values()
    assert len(arm.windows.closed) == 3


def test_the_view_is_complete() -> None:
    given(arm_motion, [at(0, 0.0)])
