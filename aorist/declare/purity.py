"""Looks on while a fold runs: what it reaches for that a replay would not find again."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

CLOCKS = frozenset(
    {
        "time.time",
        "time.time_ns",
        "time.monotonic",
        "time.monotonic_ns",
        "time.perf_counter",
        "time.perf_counter_ns",
        "time.process_time",
        "time.process_time_ns",
        "time.thread_time",
        "time.thread_time_ns",
        "time.clock_gettime",
        "time.clock_gettime_ns",
        "time.localtime",
        "datetime.now",
        "datetime.utcnow",
        "datetime.today",
        "date.today",
    }
)
OUTSIDE = {
    "random": "chance",
    "secrets": "chance",
    "uuid": "chance",
    "os": "the system",
    "posix": "the system",
    "subprocess": "the system",
    "_thread": "threads",
    "threading": "threads",
    "socket": "the network",
    "_socket": "the network",
    "ssl": "the network",
    "logging": "the log",
    "tempfile": "files",
}
"""What a module is a door to. Of `uuid` its making of new ones only."""

CALLS = {
    "io.open": "files",
    "_io.open": "files",
    "io.open_code": "files",
    "time.sleep": "the clock",
    "builtins.print": "the terminal",
    "builtins.input": "the terminal",
}
HARMLESS = frozenset({"posix.fspath", "os.fspath", "_thread.get_ident", "_thread.RLock", "_thread.allocate_lock"})
IMPORTING = "_frozen_importlib"


class Touch:
    """The first thing reached for, such as `time.time`, `the clock`, `things.py:12`. `what` is empty while there is none.

    home: the file whose lines are named.
    """

    def __init__(self, home: str) -> None:
        self.what = self.door = self.where = ""
        self._home = home
        self._import: FrameType | None = None

    def see(self, frame: FrameType, happening: str, callee: Any) -> None:
        """A profile function: C functions are seen however a file has named them."""
        if self._import is not None:  # a module is found on the disk once; what is in it is looked at when it is called
            if happening == "return" and frame is self._import:
                self._import = None
        elif happening == "call":
            module = frame.f_globals.get("__name__", "")
            if module == IMPORTING:
                self._import = frame
            elif module in OUTSIDE and frame.f_back is not None:
                self._note(f"{module}.{frame.f_code.co_name}", frame.f_back)
        elif happening == "c_call":
            self._note(_name_of(callee), frame)

    def _note(self, name: str, caller: FrameType) -> None:
        door = _door(name)
        if door and not self.what:
            self.what, self.door = name, door
            frame: FrameType | None = caller
            while frame is not None and frame.f_code.co_filename != self._home:
                frame = frame.f_back
            at = frame or caller
            self.where = f"{at.f_code.co_filename}:{at.f_lineno}"


def _name_of(callee: Any) -> str:
    owner = getattr(callee, "__self__", None)
    if isinstance(owner, random.Random):
        return f"random.{callee.__name__}"
    if isinstance(owner, type):
        return f"{owner.__name__}.{callee.__name__}"
    return f"{getattr(callee, '__module__', '')}.{callee.__name__}"


def _door(name: str) -> str:
    if name in CLOCKS:
        return "the clock"
    if name in HARMLESS:
        return ""
    module, _, function = name.rpartition(".")
    if module == "uuid" and function not in ("uuid1", "uuid4"):
        return ""
    return CALLS.get(name) or OUTSIDE.get(module, "")


@contextmanager
def watched(home: str) -> Iterator[Touch]:
    """What this thread does within is looked at; no garbage is collected then, since others may do anything at that."""
    touch, before, collects = Touch(home), sys.getprofile(), gc.isenabled()
    gc.disable()
    sys.setprofile(touch.see)
    try:
        yield touch
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()
