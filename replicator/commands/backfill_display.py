"""Output of a backfill for people: progress while it runs, the plan of a dry run, and the summary.

Progress is a bar on a terminal, and elsewhere a line now and then.
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
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from replicator.console import age, confirm, page_rows, plain, printable, say, short
from replicator.errors import ErrorText
from replicator.queue import KnownConfig, QueueError
from replicator.queue.causes import Causes
from replicator.replication.report import TROUBLE, Report, Row, RowOutcome, SortedRows
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from rich.console import Console, RenderableType

    from replicator.queue import Queue, RunningJob
    from replicator.rules import Rules

_REFRESH_SECONDS = 0.5
_LINE_SECONDS = 10.0
_BAR_COLUMNS = 30
_SHOWN = 5
"""Running copies that are listed."""
_WINDOW_SECONDS = 30.0
"""Age of what a rate is computed from. A start where everything is in place says nothing about later copies."""
_ROWS_PER_TABLE = 1000
"""Rows of a plan that are drawn together; the columns are as wide as they need."""
_PLAN = ("SOURCE", "DESTINATION", "ACTION", "SIZE", "DIGEST", "REASON")
_ACTIONS = {RowOutcome.WOULD_COPY: "copy", RowOutcome.UP_TO_DATE: "skip", RowOutcome.SKIPPED: "skip"}
"""The plan's word for an outcome; any other outcome is its own word."""


class Display:
    """Shows a backfill while it runs: a bar if the console is a terminal, else lines.

    Attributes:
        causes: of the rows so far that failed or could not be listed.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._drawing = asyncio.Lock()
        self._asking = False
        self.causes = Causes()

    @property
    def is_terminal(self) -> bool:
        """Whether a person may see it."""
        return self._console.is_terminal

    async def ask(self, replacements: int, compared: int) -> bool:
        """Ask whether so many existing images may be replaced; the bar is away meanwhile."""
        question = (
            f"{replacements:,} of {compared:,} tags point to other images at the destination. This is normal after "
            "image-syncer, which rewrites indexes.\nReplace them?"
        )
        self._asking = True
        async with self._drawing:
            try:
                return await confirm(question, self._console)
            finally:
                self._asking = False

    def row(self, row: Row) -> None:
        """Print a row at once if it was copied, failed or has a warning; the whole text of a cause only once."""
        if row.outcome not in (RowOutcome.COPIED, *TROUBLE) and not row.warnings:
            return
        where = f"{row.source}{f' -> {row.destination}' if row.destination else ''}"
        if row.outcome in TROUBLE:
            text = ErrorText.parse(row.error or "")
            is_new = self.causes.add("", row.error or "", row.source, row.destination).count == 1
            what, *more = (text.lines if is_new else [text.why or text.what]) or [""]
            say(f"{where}: {what}", self._console, label=str(row.outcome), style="red")
            for line in more:
                say(line, self._console, indent=2)
        elif row.outcome is RowOutcome.COPIED:
            replaced = f", replaced: {row.replaced}" if row.replaced else ""
            say(f"copied {where} ({decimal(row.bytes)}{replaced})", self._console)
        for warning in row.warnings:
            say(f"{where}: {warning}", self._console, label="warning", style="yellow")

    @contextlib.asynccontextmanager
    async def follow(self, report: Report, queue: Queue | None = None) -> AsyncIterator[None]:
        """Show the progress as long as the context lasts.

        Args:
            report: the results of the run so far.
            queue: where its copies run; None for a dry run.
        """
        progress = ProgressView(report)
        show = self._draw if self._console.is_terminal else self._print
        task = asyncio.create_task(show(progress, queue))
        try:
            yield
        finally:
            # The bar clears itself when it ends. Anything printed before that would be cleared with it.
            await cancel_all({task})

    async def _draw(self, progress: ProgressView, queue: Queue | None) -> None:
        while True:
            async with self._drawing:
                with Live(console=self._console, transient=True, auto_refresh=False) as live:
                    # The task that waits for the lock has a question to ask.
                    while not self._asking:
                        progress.update(time.monotonic(), await _running(queue))
                        live.update(progress, refresh=True)
                        await asyncio.sleep(_REFRESH_SECONDS)
            await asyncio.sleep(_REFRESH_SECONDS)

    async def _print(self, progress: ProgressView, queue: Queue | None) -> None:
        while True:
            progress.update(time.monotonic(), ())
            await asyncio.sleep(_LINE_SECONDS)
            progress.update(time.monotonic(), await _running(queue))
            say(progress.line(), self._console)


class ProgressView:
    """The progress of a run, as a line of text or as a bar."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._throughput = Throughput()
        self._running: Sequence[RunningJob] = ()

    def update(self, now: float, running: Sequence[RunningJob]) -> None:
        """Take the present state.

        Args:
            now: seconds of a monotonic clock.
            running: the running copies.
        """
        self._running = running
        self._throughput.mark(now, self._report.ended, self._bytes)

    def line(self) -> str:
        """Return a line, e.g. ``40 of 120 tags done, 1.2 MB copied, 100.0 kB/s, about 2 min left``."""
        return ", ".join([self._counts(), *self._details(), *self._copying()])

    def __rich__(self) -> RenderableType:
        """Draw the bar with the running copies below it."""
        report, bar = self._report, Table.grid(padding=(0, 1))
        total = report.listed if report.complete and report.listed else None
        bar.add_row(
            "backfill",
            ProgressBar(total=total, completed=report.ended, width=_BAR_COLUMNS, pulse=total is None),
            self._counts(),
        )
        running = [
            Text("  copying ").append_text(plain(job.id)).append(f" {decimal(job.bytes_done)}")
            for job in self._running[:_SHOWN]
        ]
        more = len(self._running) - _SHOWN
        return Group(
            bar, Text(f"  {', '.join(self._details())}"), *running, *([Text(f"  and {more} more")] if more > 0 else [])
        )

    @property
    def _bytes(self) -> int:
        return self._report.bytes + sum(job.bytes_done for job in self._running)

    def _counts(self) -> str:
        report = self._report
        return f"{report.ended} of {report.listed} tags done{'' if report.complete else ' (still listing)'}"

    def _details(self) -> list[str]:
        report, throughput = self._report, self._throughput
        details = []
        details += [
            f"{number} {outcome}" for outcome in RowOutcome if outcome in TROUBLE and (number := report.counts[outcome])
        ]
        details.append(f"{decimal(self._bytes)} copied")
        if throughput.bytes >= 1:
            details.append(f"{decimal(int(throughput.bytes))}/s")
        elif throughput.tags >= 1:
            details.append(f"{throughput.tags:.0f} tags/s")
        left = throughput.seconds_for(max(0, report.listed - report.ended))
        if left is not None and left >= 1:
            details.append(f"about {age(left)} left{'' if report.complete else ' for these'}")
        return details

    def _copying(self) -> list[str]:
        if not self._running:
            return []
        names = [job.id for job in self._running[:_SHOWN]]
        more = len(self._running) - len(names)
        return [f"copying {' '.join(names)}{f' and {more} more' if more else ''}"]


