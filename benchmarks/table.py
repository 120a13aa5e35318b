"""Standings as a table."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.contest import Contest, Standing


def table(contest: Contest, standings: Sequence[Standing]) -> Table:
    """Make the table: a row a contender, wall time as minimum and median, the rest as medians."""
    made = Table(title=contest.title, title_justify="left", caption=_CAPTION, caption_justify="left")
    made.add_column("program")
    for heading in ("wall min", "median", "CPU", "peak", "requests", *(f"x {name}" for name in contest.yardsticks)):
        made.add_column(heading, justify="right")
    for standing in standings:
        walls = [run.seconds for run in standing.runs]
        made.add_row(
            standing.name,
            f"{min(walls):.2f} s",
            f"{statistics.median(walls):.2f} s",
            f"{statistics.median(run.cpu for run in standing.runs):.2f} s",
            f"{statistics.median(run.peak for run in standing.runs) / 1e6:.0f} MB",
            str(standing.requests),
            *(f"{standing.ratios[name]:.2f}" for name in contest.yardsticks),
        )
    return made


_CAPTION = "CPU and peak are the program's own; requests are those at the destination; x is wall time, round by round."
