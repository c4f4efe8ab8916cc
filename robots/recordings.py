"""Reads recordings of joint positions, row by row, as the samples that a robot controller would have sent.

Any text table will do: comma, semicolon, tab or space separated, gzipped or not, with one header row. A row becomes one
sample with all its axes. Nothing is held in memory but the row at hand.

Times: `sampled_at_us` = start of the arm + (time column - first time of that arm), the difference taken in decimals and
rounded once to whole microseconds. The same start therefore gives the same bytes again.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from math import isfinite
from pathlib import Path
from typing import BinaryIO, Literal, cast

from fleet.arms.v1.axis_pb2 import AxisPosition
from fleet.arms.v1.commands_pb2 import JointSample
from robots.layout import GUESS, TIME_UNITS, UNITS, Asked, Layout, RecordingError, guess

__all__ = [
    "Anchor",
    "Asked",
    "Layout",
    "Recording",
    "RecordingError",
    "Start",
    "guess",
    "open_recording",
    "parse_anchor",
]

YEAR_2000_S = 946_684_800
YEAR_2200_S = 7_258_118_400
_ARM_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_MOST_NOTES = 5

# When the first sample of a recording happened: microseconds since 1970, or a rule.
Anchor = int | Literal["now", "recorded"]

# Called once for each arm with its id and its first time as recorded (us). Answers when the arm starts, in microseconds
# since 1970; None: as recorded.
Start = Callable[[str, int], int | None]


def parse_anchor(text: str) -> Anchor:
    """`now`, `recorded`, an ISO time (UTC unless it says otherwise), or seconds or microseconds since 1970.

    Raises RecordingError for anything else, and for times outside 2000 to 2200.
    """
    if text == "now":
        return "now"
    if text == "recorded":
        return "recorded"
    at_us: Decimal | None = None
    with suppress(InvalidOperation):
        at_us = Decimal(text)
        if at_us.is_finite() and at_us < YEAR_2200_S:
            at_us *= 1_000_000
    with suppress(ValueError):
        moment = datetime.fromisoformat(text) if at_us is None else None
        if moment is not None:
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            at_us = Decimal((moment - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1))
    if at_us is None or not at_us.is_finite() or not YEAR_2000_S <= at_us / 1_000_000 < YEAR_2200_S:
        raise RecordingError(
            f"{text!r} is no anchor: give now, recorded, a time like 2026-01-31T12:00:00Z, or seconds or microseconds"
            " since 1970 (2000 to 2200)"
        )
    return int(at_us.to_integral_value())


@dataclass(slots=True)
class _Arm:
    arm_id: str
    start_us: int
    zero: Decimal  # of the time column
    last: Decimal


class Recording:
    """One file with a known layout. Made by `open_recording`."""

    def __init__(self, path: Path, header: Sequence[str], layout: Layout, arm: str, *, skip_bad_rows: bool) -> None:
        self.path = path
        self.layout = layout
        self.skipped_rows = 0  # by the last or current `samples()`
        self.skipped_notes: list[str] = []  # the first few, in words
        self._header = header
        self._arm = arm
        self._skip_bad_rows = skip_bad_rows
        self._bytes = max(path.stat().st_size, 1)
        self._raw: BinaryIO | None = None

    def fraction_read(self) -> float:
        """How much of the file has been read, 0 to 1."""
        return 0.0 if self._raw is None else 1.0 if self._raw.closed else self._raw.tell() / self._bytes

    def samples(self, start: Start) -> Iterator[JointSample]:
        """Every row as a sample, in the order of the file.

        `start` is called when the first row of an arm is reached, not before. For a row that cannot be used, raises
        RecordingError with file and line, unless bad rows are to be skipped: then they are counted.
        """
        self.skipped_rows, self.skipped_notes = 0, []
        parse, scale = self._parser(), TIME_UNITS[self.layout.time_unit]
        arms: dict[str, _Arm] = {}
        for line, row in self._rows():
            parsed = parse(row)
            if parsed is None:
                self._bad(line, self._fault(row))
                continue
            at, value, positions = parsed
            arm = arms.get(value)
            if arm is None:
                arm = arms[value] = self._new_arm(value, arms, at, start)
            if at < arm.last:
                self._bad(
                    line, f"time goes back from {arm.last} to {at}; where arms or runs share a file: --arm-column"
                )
                continue
            arm.last = at
            yield JointSample(
                arm_id=arm.arm_id,
                sampled_at_us=arm.start_us + int(((at - arm.zero) * scale).to_integral_value()),
                axes=[AxisPosition(axis=axis, position=position) for axis, position in enumerate(positions)],
            )
        if not arms:
            raise RecordingError(f"{self.path}: no row with positions in it")

    def _parser(self) -> Callable[[Sequence[str]], tuple[Decimal, str, list[float]] | None]:
        """Decides once where everything is; the result takes a row apart: time, arm, positions. None: a bad row."""
        layout, index, width = self.layout, self._header.index, len(self._header)
        time = index(layout.time)
        split = None if layout.split is None else index(layout.split)
        cells = [(index(name), UNITS[unit]) for name, unit in zip(layout.columns, layout.units, strict=True)]
        far = 2**62 / TIME_UNITS[layout.time_unit]  # keeps every time within 64 bits

        def parse(row: Sequence[str]) -> tuple[Decimal, str, list[float]] | None:
            if len(row) != width:
                return None
            try:
                at = Decimal(row[time])
                positions = [convert(row[column]) for column, convert in cells]
                good = -far < at < far and all(map(isfinite, positions))
            except (ValueError, ArithmeticError):
                return None
            return (at, "" if split is None else row[split], positions) if good else None

        return parse

    def ends(self) -> dict[str, int]:
        """How long the recording of each arm is, in microseconds. Reads the whole file; raises as `samples`."""
        return {sample.arm_id: sample.sampled_at_us for sample in self.samples(lambda _arm_id, _first_us: 0)}

    def _new_arm(self, value: str, arms: dict[str, _Arm], first: Decimal, start: Start) -> _Arm:
        stem = re.sub(r"[^A-Za-z0-9._:-]+", "-", Path(self.path.name.removesuffix(".gz")).stem).lstrip("._:-")
        arm_id = self._arm.replace("{file}", stem).replace("{arm}", value).replace("{n}", str(len(arms) + 1))
        if not _ARM_ID.fullmatch(arm_id):
            raise RecordingError(
                f"{self.path}: {arm_id!r} is no name for an arm (1 to 64 letters, digits and . _ : - after a letter or"
                " digit): give --arm, in which {file}, {arm} and {n} are filled in"
            )
        if any(arm.arm_id == arm_id for arm in arms.values()):
            raise RecordingError(f"{self.path}: two arms would be called {arm_id!r}: put {{arm}} or {{n}} into --arm")
        start_us = start(arm_id, int((first * TIME_UNITS[self.layout.time_unit]).to_integral_value()))
        return _Arm(arm_id, 0, Decimal(0), first) if start_us is None else _Arm(arm_id, start_us, first, first)

    def _bad(self, line: int, fault: str) -> None:
        words = f"{self.path}, line {line}: {fault}"
        if not self._skip_bad_rows:
            raise RecordingError(f"{words} (--skip-bad-rows passes over such rows)")
        self.skipped_rows += 1
        if len(self.skipped_notes) < _MOST_NOTES:
            self.skipped_notes.append(words)

    def _fault(self, row: Sequence[str]) -> str:
        """Why a row cannot be used, in words."""
        if len(row) != len(self._header):
            return f"{len(row)} cells where the header has {len(self._header)}"
        for name in (self.layout.time, *self.layout.columns):
            cell = row[self._header.index(name)]
            try:
                if not isfinite(float(cell)):
                    return f"{name} is {cell!r}, not a finite number"
            except ValueError:
                return f"{name} is {cell!r}, not a number"
        return f"{self.layout.time} is too far out to be a time"

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Line numbers and cells, without the header and empty lines."""
        lines = _lines(self.path, self._opened)
        next(lines, None)
        rows = (
            map(str.split, lines)
            if self.layout.delimiter == " "
            else csv.reader(lines, delimiter=self.layout.delimiter)
        )
        width = len(self._header)
        try:
            for line, row in enumerate(rows, start=2):
                while len(row) > width and not row[-1].strip():
                    row.pop()
                if row:
                    yield line, row
        except csv.Error as error:
            raise RecordingError(f"{self.path}: {error}") from error

    def _opened(self, raw: BinaryIO) -> None:
        self._raw = raw


