"""Simulated arms keep to the limits of their axes, move all axes together, rest, tremble, and are the same for a seed."""

from __future__ import annotations

from itertools import pairwise

import pytest

from robots.simulator import SimulatedArm, simulated_arms

STEP_S = 1e-3
SEEDS = range(8)
PINNED = [0.543735365051796, -1.1151281335766374]


def path(arm: SimulatedArm, periods: float = 6) -> list[list[float]]:
    return [arm.path(step * STEP_S) for step in range(int(periods * arm.period_s / STEP_S))]


@pytest.mark.parametrize("seed", SEEDS)
def test_speed_and_acceleration_stay_within_the_limits(seed: int) -> None:
    arm = SimulatedArm(seed)
    poses = path(arm)
    fastest = hardest = 0.0
    for axis, limits in enumerate(arm.limits):
        speeds = [(b[axis] - a[axis]) / STEP_S for a, b in pairwise(poses)]
        top_speed = max(map(abs, speeds)) / limits.velocity
        top_acceleration = max(abs(b - a) / STEP_S for a, b in pairwise(speeds)) / limits.acceleration
        assert top_speed <= 1 + 1e-6
        assert top_acceleration <= 1 + 1e-3
        assert max(abs(pose[axis]) for pose in poses) <= limits.reach
        fastest, hardest = max(fastest, top_speed), max(hardest, top_acceleration)
    assert max(fastest, hardest) > 0.95, "a move is as fast as one of its axes allows"


@pytest.mark.parametrize("seed", SEEDS)
def test_all_axes_move_together_and_rest_between_moves(seed: int) -> None:
    arm = SimulatedArm(seed)
    moving = [[abs(y - x) > 0 for x, y in zip(a, b, strict=True)] for a, b in pairwise(path(arm))]
    # Close to a start or an end a slow axis may move by less than a float can tell.
    torn = sum(any(axes) != all(axes) for axes in moving)
    assert torn <= 0.002 * len(moving)
    share = sum(any(axes) for axes in moving) / len(moving)
    assert 0.2 < share < 0.95


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_is_that_of_encoders(seed: int) -> None:
    arm = SimulatedArm(seed)
    assert 1e-5 <= arm.noise <= 1e-4
    errors = [r - p for step in range(500) for r, p in zip(arm.at(step / 20), arm.path(step / 20), strict=True)]
    assert 0.9 * arm.noise < max(errors) <= 1.001 * arm.noise
    assert -0.9 * arm.noise > min(errors) >= -1.001 * arm.noise
    assert abs(sum(errors) / len(errors)) < 0.1 * arm.noise


def test_a_seed_and_a_time_say_it_all() -> None:
    times = [1_700_000_000 + step / 20 for step in range(400)]
    forwards, backwards = SimulatedArm(7), SimulatedArm(7)
    there = {t: forwards.at(t) for t in times}
    assert {t: backwards.at(t) for t in reversed(times)} == there
    assert SimulatedArm(8).at(times[0]) != there[times[0]]


def test_the_same_on_every_machine() -> None:
    assert SimulatedArm(1, axes=2).at(12.5) == pytest.approx(PINNED, abs=1e-12)


def test_arms_have_names_and_do_not_depend_on_how_many_there_are() -> None:
    few, many = simulated_arms(2, seed=5), simulated_arms(12, seed=5)
    assert list(many)[::11] == ["arm-001", "arm-012"]
    assert few["arm-002"].at(3.0) == many["arm-002"].at(3.0)
    assert few["arm-001"].at(3.0) != few["arm-002"].at(3.0)


def test_samples_are_what_was_read() -> None:
    arm = SimulatedArm(3, axes=32)
    sample = arm.sample("a", 1_700_000_000_050_000)
    assert (sample.arm_id, sample.sampled_at_us) == ("a", 1_700_000_000_050_000)
    assert [axis.axis for axis in sample.axes] == list(range(32))
    assert [axis.position for axis in sample.axes] == arm.at(1_700_000_000.05)


@pytest.mark.parametrize("axes", [0, 33])
def test_an_arm_has_1_to_32_axes(axes: int) -> None:
    with pytest.raises(ValueError, match="an arm has 1 to 32 axes"):
        SimulatedArm(1, axes)
