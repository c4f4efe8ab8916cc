"""Test kit: `given(view, events).ask(request)` folds and asks as the platform would, without a server.

given(arm_position, [JointPositionsChanged(...)]).ask(GetArmPositionRequest(arm_id="a")).then(GetArmPositionResponse(...))
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from google.protobuf.message import Message

from aorist.declare.ranges import Held, Piece, pieces
from aorist.declare.view import Query, View
from aorist.errors import MisdeclaredError, UnknownKeyError


class Given:
    """A view with events folded into it. Events are serialised on the way in and states on the way out, as in a real shard."""

    def __init__(self, view: View[Any], events: Iterable[Message]) -> None:
        view.complete()
        self._view = view
        self._key_of = view.schema.key_of()
        self.states: dict[bytes, Any] = {}
        for event in events:
            self._fold(type(event).FromString(event.SerializeToString()))

    def _fold(self, event: Message) -> None:
        field = self._view.schema.events.get(type(event))
        if field is None:
            raise MisdeclaredError(f"{type(event).__name__} is not an event of {self._view.schema.envelope.__name__}")
        if field in self._view.ignored:
            return
        key = self._key_of(event)
        state = self.states.get(key)
        if state is None:
            state = self.states[key] = self._view.state()
        self._view.handlers[field](state, self._view.taken(field, event))

    def ask(self, request: Message) -> Asked:
        """The answer to a get, watch (its first) or list, key filled in, without read header. Raises UnknownKeyError."""
        query = self._view.queries.get(request.DESCRIPTOR.full_name)
        if query is None:
            raise MisdeclaredError(f"view `{self._view.name}` answers no {type(request).__name__}")
        if query.shape.kind == "list":
            return Asked(self._list(query, request))
        if query.shape.kind == "windows":
            return Asked(self._windows(query, request))
        key = self._key_of(request)
        if key not in self.states:
            raise UnknownKeyError(f"no event of {key.decode()} has been folded")
        return Asked(self._answer(query, request, key))

    def _list(self, query: Query, request: Message) -> Message:
        response = query.shape.response()
        for key in sorted(self.states):
            item = self._answer(query, request, key)
            if item is not None:
                getattr(response, query.shape.items).append(item)
        if query.shape.descending:
            getattr(response, query.shape.items).sort(key=attrgetter(query.shape.descending), reverse=True)
        return response

    def _windows(self, query: Query, request: Any) -> Message:
        """All that begin in the range, on one page."""
        key = self._key_of(request)
        if key not in self.states:
            raise UnknownKeyError(f"no event of {key.decode()} has been folded")
        state, asked = self._copy(key), getattr(request, query.shape.range)
        piece = Piece(request.window_s, asked.from_us, asked.upto_us)
        response = query.shape.response()
        for window in Held(getattr(state, self._view.windows_field), [piece]).windows(request.window_s):
            getattr(response, query.shape.items).append(query.function(state, request, window))
        query.shape.fill_in_key(response, self._view.schema.key, key)
        return response

    def _copy(self, key: bytes) -> Any:
        codec = self._view.codec
        return codec.decode(codec.encode(self.states[key]))

    def _answer(self, query: Query, request: Message, key: bytes) -> Any:
        state, found = self._copy(key), []
        if query.shape.range:
            asked, series = getattr(request, query.shape.range), self._view.series
            assert series is not None
            held = Held(getattr(state, self._view.windows_field), pieces(series, asked.from_us, asked.upto_us))
            found = [held.total(asked.from_us, asked.upto_us)]
        answer = query.function(state, request, *found)
        if answer is not None:
            query.shape.fill_in_key(answer, self._view.schema.key, key)
        return answer


class Asked:
    """An answer. `then` compares; `answer` is there for everything else."""

    def __init__(self, answer: Message) -> None:
        self.answer = answer

    def then(self, expected: Message) -> None:
        """Raises AssertionError that shows both."""
        assert self.answer == expected, f"expected\n{expected}\ngot\n{self.answer}"


def given(view: View[Any], events: Iterable[Message] = ()) -> Given:
    """Folds `events`, in order, into `view`."""
    return Given(view, events)
