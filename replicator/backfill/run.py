"""One backfill: list, then compare, queue what differs and hear of its end, all at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog

from replicator import replication
from replicator.advice import explained
from replicator.backfill.listing import Listing
from replicator.backfill.report import Report, Row, RowOutcome
from replicator.cancelling import cancel_all
from replicator.copy import Outcome, Result, SourceNotFound
from replicator.errors import ErrorClass, ReplicatorError
from replicator.printing import short
from replicator.queue import Lane, QueueError
from replicator.rules import Asked, Narrowing

if TYPE_CHECKING:
    from collections.abc import Callable

    from replicator.backfill.manner import Manner
    from replicator.copy import Comparison, Copier
    from replicator.queue import Finished, Queue
    from replicator.registry import Registries
    from replicator.rules import CopyRequest, Rules

log = structlog.get_logger("replicator.backfill")

_COMPARED_AT_ONCE = 16
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
        manner: Manner,
        narrowing: Narrowing | None = None,
        on_row: Callable[[Row], None] | None = None,
    ) -> None:
        self._rules = rules
        self._narrowing = narrowing or Narrowing(rules)
        self._registries = registries
        self._copier = copier
        self._queue = queue
        self._manner = manner
        self._on_row = on_row
        self._run_id = f"backfill-{uuid4().hex[:12]}"
        self._work: deque[CopyRequest] = deque()
        self._comparing: set[CopyRequest] = set()
        self._waiting: dict[str, CopyRequest] = {}
        self._hears_ends = queue is not None and not manner.detach
        self._slots = asyncio.Semaphore(manner.fail_fast or sys.maxsize)
        self._news = asyncio.Event()
        self._stopping = False
        self.failed_fast = asyncio.Event()
        self.report = Report()

    def stop(self) -> None:
        """List and compare nothing more; what is queued may still end, until `run` is cancelled."""
        self._stopping = True

    async def run(self) -> Report:
        """Do it, and return what became of every tag; cancelled, `report` holds what is known so far.

        Raises:
            QueueError: the queue takes nothing.
        """
        started = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                watching = []
                if self._queue is not None and self._hears_ends:
                    watching += [group.create_task(self._hear_ends(self._queue))]
                    watching += [group.create_task(self._mind_losses(self._queue))]
                await self._list()
                for _ in range(_COMPARED_AT_ONCE):
                    group.create_task(self._compare_all())
                while self._goes_on():
                    await self._news.wait()
                    self._news.clear()
                await cancel_all(watching)
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

    def _goes_on(self) -> bool:
        if self._comparing or self._waiting:
            return True
        # Stopped, with copies queued: they may end until whoever runs them has ended too, and cancels this.
        return self._hears_ends if self._stopping else bool(self._work)

    def _account_for_the_rest(self) -> None:
        """Say of every tag that has no end yet where it stands; there is none but in a run that ended early."""
        for request in self._waiting.values():
            self._row(Row(str(request.source), str(request.destination), RowOutcome.QUEUED))
        begun = set(self._waiting)
        for request in (*self._comparing, *self._work):
            if str(request.destination) not in begun:
                self._row(Row(str(request.source), str(request.destination), RowOutcome.NOT_BEGUN))

    async def _list(self) -> None:
        """List everything before anything is compared."""
        matched = self._narrowing.matcher()
        complete = True
        async with contextlib.aclosing(Listing(self._rules, self._narrowing, self._registries).batches()) as batches:
            async for batch in batches:
                if self._stopping:
                    break
                self.report.warnings += batch.warnings
                if batch.error is not None:
                    complete = False
                    error = f"can't be listed: {explained(batch.error)}"
                    self._row(Row(batch.what, "", RowOutcome.FAILED, error=error))
                for found in batch.found:
                    matched.add(found.asked)
                    self._work.append(found.asked.request)
                for refused in batch.refused:
                    matched.add(Asked(refused.request, refused.rules))
                    source, destination = str(refused.request.source), str(refused.request.destination)
                    error = f"{refused.collision}: give the sources different destinations"
                    self._row(Row(source, destination, RowOutcome.FAILED, error=error))
                self.report.listed += len(batch.found) + len(batch.refused)
        if complete and not self._stopping:
            self.report.warnings += matched.unmatched()

    async def _compare_all(self) -> None:
        while self._work and not self._stopping:
            await self._slots.acquire()
            if not self._work or self._stopping:
                self._slots.release()
                return
            request = self._work.popleft()
            self._comparing.add(request)
            row = await self._compare(request)
            self._comparing.discard(request)
            if row is not None:
                self._end(row)
            self._news.set()

    async def _compare(self, request: CopyRequest) -> Row | None:
        """Compare, and queue what differs.

        Returns:
            What became of it; None when its copy is queued.
        """
        source, destination = str(request.source), str(request.destination)
        started = time.monotonic()
        try:
            found = await self._copier.compare(request.source, request.destination, request.options)
        except SourceNotFound as error:
            # A rule names it, or it was there a moment ago: whoever runs this should know.
            return Row(source, destination, RowOutcome.FAILED, error=str(error))
        except ReplicatorError as error:
            if error.error_class in (ErrorClass.CREDENTIALS, ErrorClass.PERMANENT) or self._queue is None:
                return Row(source, destination, RowOutcome.FAILED, error=explained(error, request.destination))
            # A fault of the moment: the job meets it with the queue's patience.
            log.debug("not compared", source=source, error=str(error))
        else:
            # Whether all signatures are there, its job looks; of an image that is left out there are none.
            looks = self._queue is not None and request.options.signatures
            again = (looks or self._manner.force) and found.result is Result.UP_TO_DATE and not request.signature
            if found.result is not None and not again:
                seconds = round(time.monotonic() - started, 3)
                outcome = RowOutcome(found.result.value)
                return Row(source, destination, outcome, found.digest, seconds=seconds, note=found.note)
            if self._queue is None:
                return Row(source, destination, RowOutcome.WOULD_COPY, found.digest, note=_why(found))
            if not request.signature and request.source.tag is not None:
                request = replace(request, announced=found.announced)
        request = replace(request, force=self._manner.force)
        if self._manner.detach:
            await self._queue.enqueue([replication.job(request, retries=self._manner.retries)], Lane.BACKFILL)
            return Row(source, destination, RowOutcome.QUEUED)
        await self._enqueue(self._queue, request)
        return None

    async def _enqueue(self, queue: Queue, request: CopyRequest) -> None:
        job = replication.job(request, retries=self._manner.retries)
        # Before it is queued: its end may be heard of before the queue has answered.
        self._waiting[job.id] = request
        try:
            await queue.enqueue([job], Lane.BACKFILL, run=self._run_id)
        except BaseException:
            # It may be queued or not: then it is better to say that it needs another backfill.
            self._waiting.pop(job.id, None)
            raise

    async def _hear_ends(self, queue: Queue) -> None:
        async for finished in queue.finished(self._run_id):
            request = self._waiting.pop(finished.id, None)
            if request is not None:
                self._end(_ended(request, finished))
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
                lost = [request for name, request in waiting.items() if self._waiting.get(name) is request]
                if lost:
                    log.warning("queue has forgotten copies", copies=len(lost))
                    jobs = [replication.job(request, retries=self._manner.retries) for request in lost]
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


def _why(found: Comparison) -> str:
    """Say why an image would be copied, and what would be left out of it."""
    if found.result is Result.UP_TO_DATE:
        why = "it is forced"
    elif found.present is None:
        why = "it is not there yet"
    else:
        why = f"{short(found.present)} is there"
    return f"{why}; {found.note}" if found.note else why


def _ended(request: CopyRequest, finished: Finished) -> Row:
    source, destination = str(request.source), str(request.destination)
    if finished.outcome is None:
        error = finished.error or "no reason was given"
        if finished.retrying:
            error += " (an event asked for it too, so it is still being tried)"
        return Row(source, destination, RowOutcome.FAILED, error=error, seconds=finished.seconds)
    outcome = Outcome.from_json(dict(finished.outcome))
    return Row(
        source,
        destination,
        RowOutcome(outcome.result.value),
        outcome.digest,
        bytes=outcome.bytes,
        seconds=outcome.seconds,
        note=outcome.note,
        warnings=outcome.warnings,
    )
