"""What a person sees of a backfill: a bar on a terminal, a line now and then elsewhere, and a summary."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from replicator.backfill.report import Report, Row, RowOutcome
from replicator.cancelling import cancel_all
from replicator.printing import page, plain, short

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rich.console import Console

_REFRESH_SECONDS = 0.25
_LINE_SECONDS = 10.0


class Display:
    """Shows a backfill while it runs.

    Args:
        console: where; a bar is drawn only if it is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    def row(self, row: Row) -> None:
        """Show a row that a person should not have to wait for: one that was copied, failed, or has a warning."""
        where = f" -> {row.destination}" if row.destination else ""
        if row.outcome is RowOutcome.FAILED:
            self._line(f"[red]failed[/red] {escape(row.source)}{escape(where)}: {escape(row.error or '')}")
        elif row.outcome is RowOutcome.COPIED:
            self._line(f"copied {escape(row.source)} -> {escape(row.destination)} ({decimal(row.bytes)})")
        for warning in row.warnings:
            self._line(f"[yellow]warning[/yellow] {escape(row.source)}{escape(where)}: {escape(warning)}")

    @contextlib.asynccontextmanager
    async def follow(self, report: Report) -> AsyncIterator[None]:
        """Show how far ``report`` has come for as long as the context lasts."""
        task = asyncio.create_task(self._draw(report) if self._console.is_terminal else self._tell(report))
        try:
            yield
        finally:
            # A bar clears itself as it ends: only then may anything else be printed.
            await cancel_all({task})

    async def _draw(self, report: Report) -> None:
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[size]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        ) as progress:
            bar = progress.add_task("backfill", total=None, size="")
            while True:
                progress.update(
                    bar, completed=len(report.rows), total=report.listed or None, size=decimal(report.bytes)
                )
                await asyncio.sleep(_REFRESH_SECONDS)

    async def _tell(self, report: Report) -> None:
        while True:
            await asyncio.sleep(_LINE_SECONDS)
            self._line(f"{len(report.rows)} of {report.listed} tags done, {decimal(report.bytes)} copied")

    def _line(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, emoji=False)


_PLANNED = {RowOutcome.WOULD_COPY: "copy", RowOutcome.UP_TO_DATE: "skip", RowOutcome.SKIPPED: "skip"}
"""What a backfill would do with an image, by what a dry run found; all else is what it says."""


def plan(report: Report, console: Console) -> None:
    """Print what a dry run found would be done with each tag; why something failed is told apart."""
    table = Table(box=None, pad_edge=False)
    for name in ("SOURCE", "DESTINATION", "WHAT", "DIGEST", "WHY"):
        table.add_column(name, overflow="fold")
    for row in sorted(report.rows, key=lambda row: (row.source, row.destination)):
        known = str(row.outcome) if row.outcome is RowOutcome.UP_TO_DATE else ""
        table.add_row(
            plain(row.source),
            plain(row.destination),
            _PLANNED.get(row.outcome, str(row.outcome)),
            short(row.digest) if row.digest else "",
            plain("; ".join(filter(None, (known, row.note)))),
        )
    page(table, console)


def summary(report: Report, console: Console) -> None:
    """Print the counts, and every failure with its reason."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right")
    table.add_column()
    shown = (RowOutcome.COPIED, RowOutcome.UP_TO_DATE, RowOutcome.FAILED)
    for outcome in (*shown, *(outcome for outcome in RowOutcome if outcome not in shown)):
        if outcome in shown or report.counts[outcome]:
            style = "red" if outcome is RowOutcome.FAILED and report.counts[outcome] else ""
            table.add_row(str(report.counts[outcome]), str(outcome), style=style)
    if report.failures:
        console.print("[red]Failed:[/red]")
        for row in report.failures:
            where = f" -> {row.destination}" if row.destination else ""
            console.print(f"  {escape(row.source)}{escape(where)}", soft_wrap=True, highlight=False, emoji=False)
            console.print(f"    {escape(row.error or '')}", soft_wrap=True, highlight=False, emoji=False)
    for warning in report.warnings:
        console.print(f"[yellow]Warning:[/yellow] {escape(warning)}", soft_wrap=True, highlight=False, emoji=False)
    console.print(table)
    console.print(f"{_head(report)} {report.seconds:.1f} s, {decimal(report.bytes)} copied", highlight=False)
    if queued := report.counts[RowOutcome.QUEUED]:
        console.print(f"What is queued ({queued}) is copied by the next worker or backfill", highlight=False)
    if left := report.counts[RowOutcome.NOT_BEGUN]:
        console.print(f"What was not begun ({left}) needs another backfill", highlight=False)


def _head(report: Report) -> str:
    if report.interrupted:
        return "Interrupted after"
    if report.broken_off:
        return "Broken off after"
    return "Ended at the first failure after" if report.failed_fast else "Done in"
