"""`aorist view`: which build answers, told and changed through a gateway of the test's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from click.testing import Result

from aorist.v1 import build_pb2, build_pb2_grpc
from tests.unit.cli.double import refuse

Run = Callable[..., Result]


class Builds(build_pb2_grpc.BuildServiceServicer):
    """Build 2 can be promoted where differences are accepted."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def ListBuilds(self, request: build_pb2.ListBuildsRequest, context: Any) -> build_pb2.ListBuildsResponse:  # noqa: N802
        self.asked.append(request)
        answering = build_pb2.Build(view="arm_position", build=4, answers=True, dropped=[1, 3])
        answering.shards.add(partition=0, member="ada", phase="SERVING", offset=41, keys=7, key_digest=255)
        other = build_pb2.Build(view="arm_position", build=2)
        other.shards.add(partition=0, phase="NO_OWNER", offset=-1)
        return build_pb2.ListBuildsResponse(builds=[answering, other])

    def Promote(self, request: build_pb2.PromoteRequest, context: Any) -> build_pb2.PromoteResponse:  # noqa: N802
        self.asked.append(request)
        if not request.accept_difference:
            refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "builds 1 and 2 differ")
        found = build_pb2.Difference(partition=0, keys_before=7, keys_now=6, only_before=1, examples=[b"arm-3"])
        return build_pb2.PromoteResponse(before=1, differences=[found])

    def Rollback(self, request: build_pb2.RollbackRequest, context: Any) -> build_pb2.RollbackResponse:  # noqa: N802
        self.asked.append(request)
        return build_pb2.RollbackResponse(build=1, before=2)

    def Drop(self, request: build_pb2.DropRequest, context: Any) -> build_pb2.DropResponse:  # noqa: N802
        self.asked.append(request)
        return build_pb2.DropResponse()


@pytest.fixture
def builds() -> Iterator[tuple[Builds, str]]:
    served, server = Builds(), grpc.server(ThreadPoolExecutor(2))
    build_pb2_grpc.add_BuildServiceServicer_to_server(served, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield served, f"127.0.0.1:{port}"
    server.stop(None)


def test_every_build_is_listed_and_the_one_that_answers_is_marked(run: Run, builds: tuple[Builds, str]) -> None:
    served, address = builds
    result = run("view", "status", "arm_position", "--digests", "--address", address)
    _, first, second, last = (line.split() for line in result.stdout.splitlines())
    assert " ".join(last) == "arm_position: dropped are builds 1, 3"
    assert first[:9] == ["arm_position", "4", "yes", "0", "ada", "SERVING", "41", "0", "7"]
    assert first[9] == "00000000000000ff"
    assert second[:6] == ["arm_position", "2", "0", "nobody", "NO_OWNER", "-"]
    assert served.asked == [build_pb2.ListBuildsRequest(view="arm_position", digests=True)]
    plain = json.loads(run("view", "status", "--json", "--address", address).stdout)
    assert [build["build"] for build in plain["builds"]] == [4, 2]


def test_a_difference_is_accepted_by_name_only_and_then_told(run: Run, builds: tuple[Builds, str]) -> None:
    _, address = builds
    refused = run("view", "promote", "arm_position", "2", "--address", address)
    assert (refused.exit_code, "builds 1 and 2 differ" in refused.stderr) == (1, True)
    done = run("view", "promote", "arm_position", "2", "--accept-difference", "--address", address)
    assert done.exit_code == 0
    assert "accepted: partition 0: 7 and 6 keys, 1 keys only in build 1, such as arm-3" in done.stdout
    assert "build 2 of arm_position answers; until now it was build 1" in done.stdout


def test_the_build_before_is_brought_back(run: Run, builds: tuple[Builds, str]) -> None:
    served, address = builds
    done = run("view", "rollback", "arm_position", "--address", address)
    assert done.stdout == "build 1 of arm_position answers; until now it was build 2\n"
    assert served.asked == [build_pb2.RollbackRequest(view="arm_position")]


def test_a_build_is_dropped(run: Run, builds: tuple[Builds, str]) -> None:
    served, address = builds
    done = run("view", "drop", "arm_position", "1", "--address", address)
    assert done.stdout == "build 1 of arm_position is dropped: a process that would fold it is refused\n"
    assert served.asked == [build_pb2.DropRequest(view="arm_position", build=1)]
