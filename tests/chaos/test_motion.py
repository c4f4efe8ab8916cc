"""Windows of motion under `kill -9`: each is what one fold of the recording makes of it, however often the process died meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aorist.v1.read_pb2 import ReadOptions
from aorist.v1.series_pb2 import TimeRange
from fleet.arms.v1.commands_pb2 import JointSample
from fleet.arms.v1.motion_pb2 import ListMotionWindowsRequest
from fleet.arms.v1.motion_pb2_grpc import ArmMotionQueryServiceStub
from fleet.arms.v1.stand_ins_pb2 import JointPositionsByAxis
from materializers.arm_motion import Arm, motion, moved
from robots.recordings import open_recording
from tests.harness.client import BASE_US, Robot, at_least, channel_to
from tests.harness.places import TIAGO, recordings
from tests.harness.process import DevProcess, until

S = 1_000_000
BATCH = 50
DEATHS = 6
"""Spread over the recording: its 80 s make 82 windows of a second, 2 of a minute and one of an hour, which close while it is sent."""

Windows = dict[tuple[int, int], tuple[int, int]]
"""Moving and still by length and start."""


def expected(samples: list[JointSample]) -> Windows:
    """Of a state that has seen each sample once."""
    arm = Arm()
    for one in samples:
        axes = {axis.axis: axis.position for axis in one.axes}
        moved(arm, JointPositionsByAxis(arm_id=one.arm_id, sampled_at_us=one.sampled_at_us, axes=axes))
    closed = [(w.window_s, w.start_us, motion.codec.decode(w.totals)) for w in arm.windows.closed]
    return {(window_s, at): (t.moving_us, t.still_us) for window_s, at, t in [*closed, *arm.windows.open()]}


async def windows(address: str, arm: str, read: ReadOptions) -> Windows:
    found, asked = Windows(), TimeRange(from_us=BASE_US, upto_us=BASE_US + 3600 * S)
    async with channel_to(address) as channel:
        queries = ArmMotionQueryServiceStub(channel)
        for window_s in (1, 60, 3600):
            request = ListMotionWindowsRequest(arm_id=arm, window_s=window_s, range=asked, page_size=1000, read=read)
            for window in (await queries.ListMotionWindows(request)).windows:
                found[window_s, window.start_us] = window.motion.moving_us, window.motion.still_us
    return found


async def test_no_window_is_lost_or_counted_twice(tmp_path: Path) -> None:
    samples = list(open_recording(recordings()[TIAGO]).samples(lambda _arm_id, _first_us: BASE_US))
    batches = [samples[first : first + BATCH] for first in range(0, len(samples), BATCH)]
    robot = Robot(batches.__getitem__, in_flight=2, most=len(batches))
    async with DevProcess(tmp_path, checkpoint_interval_s=0.05) as process:
        for death in range(DEATHS):
            await process.start()
            conversing = asyncio.create_task(robot.converse(process.address))
            goal = len(batches) * (death + 1) // (DEATHS + 1)
            await until(lambda goal=goal: robot.done >= goal, "so many batches")  # type: ignore[misc]
            process.kill()
            await conversing
        await process.start()
        await robot.converse(process.address)
        read = at_least(robot.positions.items())
        assert await windows(process.address, samples[0].arm_id, read) == expected(samples)
        robot.done = 0  # all of it again, as a robot does that cannot know
        await robot.converse(process.address)
        read = at_least(robot.positions.items())
        assert await windows(process.address, samples[0].arm_id, read) == expected(samples)
