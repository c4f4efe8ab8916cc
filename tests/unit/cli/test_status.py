"""`aorist status`: every shard on a line; the exit code says whether all of them have an owner that serves."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import Result

from aorist.cli.status import unwell_shards
from aorist.v1.read_pb2 import ROLE_OWNER, ROLE_STANDBY
from aorist.v1.status_pb2 import MemberStatus, ShardStatus
from tests.unit.cli.double import Arms, Gateway

Run = Callable[..., Result]

SERVING = ShardStatus(
    view="arm_position",
    partition=0,
    member="a",
    address="h:1",
    epoch=3,
    role=ROLE_OWNER,
    phase="SERVING",
    offset=41,
    lag_events=2,
    lag_ms=9,
    keys=7,
    dirty_keys=1,
    checkpoint_offset=40,
    checkpoint_age_ms=1500,
)
FRESH = ShardStatus(
    view="arm_position",
    partition=1,
    member="a",
    role=ROLE_OWNER,
    phase="RESTORING",
    offset=-1,
    checkpoint_offset=-1,
    checkpoint_age_ms=-1,
)
OWNERLESS = ShardStatus(view="arm_position", partition=2, phase="NO_OWNER", offset=-1)
HALTED = ShardStatus(
    view="arm_position", partition=3, member="a", role=ROLE_OWNER, phase="HALTED", problem="offset 9: x"
)


def test_shards_are_listed_with_all_that_matters(run: Run, gateway: Gateway, arms: Arms) -> None:
    arms.shards = [SERVING, FRESH]
    result = run("status", "--address", gateway.address)
    assert result.exit_code == 0
    head, first, second = (line.split() for line in result.stdout.splitlines())
    assert head[:9] == ["view", "partition", "owner", "epoch", "role", "phase", "offset", "lag", "lag_ms"]
    assert head[9:] == ["keys", "dirty", "checkpoint", "age", "unknown", "parked", "problem"]
    assert first == [
        "arm_position",
        "0",
        "a",
        "(h:1)",
        "3",
        "OWNER",
        "SERVING",
        "41",
        "2",
        "9",
        "7",
        "1",
        "40",
        "1.5",
        "s",
        "0",
        "0",
    ]
    assert second == [
        "arm_position",
        "1",
        "a",
        "0",
        "OWNER",
        "RESTORING",
        "-",
        "0",
        "0",
        "0",
        "0",
        "-",
        "never",
        "0",
        "0",
    ]


def test_what_is_unwell_is_named_and_fails(run: Run, gateway: Gateway, arms: Arms) -> None:
    arms.shards = [SERVING, OWNERLESS, HALTED]
    result = run("status", "--address", gateway.address)
    assert result.exit_code == 1
    assert "nobody" in result.stdout
    assert "offset 9: x" in result.stdout
    assert result.stdout.endswith("2 without an owner that serves: arm_position/2, arm_position/3\n")


def test_who_is_not_ready_is_named_with_the_reasons_and_does_not_fail(run: Run, gateway: Gateway, arms: Arms) -> None:
    """Others answer meanwhile: that is what the exit code is about."""
    arms.shards = [SERVING]
    arms.members = [
        MemberStatus(member="a", address="h:1"),
        MemberStatus(member="b", address="h:2", problems=["x", "y"]),
    ]
    result = run("status", "--address", gateway.address)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-2:] == ["b (h:2) is not ready: x", "b (h:2) is not ready: y"]


def test_json_has_all_fields_and_the_same_exit_code(run: Run, gateway: Gateway, arms: Arms) -> None:
    arms.shards = [OWNERLESS]
    result = run("status", "--json", "--address", gateway.address)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["shards"][0]["phase"] == "NO_OWNER"


def seen(role: int, phase: str, member: str = "a") -> ShardStatus:
    return ShardStatus(view="v", partition=0, member=member, role=role, phase=phase)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shards", "unwell"),
    [
        ([seen(ROLE_OWNER, "SERVING"), seen(ROLE_STANDBY, "HALTED", "b")], []),
        ([seen(ROLE_STANDBY, "HALTED", "b"), seen(ROLE_OWNER, "CATCHING_UP")], []),
        ([seen(ROLE_STANDBY, "SERVING", "b")], ["v/0"]),
        ([seen(ROLE_OWNER, "UNREACHABLE")], ["v/0"]),
        ([seen(ROLE_OWNER, "SERVING", "")], ["v/0"]),
        ([], []),
    ],
)
def test_only_the_owner_counts(shards: list[ShardStatus], unwell: list[str]) -> None:
    assert unwell_shards(shards) == unwell
