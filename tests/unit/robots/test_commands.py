"""`aorist replay` and `aorist simulate` as they are typed: exit codes, one-line errors, Ctrl-C, times that fit the clock."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path

import pytest

from fleet.arms.v1.commands_pb2 import JointSample
from robots.feeds import paced, simulate_into, simulated, starts
from robots.outcome import ArmCount
from robots.recordings import RecordingError, open_recording
from robots.simulator import simulated_arms
from tests.unit.robots.conftest import ROOT
from tests.unit.robots.gateway_double import BOUND_S, GatewayDouble, refuse_index

PROGRAM = (
    "import sys; from robots.cli import commands; {c.name: c for c in commands}[sys.argv.pop(1)](prog_name='aorist')"
)


class Typed:
    """A command line in a process of its own."""

    def __init__(self, gateway: GatewayDouble) -> None:
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "AORIST_ADDRESS": gateway.address}

    async def start(self, *args: object) -> asyncio.subprocess.Process:
        words = [str(arg) for arg in args]
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, *words, stdout=PIPE, stderr=PIPE, env=self._environment
        )

    async def run(self, *args: object) -> tuple[int | None, str, str]:
        return await self.end(await self.start(*args))

    async def end(self, process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
        async with asyncio.timeout(BOUND_S):
            out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
def aorist(gateway: GatewayDouble) -> Typed:
    return Typed(gateway)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "bench.csv"
    path.write_text("t,q1_deg,q2_deg\n" + "".join(f"{row / 100},{row},{-row}\n" for row in range(300)))
    return path


@pytest.fixture
def broken_table(table: Path) -> Path:
    table.write_text(table.read_text() + "4,oops,0\n5,0,0\n")
    return table


def samples(gateway: GatewayDouble) -> list[JointSample]:
    return [sample for batch in gateway.received() for sample in batch.samples]


class TestReplay:
    async def test_four_recordings_at_once(
        self, aorist: Typed, gateway: GatewayDouble, recording: Callable[[str], Path]
    ) -> None:
        files = [recording(robot) for robot in ("kuka", "staubli", "tiago", "ur5e")]
        names = ["--arm", "kuka-{arm}", "--arm", "staubli", "--arm", "tiago", "--arm", "ur5e"]
        code, out, err = await aorist.run("replay", *files, *names, "--speed", 0, "--anchor", "2024-01-01")
        assert (code, err) == (0, "")
        assert "time: timestamp [s]; 6 axes: actual_q_0 [rad], actual_q_1 [rad]" in out
        assert "arms told apart by run" in out
        for arm, count in (("kuka-A", 2501), ("kuka-C", 2501), ("staubli", 45_000), ("tiago", 8022), ("ur5e", 256)):
            assert f"{arm}: {count:,} sent, {count:,} acknowledged, 0 refused\n" in out
        assert len(gateway.streams) == 4
        assert {s.sampled_at_us for s in samples(gateway) if s.arm_id == "ur5e"} == {
            1_704_067_200_000_000 + 100_000 * row for row in range(256)
        }

    async def test_now_never_runs_ahead_of_the_clock(self, aorist: Typed, gateway: GatewayDouble, table: Path) -> None:
        code, _, _ = await aorist.run("replay", table, "--speed", 0, "--quiet")
        assert code == 0
        ends_us = max(sample.sampled_at_us for sample in samples(gateway))
        assert 0 <= time.time() - ends_us / 1e6 < BOUND_S, "the recording ends now"

    async def test_quiet_says_nothing(self, aorist: Typed, table: Path) -> None:
        assert await aorist.run("replay", table, "--speed", 0, "--quiet") == (0, "", "")

    async def test_refused_samples_exit_1_with_reasons(
        self, aorist: Typed, gateway: GatewayDouble, table: Path
    ) -> None:
        gateway.rule = refuse_index(0)
        code, out, err = await aorist.run("replay", table, "--speed", 0, "--batch", 100, "--anchor", 1_700_000_000)
        assert code == 1
        assert "bench: 300 sent, 297 acknowledged, 3 refused" in out
        assert err.count("refused: bench at 2023-11-14T22:13:") == 3
        assert "sampled_at_us: is ahead of the clock" in err
        assert err.endswith("Error: 3 samples were refused\n")

    @pytest.mark.parametrize(
        ("args", "error"),
        [
            (["--columns", "q9"], "bench.csv: column 'q9' is not there; there are 't', 'q1_deg', 'q2_deg'"),
            (["--unit", "inch"], "unknown unit 'inch': --unit is one of rad, deg, m, mm"),
            (["--anchor", "recorded"], "which is no date since 2000: give another --anchor"),
            (["--time-unit", "fortnights"], "unknown time unit 'fortnights': --time-unit is one of s, ms, us"),
            (["--arm", "a", "--arm", "b"], "2 --arm for 1 files: give it once for all, or once for each"),
            (["--arm", "an arm"], "'an arm' is no name for an arm"),
        ],
    )
    async def test_what_cannot_be_used_is_one_line_and_exit_2(
        self, aorist: Typed, table: Path, args: list[str], error: str
    ) -> None:
        code, _, err = await aorist.run("replay", table, "--speed", 0, *args)
        assert code == 2
        assert error in err
        assert err.startswith("Error: ")
        assert err.count("\n") == 1

    async def test_a_bad_row_ends_it_after_what_came_before(
        self, aorist: Typed, gateway: GatewayDouble, broken_table: Path
    ) -> None:
        table = broken_table
        code, out, err = await aorist.run("replay", table, "--speed", 0, "--anchor", 1_700_000_000)
        assert code == 2
        assert "bench.csv, line 302: q1_deg is 'oops', not a number" in err
        assert "bench: 200 sent, 200 acknowledged" in out
        code, out, err = await aorist.run("replay", table, "--speed", 0, "--skip-bad-rows")
        assert code == 0
        assert "bench: 301 sent, 301 acknowledged" in out
        assert "bench.csv: 1 rows skipped" in err

    async def test_one_arm_in_two_files_is_refused(self, aorist: Typed, table: Path) -> None:
        code, _, err = await aorist.run("replay", table, table, "--speed", 0, "--arm", "same")
        assert code == 2
        assert "arm 'same' is in" in err

    async def test_no_gateway(self, aorist: Typed, gateway: GatewayDouble, table: Path) -> None:
        await gateway.kill()
        code, _, err = await aorist.run("replay", table, "--speed", 0, "--give-up-after", 0.2)
        assert code == 1
        assert f"Error: {gateway.address}: gave up after 0.2 s" in err

    async def test_interrupted(self, aorist: Typed, gateway: GatewayDouble, table: Path) -> None:
        process = await aorist.start("replay", table, "--speed", 0.1)
        await gateway.until(lambda: len(samples(gateway)) > 3)
        process.send_signal(signal.SIGINT)
        code, _, err = await aorist.end(process)
        assert code == 130
        assert "Error: interrupted; 0 of the samples sent are not acknowledged" in err


class TestSimulate:
    async def test_for_a_while(self, aorist: Typed, gateway: GatewayDouble) -> None:
        code, out, err = await aorist.run("simulate", "--arms", 2, "--rate", 50, "--duration", 0.5, "--axes", 7)
        assert (code, err) == (0, "")
        assert "arm-002: 25 sent, 25 acknowledged, 0 refused" in out
        assert {len(sample.axes) for sample in samples(gateway)} == {7}

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    async def test_until_told_to_stop(self, aorist: Typed, gateway: GatewayDouble, number: signal.Signals) -> None:
        process = await aorist.start("simulate")
        await gateway.until(lambda: len(samples(gateway)) >= 9)
        process.send_signal(number)
        code, out, _ = await aorist.end(process)
        assert code == 0
        sent = sum(sample.arm_id == "arm-001" for sample in samples(gateway))
        assert f"arm-001: {sent} sent, {sent} acknowledged, 0 refused" in out

    async def test_as_a_coroutine(self, gateway: GatewayDouble) -> None:
        async with asyncio.timeout(BOUND_S):
            outcome = await simulate_into(gateway.address, arms=3, rate_hz=100, duration_s=0.2, seed=4)
        assert outcome.total == ArmCount(60, 60)
        arms = simulated_arms(3, seed=4)
        for sample in samples(gateway):
            assert sample == arms[sample.arm_id].sample(sample.arm_id, sample.sampled_at_us)


class TestPace:
    async def test_samples_are_sent_when_they_are_due(self, table: Path) -> None:
        recording = open_recording(table)
        source = paced(recording.samples(starts(recording, "now", 1.0, {})), 1.0, 1000, asyncio.Event())
        taken = 0
        async for batch in source:
            late_s = time.time() - batch[-1].sampled_at_us / 1e6
            assert late_s >= -0.001, "never ahead of the clock"
            taken += len(batch)
            if taken > 30:
                break
        await source.aclose()

    async def test_speed_is_kept(self, table: Path) -> None:
        recording = open_recording(table)  # 2.99 s
        began = time.monotonic()
        batches = [b async for b in paced(recording.samples(starts(recording, 0, 10, {})), 10, 1000, asyncio.Event())]
        assert 0.29 <= time.monotonic() - began < 2
        assert sum(map(len, batches)) == 300

    async def test_as_fast_as_possible_fills_batches(self, table: Path) -> None:
        recording = open_recording(table)
        batches = [b async for b in paced(recording.samples(starts(recording, 0, 0, {})), 0, 128, asyncio.Event())]
        assert [len(batch) for batch in batches] == [128, 128, 44]

    async def test_stop_ends_a_source_that_waits(self) -> None:
        stop = asyncio.Event()
        source = simulated(simulated_arms(1), 0.001, None, stop)
        assert len(await anext(source)) == 1
        asyncio.get_running_loop().call_soon(stop.set)
        async with asyncio.timeout(BOUND_S):
            assert await anext(source, None) is None

    async def test_large_fleets_are_sent_in_pieces(self) -> None:
        source = simulated(simulated_arms(7), 1000, 0.002, asyncio.Event(), batch=3)
        assert [len(batch) async for batch in source] == [3, 3, 1, 3, 3, 1]

    def test_recorded_times_are_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "epoch.csv"
        path.write_text("timestamp,q1\n1700000000.25,0\n")
        recording = open_recording(path)
        (sample,) = recording.samples(starts(recording, "recorded", 1, {}))
        assert sample.sampled_at_us == 1_700_000_000_250_000
        boot = tmp_path / "boot.csv"
        boot.write_text("timestamp,q1\n4029.5,0\n")
        recording = open_recording(boot)
        with pytest.raises(RecordingError, match=r"start at 4029.500000 s, which is no date since 2000"):
            list(recording.samples(starts(recording, "recorded", 1, {})))
