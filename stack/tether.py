"""Becomes a program that dies with its launcher, even when that is killed.

Run as a script, `tether.py LAUNCHER_PID PROGRAM [ARGUMENT]...`, and replaced by the program, whose pid it is. Doing
this between fork and exec in the launcher would run Python in a copy of a process that may have threads holding locks.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        sys.exit("the kernel refuses to end this program with its launcher")
    if os.getppid() != int(sys.argv[1]):  # it died before we asked
        sys.exit("the launcher is gone")
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - becoming the program is the point
