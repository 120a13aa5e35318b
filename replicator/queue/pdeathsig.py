"""A launcher for a program that ends with its parent: ``python pdeathsig.py PARENT_PID PROGRAM ARGUMENT…``.

It is a program of its own, started with ``python -I -S``, because the setting must be made between fork and exec, where
a process with threads must not run code (``subprocess``, ``preexec_fn``). The setting survives the exec. On systems
other than Linux it just runs the program.
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
        # The parent may have ended before the setting was made; then the signal never comes.
        if os.getppid() != parent:
            sys.exit("the parent has ended")
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - the purpose of this program


if __name__ == "__main__":
    main()
