"""`nursery TOPIC PROJECT`: materializers without the second of CPU time that a start takes: each is a fork of this process.

A line on standard input is the name of a member; one of that name is started, and `started PID` said. All die with this process.
"""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import uvloop

from bench.children.role import main

PR_SET_PDEATHSIG = 1


def live(member: str, topic: str, root: Path) -> None:
    assert ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) == 0
    os.environ["AORIST_MEMBER"] = member
    uvloop.run(main("materializer", topic, root))


def nurse(topic: str, root: Path) -> None:
    """Until standard input ends. Has no thread and no connection that a fork could not take along."""
    for adapter in ("kafka", "cassandra"):
        importlib.import_module(f"aorist.adapters.{adapter}")
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "threads do not survive a fork"
    processes = multiprocessing.get_context("fork")
    for line in sys.stdin:
        process = processes.Process(target=live, args=(line.strip(), topic, root), daemon=True)
        process.start()
        print(f"started {process.pid}", flush=True)


if __name__ == "__main__":
    nurse(sys.argv[1], Path(sys.argv[2]))
