"""Measures one run of one command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import stopwatch
from tests.running import environment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


SAID = "said.txt"
"""The file of a run's directory with what the command wrote."""
_MOST_WORDS = 500
"""Characters that are shown of what a failed program said."""


class RunFailed(Exception):
    """A command did not do what it was measured for; the message ends with what it wrote."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one run of a command took, start-up included.

    Attributes:
        seconds: of wall time.
        cpu: seconds of processor time, of the command and of what it started.
        peak: bytes of resident memory, of the largest process among them.
    """

    seconds: float
    cpu: float
    peak: int


async def measure(command: Sequence[str], scratch: Path) -> Measurement:
    """Run a command to its end.

    Args:
        command: program and arguments.
        scratch: an empty directory for it to run in.

    Raises:
        RunFailed: it ended with an error.
    """
    report, said = scratch / "took.json", scratch / SAID
    with said.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", stopwatch.__file__, str(report), *command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=scratch,
            env=_environment(scratch),
            # So that one signal ends the command too.
            start_new_session=True,
        )
        try:
            await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
    took: dict[str, Any] = json.loads(report.read_bytes()) if process.returncode == 0 else {}
    if took.get("status") != 0:
        # Whole lines of the end: a log may precede the reason.
        first, *rest = reversed(said.read_text("utf-8", "replace").strip().splitlines() or [""])
        words = first[:_MOST_WORDS]
        for line in rest:
            if len(words) + len(line) > _MOST_WORDS:
                break
            words = f"{line}\n{words}"
        raise RunFailed(f"{command[0]} ended with {took.get('status', 'nothing')}: {words}")
    return Measurement(took["seconds"], took["cpu"], took["peak"])


def _environment(scratch: Path) -> dict[str, str]:
    """The variables of a run: those of tests without what slows the start of a Python program down."""
    variables = environment(REPLICATOR_STATE_DIR=str(scratch / "state"))
    slow = ("PYTHONWARNINGS", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONDEVMODE")
    return {name: value for name, value in variables.items() if name not in slow}
