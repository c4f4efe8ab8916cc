"""Calls to a gateway, and what to tell when one fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from aorist.errors import AoristError, SettingError
from aorist.settings import Settings, parse_address

Command = TypeVar("Command", bound=Callable[..., Any])
M = TypeVar("M", bound=Message)

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 2**26),
    # A proxy meant for the web would be asked for 127.0.0.1 as well.
    ("grpc.enable_http_proxy", 0),
)
DETAILS = "grpc-status-details-bin"


class CallFailedError(AoristError):
    """A gateway refused a call or could not be reached."""

    reason = "CALL_FAILED"


def client_options(command: Command) -> Command:
    """Adds --address and --timeout, which come in as `address` and `timeout`."""
    positive = click.FloatRange(min=0, min_open=True)
    click.option("--timeout", type=positive, default=10.0, show_default=True, help="Seconds a call may take.")(command)
    click.option(
        "--address",
        envvar="AORIST_ADDRESS",
        default=Settings().listen,
        callback=_check_address,
        metavar="HOST:PORT",
        show_default=True,
        show_envvar=True,
        help="The gateway to ask.",
    )(command)
    return command


def _check_address(context: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        parse_address(value, "--address")
    except SettingError as error:
        raise click.UsageError(str(error), context) from None
    return value


def path_of(method: MethodDescriptor) -> str:
    """The method as gRPC names it on the wire."""
    return f"/{method.containing_service.full_name}/{method.name}"


@contextmanager
def channel_to(address: str) -> Iterator[grpc.Channel]:
    """A channel; calls within that fail raise CallFailedError."""
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        try:
            yield channel
        except grpc.RpcError as error:
            raise CallFailedError(explained(error, address)) from error


def explained(error: grpc.RpcError, address: str) -> str:
    """One line: which status, for which reason, which fields, and what to do where that is known."""
    code, text = error.code(), " ".join((error.details() or "").split())
    status = _details(error)
    if code is grpc.StatusCode.UNAVAILABLE and status is None:
        return f"cannot reach {address}: is `aorist dev` running there? ({text})"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{address} did not answer in time: give it longer with --timeout, or look at `aorist status`"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f"{address} does not serve this: is it a gateway of this project? ({text})"
    reasons, violations = _facts(status) if status else ([], [])
    missing = [violation for violation in violations if violation not in text]
    return f"{' '.join([code.name, *reasons])}: {'; '.join([text, *missing]) if text else '; '.join(missing)}"


def _details(error: grpc.RpcError) -> status_pb2.Status | None:
    trailers: Any = error.trailing_metadata() or ()
    found = [value for name, value in trailers if name == DETAILS]
    try:
        return status_pb2.Status.FromString(found[0]) if found else None
    except DecodeError:
        return None


def _facts(status: status_pb2.Status) -> tuple[list[str], list[str]]:
    """Reasons for programs and violated fields, from the details of a status."""
    reasons, violations = [], []
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Unpack(info):
            reasons.append(f"({info.reason})")
        elif detail.Unpack(bad):
            violations += [f"{v.field}: {v.description}" for v in bad.field_violations]
    return reasons, violations


def ask(channel: grpc.Channel, method: MethodDescriptor, request: Message, answer: type[M], timeout_s: float) -> M:
    """The answer of a unary rpc. Raises grpc.RpcError."""
    call = channel.unary_unary(path_of(method), type(request).SerializeToString, answer.FromString)
    return call(request, timeout=timeout_s)
