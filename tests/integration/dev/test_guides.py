"""What the guides let their readers run does what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from fleet.arms.v1.commands_pb2 import ReportJointPositionsRequest
from fleet.arms.v1.commands_pb2_grpc import ArmCommandServiceStub
from stack.process import tied
from tests.harness.client import channel_to, sample
from tests.harness.places import ROOT, clean_environment
from tests.harness.process import DevProcess

WHO_ANSWERS = ROOT / "docs" / "guides" / "who_answers.py"


async def test_who_answers_tells_of_every_change(tmp_path: Path) -> None:
    async with DevProcess(tmp_path) as process:
        await process.start()
        async with channel_to(process.address) as channel:
            await ArmCommandServiceStub(channel).ReportJointPositions(ReportJointPositionsRequest(sample=sample("arm")))
        watching = subprocess.Popen(  # noqa: ASYNC220  # nothing else runs on this loop
            tied([sys.executable, str(WHO_ANSWERS), process.address, "arm"]),
            cwd=ROOT,
            env=clean_environment(PYTHONPATH=str(ROOT)),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert watching.stdout is not None
            lines = iter(watching.stdout.readline, "")
            line = next(line for line in lines if "NOT_FOUND" not in line)  # asked before the event was folded
            assert re.fullmatch(r" *\d+\.\d{3} s  ROLE_OWNER epoch [1-9]\d* fresh\n", line), line
            process.kill()
            assert re.match(r" *\d+\.\d{3} s  UNAVAILABLE: ", line := next(lines)), line
            await process.start()
            assert any("ROLE_OWNER" in line for line in lines)
        finally:
            watching.kill()
            watching.wait()
