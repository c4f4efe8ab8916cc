"""`aorist get`: the question goes out as typed, the answer is readable and says how fresh it is, a failure is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from click.testing import Result
from google.rpc import error_details_pb2

from aorist.v1 import read_pb2
from fleet.arms.v1.queries_pb2 import GetArmPositionResponse
from tests.unit.cli.double import Arms, Gateway, arm, header, refuse

Run = Callable[..., Result]


@pytest.fixture
def answered(arms: Arms) -> Arms:
    arms.get = lambda ask, _: GetArmPositionResponse(header=header(), arm=arm(ask.arm_id, 0.5, -1.25))
    return arms


def test_an_answer_reads_well_and_says_how_fresh_it_is(run: Run, gateway: Gateway, answered: Arms) -> None:
    result = run("get", "arm_position", "r1", "--address", gateway.address)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "arm_id: r1",
        "axes:",
        "- {axis: 0, position: 0.5, sampled_at_us: 1000000}",
        "- {axis: 1, position: -1.25, sampled_at_us: 1000001}",
        "# owner · epoch 5 · fleet.arms.v1/0@41 · lag 2 events, 7 ms",
    ]


def test_json_is_nothing_but_the_whole_answer_by_the_names_of_the_contract(
    run: Run, gateway: Gateway, answered: Arms
) -> None:
    answer = json.loads(run("get", "arm_position", "r1", "--json", "--address", gateway.address).stdout)
    assert answer["arm"]["axes"][0] == {"axis": 0, "position": 0.5, "sampled_at_us": "1000000"}
    assert answer["header"]["role"] == "ROLE_OWNER"


def test_the_address_may_come_from_the_environment(run: Run, gateway: Gateway, answered: Arms) -> None:
    assert run("get", "arm_position", "r1", AORIST_ADDRESS=gateway.address).exit_code == 0


def test_freshness_is_asked_for_as_flagged(run: Run, gateway: Gateway, answered: Arms) -> None:
    flags = ["--at-least", "fleet.arms.v1/3@1200", "--at-least", "a/b/0@0", "--max-wait-ms", "0"]
    flags += ["--max-staleness-ms", "50", "--on-stale", "return"]
    run("get", "arm_position", "r1", *flags, "--address", gateway.address)
    read = answered.asked[0].read
    assert [(p.topic, p.partition, p.offset) for p in read.at_least] == [("fleet.arms.v1", 3, 1200), ("a/b", 0, 0)]
    assert read.HasField("max_wait_ms")
    assert (read.max_wait_ms, read.max_staleness_ms, read.on_stale) == (0, 50, read_pb2.ON_STALE_RETURN)


def test_what_is_not_asked_for_stays_unset(run: Run, gateway: Gateway, answered: Arms) -> None:
    run("get", "arm_position", "r1", "--address", gateway.address)
    assert not answered.asked[0].HasField("read")


def test_a_stale_answer_says_so(run: Run, gateway: Gateway, arms: Arms) -> None:
    late = header(offset=-1, role=read_pb2.ROLE_STORE)
    late.stale = True
    arms.get = lambda ask, _: GetArmPositionResponse(header=late, arm=arm("r1"))
    result = run("get", "arm_position", "r1", "--address", gateway.address)
    assert "# store · epoch 5 · no event yet · lag 2 events, 7 ms · STALE: not as fresh as asked for" in result.output


def test_a_refusal_is_one_line_with_status_reason_and_fields(run: Run, gateway: Gateway, arms: Arms) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="arm_id", description="must match the pattern")
    details = (
        error_details_pb2.ErrorInfo(reason="INVALID"),
        error_details_pb2.BadRequest(field_violations=[violation]),
    )
    arms.get = lambda _, context: refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "bad request", *details)
    result = run("get", "arm_position", "r1", "--address", gateway.address)
    assert result.exit_code == 1
    assert result.stderr == "aorist: INVALID_ARGUMENT (INVALID): bad request; arm_id: must match the pattern\n"
    assert result.stdout == ""


def test_a_gateway_that_does_not_answer_in_time_is_given_up(run: Run, gateway: Gateway, arms: Arms) -> None:
    arms.get = lambda *_: arms.gone.wait()
    result = run("get", "arm_position", "r1", "--timeout", "0.05", "--address", gateway.address)
    assert result.exit_code == 1
    assert f"aorist: {gateway.address} did not answer in time: give it longer with --timeout" in result.stderr


def test_a_wait_for_freshness_comes_on_top_of_the_timeout(run: Run, gateway: Gateway, arms: Arms) -> None:
    def timed(ask: Any, context: Any) -> Any:
        left_s.append(context.time_remaining())
        return GetArmPositionResponse(header=header(), arm=arm(ask.arm_id))

    left_s: list[float] = []
    arms.get = timed
    run("get", "arm_position", "r1", "--timeout", "5", "--max-wait-ms", "60000", "--address", gateway.address)
    assert 60 < left_s[0] < 66  # on the wire, deadlines are rounded up


def test_no_proxy_comes_between(run: Run, gateway: Gateway, answered: Arms, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert run("get", "arm_position", "r1", "--address", gateway.address).exit_code == 0


def test_a_gateway_that_is_not_there_is_named(run: Run, gateway: Gateway) -> None:
    gateway.stop()
    result = run("get", "arm_position", "r1", "--address", gateway.address)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"aorist: cannot reach {gateway.address}: is `aorist dev` running there?")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["arm_positon", "r1"], "no view arm_positon answers queries; did you mean arm_position?"),
        (["zzz", "r1"], "no view zzz answers queries; there are arm_motion, arm_position"),
        (["arm_position", "r1", "r2"], "view arm_position is asked by arm_id: 1 argument(s), not 2"),
        (["arm_position"], "Missing argument 'KEY...'"),
        (
            ["arm_position", "r1", "--at-least", "t@3"],
            "'t@3' is not TOPIC/PARTITION@OFFSET, such as fleet.arms.v1/3@1200",
        ),
        (["arm_position", "r1", "--address", "7100"], "--address: '7100' is not HOST:PORT"),
        (["arm_position", "r1", "--on-stale", "wait"], "'wait' is not one of 'fail', 'return'"),
    ],
)
def test_wrong_use_is_told_apart_by_its_exit_code(run: Run, arguments: list[str], sentence: str) -> None:
    result = run("get", *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