def open_recording(
    path: Path, asked: Asked = GUESS, *, arm: str | None = None, skip_bad_rows: bool = False
) -> Recording:
    """Reads the header of a file and settles its layout.

    `arm` names the arms: `{file}` stands for the file's name without .gz and .csv or the like, `{arm}` for the cell of
    the column that tells arms apart, `{n}` for the number of the arm in the file, from 1. By default `{file}`, or
    `{file}-{arm}` where there is such a column. Raises RecordingError.
    """
    lines = _lines(path, lambda _raw: None)
    first = next(lines, "").strip("\r\n")
    lines.close()
    if not first.strip():
        raise RecordingError(f"{path}: empty; the first line has to name the columns")
    delimiter = asked.delimiter or next((mark for mark in "\t;," if mark in first), " ")
    header = (
        first.split() if delimiter == " " else [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter))]
    )
    try:
        layout = guess(header, Asked(delimiter, asked.time, asked.time_unit, asked.columns, asked.units, asked.split))
    except RecordingError as error:
        raise RecordingError(f"{path}: {error}") from error
    name = arm or ("{file}-{arm}" if layout.split else "{file}")
    return Recording(path, header, layout, name, skip_bad_rows=skip_bad_rows)


def _lines(path: Path, opened: Callable[[BinaryIO], None]) -> Generator[str, None, None]:
    """Lines of text, unpacked on the way. Raises RecordingError for what is no readable text."""
    try:
        with path.open("rb") as raw:
            opened(raw)
            packed = raw.peek(2).startswith(b"\x1f\x8b")
            unpacked = cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if packed else raw
            yield from io.TextIOWrapper(unpacked, encoding="utf-8-sig", newline="")
    except (OSError, EOFError, zlib.error) as error:
        raise RecordingError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except UnicodeDecodeError as error:
        raise RecordingError(f"{path}: not a text table in UTF-8 (plain or gzipped): {error}") from error
