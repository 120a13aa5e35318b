"""Run a program that ends when its parent does: ``python pdeathsig.py PARENT_PID PROGRAM ARGUMENT…``.

A program of its own, started with ``python -I -S``, because the setting must be made between fork and exec, where
code of a process with threads must not run (``subprocess``, ``preexec_fn``). The setting survives the exec. On other
systems than Linux the program is just run.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set the signal, make sure the parent is still there, become the program."""
    parent = int(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit("the parent has ended")
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - this is what it is for


if __name__ == "__main__":
    main()
