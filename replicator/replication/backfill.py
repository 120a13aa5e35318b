"""A backfill: list, compare, queue what differs and follow the copies, all at the same time and in bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog

from replicator.aliyun.acr import OTHER_NAME, name_problem
from replicator.copy.options import Overwrite
from replicator.errors import ErrorText, ReplicatorError
from replicator.queue import CauseWatch, Lane, QueueError
from replicator.queue.traffic import note_lost
from replicator.reference import Reference
from replicator.registry.places import BULK
from replicator.replication.advice import explained
from replicator.replication.compare import TRUSTED, Checker, named_by, row_at_end, row_of, why
from replicator.replication.enqueue import BackfillOptions, Enqueuer, KeptCopies, RepositoryQueue, informed, job_for
from replicator.replication.report import TROUBLE, Report, Row, RowOutcome
from replicator.tasks import cancel_all, gather_all

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from replicator.copy import Comparison, Copier
    from replicator.queue import Job, Observations, Queue
    from replicator.replication.listing import Batch, Found, Listing

log = structlog.get_logger("replicator.backfill")

_COMPARED_AT_ONCE = 32
_LISTED_AHEAD = 5_000
"""Maximum of tags that are listed and not compared yet: enough to have the tags of one repository together."""
_QUEUED_AT_ONCE = 1_000
"""Maximum of copies of one run in the queue at once: enough for many workers."""
_LOSS_SECONDS = 15.0
"""Seconds between two looks for copies that the queue has lost."""
_EXAMPLES = 5
_LOOKS = 1_000
"""Sources of dead letters that are looked up at the end of a run, because no list showed them."""
_HEARING_SECONDS = 3.0
"""Seconds for the news of a copy that has just ended to arrive."""


class Backfill:
    """Copies every tag that a listing finds and that differs from its destination.

    Args:
        queue: takes what differs; None for a dry run, which only reports what it would do.
        checks: the observations of this installation at destinations; None to remember nothing.
        on_row: called with each row as soon as it is known.

    Attributes:
        report: the result so far.
        run_id: under which the queue reports the ends of its copies, if it follows them.
        follows_copies: whether it waits for its copies.
        failed_fast: set when a failure ended the run.
    """

    def __init__(
        self,
        listing: Listing,
        copier: Copier,
        queue: Queue | None,
        *,
        options: BackfillOptions,
        checks: Observations | None = None,
        on_row: Callable[[Row], None] | None = None,
    ) -> None:
        self._listing = listing
        dry_run = queue is None
        self._letters = CauseWatch(queue)
        self._checker = Checker(
            copier,
            checks,
            trust=options.trust,
            began=time.monotonic(),
            force=options.force,
            dry_run=dry_run,
            letters=self._letters,
            probe=options.probe,
            reads=dry_run and options.reads,
        )
        self._copier, self._registries = copier, copier.registries
        self._courtesy = copier.registries.courtesy
        self._queue = queue
        self._options = options
        self._on_row = on_row
        self.run_id = f"backfill-{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:12]}"
        self.follows_copies = queue is not None and not options.detach
        self._enqueuer = Enqueuer(queue, self.run_id if self.follows_copies else None) if queue is not None else None
        # A tag is in one of these from its listing to its row; `_report_unfinished` relies on that.
        self._listed: deque[Found] = deque()
        self._to_compare: RepositoryQueue[Found] = RepositoryQueue(_LISTED_AHEAD)
        self._comparing: set[Found] = set()
        self._kept = KeptCopies(options.limit)
        self._queued: dict[str, Found] = {}
        self._slots = asyncio.Semaphore(options.fail_fast or _QUEUED_AT_ONCE)
        self._changed = asyncio.Event()
        self._working: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.failed_fast = asyncio.Event()
        self.report = Report()

    def stop(self) -> None:
        """List and compare nothing more; queued copies may still end, until `run` is cancelled."""
        self._stopping = True
        self._to_compare.close()
        for task in self._working:
            if task.get_name() == "listing":
                task.cancel()
        self._changed.set()

    async def run(self) -> Report:
        """Run to the end and return the report; if cancelled, `report` holds what is known so far.

        Raises:
            QueueError: the queue takes nothing.
        """
        # Lists and comparisons too: their requests wait for those of pushes.
        BULK.set(True)
        started = time.monotonic()
        await self._letters.read()
        self._listing.on_page = self._letters.listed
        try:
            async with asyncio.TaskGroup() as group:
                helpers = []
                if self._enqueuer is not None:
                    helpers += [group.create_task(self._enqueuer.run())]
                if self._queue is not None and self.follows_copies:
                    helpers += [group.create_task(self._follow_copies(self._queue))]
                    helpers += [group.create_task(self._requeue_lost(self._queue))]
                work = [group.create_task(self._list(), name="listing")]
                work += [group.create_task(self._compare_all()) for _ in range(_COMPARED_AT_ONCE)]
                work += [group.create_task(self._replace(tuple(work)))]
                self._working = set(work)
                for task in work:
                    task.add_done_callback(self._work_done)
                while self._is_busy():
                    await self._changed.wait()
                    self._changed.clear()
                await cancel_all(helpers)
            await self._end_letters()
            if self.report.lost and self._queue is not None:
                await note_lost(self._queue, self.report.lost, self.report.lost_examples)
        except BaseExceptionGroup as errors:
            self.report.broken_off = True
            raise errors.exceptions[0] from None
        except asyncio.CancelledError:
            self.report.interrupted = not self.report.failed_fast
            raise
        finally:
            self._report_unfinished()
            self.report.seconds = round(time.monotonic() - started, 3)
        return self.report

    async def _end_letters(self) -> None:
        """End dead letters whose destination is up to date, and those whose source is gone, as far as it was listed."""
        await self._letters.end()
        looks = 0

        async def is_gone(source: str) -> bool:
            nonlocal looks
            with contextlib.suppress(ValueError, ReplicatorError):
                reference = Reference.parse(source)
                if reference.digest is None and looks < _LOOKS and self._listing.covers(reference.repository):
                    looks += 1
                    # A list may lack what a login may not see; this asks for the tag alone.
                    origin = self._registries.source(reference.repository)
                    return await origin.head_manifest(reference.identifier) is None
            return False

        if self.report.complete:
            await self._letters.end_gone(is_gone)

    def _work_done(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        self._changed.set()

    def _is_busy(self) -> bool:
        # After `stop`, queued copies may end until the worker beside this has drained, and its owner cancels `run`.
        return bool(self._working or self._queued) or (self._stopping and self.follows_copies)

    def _report_unfinished(self) -> None:
        """Add a row for every tag that has none; there is one only if the run ended early."""
        queued = set(self._queued.values())
        for found in queued:
            self._add(row_of(found, RowOutcome.QUEUED))
        for found in (*self._comparing, *self._to_compare, *self._listed):
            # While a job is being put into the queue its tag is in both: whether it got there is not known.
            if found not in queued:
                self._add(row_of(found, RowOutcome.NOT_BEGUN))
        # Where they found no room, the run has failed for that already.
        with contextlib.suppress(ReplicatorError):
            for found, _ in self._kept:
                self._add(row_of(found, RowOutcome.NOT_BEGUN))
        self._kept.close()
        if self._enqueuer is not None:
            self.report.drift = self._enqueuer.drift

    async def _list(self) -> None:
        is_whole = True
        matcher = self._listing.narrowing.matcher()
        try:
            async with contextlib.aclosing(self._listing.batches()) as batches:
                async for batch in batches:
                    if self._stopping:
                        return
                    is_whole = is_whole and batch.error is None
                    for asked in (*(each.asked for each in batch.found), *(each.asked for each in batch.refused)):
                        matcher.add(asked)
                    await self._take(batch)
            self.report.complete = True
            # A pattern without a match says nothing if its candidates could not be listed.
            if is_whole:
                self.report.warnings += matcher.unmatched()
        finally:
            self._to_compare.close()

    async def _take(self, batch: Batch) -> None:
        """Pass the tags of a batch on to the comparison, but for those that are decided already."""
        self.report.warnings += batch.warnings
        if batch.error is not None:
            error = f"can't be listed: {explained(batch.error).stored}"
            self._add(Row(batch.what, "", RowOutcome.NOT_LISTED, error=error))
        for refused in batch.refused:
            request = refused.asked.request
            self.report.listed += 1
            self.report.collisions += refused.collision is not None
            self._add(Row(str(request.source), str(request.destination), RowOutcome.FAILED, error=refused.error))
        found = [each for each in batch.found if not self._is_older(each)]
        self.report.older += len(batch.found) - len(found)
        for each, row in zip(found, await self._checker.trusted(found), strict=True):
            self.report.listed += 1
            if row is not None:
                self.report.trusted += row.note == TRUSTED
                self._add(row)
            else:
                self._listed.append(each)
        await self._checker.recall(self._listed)
        await self._letters.end()
        while self._listed:
            # Removed only after it has a place there, so that a cancelled run still has a row for it.
            await self._to_compare.put(self._listed[0].request.source.repository, self._listed[0])
            self._listed.popleft()

    def _is_older(self, found: Found) -> bool:
        since = self._options.since
        # A tag without a time, as in the lists of other registries, may be new: it is never left out.
        return since is not None and found.pushed is not None and found.pushed < since

    async def _compare_all(self) -> None:
        while not self._stopping:
            await self._slots.acquire()
            found = await self._to_compare.take() if not self._stopping else None
            if found is None:
                self._slots.release()
                return
            self._comparing.add(found)
            row = await self._compare(found)
            self._comparing.discard(found)
            if row is not None:
                self._finish(row)

    async def _compare(self, found: Found) -> Row | None:
        """Compare a tag, and queue a copy if it differs.

        Returns:
            The row; None if the row follows when the copy ends.
        """
        async with self._courtesy.step():
            checked = await self._checker.check(found)
        if isinstance(checked, Row):
            return checked
        # A domain of ACR's user may have told its edition only now.
        if problem := name_problem(found.request.destination.repository):
            return row_of(found, RowOutcome.FAILED, error=ErrorText(problem, do=OTHER_NAME).stored)
        if checked is not None and checked.lost:
            self.report.lost += 1
            if len(self.report.lost_examples) < _EXAMPLES:
                self.report.lost_examples.append(str(found.request.destination))
        if self._enqueuer is None:
            if self._options.forecast is not None:
                await self._options.forecast.add(self._copier, found, checked)
            if checked is None:
                return row_of(found, RowOutcome.WOULD_COPY)
            own = "; only if this installation wrote the existing tag (overwrite: ours)"
            note = why(checked) + (own if checked.replaced and found.request.overwrite is Overwrite.OURS else "")
            facts = named_by(checked)
            return row_of(
                found, RowOutcome.WOULD_COPY, digest=checked.digest, note=note, replaced=checked.replaced, **facts
            )
        # Not counted as drift: what could not be compared, and what is up to date but may lack signatures.
        differs = checked is not None and checked.result is None
        if self._kept.takes(found, checked):
            self._slots.release()
            return None
        return await self._queue_copy(self._enqueuer, found, self._job(found, checked), differs=differs)

    async def _replace(self, work: Collection[asyncio.Task[None]]) -> None:
        """Queue the copies that may replace other images once all tags are compared, or hold them back."""
        await asyncio.wait(work)
        if self._enqueuer is None or self._stopping:
            return
        if not await self._kept.are_allowed(self.report.listed - self.report.counts[RowOutcome.FAILED]):
            for found, note in self._kept:
                self._add(row_of(found, RowOutcome.HELD, note=note))
                # There may be a hundred thousand, and webhooks are answered meanwhile.
                await asyncio.sleep(0)
            return
        enqueuer = self._enqueuer
        await gather_all(self._queue_kept(enqueuer) for _ in range(_COMPARED_AT_ONCE))

    async def _queue_kept(self, enqueuer: Enqueuer) -> None:
        while not self._stopping:
            await self._slots.acquire()
            kept = next(iter(self._kept), None) if not self._stopping else None
            if kept is None:
                self._slots.release()
                return
            found, note = kept
            self._comparing.add(found)
            row = await self._queue_copy(enqueuer, found, self._job(found, None), differs=bool(note))
            self._comparing.discard(found)
            if row is not None:
                self._finish(row)

    async def _queue_copy(self, enqueuer: Enqueuer, found: Found, job: Job, *, differs: bool) -> Row | None:
        """Queue a copy; return its row, or None if that follows when the copy ends."""
        if self._options.detach:
            await enqueuer.put(job, differs=differs)
            return row_of(found, RowOutcome.QUEUED)
        if self._queued.pop(job.id, None) is not None:
            # The tag moved while Harbor's list was read, and is in the list twice: one job ends for both.
            self.report.listed -= 1
            self._slots.release()
        # Noted before it is queued: its end may be reported before the queue has answered.
        self._queued[job.id] = found
        try:
            await enqueuer.put(job, differs=differs)
        except BaseException:
            # It may be queued or not. "Not begun" is the safe row: it asks for another backfill.
            self._queued.pop(job.id, None)
            raise
        return None

    def _job(self, found: Found, comparison: Comparison | None) -> Job:
        request = replace(found.request, force=self._options.force)
        request = informed(request, comparison, found.accessories)
        return job_for(request, retries=self._options.retries, rules=self._listing.rules_digest)

    async def _follow_copies(self, queue: Queue) -> None:
        async for finished in queue.finished(self.run_id):
            found = self._queued.pop(finished.id, None)
            if found is not None:
                self._finish(row_at_end(found, finished))
            self._changed.set()

    async def _requeue_lost(self, queue: Queue) -> None:
        """Queue copies again that a Redis which lost its data has forgotten; their end would never be reported."""
        while True:
            await asyncio.sleep(_LOSS_SECONDS)
            queued = dict(self._queued)
            with contextlib.suppress(QueueError):
                counts = await queue.counts()
                if not queued or any(lane.pending for lane in counts.lanes.values()):
                    continue
                # An empty queue may as well mean that the last copy ended just now.
                await asyncio.sleep(_HEARING_SECONDS)
                lost = [found for job_id, found in queued.items() if self._queued.get(job_id) is found]
                if lost:
                    log.warning("queue has forgotten copies", copies=len(lost))
                    jobs = [self._job(found, None) for found in lost]
                    await queue.enqueue(jobs, Lane.BACKFILL, run=self.run_id)

    def _finish(self, row: Row) -> None:
        self._slots.release()
        self._add(row)

    def _add(self, row: Row) -> None:
        self.report.add(row)
        if self._options.fail_fast and row.outcome in TROUBLE and not self._stopping:
            self.report.failed_fast = True
            self.failed_fast.set()
            self.stop()
        if self._on_row is not None:
            self._on_row(row)
