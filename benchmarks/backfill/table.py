"""Results of backfills as tables."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.backfill.contest import Contest, Standing

_CAPTION = (
    "CPU and peak are the program's own, peak that of its largest process; tags/s is of the median; requests are those "
    "to Harbor's API, to its registry (tokens too) and to the destination."
)
_FEWER = " Who has fewer tags would take too long for all."


def table(contest: Contest, standings: Sequence[Standing]) -> Table:
    """Make the table: a row a contender, wall time as minimum and median, the rest as medians."""
    fewer = _FEWER if len({standing.tags for standing in standings}) > 1 else ""
    made = Table(title=contest.title, title_justify="left", caption=_CAPTION + fewer, caption_justify="left")
    made.add_column("program")
    for heading in ("tags", "wall min", "median", "tags/s", "CPU", "peak", "API", "Harbor", "destination"):
        made.add_column(heading, justify="right")
    for standing in standings:
        walls = [run.seconds for run in standing.runs]
        made.add_row(
            standing.name,
            str(standing.tags),
            f"{min(walls):.1f} s",
            f"{statistics.median(walls):.1f} s",
            f"{standing.tags / statistics.median(walls):.0f}",
            f"{statistics.median(run.cpu for run in standing.runs):.1f} s",
            f"{statistics.median(run.peak for run in standing.runs) / 1e6:.0f} MB",
            str(standing.api.total()),
            str(standing.registry.total()),
            str(standing.destination.total()),
        )
    return made


def requests_table(title: str, standings: Sequence[Standing]) -> Table:
    """Make a table of what was asked of whom: a row a kind of request, a column a contender."""
    made = Table(title=f"{title}: requests", title_justify="left")
    made.add_column("request", no_wrap=True)
    for standing in standings:
        made.add_column(standing.name, justify="right")
    for heading, counts in (
        ("API", [standing.api for standing in standings]),
        ("Harbor", [standing.registry for standing in standings]),
        ("destination", [standing.destination for standing in standings]),
    ):
        for kind in sorted(set().union(*counts)):
            made.add_row(f"{heading}: {kind}", *(str(count[kind] or "") for count in counts))
        made.add_section()
    totals = [one.api.total() + one.registry.total() + one.destination.total() for one in standings]
    made.add_row("all", *map(str, totals))
    return made
