"""``python -m benchmarks chaos``: rounds of everything that can happen, for minutes, and what is wrong in the end.

What happens is in `tests.end_to_end.chaos`, which the suite runs for one round.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.measuring import RunFailed
from tests.end_to_end.chaos import Chaos

if TYPE_CHECKING:
    from tests.end_to_end.chaos import Found

_PAUSE = 0.1
"""Mean seconds between two pushes."""


async def chaos(minutes: float, seed: int) -> Found:
    """Run it; the directory with the logs is kept if anything was wrong.

    Args:
        minutes: how long pushes are made at least.
        seed: for the order of the faults.

    Raises:
        RunFailed: redis-server is not installed.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise RunFailed("redis-server is not installed")
    directory = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    found = await Chaos(directory, program, seed, pause=_PAUSE, sentinels=3).run(minutes)
    if found.wrong:
        print(f"The logs are in {directory}.")
    else:
        shutil.rmtree(directory)
    return found


def judge(found: Found) -> None:
    """Look at the end of a run.

    Raises:
        RunFailed: anything was wrong.
    """
    if found.wrong:
        raise RunFailed(f"seed {found.seed}: " + "; ".join(found.wrong[:5]))


def report(found: Found) -> Table:
    """Make a table of a run."""
    table = Table(title=f"chaos for {found.seconds / 60:.1f} minutes, seed {found.seed}", title_justify="left")
    table.add_column("what")
    table.add_column("number", justify="right")
    for name, count in found.counts.items():
        table.add_row(name, f"{count:,}")
    for name in ("lost", "stale", "overlapping", "broken"):
        table.add_row(name, f"{len(getattr(found, name)):,}")
    table.add_row("seconds until all was right", f"{found.settled:.0f}")
    return table
