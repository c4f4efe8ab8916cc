"""Totals of a range: exact for what they say they are about, and that is no more than it has to be."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from aorist.declare import Series, Windows
from aorist.declare.ranges import Held, Piece, Window, pieces
from tests.unit.declare.test_series import T0, S, Sum, codec, pour, series

Stored = dict[tuple[int, int], bytes]
"""Rows by length and start."""


def ask(windows: Windows[Sum], stored: Mapping[tuple[int, int], bytes], from_us: int, upto_us: int) -> tuple[int, ...]:
    """What a worker does: from, upto, amount."""
    wanted = pieces(windows.series, from_us, upto_us)
    held = Held(windows, wanted)
    for window_s, first_us, end_us in wanted:
        held.read(window_s, [(at, row) for (s, at), row in stored.items() if s == window_s and first_us <= at < end_us])
    found = held.total(from_us, upto_us)
    return found.from_us, found.upto_us, found.totals.us


class Story:
    """Seconds in which something was, poured into windows of which most are in the store."""

    def __init__(self, declared: Series[Sum], chosen: random.Random) -> None:
        self.windows, self.stored, self.per_second = declared.windows(), Stored(), dict[int, int]()
        at_us = T0
        for _ in range(chosen.randrange(1, 400)):
            at_us += chosen.choice([0] * 8 + [90 * S, chosen.randrange(4000 * S)])
            before_us, at_us = at_us, at_us + chosen.randrange(1, 2 * S)
            pour(self.windows, before_us, at_us)
            for second in range(before_us // S, (at_us - 1) // S + 1):
                us = min(at_us, (second + 1) * S) - max(before_us, second * S)
                self.per_second[second] = self.per_second.get(second, 0) + us
            if chosen.random() < 0.2:
                self.write()
        self.end_us = at_us

    def write(self) -> None:
        for window_s, start_us, totals in self.windows.closed:
            self.stored[window_s, start_us] = totals
        self.windows.acknowledged(self.windows.closed)

    def expire(self, window_s: int, before_us: int) -> None:
        self.stored = {(s, at): row for (s, at), row in self.stored.items() if s != window_s or at >= before_us}

    def amount(self, from_us: int, upto_us: int) -> int:
        return sum(us for second, us in self.per_second.items() if from_us <= second * S < upto_us)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("lengths", [((1, 10),), ((1, 10), (60, 10)), ((1, 10), (10, 10), (60, 10), (3600, 10))])
def test_any_range_is_exact_to_the_second_while_all_rows_are_there(
    seed: int, lengths: tuple[tuple[int, int], ...]
) -> None:
    chosen = random.Random(seed)
    story = Story(series(lengths=lengths), chosen)
    for _ in range(40):
        from_us = chosen.randrange(T0 - 100 * S, story.end_us + 100 * S)
        upto_us = from_us + chosen.choice([1, S, 59 * S, 61 * S, 4000 * S, story.end_us])
        first_us, end_us = from_us // S * S, -(-upto_us // S) * S
        assert ask(story.windows, story.stored, from_us, upto_us) == (first_us, end_us, story.amount(first_us, end_us))


@pytest.mark.parametrize("seed", range(30))
def test_where_short_windows_have_expired_the_answer_is_about_a_longer_range_and_exact_for_it(seed: int) -> None:
    chosen = random.Random(seed)
    story = Story(series(), chosen)
    expired_us = {1: chosen.randrange(T0, story.end_us + 1), 60: 0}
    expired_us[60] = chosen.randrange(T0, expired_us[1] + 1)
    for window_s, before_us in expired_us.items():
        story.expire(window_s, before_us)
    for _ in range(40):
        from_us = chosen.randrange(T0 - 100 * S, story.end_us)
        upto_us = from_us + chosen.choice([1, S, 59 * S, 61 * S, 4000 * S])
        first_us, end_us, amount = ask(story.windows, story.stored, from_us, upto_us)
        assert first_us <= from_us // S * S
        assert end_us >= -(-upto_us // S) * S
        assert amount == story.amount(first_us, end_us)
        for edge_us, exact_us in ((first_us, from_us // S * S), (end_us, -(-upto_us // S) * S)):
            assert edge_us == exact_us or edge_us % (60 * S) == 0
            if exact_us >= max(expired_us.values()) + 3600 * S:
                assert edge_us == exact_us


def test_a_row_newer_than_what_memory_showed_is_passed_over() -> None:
    """It was read after the windows in memory were noted, and would not add up with them."""
    windows, later = series().windows(), series().windows()
    for at in (windows, later):
        pour(at, T0, T0 + S)
    held = Held(windows, pieces(windows.series, T0, T0 + 100 * S))
    for second in range(1, 90):
        pour(later, T0 + second * S, T0 + (second + 1) * S)
    for window_s, start_us, totals in later.closed:
        held.read(window_s, [(start_us, totals)])
    assert held.total(T0, T0 + 100 * S).totals == Sum(S)


def test_a_handler_cannot_change_the_state_through_what_it_is_given() -> None:
    windows = series().windows()
    pour(windows, T0, T0 + 10)
    for window in Held(windows, [Piece(1, T0, T0 + S)]).windows(1):
        window.totals.us = 99
    Held(windows, pieces(windows.series, T0, T0 + S)).total(T0, T0 + S).totals.us = 99
    assert [w.totals for w in windows.open()] == [Sum(10)] * 3


def test_windows_of_one_length_are_in_order_and_say_whether_they_are_open() -> None:
    windows = series().windows()
    pour(windows, T0, T0 + 10)
    pour(windows, T0 + 100 * S, T0 + 100 * S + 20)
    held = Held(windows, [Piece(1, T0, T0 + 200 * S)])
    held.read(1, [(T0 + 5 * S, codec.encode(Sum(7)))])
    assert held.windows(1) == [
        Window(1, T0, Sum(10), False),
        Window(1, T0 + 5 * S, Sum(7), False),
        Window(1, T0 + 100 * S, Sum(20), True),
    ]


def test_the_longest_windows_are_read_all_along_and_shorter_ones_where_an_edge_cuts() -> None:
    found = pieces(series(), T0 + 90 * S, T0 + 2 * 3600 * S + 60 * S)
    assert found == [
        Piece(3600, T0, T0 + 3 * 3600 * S),
        Piece(60, T0, T0 + 3600 * S),
        Piece(60, T0 + 2 * 3600 * S, T0 + 3 * 3600 * S),
        Piece(1, T0 + 60 * S, T0 + 120 * S),
    ]
