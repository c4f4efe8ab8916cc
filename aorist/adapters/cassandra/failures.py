"""What the driver raises, told in a sentence."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import dataclass

from cassandra import (
    DriverException,
    OperationTimedOut,
    ReadTimeout,
    RequestValidationException,
    Unavailable,
    UnresolvableContactPoints,
    WriteTimeout,
)
from cassandra.cluster import NoHostAvailable
from cassandra.connection import ConnectionBusy, ConnectionException
from cassandra.protocol import ErrorMessage, OverloadedErrorMessage

from aorist.errors import StoreUnavailableError

FAILURES = (
    NoHostAvailable,
    DriverException,
    ErrorMessage,
    ConnectionException,
    ConnectionBusy,
    OSError,
    queue.Empty,  # the driver never told how a request ended
)
"""All that a call of the driver ends with when it is not the caller's mistake. The driver has no base class for them."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which Cassandra, and what in it, for sentences."""

    contact_points: Sequence[str]
    keyspace: str
    datacenter: str

    def unavailable(self, error: Exception, then: str) -> StoreUnavailableError:
        """`then`: what is to be done, or will happen by itself."""
        return self.unusable(f"{_told(error, self.datacenter)}; {then}")

    def unusable(self, why: str) -> StoreUnavailableError:
        return StoreUnavailableError(f"cassandra at {', '.join(self.contact_points)}: {why}", keyspace=self.keyspace)


def _told(error: Exception, datacenter: str) -> str:
    told = _brief(error)
    match error:
        case UnresolvableContactPoints():
            told = "none of these names has an address"
        case NoHostAvailable() if isinstance(error.errors, dict) and error.errors:  # else it tried none
            told = "no node answers: " + ", ".join(f"{at}: {_brief(why)}" for at, why in list(error.errors.items())[:3])
        case NoHostAvailable():
            told = f"no node is up{f' in data center {datacenter}' if datacenter else ''}"
        case OperationTimedOut() | queue.Empty():
            told = "no answer in time"
        case Unavailable():
            told = f"too few copies are up: {error.alive_replicas} of the {error.required_replicas} needed"
        case WriteTimeout() | ReadTimeout():
            told = (
                f"too few copies answered in time: {error.received_responses} of the {error.required_responses} needed"
            )
        case OverloadedErrorMessage():
            told = f"it is overloaded: {told}"
        case RequestValidationException():
            told = f"it refuses the statement: {told}"
    return told


def _brief(error: object) -> str:
    """What the driver says, without its habit of telling a class name twice and a traceback's worth of detail."""
    text = str(error).removeprefix("Error from server: ").replace("\n", " ") or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."
