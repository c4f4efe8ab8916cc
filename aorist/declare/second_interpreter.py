"""A second Python interpreter that folds the same events: other hashes, hence another order of sets, and nothing remembered.

It says `""` when it is ready, else why it is not. Then it answers each line of events, `[[field, hex of the event], ...]`, with a line of
states, `{hex of the key: hex of the state}`, or with what went wrong.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from aorist.declare.view import View

ANSWER_S = 120.0
"""How long one answer may take, also on a busy machine; the first includes the start of the interpreter."""

Folded = tuple[str, bytes]
"""Field of the envelope and bytes of an event."""


class SecondInterpreter:
    """Folds with `view` as a module declares it. Close it."""

    def __init__(self, view: View[Any], module: str) -> None:
        seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve({module!r}, {view.name!r})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            text=True,
        )
        self.problem = self._answer()
        """Why it cannot fold; empty where it can."""

    def fold(self, events: Iterable[Folded]) -> dict[bytes, bytes] | str:
        """The states after these events, as bytes; or what went wrong with them."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: its silence is told below
            self._process.stdin.write(json.dumps([[field, data.hex()] for field, data in events]) + "\n")
            self._process.stdin.flush()
        answer = self._answer()
        if isinstance(answer, str):
            return answer
        return {bytes.fromhex(key): bytes.fromhex(state) for key, state in answer.items()}

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_S)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            return f"it gave no answer within {ANSWER_S:g} s" if not ready else "it ended"
        return json.loads(line)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def module_of(view: View[Any]) -> str | None:
    """The module that a second interpreter can import to have `view`; None where no file declares it at its top level."""
    for handler in view.handlers.values():
        module = sys.modules.get(handler.__module__)
        if module is not None and module.__name__ != "__main__" and any(one is view for one in vars(module).values()):
            return module.__name__
    return None


def serve(module: str, name: str) -> None:
    """What runs in it: until its input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what domain code prints is no answer

    def say(answer: object) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        declared = [one for one in vars(importlib.import_module(module)).values() if isinstance(one, View)]
    except Exception as error:  # noqa: BLE001  # whatever a file does at import
        say(f"{module} cannot be imported there: {type(error).__name__}: {error}")
        return
    say("")
    view = next(one for one in declared if one.name == name)
    types = {field: event for event, field in view.schema.events.items()}
    for line in sys.stdin:
        events = [(field, types[field].FromString(bytes.fromhex(data))) for field, data in json.loads(line)]
        try:
            say(_folded(view, events))
        except Exception as error:  # noqa: BLE001  # whatever domain code raises is the answer
            say(f"it raised {type(error).__name__}: {error}")


def _folded(view: View[Any], events: Iterable[tuple[str, Any]]) -> dict[str, str]:
    key_of, states = view.schema.key_of(), dict[bytes, Any]()
    for field, event in events:
        key = key_of(event)
        if key not in states:
            states[key] = view.state()
        view.handlers[field](states[key], view.taken(field, event))
    return {key.hex(): view.codec.encode(state).hex() for key, state in states.items()}
