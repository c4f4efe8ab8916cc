"""Test kit: `check_fold(view)` looks for events that, delivered again as a log delivers them, end in another state.

    def test_positions_fold_repeatably() -> None:
        check_fold(arm_position)

It folds sequences of made-up events, or pieces of a real log; see `aorist.declare.refold` for what it does with each. `aorist check-fold`
does the same for every view of a project.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple, NoReturn

from google.protobuf.message import Message

from aorist.declare.refold import (
    ITS_STATE_ONLY,
    NO_ORDER,
    Delivery,
    Difference,
    States,
    check,
    delivered,
    story,
)
from aorist.declare.second_interpreter import SecondInterpreter, module_of
from aorist.declare.view import View
from aorist.errors import FoldCheckError, SettingError

EXAMPLES = 100
S_PER_EXAMPLE, S_AT_LEAST = 0.08, 4.0
"""Processor time for one sequence, on average, and for a view. When it is used up, the rest is left out, or what was found is told."""

SHRINK_S = 3.0
"""Processor time for leaving events out of a counterexample."""

Look = Callable[[list[Delivery]], None]
"""Raises Difference."""

Positioned = tuple[str, Message]
"""Position, as people are told it, and event."""


class Checked(NamedTuple):
    """What a check that found nothing has looked at. `left_out`: what it could not look at, as a sentence."""

    sequences: int
    events: int
    left_out: str = ""


def check_fold(
    view: View[Any], *, examples: int = EXAMPLES, pieces: Sequence[Sequence[Positioned]] | None = None
) -> Checked:
    """Raises FoldCheckError with a short counterexample, if one is found.

    examples: how many sequences of events are made up, at most. pieces: of a real log, to be used instead.
    """
    view.complete()
    search = _Search(view, examples)
    if pieces is None:
        search.made_up()
    else:
        search.of_log(pieces)
    search.elsewhere()
    return search.checked()


class _FailsError(Exception):
    """Tells Hypothesis that a sequence fails."""


class _Search:
    """For the shortest counterexample in bounded time."""

    def __init__(self, view: View[Any], examples: int) -> None:
        self._view, self._examples = view, examples
        self._until = time.process_time() + max(S_AT_LEAST, S_PER_EXAMPLE * examples)
        self._fine: list[list[Delivery]] = []
        self.sequences = self.events = 0
        self._left_out: list[str] = []
        self._made_up = True

    def made_up(self) -> None:
        """Hypothesis makes up sequences, and simplifies what fails."""
        with _extra():
            from hypothesis import HealthCheck, Phase, given, settings  # noqa: PLC0415  # an extra of the package
            from hypothesis.errors import HypothesisException  # noqa: PLC0415

        from aorist.declare.strategies import sequences  # noqa: PLC0415  # knows hypothesis

        shortest: list[tuple[list[Delivery], Difference]] = []

        @settings(
            max_examples=self._examples,
            database=None,
            deadline=None,
            derandomize=True,
            phases=(Phase.generate, Phase.shrink),
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        @given(sequences(self._view))
        def look(events: list[Message]) -> None:
            if self._time_is_up():
                return
            deliveries = delivered(self._view, events)
            found = self._difference(deliveries)
            if found is not None:
                if not shortest or len(deliveries) <= len(shortest[-1][0]):
                    shortest.append((deliveries, found))
                raise _FailsError  # always from here: Hypothesis takes other places for other failures

        try:
            look()
        except (_FailsError, HypothesisException):
            # The latter: it went well the second time, as with a fold that remembers something; or time was up.
            if not shortest:
                raise
            self._refuse(*shortest[-1], self._look)

    def of_log(self, pieces: Sequence[Sequence[Positioned]]) -> None:
        """In the order given; what is told keeps the positions."""
        self._made_up = False
        for piece in pieces[: self._examples]:
            if self._time_is_up():
                return
            deliveries = delivered(self._view, [event for _, event in piece], [at for at, _ in piece])
            found = self._difference(deliveries)
            if found is not None:
                self._refuse(deliveries, found, self._look)

    def elsewhere(self) -> None:
        """What was fine here is folded by a second interpreter."""
        module = module_of(self._view)
        if module is None:
            self._left_out.append("no second interpreter: the view is declared at no file's top level")
            return
        with closing(SecondInterpreter(self._view, module)) as second:
            if second.problem:
                self._left_out.append(f"no second interpreter: {second.problem}")
                return
            for deliveries in self._fine:
                try:
                    _compare(self._view, deliveries, second)
                except Difference as found:
                    self._refuse(deliveries, found, lambda fewer: _compare(self._view, fewer, second))

    def checked(self) -> Checked:
        return Checked(self.sequences, self.events, "; ".join(self._left_out))

    def _time_is_up(self) -> bool:
        up, said = time.process_time() > self._until, "time was up before all sequences were looked at"
        if up and said not in self._left_out:
            self._left_out.append(said)
        return up

    def _look(self, deliveries: list[Delivery]) -> None:
        check(self._view, deliveries)

    def _difference(self, deliveries: list[Delivery]) -> Difference | None:
        try:
            check(self._view, deliveries)
        except Difference as found:
            return found
        self.sequences += 1
        self.events += len(deliveries)
        self._fine.append(deliveries)
        return None

    def _refuse(self, deliveries: list[Delivery], found: Difference, look: Look) -> NoReturn:
        deliveries, found = _shorter(deliveries, found, look)
        if self._made_up:
            deliveries, found = _counted_anew(deliveries, found, look)
        raise FoldCheckError(story(self._view, deliveries, found), view=self._view.name) from found.__cause__


def _compare(view: View[Any], deliveries: Sequence[Delivery], second: SecondInterpreter) -> None:
    """Raises Difference unless the second interpreter comes to the same bytes."""
    here, did = States(view, deliveries), "a second interpreter, where sets have another order, folded the same events"
    there = second.fold((one.field, one.data) for one in deliveries)
    if isinstance(there, str):
        raise Difference(f"{did}: {there}", ITS_STATE_ONLY)
    for key in here.of:
        data, other = here.encode(key), there.get(key)
        if data != other:
            told = {
                "here": repr(here.of[key]),
                "there": repr(view.codec.decode(other)) if other is not None else "none",
            }
            raise Difference(did, NO_ORDER, told, key)


def _shorter(deliveries: list[Delivery], found: Difference, look: Look) -> tuple[list[Delivery], Difference]:
    """Leaves out events, one after the other, as long as the rest still fails."""
    until, number = time.process_time() + SHRINK_S, len(deliveries) - 1
    while number >= 0 and time.process_time() < until:
        fewer = deliveries[:number] + deliveries[number + 1 :]
        try:
            look(fewer)
        except Difference as again:
            deliveries, found = fewer, again
        number -= 1
    return deliveries, found


def _counted_anew(deliveries: list[Delivery], found: Difference, look: Look) -> tuple[list[Delivery], Difference]:
    """With positions from 0 on, now that some events were left out."""
    anew = [one._replace(at=str(number)) for number, one in enumerate(deliveries)]
    try:
        look(anew)
    except Difference as again:
        return anew, again
    return deliveries, found


@contextmanager
def _extra() -> Iterator[None]:
    """Events are made up by Hypothesis, an extra of the package: a service that folds does without."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise SettingError(f"{error.name} is not installed: install aorist[check]") from None
