"""Errors as callers see them: `google.rpc.Status` with details, readable in grpcurl."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from aorist.errors import DOMAIN, AoristError, InvalidRequestError, UnavailableError, Violation

MOST_TEXT, MOST_VIOLATIONS = 800, 20
"""Of an error. It travels in trailers, which take 8 KiB in all: with more, the caller would get another error instead."""


def bad_request(violations: list[Violation]) -> error_details_pb2.BadRequest:
    """One field violation for each rule broken, or for the first ones of very many."""
    fields = [
        error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.message)
        for v in violations[:MOST_VIOLATIONS]
    ]
    return error_details_pb2.BadRequest(field_violations=fields)


def status_of(error: AoristError) -> status_pb2.Status:
    """Code, sentence, ErrorInfo(reason, domain, metadata); BadRequest and RetryInfo where they apply."""
    text = str(error)
    status = status_pb2.Status(
        code=code_pb2.Code.Value(error.code), message=text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}..."
    )
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=getattr(error, "metadata", {}))
    ]
    if isinstance(error, InvalidRequestError):
        details.append(bad_request(error.violations))
    if error.retry_after_ms is not None:
        delay = duration_pb2.Duration(
            nanos=error.retry_after_ms % 1000 * 1_000_000, seconds=error.retry_after_ms // 1000
        )
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


class RelayedError(AoristError):
    """An error that a worker answered, on its way through a gateway as it is."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


def reason_of(status: status_pb2.Status) -> str:
    """The reason in its ErrorInfo, or ""."""
    info = error_details_pb2.ErrorInfo()
    return next((info.reason for detail in status.details if detail.Unpack(info)), "")


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: AoristError) -> NoReturn:
    """Ends the call with `error`."""
    status = error.status if isinstance(error, RelayedError) else status_of(error)
    await context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort returned")


def is_transient(status: status_pb2.Status) -> bool:
    """Whether another try, elsewhere or later, may do better without the caller having to change anything."""
    return reason_of(status) in TRANSIENT


TRANSIENT = {
    e.reason
    for e in UnavailableError.__subclasses__()
    if e.reason in ("NO_OWNER", "UNREACHABLE", "RESTORING", "SHUTTING_DOWN")
}
