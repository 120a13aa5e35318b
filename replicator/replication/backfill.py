"""One backfill: list, compare, queue what differs and hear of its end, all at the same time and in bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog

from replicator.copy import Outcome
from replicator.queue import Lane, QueueError
from replicator.replication.advice import explained
from replicator.replication.compare import Checker, row_of, why
from replicator.replication.enqueue import Enqueuer, RepositoryQueue
from replicator.replication.job import job_for
from replicator.replication.listing import Listing
from replicator.replication.report import Report, Row, RowOutcome
from replicator.rules import Narrowing
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from replicator.copy import Comparison, Copier
    from replicator.queue import Finished, Job, Observations, Queue
    from replicator.registry import Registries
    from replicator.replication.compare import BackfillOptions
    from replicator.replication.listing import Batch, Found
    from replicator.rules import Rules

log = structlog.get_logger("replicator.backfill")

_COMPARED_AT_ONCE = 32
_LISTED_AHEAD = 5_000
"""Tags that are listed and not compared yet at the most: enough to have those of a repository together."""
_QUEUED_AT_ONCE = 1_000
"""Copies of one run that are in the queue at once at the most: enough for many workers."""
_LOSS_SECONDS = 15.0
_HEARING_SECONDS = 3.0


class Backfill:
    """Brings every tag that the rules name to where they send it.

    Args:
        rules: say what is copied where.
        registries: to list.
        copier: to compare.
        queue: takes what differs; None for a dry run, which only says what it would do.
        manner: how to go about it.
        narrowing: what is meant, of all that the rules name; None for everything.
        checks: what this installation saw at destinations; None to remember nothing.
        on_row: told each row as it is known.

    Attributes:
        report: what is known so far.
        failed_fast: set when a failure ended the run.
    """

    def __init__(
        self,
        rules: Rules,
        registries: Registries,
        copier: Copier,
        queue: Queue | None,
        *,
        manner: BackfillOptions,
        narrowing: Narrowing | None = None,
        checks: Observations | None = None,
        on_row: Callable[[Row], None] | None = None,
    ) -> None:
        self._narrowing = narrowing or Narrowing(rules)
        self._listing = Listing(rules, self._narrowing, registries)
        self._checker = Checker(registries, copier, checks, manner, dry_run=queue is None)
        self._queue = queue
        self._manner = manner
        self._on_row = on_row
        self._run_id = f"backfill-{uuid4().hex[:12]}"
        self._hears_ends = queue is not None and not manner.detach
        self._enqueuer = Enqueuer(queue, self._run_id if self._hears_ends else None) if queue is not None else None
        self._in_hand: deque[Found] = deque()
        self._agenda = RepositoryQueue(_LISTED_AHEAD)
        self._comparing: set[Found] = set()
        self._waiting: dict[str, Found] = {}
        self._slots = asyncio.Semaphore(manner.fail_fast or _QUEUED_AT_ONCE)
        self._news = asyncio.Event()
        self._busy: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.failed_fast = asyncio.Event()
        self.report = Report()

    def stop(self) -> None:
        """List and compare nothing more; what is queued may still end, until `run` is cancelled."""
        self._stopping = True
        self._agenda.close()
        for task in self._busy:
            if task.get_name() == "listing":
                task.cancel()
        self._news.set()

    async def run(self) -> Report:
        """Do it, and return what became of every tag; cancelled, `report` holds what is known so far.

        Raises:
            QueueError: the queue takes nothing.
        """
        started = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                beside = []
                if self._enqueuer is not None:
                    beside += [group.create_task(self._enqueuer.run())]
                if self._queue is not None and self._hears_ends:
                    beside += [group.create_task(self._hear_ends(self._queue))]
                    beside += [group.create_task(self._mind_losses(self._queue))]
                work = [group.create_task(self._list(), name="listing")]
                work += [group.create_task(self._compare_all()) for _ in range(_COMPARED_AT_ONCE)]
                self._busy = set(work)
                for task in work:
                    task.add_done_callback(self._done)
                while self._goes_on():
                    await self._news.wait()
                    self._news.clear()
                await cancel_all(beside)
        except BaseExceptionGroup as errors:
            self.report.broken_off = True
            raise errors.exceptions[0] from None
        except asyncio.CancelledError:
            self.report.interrupted = not self.report.failed_fast
            raise
        finally:
            self._account_for_the_rest()
            self.report.seconds = round(time.monotonic() - started, 3)
        return self.report

    def _done(self, task: asyncio.Task[None]) -> None:
        self._busy.discard(task)
        self._news.set()

    def _goes_on(self) -> bool:
        # Stopped, with copies queued: they may end until whoever runs them has ended too, and cancels this.
        return bool(self._busy or self._waiting) or (self._stopping and self._hears_ends)

    def _account_for_the_rest(self) -> None:
        """Say of every tag that has no end yet where it stands; there is none but in a run that ended early."""
        queued = set(self._waiting.values())
        for found in queued:
            self._row(row_of(found, RowOutcome.QUEUED))
        for found in (*self._comparing, *self._agenda, *self._in_hand):
            if found not in queued:
                self._row(row_of(found, RowOutcome.NOT_BEGUN))
        if self._enqueuer is not None:
            self.report.drift = self._enqueuer.drift

    async def _list(self) -> None:
        unlisted = False
        matcher = self._narrowing.matcher()
        try:
            async with contextlib.aclosing(self._listing.batches()) as batches:
                async for batch in batches:
                    if self._stopping:
                        return
                    unlisted = unlisted or batch.error is not None
                    for asked in (*(one.asked for one in batch.found), *(one.asked for one in batch.refused)):
                        matcher.add(asked)
                    await self._take(batch)
            self.report.complete = True
            if not unlisted:
                self.report.warnings += matcher.unmatched()
        finally:
            self._agenda.close()

    async def _take(self, batch: Batch) -> None:
        """Put what was listed on the agenda, but for what is decided already."""
        self.report.warnings += batch.warnings
        if batch.error is not None:
            error = f"can't be listed: {explained(batch.error)}"
            self._row(Row(batch.what, "", RowOutcome.FAILED, error=error))
        for refused in batch.refused:
            request = refused.asked.request
            error = f"{refused.collision}: give the sources different destinations"
            self.report.listed += 1
            self._row(Row(str(request.source), str(request.destination), RowOutcome.FAILED, error=error))
        found = [one for one in batch.found if not self._is_older(one)]
        self.report.older += len(batch.found) - len(found)
        for one, row in zip(found, await self._checker.trusted(found), strict=True):
            self.report.listed += 1
            if row is not None:
                self.report.trusted += 1
                self._row(row)
            else:
                self._in_hand.append(one)
        await self._checker.recall(self._in_hand)
        while self._in_hand:
            await self._agenda.put(self._in_hand[0])
            self._in_hand.popleft()

    def _is_older(self, found: Found) -> bool:
        since = self._manner.since
        # What has no time, as in lists of other registries, is looked at.
        return since is not None and found.pushed is not None and found.pushed < since

    async def _compare_all(self) -> None:
        while not self._stopping:
            await self._slots.acquire()
            found = await self._agenda.take() if not self._stopping else None
            if found is None:
                self._slots.release()
                return
            self._comparing.add(found)
            row = await self._compare(found)
            self._comparing.discard(found)
            if row is not None:
                self._end(row)

    async def _compare(self, found: Found) -> Row | None:
        """Compare, and queue what differs.

        Returns:
            What became of it; None when its copy is queued.
        """
        checked = await self._checker.check(found)
        if isinstance(checked, Row):
            return checked
        if self._enqueuer is None:
            compared = checked
            digest, note = (compared.digest, why(compared)) if compared is not None else (None, "")
            return replace(row_of(found, RowOutcome.WOULD_COPY), digest=digest, note=note)
        job = self._job(found, checked)
        # Not what could not be compared, nor what is up to date and has its signatures looked at.
        differs = checked is not None and checked.result is None
        if self._manner.detach:
            await self._enqueuer.put(job, differs=differs)
            return row_of(found, RowOutcome.QUEUED)
        if self._waiting.pop(job.id, None) is not None:
            # Its tag was set anew while Harbor's list was read, and stands there twice: one end is told for both.
            self.report.listed -= 1
            self._slots.release()
        # Before it is queued: its end may be heard of before the queue has answered.
        self._waiting[job.id] = found
        try:
            await self._enqueuer.put(job, differs=differs)
        except BaseException:
            # It may be queued or not: then it is better to say that it needs another backfill.
            self._waiting.pop(job.id, None)
            raise
        return None

    def _job(self, found: Found, compared: Comparison | None) -> Job:
        request = replace(found.asked.request, force=self._manner.force)
        if compared is not None and not request.signature and request.source.tag is not None:
            request = replace(request, announced=compared.announced)
        return job_for(request, retries=self._manner.retries)

    async def _hear_ends(self, queue: Queue) -> None:
        async for finished in queue.finished(self._run_id):
            found = self._waiting.pop(finished.id, None)
            if found is not None:
                self._end(_ended(found, finished))
            self._news.set()

    async def _mind_losses(self, queue: Queue) -> None:
        """Queue again what a Redis that lost its data has forgotten; nobody would ever tell of its end."""
        while True:
            await asyncio.sleep(_LOSS_SECONDS)
            waiting = dict(self._waiting)
            with contextlib.suppress(QueueError):
                counts = await queue.counts()
                if not waiting or any(lane.queued + lane.running + lane.waiting for lane in counts.lanes.values()):
                    continue
                # What ended just now is heard of first.
                await asyncio.sleep(_HEARING_SECONDS)
                lost = [found for name, found in waiting.items() if self._waiting.get(name) is found]
                if lost:
                    log.warning("queue has forgotten copies", copies=len(lost))
                    jobs = [self._job(found, None) for found in lost]
                    await queue.enqueue(jobs, Lane.BACKFILL, run=self._run_id)

    def _end(self, row: Row) -> None:
        self._slots.release()
        self._row(row)

    def _row(self, row: Row) -> None:
        self.report.add(row)
        if self._manner.fail_fast and row.outcome is RowOutcome.FAILED and not self._stopping:
            self.report.failed_fast = True
            self.failed_fast.set()
            self.stop()
        if self._on_row is not None:
            self._on_row(row)


def _ended(found: Found, finished: Finished) -> Row:
    row = replace(row_of(found, RowOutcome.FAILED), seconds=finished.seconds)
    if finished.outcome is None:
        error = finished.error or "no reason was given"
        if finished.retrying:
            error += " (an event asked for it too, so it is still being tried)"
        return replace(row, error=error)
    outcome = Outcome.from_json(dict(finished.outcome))
    return replace(
        row,
        outcome=RowOutcome(outcome.result.value),
        digest=outcome.digest,
        bytes=outcome.bytes,
        seconds=outcome.seconds,
        note=outcome.note,
        warnings=outcome.warnings,
    )
