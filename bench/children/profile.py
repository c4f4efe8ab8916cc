"""Where the time goes: with BENCH_PROFILE=FOLDER every child samples the stacks of its threads and writes what it saw there.

A sample counts whichever function a thread is in, also while it waits for the interpreter: read the share within a thread, not the sum.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

EVERY_S = 0.002
MOST = 30


@contextmanager
def profiled(name: str) -> Iterator[None]:
    folder = os.environ.get("BENCH_PROFILE")
    if not folder:
        yield
        return
    ended, inside, within = threading.Event(), Counter[str](), Counter[str]()
    sampler = threading.Thread(target=_sample, args=(ended, inside, within), daemon=True)
    sampler.start()
    try:
        yield
    finally:
        ended.set()
        sampler.join()
        lines = ["--- in the function itself", *_most(inside), "--- in the function and what it calls", *_most(within)]
        Path(folder, f"{name}-{os.getpid()}.txt").write_text("\n".join(lines) + "\n")


def _most(seen: Counter[str]) -> list[str]:
    total = seen.total() or 1
    return [f"{count / total:6.1%}  {where}" for where, count in seen.most_common(MOST)]


def _sample(ended: threading.Event, inside: Counter[str], within: Counter[str]) -> None:
    me = threading.get_ident()
    while not ended.is_set():
        time.sleep(EVERY_S)
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():  # noqa: SLF001  # there is no public way
            if ident != me:
                _note(names.get(ident, "?"), frame, inside, within)


def _note(thread: str, top: FrameType, inside: Counter[str], within: Counter[str]) -> None:
    inside[f"{thread}: {_place(top, line=True)}"] += 1
    seen, frame = set(), top
    while True:
        seen.add(f"{thread}: {_place(frame, line=False)}")
        if frame.f_back is None:
            break
        frame = frame.f_back
    within.update(seen)


def _place(frame: FrameType, *, line: bool) -> str:
    code = frame.f_code
    at = "/".join(Path(code.co_filename).parts[-2:])
    return f"{at}:{frame.f_lineno} {code.co_name}" if line else f"{at} {code.co_qualname}"
