"""Results as tables."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.contest import Contest, Standing

FEWEST = "(fewest)"
"""The row of those requests that nobody can do without."""


def table(contest: Contest, standings: Sequence[Standing]) -> Table:
    """Make the table: a row a contender, wall time as minimum and median, the rest as medians."""
    made = Table(title=contest.title, title_justify="left", caption=_CAPTION, caption_justify="left")
    made.add_column("program")
    requests = ["requests", "a tag"] if len(contest.images) > 1 else ["requests"]
    for heading in ("wall min", "median", "CPU", "peak", *requests, *(f"x {name}" for name in contest.yardsticks)):
        made.add_column(heading, justify="right")
    for standing in standings:
        walls = [run.seconds for run in standing.runs]
        made.add_row(
            standing.name,
            f"{min(walls):.2f} s",
            f"{statistics.median(walls):.2f} s",
            f"{statistics.median(run.cpu for run in standing.runs):.2f} s",
            f"{statistics.median(run.peak for run in standing.runs) / 1e6:.0f} MB",
            *_requests(contest, standing.requests.total()),
            *(f"{standing.ratios[name]:.2f}" for name in contest.yardsticks),
        )
    made.add_section()
    made.add_row(FEWEST, *[""] * 4, *_requests(contest, contest.fewest))
    return made


def requests_table(contest: Contest, standings: Sequence[Standing]) -> Table:
    """Make a table of what the destination was asked: a row a kind of request, a column a contender."""
    made = Table(title=f"{contest.title}: requests", title_justify="left")
    made.add_column("request")
    for standing in standings:
        made.add_column(standing.name, justify="right")
    for kind in sorted(set().union(*(standing.requests for standing in standings))):
        made.add_row(kind, *(str(standing.requests[kind] or "") for standing in standings))
    made.add_section()
    made.add_row("all", *(str(standing.requests.total()) for standing in standings))
    return made


def _requests(contest: Contest, number: int) -> list[str]:
    """In all and, where there are several, for each tag."""
    tags = len(contest.images)
    return [str(number), f"{number / tags:.1f}"] if tags > 1 else [str(number)]


_CAPTION = (
    "CPU and peak are the program's own; requests are those at the destination, for tokens too; "
    "x is wall time, round by round."
)
