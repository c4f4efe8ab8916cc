"""Everything that can go wrong and that somebody is told about.

One base class. Each class carries the gRPC status it becomes, a reason for programs, and whether the same call may succeed later.
Messages say what happened and what to do next. `aorist.serve.errors` turns them into `google.rpc.Status`.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

from aorist.position import Partition

DOMAIN = "aorist"

Code = Literal[
    "INTERNAL",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "UNAVAILABLE",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "DATA_LOSS",
]
"""A status of gRPC by its name: whatever can go wrong is imported everywhere, gRPC only where calls are made or answered."""


class AoristError(Exception):
    """Base of all. `metadata`: facts for programs, beside the sentence for people."""

    code: ClassVar[Code] = "INTERNAL"
    reason: ClassVar[str] = "INTERNAL"
    retry_after_ms: ClassVar[int | None] = None

    def __init__(self, message: str, **metadata: object) -> None:
        super().__init__(message)
        self.metadata = {name: str(value) for name, value in metadata.items()}


class MisdeclaredError(AoristError):
    """A domain file or contract is wrong. Raised at import; names file, function and what to do."""

    reason = "MISDECLARED"


class FoldCheckError(AoristError):
    """A fold is not repeatable. Tells the shortest counterexample that was found: events, what was done, both states."""

    reason = "FOLD_CHECK"


class SettingError(AoristError):
    """A setting has a value it cannot have, or is not known."""

    reason = "SETTING"


class Violation(NamedTuple):
    """One rule broken by one field. `field`: path such as `sample.axes[2].axis`."""

    field: str
    message: str


class InvalidRequestError(AoristError):
    """A request breaks rules. Becomes BadRequest with one field violation each."""

    code = "INVALID_ARGUMENT"
    reason = "INVALID"

    def __init__(self, violations: list[Violation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.message}" if v.field else v.message for v in violations))
        self.violations = violations


class UnknownKeyError(AoristError):
    """No event of this key has ever been folded."""

    code = "NOT_FOUND"
    reason = "UNKNOWN_KEY"


class UnavailableError(AoristError):
    """Base of what passes by itself: try again after `retry_after_ms`."""

    code: ClassVar[Code] = "UNAVAILABLE"
    reason = "UNAVAILABLE"
    retry_after_ms = 100


class StaleError(UnavailableError):
    """No answer as fresh as asked for could be had within `max_wait_ms`."""

    reason = "STALE"


class NoOwnerError(UnavailableError):
    """Nobody owns the partition right now, or this process does not."""

    reason = "NO_OWNER"


class UnreachableError(UnavailableError):
    """The owner's process does not answer."""

    reason = "UNREACHABLE"


class RestoringError(UnavailableError):
    """The owner is still reading its snapshots or catching up with them."""

    reason = "RESTORING"


class ShuttingDownError(UnavailableError):
    """The process is on its way out; another one, or its successor, will answer."""

    reason = "SHUTTING_DOWN"


class HaltedError(UnavailableError):
    """The shard stands still because an event could not be folded, so as not to skip it. Somebody has to act."""

    reason = "HALTED"
    retry_after_ms = 5_000


class QuarantinedError(UnavailableError):
    """An event of the key could not be folded, and waits for somebody to act; what was asked for is at or past it."""

    reason = "QUARANTINED"
    retry_after_ms = 5_000


class LogUnavailableError(UnavailableError):
    """The log did not take or give events. After an append: not known to be durable, send again."""

    reason = "LOG_UNAVAILABLE"


class StoreUnavailableError(UnavailableError):
    """The snapshot store did not take or give rows."""

    reason = "STORE_UNAVAILABLE"


class RegistryUnavailableError(UnavailableError):
    """The ownership registry did not answer. What was asked of it may have happened."""

    reason = "REGISTRY_UNAVAILABLE"


class OverloadedError(UnavailableError):
    """A bounded queue is full; nothing of the call was taken."""

    reason = "OVERLOADED"
    code = "RESOURCE_EXHAUSTED"


class UnknownTopicError(AoristError):
    """The log has no such topic."""

    code = "FAILED_PRECONDITION"
    reason = "UNKNOWN_TOPIC"


class RecordTooLargeError(AoristError):
    """An event is larger than the log takes. Nothing of its append was taken."""

    code = "RESOURCE_EXHAUSTED"
    reason = "RECORD_TOO_LARGE"


class PartitionCountError(AoristError):
    """The topic exists with another number of partitions than declared."""

    code = "FAILED_PRECONDITION"
    reason = "PARTITION_COUNT"


class LogTruncatedError(AoristError):
    """The position to go on from is not in the log any more, or not yet: going on would skip events or fold others' events."""

    code = "DATA_LOSS"
    reason = "LOG_TRUNCATED"

    def __init__(self, message: str, partition: Partition, *, replaced: bool = False) -> None:
        """`replaced`: other events are, or will be, at positions already read; what was made of those is not true any more."""
        super().__init__(message, topic=partition.topic, partition=partition.number)
        self.partition, self.replaced = partition, replaced


class UnfoldableError(AoristError):
    """An event in the log is malformed, or its apply function raised. Names topic, partition, offset and function."""

    code = "DATA_LOSS"
    reason = "UNFOLDABLE"

    def __init__(self, message: str, record: tuple[int, bytes, bytes | None]) -> None:
        """`record`: offset, key and value."""
        super().__init__(message, offset=record[0])
        self.record = record


class QuarantineFullError(UnfoldableError):
    """One more event of a parked key than are held back."""


class BuildNotReadyError(AoristError):
    """A shard of the build that is to answer is not owned, does not serve, or is behind."""

    code = "FAILED_PRECONDITION"
    reason = "BUILD_NOT_READY"


class BuildsDifferError(AoristError):
    """The build that is to answer knows other keys than the one that does, or holds other states; or that is not known."""

    code = "FAILED_PRECONDITION"
    reason = "BUILDS_DIFFER"


class BuildChangedError(AoristError):
    """Somebody else has changed meanwhile which build answers."""

    code = "FAILED_PRECONDITION"
    reason = "BUILD_CHANGED"


class NotParkedError(AoristError):
    """No such event is parked."""

    code = "FAILED_PRECONDITION"
    reason = "NOT_PARKED"
