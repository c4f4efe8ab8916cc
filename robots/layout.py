"""How a recording is laid out: which column is time, which are positions and in which units, what tells arms apart.

All of it is guessed from the names in the header; every part can be said instead.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

MAX_AXES = 32


class RecordingError(Exception):
    """A recording, or what was said about it, cannot be used. The message names the place and says what to do."""


def _millimetres(cell: str) -> float:
    return float(cell) / 1000  # a division: times 0.001 would round twice


def _degrees(cell: str) -> float:
    return math.radians(float(cell))


# Text of a cell -> rad, or m for prismatic axes.
UNITS: dict[str, Callable[[str], float]] = {"rad": float, "deg": _degrees, "m": float, "mm": _millimetres}

# Microseconds in one unit of the time column.
TIME_UNITS: dict[str, Decimal] = {"s": Decimal(1_000_000), "ms": Decimal(1000), "us": Decimal(1)}

_TIME = re.compile(
    r"(?:time|t|time_?stamp|stamp|sampled_at|seconds)(?:[_ ]?[\[(]?(?P<unit>s|sec|ms|us)[\])]?)?", re.IGNORECASE
)
_TAIL = r"(?:[_ ]?[\[(]?(?:degrees|deg|radians|rad|mm|m)[\])]?)?"
# Most telling first; the first family with a member in the header is taken whole.
_FAMILIES = tuple(
    re.compile(pattern + _TAIL, re.IGNORECASE)
    for pattern in (
        r"actual_q_?(?P<n>\d+)",
        r"q_?(?P<n>\d+)",
        r"(?:joint|axis|j|a)[_ ]?(?P<n>\d+)(?:[_ ](?:position|pos|angle))?",
        r"positions?[_ ]?[\[(]?(?P<n>\d+)[\])]?",
        r".*joint.*[_./ ](?:position|pos|angle)",
    )
)
_UNIT_OF_NAME = re.compile(r"(?:[_ .\[(]|(?<=\d))(degrees|deg|radians|rad|mm|m)[\])]?$", re.IGNORECASE)
_PRISMATIC = re.compile(r"lift|prismatic|linear|slide|rail|gantry", re.IGNORECASE)
_SPLITS = ("run", "arm", "arm_id", "arm_name", "robot", "robot_id")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is said about a layout. None: guess it."""

    delimiter: str | None = None
    time: str | None = None
    time_unit: str | None = None
    columns: tuple[str, ...] | None = None  # names, or patterns with `*`, in axis order
    units: tuple[str, ...] | None = None  # one for all columns, or one for each
    split: str | None = None  # "": one arm, whatever the columns are called


GUESS = Asked()


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout that fits its header: every column it names is there, once."""

    delimiter: str
    time: str
    time_unit: str
    columns: tuple[str, ...]
    units: tuple[str, ...]
    split: str | None

    def describe(self) -> str:
        """One line for people: what was understood."""
        axes = ", ".join(f"{name} [{unit}]" for name, unit in zip(self.columns, self.units, strict=True))
        arms = f"; arms told apart by {self.split}" if self.split else ""
        return f"time: {self.time} [{self.time_unit}]; {len(self.columns)} axes: {axes}{arms}"


def guess(header: Sequence[str], asked: Asked = GUESS) -> Layout:
    """The layout of a recording with these column names.

    Positions are taken as rad unless the name of a column says otherwise (`_deg`, `[mm]`; a lift or a rail is in m).
    Raises RecordingError where a part can be neither guessed nor found.
    """
    time, time_unit = _time(header, asked)
    columns = _expand(header, asked.columns) if asked.columns is not None else _positions(header)
    units = _units(columns, asked.units)
    split = (
        next((name for name in header if name.lower() in _SPLITS), None) if asked.split is None else asked.split or None
    )
    for name in (time, *columns, *([split] if split else [])):
        _once(header, name)
    if len(set(columns)) < len(columns) or time in columns:
        raise RecordingError(f"a column is used twice: {time}, {', '.join(columns)}; name each once with --columns")
    if not 1 <= len(columns) <= MAX_AXES:
        raise RecordingError(
            f"{len(columns)} columns of positions; an arm has 1 to {MAX_AXES} axes: choose with --columns"
        )
    return Layout(asked.delimiter or ",", time, time_unit, columns, units, split)


def _time(header: Sequence[str], asked: Asked) -> tuple[str, str]:
    name = asked.time if asked.time is not None else next((n for n in header if _TIME.fullmatch(n)), None)
    if name is None:
        raise RecordingError(f"no column looks like time among {_listing(header)}: name it with --time-column")
    match = _TIME.fullmatch(name)
    unit = asked.time_unit or (match["unit"] or "s" if match else "s").lower().replace("sec", "s")
    if unit not in TIME_UNITS:
        raise RecordingError(f"unknown time unit {unit!r}: --time-unit is one of {', '.join(TIME_UNITS)}")
    return name, unit


def _positions(header: Sequence[str]) -> tuple[str, ...]:
    for family in _FAMILIES:
        found = [(name, match) for name in header if (match := family.fullmatch(name))]
        if not found:
            continue
        if "n" not in family.groupindex:
            return tuple(name for name, _ in found)
        numbered: dict[int, str] = {}
        for name, match in found:
            other = numbered.setdefault(int(match["n"]), name)
            if other != name:
                raise RecordingError(f"{other} and {name} may be the same axis: choose with --columns")
        return tuple(numbered[n] for n in sorted(numbered))
    raise RecordingError(f"no columns look like joint positions among {_listing(header)}: name them with --columns")


def _expand(header: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    columns: list[str] = []
    for name in wanted:
        if name in header or "*" not in name:
            columns.append(name)
            continue
        found = [column for column in header if fnmatch.fnmatchcase(column, name)]
        if not found:
            raise RecordingError(f"no column fits {name!r}; there are {_listing(header)}")
        columns += found
    return tuple(columns)


def _units(columns: Sequence[str], asked: Sequence[str] | None) -> tuple[str, ...]:
    if asked is None:
        return tuple(_unit_of(name) for name in columns)
    for unit in asked:
        if unit not in UNITS:
            raise RecordingError(
                f"unknown unit {unit!r}: --unit is one of {', '.join(UNITS)}, or a list with one for each axis"
            )
    if len(asked) not in (1, len(columns)):
        raise RecordingError(f"{len(asked)} units for {len(columns)} axes: give --unit once for all, or one for each")
    return tuple(asked) if len(asked) == len(columns) else tuple(asked) * len(columns)


def _unit_of(name: str) -> str:
    said = _UNIT_OF_NAME.search(name)
    if said:
        return {"degrees": "deg", "radians": "rad"}.get(said[1].lower(), said[1].lower())
    return "m" if _PRISMATIC.search(name) else "rad"


def _once(header: Sequence[str], name: str) -> None:
    if header.count(name) != 1:
        there = "there more than once" if name in header else "not there"
        raise RecordingError(f"column {name!r} is {there}; there are {_listing(header)}")


def _listing(header: Sequence[str], most: int = 12) -> str:
    more = f" and {len(header) - most} more" if len(header) > most else ""
    return ", ".join(repr(name) for name in header[:most]) + more
