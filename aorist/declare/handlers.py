"""What the handlers of a domain file look like, read from their annotations. Every refusal names file, line and function."""

from __future__ import annotations

import dis
import inspect
import types
import typing
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence, MutableSet
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


def place_here() -> str:
    """`file:line` of the domain file that is declaring something right now, for messages."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("aorist.declare."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "?"


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
    except (NameError, AttributeError) as error:  # AttributeError: of a module, as in `events_pb2.Mistyped`
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
_MUTABLE = (MutableMapping, MutableSequence, MutableSet, Message)


def check_touches_only_its_key(function: Callable[..., Any]) -> None:
    """Refuses an apply that could reach beyond the state of its own key: global or captured variables that can change.

    A fold that remembers anything outside the state it is given is not repeatable, and is lost at the next restart. Looked at are the
    function, what is nested in it, and the functions of its file that it calls.
    """
    assert isinstance(function, types.FunctionType)  # its signature was read
    _check_reach(function, function, {function})


def _check_reach(apply: types.FunctionType, function: types.FunctionType, seen: set[types.FunctionType]) -> None:
    captured = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    for instruction in _instructions(function.__code__):
        operation, name = instruction.opname, instruction.argval
        if operation in ("STORE_GLOBAL", "DELETE_GLOBAL") or (operation == "STORE_DEREF" and name in captured):
            misdeclared(apply, f"changes `{name}` outside its state: {ONLY_ITS_KEY}")
        if operation == "LOAD_GLOBAL":
            value = function.__globals__.get(name)
        elif operation in ("LOAD_DEREF", "LOAD_CLASSDEREF") and name in captured:
            value = _content(captured[name])
        else:
            continue
        if _can_change(value):
            beyond = f"uses `{name}`, a {type(value).__name__} outside its state"
            misdeclared(apply, f"{beyond}: {ONLY_ITS_KEY}; keep it in the state, or make it a constant")
        if isinstance(value, types.FunctionType) and value not in seen:
            seen.add(value)
            if value.__code__.co_filename == apply.__code__.co_filename:
                _check_reach(apply, value, seen)


def _instructions(code: types.CodeType) -> Iterator[dis.Instruction]:
    """Of a function and everything nested in it, such as comprehensions and lambdas."""
    yield from dis.get_instructions(code)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _instructions(constant)


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # nothing in it yet
        return None


def _can_change(value: object) -> bool:
    if isinstance(value, type):
        return False
    parameters = getattr(type(value), "__dataclass_params__", None)
    return isinstance(value, _MUTABLE) or (parameters is not None and not parameters.frozen)
