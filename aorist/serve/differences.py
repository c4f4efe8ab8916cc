"""What two builds of a partition do not have in common, in words."""

from __future__ import annotations

from aorist.v1 import build_pb2


def differs(difference: build_pb2.Difference) -> bool:
    """Whether there is anything for somebody to accept."""
    return bool(
        difference.only_before
        or difference.only_now
        or difference.other_states
        or difference.unsettled
        or difference.problem
    )


def in_words(difference: build_pb2.Difference, before: int, now: int) -> str:
    """One partition in one line; `before` and `now`: the builds."""
    counts = (
        (difference.only_before, f"only in build {before}"),
        (difference.only_now, f"only in build {now}"),
        (difference.other_states, "in another state"),
        (difference.unsettled, "changing too fast to compare"),
    )
    found = ", ".join(f"{count} keys {where}" for count, where in counts if count)
    examples = ", ".join(key.decode(errors="replace") for key in difference.examples)
    sizes = f"{difference.keys_before} and {difference.keys_now} keys"
    return f"partition {difference.partition}: {difference.problem or f'{sizes}, {found}, such as {examples}'}"