class Throughput:
    """The rates of a run over the last half minute."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int, int]] = deque()

    def mark(self, now: float, tags: int, size: int) -> None:
        """Record the progress.

        Args:
            now: seconds of a monotonic clock.
            tags: tags that are done.
            size: bytes that are sent.
        """
        self._marks.append((now, tags, size))
        while len(self._marks) > 2 and self._marks[1][0] <= now - _WINDOW_SECONDS:
            self._marks.popleft()

    @property
    def tags(self) -> float:
        """Tags per second."""
        return self._rate(1)

    @property
    def bytes(self) -> float:
        """Bytes per second."""
        return self._rate(2)

    def seconds_for(self, tags: int) -> float | None:
        """Estimate the time for so many more tags; None while there is no rate."""
        return tags / self.tags if self.tags > 0 else None

    def _rate(self, column: int) -> float:
        if not self._marks:
            return 0.0
        first, last = self._marks[0], self._marks[-1]
        # A failed copy takes the bytes of its attempt back out of the sum: never show a negative rate.
        return max(0.0, last[column] - first[column]) / (last[0] - first[0]) if last[0] > first[0] else 0.0


class Plan:
    """The plan of a dry run, an `Output`: one row per tag, sorted, printed at the end. Errors are printed elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows = SortedRows()

    def check(self) -> None:
        """Do nothing: unlike a file, the console can always be written to."""

    def row(self, row: Row) -> None:
        """Add a row."""
        outcome = str(row.outcome) if row.outcome is RowOutcome.UP_TO_DATE else ""
        cells = (
            _ACTIONS.get(row.outcome, str(row.outcome)),
            decimal(row.size) if row.size is not None else "",
            short(row.digest) if row.digest else "",
            "; ".join(filter(None, (outcome, row.note))),
        )
        self._rows.add(row.source, row.destination, "\n".join(map(printable, cells)))

    def end(self) -> None:
        """Print the plan."""
        try:
            rows = self._rows.read()
            while part := list(islice(rows, _ROWS_PER_TABLE)):
                cells = [(source, destination, *row.split("\n")) for source, destination, row in part]
                page_rows(_PLAN, cells, self._console, right={"SIZE"})
        finally:
            self._rows.close()


