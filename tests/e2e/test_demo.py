"""What `make demo` runs: arms in motion within seconds, a table of them, three lines to copy, and an end by itself."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

from fleet.arms.v1.queries_pb2 import ArmPosition
from tests.harness.client import all_arms
from tests.harness.log_file import LogFile
from tests.harness.places import AORIST, PATIENCE_S, ROOT, clean_environment
from tests.harness.process import until

DURATION_S = 10


async def test_the_demo_moves_arms_and_ends_by_itself(tmp_path: Path) -> None:
    port_file, db = tmp_path / "address", tmp_path / "demo.db"
    process = await asyncio.create_subprocess_exec(
        str(AORIST),
        *(
            "dev",
            "--demo",
            "--duration",
            str(DURATION_S),
            "--port",
            "0",
            "--port-file",
            str(port_file),
            "--db",
            str(db),
        ),
        cwd=ROOT,
        env=clean_environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        printing = asyncio.create_task(process.communicate())
        await until(port_file.exists, "the demo to serve")
        address = port_file.read_text().strip()
        first = await moving(address, {})
        second = await moving(address, first)
        printed, _ = await asyncio.wait_for(printing, DURATION_S + PATIENCE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = printed.decode()

    assert process.returncode == 0, text
    assert len(first) == len(second) == 12
    assert all(arm.axes for arm in second.values())
    tables = re.findall(r"^arm-001 .*$", text, re.MULTILINE)
    assert len(set(tables)) > 1, text  # the table shows it moving
    for line in (
        f"grpcurl -plaintext -d .* {address} ",
        f"aorist get arm_position .* --address {address}",
        "python -c",
    ):
        assert re.search(line, text), text
    assert "error" not in text.lower(), text
    assert len(LogFile.of(db).samples()) > 12 * DURATION_S


async def moving(address: str, before: dict[str, ArmPosition]) -> dict[str, ArmPosition]:
    """Twelve arms, each with another position than `before`."""
    give_up = time.monotonic() + DURATION_S
    while True:
        arms = await all_arms(address)
        if len(arms) == 12 and all(arms[name] != arm for name, arm in before.items()):
            return arms
        assert time.monotonic() < give_up, f"{len(arms)} arms"
        await asyncio.sleep(0.1)
