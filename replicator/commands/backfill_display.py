"""What a person sees of a backfill while it runs: a bar on a terminal, a line now and then elsewhere.

How fast a run is, and when it will be done at that.

What a person reads when a backfill has ended: the plan of a dry run, and the summary.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from rich.console import Group
from rich.filesize import decimal
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from replicator.console import age, page, plain, short
from replicator.queue import QueueError
from replicator.replication.report import MAX_FAILURES, Report, Row, RowOutcome, SortedRows
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from rich.console import Console, RenderableType

    from replicator.queue import Queue, RunningJob

_WINDOW_SECONDS = 30.0
"""What lies further back does not count: the start, with everything in place, says nothing of the copies after it."""


class Throughput:
    """Takes how far a run is from time to time, and tells rates over the last half minute."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int, int]] = deque()

    def mark(self, now: float, tags: int, size: int) -> None:
        """Note how far it is.

        Args:
            now: seconds, on a clock that only grows.
            tags: tags that are done.
            size: bytes that are sent.
        """
        self._marks.append((now, tags, size))
        while len(self._marks) > 2 and self._marks[1][0] <= now - _WINDOW_SECONDS:
            self._marks.popleft()

    @property
    def tags(self) -> float:
        """Tags a second."""
        return self._rate(1)

    @property
    def bytes(self) -> float:
        """Bytes a second."""
        return self._rate(2)

    def seconds_for(self, tags: int) -> float | None:
        """Tell how long so many more tags will take; None as long as nothing is known of it."""
        return tags / self.tags if self.tags > 0 else None

    def _rate(self, column: int) -> float:
        if not self._marks:
            return 0.0
        first, last = self._marks[0], self._marks[-1]
        # What was thought to be under way may turn out not to be: no pace is below nothing.
        return max(0.0, last[column] - first[column]) / (last[0] - first[0]) if last[0] > first[0] else 0.0


_REFRESH_SECONDS = 0.5
_LINE_SECONDS = 10.0
_BAR_COLUMNS = 30
_SHOWN = 5
"""Copies under way that are named."""


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
    async def follow(self, report: Report, queue: Queue | None = None) -> AsyncIterator[None]:
        """Show how far a run has come for as long as the context lasts.

        Args:
            report: what is known of it.
            queue: where its copies run, if it makes any.
        """
        progress = ProgressView(report)
        task = asyncio.create_task(
            self._draw(progress, queue) if self._console.is_terminal else self._tell(progress, queue)
        )
        try:
            yield
        finally:
            # A bar clears itself as it ends: only then may anything else be printed.
            await cancel_all({task})

    async def _draw(self, progress: ProgressView, queue: Queue | None) -> None:
        with Live(console=self._console, transient=True, auto_refresh=False) as live:
            while True:
                progress.look(time.monotonic(), await _running(queue))
                live.update(progress, refresh=True)
                await asyncio.sleep(_REFRESH_SECONDS)

    async def _tell(self, progress: ProgressView, queue: Queue | None) -> None:
        while True:
            progress.look(time.monotonic(), ())
            await asyncio.sleep(_LINE_SECONDS)
            progress.look(time.monotonic(), await _running(queue))
            self._line(escape(progress.line()))

    def _line(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, emoji=False)


class ProgressView:
    """How far a run has come, in words and as a bar.

    Args:
        report: what is known of the run.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._pace = Throughput()
        self._running: Sequence[RunningJob] = ()

    def look(self, now: float, running: Sequence[RunningJob]) -> None:
        """Take note of the present.

        Args:
            now: seconds, on a clock that only grows.
            running: the copies under way.
        """
        self._running = running
        self._pace.mark(now, self._report.ended, self._bytes)

    @property
    def _bytes(self) -> int:
        return self._report.bytes + sum(job.bytes_done for job in self._running)

    def line(self) -> str:
        """Say it in a line, e.g. ``40 of 120 tags done, 1.2 MB copied, 100.0 kB/s, about 2 min left``."""
        return ", ".join([self._counted(), *self._details(), *self._now()])

    def __rich__(self) -> RenderableType:
        """Draw it for a terminal."""
        report, bar = self._report, Table.grid(padding=(0, 1))
        total = report.listed if report.complete and report.listed else None
        bar.add_row(
            "backfill",
            ProgressBar(total=total, completed=report.ended, width=_BAR_COLUMNS, pulse=total is None),
            self._counted(),
        )
        running = [
            Text("  copying ").append_text(plain(job.id)).append(f" {decimal(job.bytes_done)}")
            for job in self._running[:_SHOWN]
        ]
        more = len(self._running) - _SHOWN
        return Group(
            bar, Text(f"  {', '.join(self._details())}"), *running, *([Text(f"  and {more} more")] if more > 0 else [])
        )

    def _counted(self) -> str:
        report = self._report
        return f"{report.ended} of {report.listed} tags done{'' if report.complete else ' (still listing)'}"

    def _details(self) -> list[str]:
        report, pace = self._report, self._pace
        details = []
        if failed := report.counts[RowOutcome.FAILED]:
            details.append(f"{failed} failed")
        details.append(f"{decimal(self._bytes)} copied")
        if pace.bytes >= 1:
            details.append(f"{decimal(int(pace.bytes))}/s")
        elif pace.tags >= 1:
            details.append(f"{pace.tags:.0f} tags/s")
        left = pace.seconds_for(max(0, report.listed - report.ended))
        if left is not None and left >= 1:
            details.append(f"about {age(left)} left{'' if report.complete else ' for these'}")
        return details

    def _now(self) -> list[str]:
        if not self._running:
            return []
        names = [job.id for job in self._running[:_SHOWN]]
        more = len(self._running) - len(names)
        return [f"now {' '.join(names)}{f' and {more} more' if more else ''}"]


async def _running(queue: Queue | None) -> Sequence[RunningJob]:
    if queue is not None:
        with contextlib.suppress(QueueError):
            return await queue.running()
    return ()


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
        self._spool = SortedRows()

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
