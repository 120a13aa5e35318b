"""The program: ``replicator``, or ``python -m replicator``."""

import gc
import os
import sys

from replicator import __version__


def main() -> None:
    """Run the command line; the program's entry point."""
    # Without typer: its import takes twice as long as the start of Python.
    if sys.argv[1:] in (["--version"], ["version"]) and _is_version_printed():
        return
    if os.getpid() == 1:
        _end_by_sigterm()
    # Modules are never garbage, and scanning them again and again would take a tenth of the start. The command line
    # enables the collector when it has imported the command.
    gc.disable()
    from replicator import commands

    gc.freeze()
    commands.main()


def _end_by_sigterm() -> None:
    """Let SIGTERM end the first process of a container, until a command handles it: the kernel would ignore it."""
    import signal

    from replicator.errors import INTERRUPTED

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(INTERRUPTED))


def _is_version_printed() -> bool:
    """Print the version; where that fails, the command line does it again, and tells why it can't."""
    try:
        print(f"replicator {__version__}", flush=True)  # noqa: T201 - the answer
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
