"""What a person reads when a backfill has ended: the plan of a dry run, and the summary."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from replicator.backfill.report import MAX_FAILURES, Report, Row, RowOutcome
from replicator.backfill.spool import Spool
from replicator.printing import page, plain, short

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

_PLANNED = {RowOutcome.WOULD_COPY: "copy", RowOutcome.UP_TO_DATE: "skip", RowOutcome.SKIPPED: "skip"}
"""What a backfill would do with an image, by what a dry run found; all else is what it says."""
_ROWS_A_TABLE = 1000
"""Rows that are drawn at once: the width of the columns fits them."""


class Plan:
    """What a dry run found would be done with each tag; why something failed is told apart. See `Output`.

    Args:
        console: where it is printed at the end.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spool = Spool()

    def check(self) -> None:
        """Paper is always there."""

    def row(self, row: Row) -> None:
        """Take a row."""
        known = str(row.outcome) if row.outcome is RowOutcome.UP_TO_DATE else ""
        cells = (
            _PLANNED.get(row.outcome, str(row.outcome)),
            decimal(row.size) if row.size is not None else "",
            short(row.digest) if row.digest else "",
            "; ".join(filter(None, (known, row.note))),
        )
        self._spool.add(row.source, row.destination, "\n".join(plain(cell).plain for cell in cells))

    def end(self) -> None:
        """Print it, sorted."""
        try:
            rows = self._spool.read()
            while part := list(islice(rows, _ROWS_A_TABLE)):
                page(
                    _table((source, destination, *cells.split("\n")) for source, destination, cells in part),
                    self._console,
                )
        finally:
            self._spool.close()


def _table(rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("SOURCE", "DESTINATION", "WHAT", "SIZE", "DIGEST", "WHY"):
        table.add_column(name, overflow="fold", justify="right" if name == "SIZE" else "left")
    for row in rows:
        table.add_row(*map(plain, row))
    return table


def summary(report: Report, console: Console) -> None:
    """Print the counts, and every failure with its reason."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right")
    table.add_column()
    shown = (RowOutcome.COPIED, RowOutcome.UP_TO_DATE, RowOutcome.FAILED)
    for outcome in (*shown, *(outcome for outcome in RowOutcome if outcome not in shown)):
        if outcome in shown or report.counts[outcome]:
            style = "red" if outcome is RowOutcome.FAILED and report.counts[outcome] else ""
            trusted = outcome is RowOutcome.UP_TO_DATE and report.trusted
            words = f"{outcome} ({report.trusted} not asked, as seen lately)" if trusted else str(outcome)
            table.add_row(str(report.counts[outcome]), words, style=style)
    if report.failures:
        console.print("[red]Failed:[/red]")
        for row in report.failures:
            where = f" -> {row.destination}" if row.destination else ""
            console.print(f"  {escape(row.source)}{escape(where)}", soft_wrap=True, highlight=False, emoji=False)
            console.print(f"    {escape(row.error or '')}", soft_wrap=True, highlight=False, emoji=False)
        if (more := report.counts[RowOutcome.FAILED] - len(report.failures)) > 0:
            console.print(f"  and {more} more after the first {MAX_FAILURES}: --report has them all", highlight=False)
    for warning in report.warnings:
        console.print(f"[yellow]Warning:[/yellow] {escape(warning)}", soft_wrap=True, highlight=False, emoji=False)
    console.print(table)
    console.print(f"{_head(report)} {report.seconds:.1f} s, {decimal(report.bytes)} copied", highlight=False)
    if report.older:
        console.print(f"Set before --since, and not looked at: {report.older}", highlight=False)
    if queued := report.counts[RowOutcome.QUEUED]:
        console.print(f"What is queued ({queued}) is copied by the next worker or backfill", highlight=False)
    if left := report.counts[RowOutcome.NOT_BEGUN]:
        console.print(f"What was not begun ({left}) needs another backfill", highlight=False)
    if not report.complete:
        console.print("The list was not read to its end: what is not in it yet needs another backfill", highlight=False)


def _head(report: Report) -> str:
    if report.interrupted:
        return "Interrupted after"
    if report.broken_off:
        return "Broken off after"
    return "Ended at the first failure after" if report.failed_fast else "Done in"
