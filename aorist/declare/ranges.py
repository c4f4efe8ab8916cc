"""Totals of any range of time, put together from windows of several lengths: long ones inside, short ones at the edges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Generic, NamedTuple, TypeVar

from aorist.declare.series import SECOND_US, Series, Windows

T = TypeVar("T")


class InRange(NamedTuple, Generic[T]):
    """Totals of a range, as a handler gets them.

    `from_us`, `upto_us`: what they are about; at least what was asked for, rounded outwards to the finest windows that there are.
    """

    from_us: int
    upto_us: int
    totals: T


class Window(NamedTuple, Generic[T]):
    """One window, as a handler gets it. `open`: more may be added."""

    window_s: int
    start_us: int
    totals: T
    open: bool


class Piece(NamedTuple):
    """Windows of one length that start in a piece of time."""

    window_s: int
    from_us: int
    upto_us: int


def pieces(series: Series[Any], from_us: int, upto_us: int) -> list[Piece]:
    """Every window that the totals of a range may take: the longest all along, the next only in those that an edge cuts, and so on."""
    lengths_us = [length.window_s * SECOND_US for length in reversed(series.lengths)]
    from_us, upto_us = _outwards(from_us, upto_us, series.finest_us)
    found = [Piece(lengths_us[0] // SECOND_US, *_outwards(from_us, upto_us, lengths_us[0]))]
    for longer_us, length_us in pairwise(lengths_us):
        cut = {edge_us // longer_us * longer_us for edge_us in (from_us, upto_us) if edge_us % longer_us}
        found += [Piece(length_us // SECOND_US, start_us, start_us + longer_us) for start_us in sorted(cut)]
    return found


def _outwards(from_us: int, upto_us: int, length_us: int) -> tuple[int, int]:
    return from_us // length_us * length_us, -(-upto_us // length_us) * length_us


class Held(Generic[T]):
    """The windows of one key that begin in `piece`s of time: those in memory at one moment, and rows read after it.

    What is open, or may be, is known from memory alone: a row of it was written later and would not add up with the rest.
    """

    def __init__(self, windows: Windows[T], wanted: Iterable[Piece]) -> None:
        """Under the lock of the shard."""
        self.series = windows.series
        self._found: dict[int, dict[int, T]] = {length.window_s: {} for length in self.series.lengths}
        self._open_from = {window_s: windows.open_from(window_s) for window_s in self._found}
        wanted = list(wanted)
        for window_s, start_us, totals in windows.open():
            if _is_in(wanted, window_s, start_us):
                self._found[window_s][start_us] = self.series.sum([totals])
        self._closed = [closed for closed in windows.closed if _is_in(wanted, closed.window_s, closed.start_us)]

    def read(self, window_s: int, rows: Iterable[tuple[int, bytes]]) -> None:
        """Adds rows of the store: (start_us, totals)."""
        found, decode = self._found[window_s], self.series.codec.decode
        for start_us, totals in rows:
            if start_us < self._open_from[window_s]:
                found[start_us] = decode(totals)

    def windows(self, window_s: int) -> list[Window[T]]:
        """Of one length, in the order of time."""
        self._decode_closed()
        open_from = self._open_from[window_s]
        found = sorted(self._found[window_s].items())
        return [Window(window_s, start_us, totals, start_us >= open_from) for start_us, totals in found]

    def total(self, from_us: int, upto_us: int) -> InRange[T]:
        """Of a range whose `pieces` these are."""
        self._decode_closed()
        from_us, upto_us = _outwards(from_us, upto_us, self.series.finest_us)
        stated = [from_us, upto_us]
        taken = self._cover(len(self.series.lengths) - 1, from_us, upto_us, stated)
        return InRange(stated[0], stated[1], self.series.sum(taken))

    def _decode_closed(self) -> None:
        for window_s, start_us, totals in self._closed:
            self._found[window_s][start_us] = self.series.codec.decode(totals)
        self._closed = []

    def _cover(self, level: int, from_us: int, upto_us: int, stated: list[int]) -> list[T]:
        """Totals of windows of this level and below. One that an edge cuts is taken whole where shorter ones do not make it up."""
        length_us = self.series.lengths[level].window_s * SECOND_US
        taken: list[T] = []
        for start_us, totals in self._starting_in(level, *_outwards(from_us, upto_us, length_us)):
            end_us = start_us + length_us
            if from_us <= start_us and end_us <= upto_us:
                taken.append(totals)
            elif self._is_made_up(level, start_us, totals):
                inner = max(from_us, start_us), min(upto_us, end_us)
                taken += self._cover(level - 1, *inner, stated)
            else:
                stated[:] = min(stated[0], start_us), max(stated[1], end_us)
                taken.append(totals)
        return taken

    def _is_made_up(self, level: int, start_us: int, totals: T) -> bool:
        """Whether all the shorter windows in it are still there: exactly then they add up to it."""
        end_us = start_us + self.series.lengths[level].window_s * SECOND_US
        shorter = [totals for _, totals in self._starting_in(level - 1, start_us, end_us)]
        return self.series.sum(shorter) == totals

    def _starting_in(self, level: int, from_us: int, upto_us: int) -> Sequence[tuple[int, T]]:
        found = self._found[self.series.lengths[level].window_s]
        return [(start_us, totals) for start_us, totals in found.items() if from_us <= start_us < upto_us]


def _is_in(wanted: Iterable[Piece], window_s: int, start_us: int) -> bool:
    return any(piece.window_s == window_s and piece.from_us <= start_us < piece.upto_us for piece in wanted)
