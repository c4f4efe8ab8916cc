"""Figures as numbers: repeated, interleaved with their limit, told as median and range."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple, TypeVar

A = TypeVar("A")
B = TypeVar("B")


class NotMeasuredError(Exception):
    """Says why there is no figure."""


class Aim(NamedTuple):
    """What we set out to reach: first step and goal, in the unit of the line or, `of_limit`, as its ratio."""

    first: float
    goal: float
    of_limit: bool = False


@dataclass(frozen=True)
class Line:
    """One line of the table. `ours` and `limit`: one number for each round; the limit of the same round stands at the same index."""

    name: str
    unit: str
    ours: Sequence[float]
    limit: Sequence[float] = ()
    against: str = ""
    less_is_better: bool = False
    aim: Aim | None = None

    @property
    def ratio(self) -> float | None:
        """As good as the limit: 1. The median over rounds, so that what slowed both of one round down falls out."""
        pairs = [(o, li) for o, li in zip(self.ours, self.limit, strict=False) if o and li]
        if not pairs:
            return None
        return median(li / o if self.less_is_better else o / li for o, li in pairs)

    def reached(self) -> str:
        """`goal`, `first step`, `missed`, or nothing where nothing was aimed at."""
        if self.aim is None:
            return ""
        value = self.ratio if self.aim.of_limit else median(self.ours)
        if value is None:
            return ""
        sign = -1 if self.less_is_better and not self.aim.of_limit else 1
        if sign * value >= sign * self.aim.goal:
            return "goal"
        return "first step" if sign * value >= sign * self.aim.first else "missed"


@dataclass
class Outcome:
    """What came of one figure. `notes`: what a reader of its lines has to know. `missing`: why there are no lines."""

    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: str = ""

    def as_dict(self) -> dict[str, Any]:
        lines = [
            {
                "name": line.name,
                "unit": line.unit,
                "ours": list(line.ours),
                "limit": list(line.limit),
                "against": line.against,
                "less_is_better": line.less_is_better,
                "ratio": line.ratio,
                "aim": line.aim._asdict() if line.aim else None,
                "reached": line.reached(),
            }
            for line in self.lines
        ]
        return {"lines": lines, "notes": self.notes, "missing": self.missing}


def interleaved(rounds: Iterable[int], ours: Callable[[], A], limit: Callable[[], B]) -> tuple[list[A], list[B]]:
    """Ours, limit, ours, limit...: what else the machine does meanwhile meets both."""
    pairs = [(ours(), limit()) for _ in rounds]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def percentile(values: Sequence[float], share: float) -> float:
    """Of values in any order."""
    if not values:
        raise NotMeasuredError("nothing was answered in the time looked at")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
