"""Stateless commands: what a gateway turns into events and answers once they are durable.

    arms = Commands("fleet.arms.v1.ArmCommandService", publishes=ArmEvent)

A handler is a plain function from what was asked, already checked against the rules of its proto, to the event that states it as done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message

from aorist.declare.descriptors import Descriptor, MethodDescriptor, class_of
from aorist.declare.handlers import message_type, misdeclared, place_here, place_of, signature_of
from aorist.declare.restating import Restating
from aorist.declare.schema import field_of_type, schema_of, service_named
from aorist.errors import MisdeclaredError
from aorist.ports import NewRecord
from aorist.v1 import position_pb2

Handler = TypeVar("Handler", bound=Callable[..., Message])


@dataclass(frozen=True)
class CommandShape:
    """One rpc of a command service. Names are those of fields.

    Unary: `positions` holds one Position. Stream: `items` in the request; `acknowledged`, `positions` (repeated) and `refused` in the
    response, whose `sequence`, `index` and `violations` name a refused item.
    """

    method: MethodDescriptor
    request: type[Message]
    response: type[Message]
    positions: str
    items: str = ""
    item: type[Message] | None = None
    refused: str = ""

    @property
    def streamed(self) -> bool:
        return bool(self.items)


@dataclass(frozen=True)
class Command:
    """One handler with the shape of its rpc."""

    function: Callable[[Any], Message]
    shape: CommandShape


class Commands:
    """Declares a command service without state.

    service: full name, such as "fleet.arms.v1.ArmCommandService". publishes: the envelope of the events its commands cause; it is
    the only publisher of that topic.
    """

    def __init__(self, service: str, *, publishes: type[Message]) -> None:
        self.place = f"{place_here()}: {service}"
        """Where it is declared, for messages."""
        self.schema = schema_of(publishes)
        self.service = service_named(service, publishes, self.place)
        self.commands: dict[str, Command] = {}

    def command(self, handler: Handler) -> Handler:
        """Handles a unary command: `def report(ask: ReportJointPositionsRequest) -> JointPositionsChanged`."""
        return self._add(handler, streamed=False)

    def stream(self, handler: Handler) -> Handler:
        """Handles each item of a stream of batches: `def changed(sample: JointSample) -> JointPositionsChanged`.

        Where the event says just what was asked: `changed = arms.stream(restating(JointSample, JointPositionsChanged))`.
        """
        return self._add(handler, streamed=True)

    def recorder(self, command: Command) -> Callable[[Any], NewRecord]:
        """Function from what was asked, already checked, to the record of the event that its handler makes of it."""
        handler, record = command.function, self.schema.recorder()
        if isinstance(handler, Restating):
            return self.schema.restater(handler.asked, handler.event)
        return lambda asked: record(handler(asked))

    def complete(self) -> None:
        """Raises MisdeclaredError for a command without handler. The loader calls it after the import of each role file."""
        for method in self.service.methods:
            if method.name not in self.commands:
                shape = _shape(method)
                taken, kind = (shape.item, "stream") if shape.item else (shape.request, "command")
                raise MisdeclaredError(
                    f"{self.place}: nothing handles {method.name}: add a handler that takes {taken.__name__}, with `.{kind}`"
                )

    def _add(self, handler: Handler, *, streamed: bool) -> Handler:
        taken, event = _signature(handler, "sample" if streamed else "ask")
        if event not in self.schema.events:
            known = ", ".join(e.__name__ for e in self.schema.events)
            misdeclared(
                handler,
                f"returns {event.__name__}, which is not an event of {self.schema.envelope.__name__} (it has: {known})",
            )
        shape = next(
            (s for s in map(_shape, self.service.methods) if taken is (s.item if streamed else s.request)), None
        )
        if shape is None or shape.streamed != streamed:
            kind = "stream of batches of" if streamed else "unary rpc that takes"
            misdeclared(
                handler,
                f"{self.service.full_name} has no {kind} {taken.__name__}: add the rpc, or correct the annotation",
            )
        if shape.method.name in self.commands:
            other = place_of(self.commands[shape.method.name].function)
            misdeclared(handler, f"{shape.method.name} already has a handler, {other}: remove one of them")
        self.commands[shape.method.name] = Command(handler, shape)
        return handler


def _signature(handler: Callable[..., Message], name: str) -> tuple[type[Message], type[Message]]:
    if isinstance(handler, Restating):
        return handler.asked, handler.event
    takes, gives = signature_of(handler, name)
    return message_type(handler, takes[0], "parameter"), message_type(handler, gives, "result")


def _shape(method: MethodDescriptor) -> CommandShape:
    request, response = class_of(method.input_type), class_of(method.output_type)
    where = f"{method.containing_service.file.name}: {method.full_name}"
    streamed = method.client_streaming and method.server_streaming
    if method.client_streaming != method.server_streaming:
        raise MisdeclaredError(f"{where}: a command is unary, or a stream both ways")
    positions = field_of_type(response.DESCRIPTOR, position_pb2.Position, repeated=streamed)
    if positions is None:
        raise MisdeclaredError(
            f"{where}: {response.__name__} needs one {'repeated ' * streamed}aorist.v1.Position: answers say where events are"
        )
    if not streamed:
        return CommandShape(method, request, response, positions)
    batches = [f for f in request.DESCRIPTOR.fields if f.is_repeated and f.message_type]
    refused = [f for f in response.DESCRIPTOR.fields if f.is_repeated and f.message_type and f.name != positions]
    if len(batches) != 1 or "sequence" not in request.DESCRIPTOR.fields_by_name:
        raise MisdeclaredError(f"{where}: {request.__name__} needs `uint64 sequence` and one repeated message field")
    if (
        len(refused) != 1
        or not _says(refused[0].message_type, "sequence", "index", "violations")
        or not _says(response.DESCRIPTOR, "acknowledged_sequence")
    ):
        raise MisdeclaredError(
            f"{where}: {response.__name__} needs `uint64 acknowledged_sequence` and one repeated message for what is refused, "
            "with `sequence`, `index` and `google.rpc.BadRequest violations`"
        )
    item = class_of(batches[0].message_type)
    return CommandShape(method, request, response, positions, batches[0].name, item, refused[0].name)


def _says(descriptor: Descriptor, *names: str) -> bool:
    return all(name in descriptor.fields_by_name for name in names)
