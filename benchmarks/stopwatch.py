"""Run a command and write what it took, as JSON: ``stopwatch.py REPORT COMMAND [ARGUMENT ...]``.

It is a program of its own, and a small one, because the system counts as a process's peak of memory what its parent
held when it was started (getrusage(2), ``ru_maxrss``, survives execve).
"""

import json
import os
import sys
import time


def main(report: str, *command: str) -> None:
    """Wait for the command and write wall seconds, CPU seconds and peak bytes, of all it waited for, and its status."""
    began = time.monotonic()
    process = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(process, 0)
    seconds = time.monotonic() - began
    took = {
        "seconds": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,
        "status": os.waitstatus_to_exitcode(status),
    }
    with open(report, "w", encoding="utf-8") as file:  # noqa: PTH123 - pathlib would weigh more than all the rest
        json.dump(took, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
