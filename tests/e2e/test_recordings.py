"""The main job from end to end: recordings of real arms in by `aorist replay`, positions out by real grpcurl and the command line.

Four recordings, six arms: three KUKA runs in degrees, a Staubli at 5 kHz, a TIAGo whose torso is prismatic, a UR5e in RTDE columns.
What the last row of each must read back as is told here from the files alone.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import math
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from stack.tools import grpcurl
from tests.harness.client import at_least
from tests.harness.log_file import LogFile
from tests.harness.places import AORIST, KUKA, ROOT, STAUBLI, TIAGO, UR5E, clean_environment, recordings
from tests.harness.process import DevProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANCHOR_US = 1_767_225_600_000_000
ANCHOR = "2026-01-01T00:00:00Z"


IN_MOTION = {
    f"{KUKA}-A": 0.9404,
    f"{KUKA}-B": 0.9368,
    f"{KUKA}-C": 0.9188,
    STAUBLI: 0.8689,
    TIAGO: 0.8056,
    UR5E: 0.0,
}
"""Share of the recording, as computed over the files by another program."""


class Expected(NamedTuple):
    """Of one arm. `last`: rad, or m; `axes` in the order of the columns."""

    rows: int
    last: list[float]
    last_us: int


class Running(NamedTuple):
    process: DevProcess
    expected: dict[str, Expected]
    replayed: subprocess.CompletedProcess[str]


def table(path: Path, delimiter: str) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", newline="") as lines:
        yield from csv.DictReader(lines, delimiter=delimiter)


def arm_of(
    rows: Sequence[dict[str, str]], time: str, columns: Sequence[str], unit: Callable[[float], float] = float
) -> Expected:
    seconds = float(rows[-1][time]) - float(rows[0][time])
    last = [unit(float(rows[-1][column])) for column in columns]
    return Expected(len(rows), last, ANCHOR_US + round(seconds * 1_000_000))


def expectations(files: dict[str, Path]) -> dict[str, Expected]:
    """Every arm by its id, from the recordings as they are."""
    joints = range(1, 7)
    kuka = list(table(files[KUKA], ","))
    expected = {
        f"{KUKA}-{run}": arm_of(
            [row for row in kuka if row["run"] == run], "time_s", [f"q{n}_deg" for n in joints], math.radians
        )
        for run in "ABC"
    }
    staubli, tiago = list(table(files[STAUBLI], ",")), list(table(files[TIAGO], ","))
    ur5e = list(table(files[UR5E], " "))
    expected[STAUBLI] = arm_of(staubli, "time_s", [f"q{n}_rad" for n in joints])
    expected[TIAGO] = arm_of(tiago, "t", [name for name in tiago[0] if name.startswith("- ")])
    expected[UR5E] = arm_of(ur5e, "timestamp", [f"actual_q_{n}" for n in range(6)])
    return expected


async def run(*command: str, address: str = "") -> subprocess.CompletedProcess[str]:
    """A program to its end, with what it prints."""
    variables = {"AORIST_ADDRESS": address} if address else {}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=clean_environment(**variables),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return subprocess.CompletedProcess(command, process.returncode, out.decode(), err.decode())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """`aorist dev` into which `aorist replay` has sent all recordings, as fast as they were taken."""
    files = recordings()
    async with DevProcess(tmp_path_factory.mktemp("e2e"), checkpoint_interval_s=0.5) as process:
        await process.start()
        paths = [str(path) for path in files.values()]
        replayed = await run(str(AORIST), "replay", *paths, "--speed", "0", "--anchor", ANCHOR, address=process.address)
        yield Running(process, expectations(files), replayed)


async def curl(running: Running, method: str, request: dict[str, Any]) -> Any:
    asked = await run(
        str(grpcurl()), "-plaintext", "-d", json.dumps(request), running.process.address, f"fleet.arms.v1.{method}"
    )
    assert asked.returncode == 0, asked.stderr
    return json.loads(asked.stdout)


def read_all(running: Running) -> dict[str, Any]:
    """JSON of read options: everything that is in the log."""
    ends = LogFile.of(running.process.db).ends
    read = at_least([(partition, end - 1) for partition, end in ends.items() if end])
    positions = [{"topic": p.topic, "partition": p.partition, "offset": p.offset} for p in read.at_least]
    return {"at_least": positions, "max_wait_ms": read.max_wait_ms}


def check_last(arm: dict[str, Any], expected: Expected) -> None:
    got = {axis.get("axis", 0): (axis.get("position", 0.0), int(axis["sampled_at_us"])) for axis in arm["axes"]}
    assert got == {n: (position, expected.last_us) for n, position in enumerate(expected.last)}


async def test_the_recordings_are_those_we_think_they_are(running: Running) -> None:
    arms = {name: (one.rows, len(one.last)) for name, one in running.expected.items()}
    assert arms == {
        f"{KUKA}-A": (2501, 6),
        f"{KUKA}-B": (2501, 6),
        f"{KUKA}-C": (2501, 6),
        STAUBLI: (45_000, 6),
        TIAGO: (8022, 8),
        UR5E: (256, 6),
    }


async def test_replay_has_sent_everything_and_says_so(running: Running) -> None:
    assert running.replayed.returncode == 0, running.replayed.stderr
    for count in ("2,501", "45,000", "8,022", "256"):
        assert f": {count} sent, {count} acknowledged, 0 refused" in running.replayed.stdout, running.replayed.stdout


async def test_the_log_holds_every_row_once(running: Running) -> None:
    """Counted by a plain reader: distinct (arm, sample time), and no event beyond them, as no connection was lost."""
    log = LogFile.of(running.process.db)
    assert log.count() == {name: one.rows for name, one in running.expected.items()}
    assert len(log.events) == sum(one.rows for one in running.expected.values())


async def test_grpcurl_reads_every_arms_last_row_back(running: Running) -> None:
    read = read_all(running)
    for name, expected in running.expected.items():
        got = await curl(running, "ArmQueryService/GetArmPosition", {"arm_id": name, "read": read})
        assert got["arm"]["arm_id"] == name
        check_last(got["arm"], expected)


async def test_grpcurl_lists_them_all_page_by_page(running: Running) -> None:
    read, arms, token = read_all(running), dict[str, Any](), ""
    while True:
        request = {"page_size": 4, "page_token": token, "read": read}
        page = await curl(running, "ArmQueryService/ListArmPositions", request)
        arms |= {arm["arm_id"]: arm for arm in page["arms"]}
        token = page.get("next_page_token", "")
        if not token:
            break
    assert sorted(arms) == sorted(running.expected)
    for name, expected in running.expected.items():
        check_last(arms[name], expected)


def motion_request(running: Running, name: str) -> dict[str, Any]:
    recorded = {"from_us": ANCHOR_US, "upto_us": running.expected[name].last_us}
    return {"arm_id": name, "range": recorded, "read": read_all(running)}


async def test_grpcurl_tells_how_long_each_arm_was_in_motion(running: Running) -> None:
    for name, share in IN_MOTION.items():
        got = await curl(running, "ArmMotionQueryService/GetMotion", motion_request(running, name))
        assert got["arm_id"] == name
        assert got["motion"].get("utilisation", 0.0) == pytest.approx(share, abs=0.001)
        seen_us = sum(int(got["motion"].get(part, 0)) for part in ("moving_us", "still_us"))
        assert seen_us == running.expected[name].last_us - ANCHOR_US
        assert len(got["axes"]) == len(running.expected[name].last)


async def test_grpcurl_compares_them_the_busiest_first(running: Running) -> None:
    request = {"range": {"from_us": ANCHOR_US, "upto_us": ANCHOR_US + 120_000_000}, "read": read_all(running)}
    got = await curl(running, "ArmMotionQueryService/CompareMotion", request)
    assert [arm["arm_id"] for arm in got["arms"]] == sorted(IN_MOTION, key=lambda name: -IN_MOTION[name])
    assert "missing_partitions" not in got


async def test_the_command_line_gets_the_motion_of_an_arm(running: Running) -> None:
    asked = await run(str(AORIST), "get", "arm_motion", TIAGO, "--json", address=running.process.address)
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["arm_id"] == TIAGO
    assert json.loads(asked.stdout)["motion"]["unobserved"] == 1  # in the last hour
    readable = await run(str(AORIST), "get", "arm_motion", TIAGO, address=running.process.address)
    assert readable.returncode == 0, readable.stderr


async def test_the_command_line_gets_an_arm(running: Running) -> None:
    asked = await run(str(AORIST), "get", "arm_position", TIAGO, "--json", address=running.process.address)
    assert asked.returncode == 0, asked.stderr
    check_last(json.loads(asked.stdout)["arm"], running.expected[TIAGO])

    readable = await run(str(AORIST), "get", "arm_position", TIAGO, address=running.process.address)
    assert readable.returncode == 0
    assert TIAGO in readable.stdout
    missing = await run(str(AORIST), "get", "arm_position", "nobody", address=running.process.address)
    assert missing.returncode == 1
    assert "NOT_FOUND" in missing.stderr


async def test_the_command_line_shows_all_arms_once(running: Running) -> None:
    shown = await run(str(AORIST), "watch", "arm_position", "--once", address=running.process.address)
    assert shown.returncode == 0, shown.stderr
    for name, expected in running.expected.items():
        (line,) = [line for line in shown.stdout.splitlines() if name in line.split()]
        assert f"{expected.last[0]:.4f}" in line or f"{expected.last[0]:.4g}" in line
    one = await run(str(AORIST), "watch", "arm_position", UR5E, "--once", address=running.process.address)
    assert one.returncode == 0, one.stderr
    assert UR5E in one.stdout
    assert STAUBLI not in one.stdout


async def test_the_command_line_tells_the_status(running: Running) -> None:
    status = await run(str(AORIST), "status", "--json", address=running.process.address)
    assert status.returncode == 0, status.stderr
    shards = json.loads(status.stdout)["shards"]
    assert [shard["partition"] for shard in shards] == [*range(8), *range(8)]
    assert {shard["view"] for shard in shards} == {"arm_motion@1", "arm_position@2"}
    assert {shard["phase"] for shard in shards} == {"SERVING"}
    assert sum(int(shard["keys"]) for shard in shards) == 2 * 6
    table = await run(str(AORIST), "status", address=running.process.address)
    assert table.returncode == 0
    assert table.stdout.count("SERVING") == 16


async def test_the_command_line_tells_what_is_set(running: Running) -> None:
    shown = await run(str(AORIST), "config", "--json", "--max-skew-ms", "77")
    assert shown.returncode == 0, shown.stderr
    settings = json.loads(shown.stdout)
    assert (settings["max_skew_ms"]["value"], settings["max_skew_ms"]["from"]) == (77, "flag --max-skew-ms")
    assert settings["transport"]["value"] == "native"


async def test_a_second_replay_changes_nothing_that_anyone_can_see(running: Running) -> None:
    """Robots resend what they cannot know to be there: the same rows again, with the same times."""
    path = str(recordings()[UR5E])
    again = await run(
        str(AORIST), "replay", path, "--speed", "0", "--anchor", ANCHOR, "--quiet", address=running.process.address
    )
    assert again.returncode == 0, again.stderr
    log = LogFile.of(running.process.db)
    assert log.count()[UR5E] == running.expected[UR5E].rows
    assert len(log.of_arm(UR5E)) == 2 * running.expected[UR5E].rows
    assert len({event.value for event in log.of_arm(UR5E)}) == running.expected[UR5E].rows  # byte for byte
    request = {"arm_id": UR5E, "read": read_all(running)}
    check_last((await curl(running, "ArmQueryService/GetArmPosition", request))["arm"], running.expected[UR5E])


async def test_after_a_restart_all_is_still_there(running: Running) -> None:
    """The last of this file: from snapshots, on the same file."""
    await running.process.stop()
    address = await running.process.start()
    assert address == running.process.address
    for name, expected in running.expected.items():
        request = {"arm_id": name, "read": read_all(running)}
        check_last((await curl(running, "ArmQueryService/GetArmPosition", request))["arm"], expected)
        motion = await curl(running, "ArmMotionQueryService/GetMotion", motion_request(running, name))
        assert motion["motion"].get("utilisation", 0.0) == pytest.approx(IN_MOTION[name], abs=0.001)
