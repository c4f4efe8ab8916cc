"""Where a new build of a view begins, other than at the beginning of the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aorist.declare.handlers import signature_of
from aorist.errors import MisdeclaredError

S = TypeVar("S")


@dataclass(frozen=True)
class Seed(Generic[S]):
    """The snapshots of an older build. `convert`: makes the state of a key of its bytes there, such as `def before(old: bytes) -> Arm`.

    Pure, and fit to be folded on: convert and then fold what comes must give what folding everything would.
    """

    build: int
    convert: Callable[[bytes], S]

    def check(self, place: str, state: type[Any]) -> None:
        """Raises MisdeclaredError where `convert` does not make a `state` of bytes. `place`: of the view, for the message."""
        takes, gives = signature_of(self.convert, "old")
        if takes != (bytes,) or gives is not state:
            name = self.convert.__name__
            raise MisdeclaredError(
                f"{place}: seeded_from: {name} must make its state of bytes: def {name}(old: bytes) -> {state.__name__}"
            )
