"""A view: events folded, per key, into a state that can be asked for.

    arm_position = View("arm_position", events=ArmEvent, state=Arm, codec=...)

`apply` folds one event into the state of its key. It is pure: no I/O, no clock, no randomness, nothing outside the state; replayed
from any earlier position it must end in the same state. `get`, `list` and `watch` turn a state into answers; the library fills in key
and read header. All are plain functions and come back unchanged.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_args

from google.protobuf.message import Message

from aorist.declare.codec import Codec
from aorist.declare.descriptors import MethodDescriptor
from aorist.declare.handlers import (
    check_touches_only_its_key,
    message_type,
    misdeclared,
    place_here,
    place_of,
    signature_of,
)
from aorist.declare.queries import QueryShape, methods_answered_by, shape_of
from aorist.declare.ranges import InRange, Window
from aorist.declare.schema import EventSchema, check_whole_field, schema_of
from aorist.declare.seed import Seed
from aorist.declare.series import Series, Windows
from aorist.declare.stand_in import made_from, misreads, stands_in_for
from aorist.errors import MisdeclaredError
from aorist.ports import SeriesSpec
from aorist.position import build_name

S = TypeVar("S")
Handler = TypeVar("Handler", bound=Callable[..., Any])


@dataclass(frozen=True)
class Query:
    """One handler of a view with the shape of its rpc."""

    function: Callable[..., Message | None]
    shape: QueryShape


class View(Generic[S]):
    """Declares a view.

    name: as in `(aorist.v1.answered_by)`, in metrics and in snapshots; letters, digits and `_`.
    events: the envelope that it folds.
    state: a protobuf message, or a dataclass with slots and `codec` (folds twice as fast); made without arguments for a new key.
    ignores: events that mean nothing to it, named so that a forgotten one is an error.
    build: raise it by one when `apply` or the state changed meaning: the view is then folded anew into rows of its own.
    partial: fold what the log still has where it no longer reaches back, though another build answers, which holds what older events made.
    Without it such a build is refused.
    seeded_from: begin with the snapshots of an older build, and fold on from where they end. Not for a view with series.
    ordered_by: the field of its events, such as `sampled_at_us`, by whose order it folds: what is older than what it knows changes
    nothing. Say so where robots may send an event again that is long past; `check_fold` holds the view to it. Two events of one key and
    one time are taken to be the same event.
    examples: events that `check_fold` uses, for their types, in place of those that it makes up; for contracts whose rules it cannot read.
    """

    def __init__(
        self,
        name: str,
        *,
        events: type[Message],
        state: type[S],
        codec: Codec[S] | None = None,
        ignores: Sequence[type[Message]] = (),
        build: int = 1,
        partial: bool = False,
        seeded_from: Seed[S] | None = None,
        ordered_by: str = "",
        examples: Sequence[Message] = (),
    ) -> None:
        self.place = f"{place_here()}: view `{name}`"
        """Where it is declared, for messages."""
        if not name.isidentifier():
            raise MisdeclaredError(f"{self.place}: its name must be made of letters, digits and `_`")
        if build < 1:
            raise MisdeclaredError(f"{self.place}: build is {build}; builds count from 1")
        self.name, self.state, self.build = name, state, build
        self.build_name, self.partial = build_name(name, build), partial
        self.schema: EventSchema = schema_of(events)
        self.codec: Codec[S] = codec or self._message_codec()
        self.handlers: dict[str, Callable[[S, Any], None]] = {}
        self.takes: dict[str, type[Message]] = {}
        """What each handler takes, the event or its stand-in, by the event's field of the envelope. So are the handlers."""
        self.queries: dict[str, Query] = {}
        self.ignored = {self._event_field(event, f"{self.place}: ignores") for event in ignores}
        self.ordered_by, self.examples = ordered_by, tuple(examples)
        fresh = self._check_state()
        self._check_events()
        self.windows_field = self._windows_in(fresh)
        """The field of the state that holds its windows; empty: it keeps no series."""
        self.series: Series[Any] | None = getattr(fresh, self.windows_field).series if self.windows_field else None
        self.seeded_from = self._checked(seeded_from)

    # --- declaring ---

    def apply(self, handler: Handler) -> Handler:
        """Folds one type of event: `def moved(arm: Arm, event: JointPositionsChanged) -> None`. Which one, the annotation says.

        It may take, in place of the event, a message that says `(aorist.v1.stands_in_for)` it.
        """
        takes, gives = signature_of(handler, "state", "event")
        self._check_is_state(handler, takes[0])
        if gives is not type(None):
            misdeclared(handler, "must return None: apply changes the state it is given")
        taken = message_type(handler, takes[1], "event")
        event = self._event_of(handler, taken)
        field = self._event_field(event, place_of(handler))
        if field in self.handlers:
            misdeclared(
                handler, f"{event.__name__} already has a handler, {place_of(self.handlers[field])}: remove one of them"
            )
        if field in self.ignored:
            misdeclared(handler, f"{event.__name__} is also in `ignores`: remove it there, or remove this handler")
        check_touches_only_its_key(handler)
        self.handlers[field], self.takes[field] = handler, taken
        return handler

    def get(self, handler: Handler) -> Handler:
        """Answers a query for one key.

        Such as `def get(arm: Arm, ask: GetArmPositionRequest) -> GetArmPositionResponse`. Where the request holds an aorist.v1.TimeRange,
        the totals of that range come third: `def get(arm: Arm, ask: GetMotionRequest, found: InRange[Totals]) -> GetMotionResponse`.
        """
        return self._query(handler, "get")

    def list(self, handler: Handler) -> Handler:
        """Gives one key's part of a list, or None to leave it out. The library pages, scatters and merges.

        Such as `def each(arm: Arm, ask: ListArmPositionsRequest) -> ArmPosition | None`. A list over a range is ordered by a number, and
        its handler takes the key's totals third, as in `get`.
        """
        return self._query(handler, "list")

    def windows(self, handler: Handler) -> Handler:
        """Gives one window's part of an answer that lists the windows of one key. The library finds and pages them.

        Such as `def window(arm: Arm, ask: ListMotionWindowsRequest, found: Window[Totals]) -> MotionWindow`.
        """
        return self._query(handler, "windows")

    def watch(self, handler: Handler) -> Handler:
        """As `get`, for a stream: now, then whenever the key changes."""
        return self._query(handler, "watch")

    def complete(self) -> None:
        """Raises MisdeclaredError for what a finished file lacks. The loader calls it after the import of each role file."""
        for event, field in self.schema.events.items():
            if field not in self.handlers and field not in self.ignored:
                raise MisdeclaredError(
                    f"{self.place}: {event.__name__} has no handler: add `@{self.name}.apply` for it, or name it in `ignores`"
                )
        for method in self._methods():
            if method.input_type.full_name not in self.queries:
                raise MisdeclaredError(
                    f"{self.place}: nothing answers {method.full_name}: add a handler that takes {method.input_type.name}"
                )

    def taken(self, field: str, event: Message) -> Message:
        """`event`, of this field of the envelope, as its handler takes it."""
        takes = self.takes[field]
        return event if type(event) is takes else made_from(event, takes)

    def series_specs(self) -> Sequence[SeriesSpec]:
        """Windows of time that it keeps, one for each length."""
        return [SeriesSpec(self.name, *length) for length in self.series.lengths] if self.series else []

    # --- checking ---

    def _methods(self) -> Sequence[MethodDescriptor]:
        files = {
            q.shape.method.containing_service.file.name: q.shape.method.containing_service.file
            for q in self.queries.values()
        }
        return [method for file in files.values() for method in methods_answered_by(file, self.name)]

    def _query(self, handler: Handler, kind: str) -> Handler:
        takes, gives = signature_of(handler, "state", "ask", *self._third(handler, kind))
        self._check_is_state(handler, takes[0])
        ask = message_type(handler, takes[1], "request")
        if kind == "list" and (isinstance(gives, types.UnionType) or typing.get_origin(gives) is typing.Union):
            gives = next((t for t in get_args(gives) if t is not type(None)), gives)
        answer = message_type(handler, gives, "result")
        try:
            shape = shape_of(ask, self.schema, self.name)
        except MisdeclaredError as error:
            misdeclared(handler, str(error))
        if shape.kind != kind:
            what = "lists windows" if shape.kind == "windows" else f"is a {shape.kind}"
            misdeclared(handler, f"{shape.method.full_name} {what}: use `@{self.name}.{shape.kind}`")
        self._check_found(handler, shape, takes[2:])
        expected = shape.item if kind in ("list", "windows") else shape.response
        if answer is not expected:
            misdeclared(
                handler, f"must return {expected.__name__}, as {shape.method.full_name} does, not {answer.__name__}"
            )
        name = ask.DESCRIPTOR.full_name
        if name in self.queries:
            misdeclared(
                handler,
                f"{ask.__name__} already has a handler, {place_of(self.queries[name].function)}: remove one of them",
            )
        self.queries[name] = Query(handler, shape)
        return handler

    @staticmethod
    def _third(handler: Callable[..., Any], kind: str) -> tuple[str, ...]:
        """The parameter that a handler over a range has beyond the others: taken as there, so that what is wrong with it can be said."""
        code = getattr(handler, "__code__", None)
        return ("found",) if kind == "windows" or (code is not None and code.co_argcount == 3) else ()

    def _check_found(self, handler: Callable[..., Any], shape: QueryShape, takes: Sequence[Any]) -> None:
        """`takes`: the type of the third parameter, if there is one."""
        asks = f"{shape.request.DESCRIPTOR.name} asks for {'a' if shape.range else 'no'} range (aorist.v1.TimeRange)"
        if not shape.range and takes:
            misdeclared(handler, f"{asks}: remove its third parameter")
        if not shape.range:
            return
        if self.series is None:
            misdeclared(
                handler, f"{asks}, but view `{self.name}` keeps no series: give its state a field of type Windows"
            )
        kind = Window if shape.kind == "windows" else InRange
        if not takes or typing.get_origin(takes[0]) is not kind or get_args(takes[0]) != (self.series.totals,):
            totals = self.series.totals.__name__
            misdeclared(handler, f"{asks}: its third parameter must be `found: {kind.__name__}[{totals}]`")

    def _event_of(self, handler: Callable[..., Any], taken: type[Message]) -> type[Message]:
        name = stands_in_for(taken)
        if not name:
            return taken
        event = next((event for event in self.schema.events if event.DESCRIPTOR.full_name == name), None)
        if event is None:
            misdeclared(handler, f"{taken.__name__} stands in for {name}, no event of {self.schema.envelope.__name__}")
        if problem := misreads(taken.DESCRIPTOR, event.DESCRIPTOR):
            misdeclared(handler, f"{taken.__name__} cannot stand in for {event.__name__}: {problem}")
        return event

    def _event_field(self, event: type[Message], where: str) -> str:
        field = self.schema.events.get(event)
        if field is None:
            known = ", ".join(e.__name__ for e in self.schema.events)
            raise MisdeclaredError(
                f"{where}: {event.__name__} is not an event of {self.schema.envelope.__name__} (it has: {known})"
            )
        return field

    def _check_is_state(self, handler: Callable[..., Any], hint: Any) -> None:
        if hint is not self.state:
            wanted = f"the state of view `{self.name}`, {self.state.__name__}"
            misdeclared(handler, f"its first parameter must be {wanted}, not {getattr(hint, '__name__', hint)}")

    def _message_codec(self) -> Codec[S]:
        state: Any = self.state
        if not (isinstance(state, type) and issubclass(state, Message)):
            raise MisdeclaredError(
                f"{self.place}: its state is not a protobuf message: give it `codec=Codec(encode, decode)`"
            )
        parse: Any = state.FromString
        return Codec(lambda s: typing.cast("Message", s).SerializeToString(deterministic=True), parse)

    def _windows_in(self, fresh: S) -> str:
        fields = dataclasses.fields(fresh) if dataclasses.is_dataclass(fresh) else ()
        names = [field.name for field in fields if isinstance(getattr(fresh, field.name), Windows)]
        if len(names) > 1:
            raise MisdeclaredError(
                f"{self.place}: {self.state.__name__} has {len(names)} fields of type Windows ({', '.join(names)}): "
                "a view keeps one series; put all its totals into one type"
            )
        return names[0] if names else ""

    def _check_state(self) -> S:
        if dataclasses.is_dataclass(self.state) and "__slots__" not in vars(self.state):
            raise MisdeclaredError(f"{self.place}: {self.state.__name__} has no slots: write @dataclass(slots=True)")
        try:
            fresh = self.state()
        except TypeError as error:
            raise MisdeclaredError(
                f"{self.place}: {self.state.__name__}() cannot be made without arguments ({error}): give its fields defaults"
            ) from None
        if self.codec.decode(self.codec.encode(fresh)) != fresh:
            raise MisdeclaredError(
                f"{self.place}: decode(encode(...)) of a new {self.state.__name__} is not equal to it: correct its codec"
            )
        return fresh

    def _checked(self, seed: Seed[S] | None) -> Seed[S] | None:
        if seed is None:
            return None
        if not 0 < seed.build < self.build:
            raise MisdeclaredError(
                f"{self.place}: seeded_from names build {seed.build}, which is not an older one than {self.build}"
            )
        if self.series is not None:
            raise MisdeclaredError(
                f"{self.place}: seeded_from: it keeps series, and windows of another build are not its own: fold it anew"
            )
        seed.check(self.place, self.state)
        return seed

    def _check_events(self) -> None:
        for event, field in self.schema.events.items():
            if self.ordered_by and field not in self.ignored:
                check_whole_field(event.DESCRIPTOR, self.ordered_by, f"{self.place}: ordered_by")
        for example in self.examples:
            self._event_field(type(example), f"{self.place}: examples")