def summary(report: Report, console: Console, *, causes: Causes, run: str = "") -> None:
    """Print why copies failed, with examples; the warnings, the counts, and what is left to do.

    Args:
        report: the result.
        console: where it is printed.
        causes: of all rows that failed or could not be listed.
        run: the id under which copies that are left can be cancelled; empty if there are none.
    """
    if causes.total:
        say("", console, label="Failed:", style="red")
    for cause in causes.sorted():
        if cause.count > 1:
            say(cause.sentence, console, indent=2)
        for example in cause.examples:
            say(str(example), console, indent=2 if cause.count == 1 else 4)
        if (more := cause.count - len(cause.examples)) > 0:
            say(f"and {more:,} more: --report lists them all", console, indent=4)
        for line in cause.text.lines:
            say(line, console, indent=4)
    for warning in report.warnings:
        say(warning, console, label="Warning:", style="yellow")
    console.print(_counts_table(report))
    if unlisted := report.counts[RowOutcome.NOT_LISTED]:
        sources = "1 source" if unlisted == 1 else f"{unlisted} sources"
        say(f"Not listed: {sources}; their tags are not counted here", console, style="red")
    say(f"{_ending(report)} {report.seconds:.1f} s, {decimal(report.bytes)} copied", console)
    _say_what_is_missing(report, console)
    _say_what_is_left(report, console, run)


def _say_what_is_missing(report: Report, console: Console) -> None:
    if report.lost:
        were = "1 tag that was" if report.lost == 1 else f"{report.lost} tags that were"
        what = f"{were} in place before {'was' if report.lost == 1 else 'were'} missing, e.g. {report.lost_examples[0]}"
        say(f"{what}: was the registry emptied or replaced?", console, label="Warning:", style="yellow")
    if report.stale:
        still = "1 destination still holds" if report.stale == 1 else f"{report.stale} destinations still hold"
        what = f"{still} an old image: the rules do not copy the current image of the source's tag"
        say(what, console, label="Warning:", style="yellow")


def _say_what_is_left(report: Report, console: Console, run: str) -> None:
    if report.older:
        say(f"Skipped as older than --since: {report.older}", console)
    if queued := report.counts[RowOutcome.QUEUED]:
        say(f"Still queued: {queued}; the next worker or backfill copies them", console)
        if run:
            say(f"To delete them instead: replicator queue cancel --run {run} --lane backfill", console, indent=2)
    if report.refused:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(report.refused.items()))
        say(
            f"Skipped, because the destination refuses the kind: {kinds}; with types: all in a rule it is a failure",
            console,
        )
    if cancelled := report.counts[RowOutcome.CANCELLED]:
        say(f"Cancelled: {cancelled}; run the backfill again to copy them", console)
    if held := report.counts[RowOutcome.HELD]:
        say(f"Not replaced: {held} tags that point to other images; --yes replaces them without a prompt", console)
    if left := report.counts[RowOutcome.NOT_BEGUN]:
        say(f"Not started: {left}; run the backfill again to copy them", console)
    if not report.complete:
        say("The list of tags is incomplete; run the backfill again to copy the rest", console)


async def _running(queue: Queue | None) -> Sequence[RunningJob]:
    if queue is not None:
        with contextlib.suppress(QueueError):
            return await queue.running()
    return ()


def _counts_table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right")
    table.add_column()
    always = (RowOutcome.COPIED, RowOutcome.UP_TO_DATE, RowOutcome.FAILED)
    others = [outcome for outcome in RowOutcome if outcome not in (*always, RowOutcome.NOT_LISTED)]
    # The sum of those below it.
    table.add_row(str(report.listed), "listed")
    for outcome in (*always, *others):
        if outcome in always or report.counts[outcome]:
            style = "red" if outcome is RowOutcome.FAILED and report.counts[outcome] else ""
            trusted = outcome is RowOutcome.UP_TO_DATE and report.trusted
            words = f"{outcome} ({report.trusted} recently verified, not checked again)" if trusted else str(outcome)
            if report.replaced and report.counts[outcome] and outcome in (RowOutcome.COPIED, RowOutcome.WOULD_COPY):
                words += f" ({report.replaced} over another image)"
            table.add_row(str(report.counts[outcome]), words, style=style)
    return table


def _ending(report: Report) -> str:
    if report.interrupted:
        return "Interrupted after"
    if report.broken_off:
        return "Aborted after"
    return "Stopped at the first failure after" if report.failed_fast else "Done in"


async def tell_unknown_rules(queue: Queue, rules: Rules, err: Console) -> list[str]:
    """Warn at once if the running processes have other rules than a detached backfill; return the warnings."""
    with contextlib.suppress(QueueError):
        known = (await KnownConfig.read(queue)).values()
        others = [each for each in known if each.commands and not each.is_one_off]
        if others and not any(each.digest in ("", rules.digest) for each in others):
            theirs = frozenset[str]().union(*(each.parts for each in others))
            what = "copies that both request use the options of the running processes"
            if not theirs.issuperset(rules.parts):
                what = "copies that their rules do not contain are skipped after ten minutes"
            words = (
                f"no process on {queue.where} has these rules: {what}; leave out --detach, or run a worker with them"
            )
            say(words, err, label="Warning:", style="yellow")
            return [words]
    return []
