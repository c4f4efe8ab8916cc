"""What a command does not import before it does anything: each of these costs a tenth of a second of every start, or more."""

from __future__ import annotations

import subprocess
import sys

import pytest

from aorist.cli.main import COMMANDS, SHORT, aorist
from tests.harness.places import ROOT

SAY = "import sys; {}; print(*{{name.partition('.')[0] for name in sys.modules}}, *sys.modules, sep='\\n')"
HELP = "from aorist.cli.main import aorist; aorist(['--help'], 'aorist', standalone_mode=False)"
WORKER = (
    "import aorist.cli.materializer, aorist.app; from aorist.adapters.kafka import KafkaEventLog; "
    "from aorist.adapters.cassandra import CassandraSnapshotStore; from aorist.cli.here import Here; Here().project"
)
GATEWAYS = "import aorist.cli.query_gateway, aorist.cli.command_gateway, aorist.app; from aorist.cli.here import Here; Here().project"


@pytest.mark.parametrize(
    ("program", "needs", "unneeded"),
    [
        (HELP, ["robots.cli"], ["grpc", "google", "rich", "asyncio", "aorist.declare", "fleet"]),
        (WORKER, ["grpc", "cassandra"], ["protovalidate", "hypothesis"]),
        (GATEWAYS, ["grpc"], ["hypothesis", "cassandra", "confluent_kafka"]),
    ],
    ids=["help", "worker", "gateways"],
)
def test_what_is_not_needed_is_not_imported(program: str, needs: list[str], unneeded: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SAY.format(program)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    imported = set(ran.stdout.split("\n"))
    assert set(needs) <= imported
    assert not set(unneeded) & imported


def test_what_help_says_of_each_command_is_how_its_own_help_begins() -> None:
    commands = {name: aorist.get_command(aorist.make_context("aorist", ["config"]), name) for name in COMMANDS}
    assert {name: command.get_short_help_str(SHORT) for name, command in commands.items() if command} == COMMANDS
