"""kill -9 at random moments while all recordings stream in: no acknowledged sample is missing, positions are the newest sample's."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from fleet.arms.v1.commands_pb2 import JointSample
from robots.recordings import open_recording
from robots.sender import Sender
from tests.harness.client import BASE_US, all_arms, at_least, shards_of
from tests.harness.log_file import LogFile, newest, newest_snapshot
from tests.harness.places import recordings
from tests.harness.process import DevProcess, until

KILLS = 5


@pytest.fixture(scope="module")
def streams() -> dict[str, list[JointSample]]:
    """Every sample of every recording, by recording."""
    return {name: list(open_recording(path).samples(lambda _arm, _us: BASE_US)) for name, path in recordings().items()}


async def batches(samples: Sequence[JointSample]) -> AsyncGenerator[Sequence[JointSample], None]:
    for start in range(0, len(samples), 100):
        yield samples[start : start + 100]


def times_of(samples: Sequence[JointSample]) -> dict[str, list[int]]:
    """Sample times of each arm, in the order sent."""
    times: dict[str, list[int]] = defaultdict(list)
    for one in samples:
        times[one.arm_id].append(one.sampled_at_us)
    return times


async def test_kill_9_while_recordings_stream_in(tmp_path: Path, streams: dict[str, list[JointSample]]) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # noqa: T201 - to do it again
    dice = random.Random(seed)
    total = sum(map(len, streams.values()))
    moments = sorted(dice.randrange(total // 50, total * 9 // 10) for _ in range(KILLS))
    times = {arm: at for samples in streams.values() for arm, at in times_of(samples).items()}

    async with DevProcess(tmp_path, checkpoint_interval_s=0.2, log_level="warning") as process:
        address = await process.start()
        senders = [Sender(address, in_flight=8, notice=lambda _: None) for _ in streams]
        sending = asyncio.gather(
            *(sender.run(batches(samples)) for sender, samples in zip(senders, streams.values(), strict=True))
        )

        def acknowledged() -> int:
            return sum(sender.outcome.total.acknowledged for sender in senders)

        last_epoch = 0
        for moment in moments:
            await until(lambda: acknowledged() >= moment or sending.done(), f"{moment} acknowledgements")  # noqa: B023
            assert not sending.done()
            process.kill()
            counts = {arm: c.acknowledged for sender in senders for arm, c in sender.outcome.arms.items()}
            log = LogFile.of_dead(process.db)
            log.check_snapshots(newest, newest_snapshot)
            there = set(log.samples())
            for arm, count in counts.items():  # nothing is refused and acknowledgements are cumulative: the first ones
                assert {(arm, at) for at in times[arm][:count]} <= there
            await process.start()
            epochs = [shard.epoch for shard in (await shards_of(address)).values()]
            assert min(epochs) > last_epoch
            last_epoch = max(epochs)
        outcomes = await sending

        assert [o.total.acknowledged for o in outcomes] == [len(samples) for samples in streams.values()]
        assert sum(o.connections_lost for o in outcomes) >= KILLS
        log = LogFile.of(process.db)
        assert {arm: set(at) for arm, at in times.items()} == _times_in(log)
        read = at_least([(partition, end - 1) for partition, end in log.ends.items() if end])
        answers = await all_arms(address, read)
        assert answers == log.folded(newest)
        for samples in streams.values():
            for arm in times_of(samples):
                final = [one for one in samples if one.arm_id == arm][-1]
                assert [(a.axis, a.position) for a in answers[arm].axes] == [(a.axis, a.position) for a in final.axes]
                assert {a.sampled_at_us for a in answers[arm].axes} == {final.sampled_at_us}
        await process.stop()
        LogFile.of_dead(process.db).check_snapshots(newest, newest_snapshot)


def _times_in(log: LogFile) -> dict[str, set[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for arm, at in log.samples():
        found[arm].add(at)
    return dict(found)
