"""What a person sees of a backfill while it runs: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from rich.console import Group
from rich.filesize import decimal
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from replicator.backfill.pace import Pace
from replicator.backfill.report import Report, Row, RowOutcome
from replicator.cancelling import cancel_all
from replicator.printing import age, plain
from replicator.queue import QueueError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from rich.console import Console, RenderableType

    from replicator.queue import Queue, RunningJob

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
        progress = Progress(report)
        task = asyncio.create_task(
            self._draw(progress, queue) if self._console.is_terminal else self._tell(progress, queue)
        )
        try:
            yield
        finally:
            # A bar clears itself as it ends: only then may anything else be printed.
            await cancel_all({task})

    async def _draw(self, progress: Progress, queue: Queue | None) -> None:
        with Live(console=self._console, transient=True, auto_refresh=False) as live:
            while True:
                progress.look(time.monotonic(), await _running(queue))
                live.update(progress, refresh=True)
                await asyncio.sleep(_REFRESH_SECONDS)

    async def _tell(self, progress: Progress, queue: Queue | None) -> None:
        while True:
            progress.look(time.monotonic(), ())
            await asyncio.sleep(_LINE_SECONDS)
            progress.look(time.monotonic(), await _running(queue))
            self._line(escape(progress.line()))

    def _line(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, emoji=False)


class Progress:
    """How far a run has come, in words and as a bar.

    Args:
        report: what is known of the run.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._pace = Pace()
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
