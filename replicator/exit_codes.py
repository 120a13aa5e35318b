"""What the program's exit codes mean."""

from __future__ import annotations

OK = 0
"""Everything is in place."""
FAILED = 1
"""A copy failed."""
USAGE = 2
"""The command line, the settings or the rules can't be used; nothing was started."""
INTERRUPTED = 130
"""Ended by Ctrl-C or SIGTERM before it was done."""
