"""The scheduled reconcile beside a webhook or a worker: events get lost, and this finds what they should have told of.

Each due run is done by one of the processes on a queue. It lists and compares all that the rules name, queues what
differs in the backfill lane, and does not wait for the copies. Where the settings want it, it first makes sure of
Harbor's webhook policies: what is pushed from then on is told of, and what was pushed before is listed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import structlog

from replicator.console import iso
from replicator.errors import ReplicatorError
from replicator.queue import Findings, Progress, QueueUnavailable, Reconciles, ReconcileState
from replicator.replication.backfill import Backfill
from replicator.replication.compare import BackfillOptions
from replicator.replication.report import RowOutcome
from replicator.tasks import background, cancel_all

if TYPE_CHECKING:
    from datetime import datetime

    from replicator.copy import Copier
    from replicator.harbor.registration import Registrar
    from replicator.queue import Observations, Queue, ReconcileLease
    from replicator.registry import Registries
    from replicator.replication.report import Report
    from replicator.rules import Rules
    from replicator.schedule import Schedule

log = structlog.get_logger("replicator.reconcile")

_AGAIN = timedelta(minutes=10)
"""After which a run that failed as a whole is tried again, at the latest."""
_SPREAD_AT_START = 30.0
_POLL_SECONDS = 60.0
_HELD_POLL_SECONDS = 5.0
_AWAY_PAUSE = 1.0
_BROKEN_PAUSE = 60.0
_STOP_SECONDS = 5.0
_LAST_WORDS_SECONDS = 1.0
_DEADLINE = 24 * 3600.0
_SHOWN_FAILURES = 20


def next_run(schedule: Schedule, state: ReconcileState) -> datetime:
    """Say when the next run is due, by what all processes know; the present when one is.

    A run that failed as a whole is not tried again at once, but some minutes after its end.
    """
    last = state.last
    if last is None or last.findings.error is None:
        return schedule.due(state.last_started, state.now)
    again = min(schedule.due(last.ended, state.now), last.ended + _AGAIN)
    return max(state.now, again)


def overdue(schedule: Schedule | None, state: ReconcileState) -> float:
    """Say for how many seconds a run has been due that nobody has begun; 0 when none is due, or one runs.

    Args:
        schedule: when runs are due; None for never.
        state: what all processes know. Before the first run has ended there is nothing to count from: 0.
    """
    if schedule is None or state.running is not None or state.last_started is None:
        return 0.0
    due = schedule.due(state.last_started, state.last_started)
    return max(0.0, (state.now - due).total_seconds())


def findings(report: Report) -> Findings:
    """Sum up the report of a run that came to its end."""
    counts, failures = report.counts, report.failures
    error = None
    if failures and not report.listed:
        error = f"nothing could be listed: {failures[0].error}"
    return Findings(
        listed=report.listed,
        up_to_date=counts[RowOutcome.UP_TO_DATE],
        drift=report.drift,
        skipped=counts[RowOutcome.SKIPPED],
        failed=counts[RowOutcome.FAILED],
        warnings=len(report.warnings),
        error=error,
    )


class Reconciler:
    """Runs a reconcile whenever one is due and no other process runs it.

    Args:
        schedule: when one is due; None for never.
        rules: what is copied where.
        registries: to list.
        copier: to compare.
        queue: takes what differs, and says which process has the turn.
        checks: learns what is seen at destinations.
        registrar: makes Harbor's webhook policies; None where that is not wanted.
        lease: seconds after which the run of a process that died is begun anew by another.
        deadline: seconds after which a run counts as failed.
    """

    def __init__(
        self,
        schedule: Schedule | None,
        rules: Rules,
        registries: Registries,
        copier: Copier,
        queue: Queue,
        checks: Observations | None = None,
        *,
        registrar: Registrar | None = None,
        lease: float = 30.0,
        deadline: float = _DEADLINE,
    ) -> None:
        self._schedule = schedule
        self._rules = rules
        self._registries = registries
        self._copier = copier
        self._queue = queue
        self._checks = checks
        self._registrar = registrar
        self._unregistered: int | None = None
        self._reconciles = Reconciles(queue, lease=lease)
        self._deadline = deadline
        self._stopping = asyncio.Event()
        self._news = asyncio.Event()
        self._soon = False
        self._planned: tuple[datetime | None, datetime] | None = None
        self._seen: datetime | None = None
        self._away = False

    def renew(self, rules: Rules) -> None:
        """Go on under other rules; a run under way goes on as it began.

        Where they ask for other copies a run is due now: what is there already and no rule named has no event to come.
        """
        self._soon = self._soon or not rules.asks_for_the_same_as(self._rules)
        self._rules = rules
        self._news.set()

    def stop(self) -> None:
        """End within moments; a run under way does not count, and is begun anew by whoever is next."""
        self._stopping.set()
        self._news.set()

    def beside(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Run for as long as the context lasts, or until :meth:`stop`."""
        return background(self.run(), self.stop, within=_STOP_SECONDS)

    async def run(self) -> None:
        """Run what is due until :meth:`stop`. Redis away is waited for. It raises nothing of its own."""
        if self._schedule is None:
            return
        while not self._stopping.is_set():
            try:
                pause = await self._step(self._schedule)
                self._away = False
            except QueueUnavailable as error:
                if not self._away:
                    log.warning("queue unavailable", error=str(error), waiting_for="reconcile")
                self._away = True
                pause = _AWAY_PAUSE
            except Exception:
                # A fault in this must not end the copying beside it.
                log.exception("reconcile broken")
                pause = _BROKEN_PAUSE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._news.wait()
            self._news.clear()

    async def _step(self, schedule: Schedule) -> float:
        """Run what is due.

        Returns:
            The seconds after which to look again.
        """
        state = await ReconcileState.read(self._queue)
        left = (self._plan(schedule, state) - state.now).total_seconds()
        if state.running is not None:
            return max(min(left, _POLL_SECONDS), _HELD_POLL_SECONDS)
        if left > 0:
            return min(left, _POLL_SECONDS)
        lease = await self._reconciles.begin(state.last_started)
        if lease is not None:
            await self._run(lease)
        return 0.0

    def _plan(self, schedule: Schedule, state: ReconcileState) -> datetime:
        """Say when this process begins the next run, if no other does: the same until one has ended."""
        set_back = self._seen is not None and state.now < self._seen
        if self._soon or self._planned is None or self._planned[0] != state.last_started or set_back:
            due = state.now if self._soon else next_run(schedule, state)
            spread = schedule.spread
            if due <= state.now and (self._soon or self._planned is None):
                spread = min(spread, _SPREAD_AT_START)
            self._soon = False
            begins = due + timedelta(seconds=random.uniform(0, spread))  # noqa: S311 - no secret
            self._planned = (state.last_started, begins)
            log.info("reconcile scheduled", next=iso(begins), schedule=str(schedule))
        self._seen = state.now
        return self._planned[1]

    async def _run(self, lease: ReconcileLease) -> None:
        """Do one run, and note what became of it."""
        log.info("reconcile started")
        manner = BackfillOptions(retries=None, detach=True)
        backfill = Backfill(
            self._rules, self._registries, self._copier, self._queue, manner=manner, checks=self._checks
        )

        def progress() -> Progress:
            return Progress(backfill.report.listed, backfill.report.counts.total())

        running = asyncio.create_task(self._register_and(backfill))
        keeping = asyncio.create_task(lease.keep(progress))
        await self._unless_stopped(running, keeping, timeout=self._deadline)
        lost = keeping.done()
        await cancel_all({running, keeping})
        if not running.cancelled() and running.exception() is None:
            await self._note(lease, self._findings(running.result()), backfill.report)
        elif self._stopping.is_set():
            log.info("reconcile stopped")
            with contextlib.suppress(QueueUnavailable):
                await lease.give_back()
        elif lost:
            log.warning("reconcile lost", reason="its lease could not be renewed, so that another may run it")
        else:
            error = self._why(running)
            await self._note(lease, replace(self._findings(backfill.report), error=error), backfill.report)

    async def _register_and(self, backfill: Backfill) -> Report:
        """Make sure of the webhook policies, then compare, whatever became of those."""
        self._unregistered = None
        if self._registrar is not None:
            try:
                self._unregistered = await self._registrar.run()
            except Exception:
                # A fault in this must not keep lost events from being found.
                log.exception("webhook registration broken")
        return await backfill.run()

    def _findings(self, report: Report) -> Findings:
        return replace(findings(report), unregistered=self._unregistered)

    def _why(self, running: asyncio.Task[Report]) -> str:
        """Say why a run failed."""
        if running.cancelled():
            return f"it did not end within {self._deadline:g} s"
        error = running.exception()
        if isinstance(error, ReplicatorError):
            return str(error)
        log.error("reconcile broken", exc_info=error)
        return f"a fault in the program, see the log: {type(error).__name__}"

    async def _note(self, lease: ReconcileLease, found: Findings, report: Report) -> None:
        """Tell all processes and the log how a run ended."""
        for row in report.failures[:_SHOWN_FAILURES]:
            log.warning("reconcile failure", source=row.source, destination=row.destination, error=row.error)
        noting = asyncio.create_task(lease.end(found))
        await self._unless_stopped(noting)
        await asyncio.wait({noting}, timeout=_LAST_WORDS_SECONDS)
        await cancel_all({noting})
        result = None if noting.cancelled() or noting.exception() is not None else noting.result()
        if result is None:
            log.warning("reconcile lost", reason="its end could not be noted, so that it is run again")
        elif result.findings.error is not None:
            log.warning("reconcile failed", **result.to_json())
        else:
            level = logging.WARNING if result.findings.failed else logging.INFO
            log.log(level, "reconcile done", **result.to_json())

    async def _unless_stopped(self, *tasks: asyncio.Task[Any], timeout: float | None = None) -> None:
        """Wait for the first of some tasks, until the timeout or until this is to end."""
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({*tasks, stopped}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await cancel_all(tasks)
            raise
        finally:
            stopped.cancel()
