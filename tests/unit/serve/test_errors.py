"""Every error becomes a google.rpc.Status whose details programs can act on and people can read."""

from __future__ import annotations

from typing import TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from aorist.errors import (
    AoristError,
    HaltedError,
    InvalidRequestError,
    LogTruncatedError,
    NoOwnerError,
    OverloadedError,
    RestoringError,
    ShuttingDownError,
    StaleError,
    UnknownKeyError,
    UnreachableError,
    Violation,
)
from aorist.position import Partition
from aorist.serve.errors import RelayedError, bad_request, is_transient, reason_of, status_of

M = TypeVar("M", bound=Message)


def detail(status: status_pb2.Status, kind: type[M]) -> M | None:
    found = kind()
    return next((found for packed in status.details if packed.Unpack(found)), None)


def every_error(base: type[AoristError] = AoristError) -> list[type[AoristError]]:
    return [base, *(error for sub in base.__subclasses__() for error in every_error(sub))]


@pytest.mark.parametrize(
    ("error", "code", "reason", "retry_ms"),
    [
        (UnknownKeyError("x"), grpc.StatusCode.NOT_FOUND, "UNKNOWN_KEY", None),
        (StaleError("x"), grpc.StatusCode.UNAVAILABLE, "STALE", 100),
        (NoOwnerError("x"), grpc.StatusCode.UNAVAILABLE, "NO_OWNER", 100),
        (HaltedError("x"), grpc.StatusCode.UNAVAILABLE, "HALTED", 5000),
        (OverloadedError("x"), grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", 100),
        (AoristError("x"), grpc.StatusCode.INTERNAL, "INTERNAL", None),
    ],
)
def test_code_reason_and_delay(error: AoristError, code: grpc.StatusCode, reason: str, retry_ms: int | None) -> None:
    status = status_of(error)
    assert (status.code, status.message) == (code.value[0], "x")
    info = detail(status, error_details_pb2.ErrorInfo)
    assert info is not None
    assert (info.reason, info.domain) == (reason, "aorist")
    assert reason_of(status) == reason
    retry = detail(status, error_details_pb2.RetryInfo)
    assert (retry and retry.retry_delay.ToMilliseconds()) == retry_ms


def test_facts_for_programs_travel_as_metadata() -> None:
    info = detail(status_of(LogTruncatedError("x", Partition("t", 3))), error_details_pb2.ErrorInfo)
    assert info is not None
    assert dict(info.metadata) == {"topic": "t", "partition": "3"}


def test_an_invalid_request_names_each_field() -> None:
    status = status_of(InvalidRequestError([Violation("sample.axes[2].axis", "too high"), Violation("", "malformed")]))
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert status.message == "sample.axes[2].axis: too high; malformed"
    request = detail(status, error_details_pb2.BadRequest)
    assert request is not None
    assert [(v.field, v.description) for v in request.field_violations] == [
        ("sample.axes[2].axis", "too high"),
        ("", "malformed"),
    ]


def test_an_error_of_very_many_violations_still_fits_into_trailers() -> None:
    violations = [Violation(f"sample.axes[{n}].position", "must be finite, " * 5) for n in range(1000)]
    status = status_of(InvalidRequestError(violations))
    assert status.ByteSize() < 6000  # 8 KiB as base64
    assert bad_request(violations).field_violations[0].field == "sample.axes[0].position"


def test_reasons_are_one_word_each_and_no_two_the_same() -> None:
    reasons = [error.reason for error in every_error() if "reason" in vars(error)]
    assert all(reason == reason.upper() and " " not in reason for reason in reasons)
    shared = {reason for reason in reasons if reasons.count(reason) > 1}
    assert shared <= {"BUG"}


@pytest.mark.parametrize("error", [NoOwnerError, UnreachableError, RestoringError, ShuttingDownError])
def test_what_another_try_elsewhere_may_mend_is_tried_again(error: type[AoristError]) -> None:
    assert is_transient(status_of(error("x")))


@pytest.mark.parametrize("error", [StaleError("x"), HaltedError("x"), UnknownKeyError("x"), InvalidRequestError([])])
def test_what_is_the_callers_or_somebody_elses_to_mend_is_not(error: AoristError) -> None:
    assert not is_transient(status_of(error))


def test_a_status_without_info_has_no_reason() -> None:
    assert reason_of(status_pb2.Status(code=14)) == ""


def test_a_relayed_error_keeps_the_workers_words() -> None:
    status = status_of(StaleError("late"))
    assert RelayedError(status).status is status
    assert str(RelayedError(status)) == "late"
