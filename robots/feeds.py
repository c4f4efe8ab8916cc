"""Where samples meet the clock: recordings and simulated arms as sources for a sender."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping

from fleet.arms.v1.commands_pb2 import JointSample
from robots.outcome import Outcome
from robots.recordings import YEAR_2000_S, Anchor, Recording, RecordingError, Start
from robots.sender import Batches, Sender
from robots.simulator import SimulatedArm, simulated_arms

# Samples that fall due within this time travel together: 5 kHz do not wake the process 5,000 times a second.
_TICK_S = 0.01


def starts(recording: Recording, anchor: Anchor, speed: float, claimed: dict[str, Recording]) -> Start:
    """When each arm of a recording starts.

    - A fixed anchor: every arm starts then.
    - `recorded`: times stay as they are, which must be since 1970.
    - `now` in real time or slower: each arm starts when its first sample is reached, so that samples arrive as they
      happen.
    - `now` faster: times would run ahead of the clock and be refused. So each arm *ends* now; for that the file is read
      once before it is sent.

    `claimed` is shared by the recordings of one replay: an arm in two of them raises RecordingError (two streams would
    not keep its order), as does a time that is not since 1970 for `recorded`.
    """
    ends = recording.ends() if anchor == "now" and not 0 < speed <= 1 else {}
    ends_at_us = time.time_ns() // 1000

    def start(arm_id: str, first_us: int) -> int | None:
        if claimed.setdefault(arm_id, recording) is not recording:
            raise RecordingError(
                f"{recording.path}: arm {arm_id!r} is in {claimed[arm_id].path} too: tell them apart with --arm"
            )
        if anchor == "recorded":
            if first_us < YEAR_2000_S * 1_000_000:
                raise RecordingError(
                    f"{recording.path}: its times start at {first_us / 1e6:.6f} s, which is no date since 2000:"
                    " give another --anchor, such as now, or the right --time-unit"
                )
            return None
        if anchor == "now":
            return ends_at_us - ends[arm_id] if ends else time.time_ns() // 1000
        return anchor

    return start


async def paced(samples: Iterator[JointSample], speed: float, batch: int, stop: asyncio.Event) -> Batches:
    """Batches of at most `batch` samples when they are due: `speed` times as fast as they were recorded; 0: at once.

    Every arm's time begins with its first sample: arms that follow one another in a file are replayed so.
    """
    clock = asyncio.get_running_loop().time
    began: dict[str, tuple[float, int]] = {}
    held: list[JointSample] = []
    for sample in samples:
        if speed:
            began_at, first_us = began.setdefault(sample.arm_id, (clock(), sample.sampled_at_us))
            due = began_at + (sample.sampled_at_us - first_us) / (1_000_000 * speed)
            if due > clock():
                if held:
                    yield held
                    held = []
                await _stopped(stop, max(due - clock(), _TICK_S))
        if stop.is_set():
            break
        held.append(sample)
        if len(held) >= batch:
            yield held
            held = []
    if held:
        yield held


async def simulated(
    arms: Mapping[str, SimulatedArm], rate_hz: float, duration_s: float | None, stop: asyncio.Event, batch: int = 500
) -> Batches:
    """Samples of all arms, `rate_hz` times a second from now on; until `stop`, or for `duration_s`.

    When it is held up it catches up: no sample is left out, none is ahead of the clock.
    """
    clock = asyncio.get_running_loop().time
    began_at, began_us = clock(), time.time_ns() // 1000
    tick = 0
    while not stop.is_set() and (duration_s is None or tick < duration_s * rate_hz):
        if await _stopped(stop, began_at + tick / rate_hz - clock()):
            return
        at_us = began_us + round(tick * 1_000_000 / rate_hz)
        samples = [arm.sample(arm_id, at_us) for arm_id, arm in arms.items()]
        for first in range(0, len(samples), batch):
            yield samples[first : first + batch]
        tick += 1


async def _stopped(stop: asyncio.Event, within_s: float) -> bool:
    """Waits; ends early, with True, when told to stop."""
    if within_s <= 0:
        return stop.is_set()
    try:
        await asyncio.wait_for(stop.wait(), within_s)
    except TimeoutError:
        return False
    return True


async def simulate_into(
    address: str,
    arms: int = 3,
    rate_hz: float = 20.0,
    duration_s: float | None = None,
    seed: int = 1,
    *,
    axes: int = 6,
    stop: asyncio.Event | None = None,
    sender: Callable[[str], Sender] = Sender,
) -> Outcome:
    """Streams simulated arms into a gateway for `duration_s`, or until `stop`; returns when all is acknowledged.

    All arms share one stream. `sender` makes the sender, where its limits are to be others. Raises SendError.
    """
    source = simulated(simulated_arms(arms, seed, axes), rate_hz, duration_s, stop or asyncio.Event())
    return await sender(address).run(source)
