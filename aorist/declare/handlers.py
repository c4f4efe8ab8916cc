"""What the handlers of a domain file look like, read from their annotations. Every refusal names file, line and function."""

from __future__ import annotations

import dis
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from google.protobuf.message import Message

from aorist.errors import MisdeclaredError


class Signature(NamedTuple):
    """Types of the parameters, in order, and of the result."""

    takes: tuple[Any, ...]
    gives: Any


def place_of(function: Callable[..., Any]) -> str:
    """`file:line function`, for messages."""
    code = getattr(function, "__code__", None)
    if code is None:
        return repr(function)
    return f"{code.co_filename}:{code.co_firstlineno} {code.co_name}"


def misdeclared(function: Callable[..., Any], problem: str) -> NoReturn:
    """Raises MisdeclaredError that begins with the place of `function`."""
    raise MisdeclaredError(f"{place_of(function)}: {problem}")


def signature_of(function: Callable[..., Any], *names: str) -> Signature:
    """The annotated types of a plain function with parameters such as `names`. Raises MisdeclaredError."""
    shape = f"{getattr(function, '__name__', 'handler')}({', '.join(names)})"
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        misdeclared(function, "is a generator, which may be left half-run: return a value or a list")
    if inspect.iscoroutinefunction(function) or not isinstance(function, types.FunctionType):
        misdeclared(function, f"must be a plain function: def {shape}; handlers do no I/O")
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != len(names) or any(p.kind is not p.POSITIONAL_OR_KEYWORD for p in parameters):
        misdeclared(function, f"must take exactly {len(names)} parameter{'s' * (len(names) > 1)}: def {shape}")
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        misdeclared(function, f"an annotation cannot be resolved ({error}): import the type at the top of the file")
    for parameter in parameters:
        if parameter.name not in hints:
            misdeclared(function, f"parameter `{parameter.name}` has no annotation: types are how handlers are found")
    if "return" not in hints:
        misdeclared(function, "has no annotation of its result: write `-> ...`")
    return Signature(tuple(hints[p.name] for p in parameters), hints["return"])


def message_type(function: Callable[..., Any], hint: Any, what: str) -> type[Message]:
    """`hint` as a message class. Raises MisdeclaredError."""
    if not (isinstance(hint, type) and issubclass(hint, Message)):
        misdeclared(function, f"its {what} must be a protobuf message, not {getattr(hint, '__name__', hint)}")
    return hint


ONLY_ITS_KEY = "apply may touch the state of the event's own key only"
_MUTABLE = (dict, list, set, bytearray, Message)


def check_touches_only_its_key(function: Callable[..., Any]) -> None:
    """Refuses an apply that could reach beyond the state of its own key: global or captured variables that can change.

    A fold that remembers anything outside the state it is given is not repeatable, and is lost at the next restart.
    """
    code = function.__code__
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF"):
            misdeclared(function, f"changes `{instruction.argval}` outside its state: {ONLY_ITS_KEY}")
    outside = inspect.getclosurevars(function)
    for name, value in {**outside.globals, **outside.nonlocals}.items():
        if isinstance(value, _MUTABLE):
            beyond = f"uses `{name}`, a {type(value).__name__} outside its state"
            misdeclared(function, f"{beyond}: {ONLY_ITS_KEY}; keep it in the state, or make it a constant")
