"""The scheduled reconcile: it finds what lost events should have announced, in every ``serve`` and ``worker`` process.

One of the processes on a queue does each due run. It lists and compares all that the rules name and queues what differs
in the backfill lane, without waiting for the copies. If the settings say so, it first registers Harbor's webhook
policies: later pushes are announced by events, and earlier ones are in the list.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import structlog

from replicator.console import iso
from replicator.errors import ErrorText, ReplicatorError, bounded_line
from replicator.queue import Failure, Findings, Progress, QueueUnavailable, Reconciles, ReconcileState
from replicator.replication.backfill import Backfill
from replicator.replication.enqueue import BackfillOptions, ReplaceLimit
from replicator.replication.listing import Listing
from replicator.replication.report import TROUBLE, RowOutcome
from replicator.schedule import Every
from replicator.tasks import background, cancel_all

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from datetime import datetime

    from replicator.copy import Copier
    from replicator.harbor.registration import Registrar
    from replicator.queue import Observations, Queue, ReconcileLease, ReconcileResult
    from replicator.replication.report import Report, Row
    from replicator.rules import Rules
    from replicator.schedule import Schedule

log = structlog.get_logger("replicator.reconcile")

_RETRY_AFTER = timedelta(minutes=10)
"""The longest pause before a run that failed as a whole is retried, and the first before one that is incomplete is."""
_SPREAD_AT_START = 30.0
"""Seconds over which processes that start together spread a run that is due already."""
_LOOK_SECONDS = 5.0
"""Seconds between two looks: another process may die that runs one, and a person may ask for one."""
_OFFLINE_PAUSE = 1.0
_BROKEN_PAUSE = 60.0
_STOP_SECONDS = 5.0
_RECORD_SECONDS = 1.0
"""Seconds for recording a result while this process ends."""
_DEADLINE = 24 * 3600.0
_SHOWN_FAILURES = 20
_NAMED_FAILURES, _NAMED_CHARACTERS = 5, 300
"""Failures that are recorded with their reasons, and the most characters of each."""
_MOST_MISSING = 100
"""Unlisted sources that are recorded, so that a run notices when another one is missing."""
_MOST_DOUBLINGS = 20
_NEVER = Every(366 * 86_400)


def next_run(schedule: Schedule, state: ReconcileState) -> datetime:
    """Return when the next run is due, from the state that all processes share; ``state.now`` if it is overdue.

    A run that failed as a whole is retried some minutes after its end, not at once. So is one that could not list
    everything; its pauses grow as long as the same is missing, so that a project that is gone for good costs little.
    A run whose replacements have been approved is repeated at once, and one that somebody asked for is due at once.
    """
    last = state.last
    if state.is_requested:
        return state.now
    if last is None or state.last_started is None:
        return schedule.due(state.last_started, state.now)
    if last.findings.error is not None:
        retry = min(schedule.due(last.ended, state.now), last.ended + _RETRY_AFTER)
        return max(state.now, retry)
    if state.is_approved:
        return state.now
    due = schedule.due(last.scheduled_from, state.now)
    if not last.findings.unlisted:
        return due
    pause = _RETRY_AFTER * (1 << min(last.repeats, _MOST_DOUBLINGS))
    return max(state.now, min(due, last.ended + pause))


def _is_repeat(schedule: Schedule, state: ReconcileState) -> bool:
    """Tell whether a run that begins now only completes the last one, whose comparisons it trusts."""
    last = state.last
    if state.is_requested or last is None or state.last_started is None or last.findings.error is not None:
        return False
    completes = last.findings.unlisted > 0 or state.is_approved
    return completes and schedule.due(last.scheduled_from, state.now) > state.now


def overdue(schedule: Schedule | None, state: ReconcileState) -> float:
    """Return for how many seconds a run has been due that none began; 0 without a schedule or a run to count from."""
    if schedule is None or state.running is not None or state.last_started is None:
        return 0.0
    due = schedule.due(state.last_started, state.last_started)
    return max(0.0, (state.now - due).total_seconds())


def findings(report: Report, *, new_rules: bool = False) -> Findings:
    """Summarise the report of a run that came to its end. What new rules explain is no drift: no event was lost."""
    drift = 0 if new_rules else report.drift
    counts, failures = report.counts, report.failures
    error = f"nothing could be listed: {failures[0].error}" if failures and not report.listed else None
    rest = counts[RowOutcome.UP_TO_DATE] + counts[RowOutcome.FAILED] + counts[RowOutcome.HELD]
    skipped = counts[RowOutcome.SKIPPED] + counts[RowOutcome.SOURCE_GONE]
    unlisted = sorted({row.source for row in failures if row.outcome is RowOutcome.NOT_LISTED})
    # What could not be listed first: it may hide many tags.
    order = (RowOutcome.NOT_LISTED, RowOutcome.FAILED, RowOutcome.HELD)
    named = sorted(failures, key=lambda row: order.index(row.outcome))[:_NAMED_FAILURES]
    return Findings(
        listed=report.listed,
        up_to_date=counts[RowOutcome.UP_TO_DATE],
        drift=drift,
        skipped=skipped,
        failed=counts[RowOutcome.FAILED],
        warnings=len(report.warnings),
        error=error,
        stale=report.stale,
        lost=report.lost,
        pending=report.listed - rest - skipped - drift,
        held=counts[RowOutcome.HELD],
        collisions=report.collisions,
        unlisted=report.counts[RowOutcome.NOT_LISTED],
        failures=tuple(_failure(row) for row in named),
        missing=tuple(
            hashlib.blake2b(name.encode(errors="replace"), digest_size=4).hexdigest()
            for name in unlisted[:_MOST_MISSING]
        ),
    )


def _failure(row: Row) -> Failure:
    # A registry's words may hold what JSON has no form for.
    reason = ErrorText.parse(row.error or row.note).bounded(_NAMED_CHARACTERS)
    return Failure(bounded_line(row.source, _NAMED_CHARACTERS), reason.stored)


def _repeats(last: ReconcileResult | None, found: Findings) -> int:
    """Return how many runs in a row have tried again what could not be listed, if this one found the same or less."""
    if last is None or last.findings.error is not None or not found.unlisted:
        return 0
    if set(found.missing) - set(last.findings.missing):
        return 0
    return last.repeats + 1


class Reconciler:
    """Runs a reconcile whenever one is due and no other process runs it.

    Args:
        schedule: when runs are due; None only when somebody asks for one.
        copier: makes the comparisons; its registries are the ones that are listed.
        queue: takes what differs, and has the lease that one process at a time can hold.
        checks: records what is seen at destinations.
        registrar: registers Harbor's webhook policies; None if the settings do not say so.
        replaces: existing tags that a run may replace without an approval, see `ReplaceLimit`; None for any number.
        lease: seconds after which another process may start again the run of one that died.
        deadline: seconds after which a run counts as failed.
    """

    # More than six parameters: it is made in one place, from the parts of a process, and tests shorten the last two.
    def __init__(
        self,
        schedule: Schedule | None,
        rules: Rules,
        copier: Copier,
        queue: Queue,
        checks: Observations | None = None,
        *,
        registrar: Registrar | None = None,
        replaces: int | None = None,
        lease: float = 30.0,
        deadline: float = _DEADLINE,
    ) -> None:
        self._schedule = schedule or _NEVER
        self._only_requested = schedule is None
        self._rules = rules
        self._copier = copier
        self._queue = queue
        self._checks = checks
        self._registrar = registrar
        self._replaces = replaces
        self._unregistered: int | None = None
        self._warned: list[str] = []
        self._reconciles = Reconciles(queue, lease=lease)
        self._deadline = deadline
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        # Since when these rules are in force here by Redis's clock, until a completed run is known to have had them.
        self._uncovered = self._new_rules = True
        self._in_force_since: datetime | None = None
        # The last run that the plan follows, whether the rules need one of their own, and when this process begins it.
        self._plan: tuple[tuple[datetime | None, bool, bool], datetime] | None = None
        self._last_now: datetime | None = None
        self._offline = False

    def renew(self, rules: Rules) -> None:
        """Use other rules from the next run on; one that is running keeps its own.

        If they ask for other copies a run is due now: images that they name for the first time were pushed long ago,
        and no event will announce them.
        """
        if rules.digest != self._rules.digest:
            self._uncovered, self._in_force_since, self._plan = True, None, None
        self._rules = rules
        self._wake.set()

    def stop(self) -> None:
        """End within seconds; a run under way does not count, and the next process starts it again."""
        self._stopping.set()
        self._wake.set()

    def beside(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Run for as long as the context lasts, or until :meth:`stop`."""
        return background(self.run(), self.stop, within=_STOP_SECONDS)

    async def run(self) -> None:
        """Run what is due until :meth:`stop`. While Redis is offline it waits; it raises no error of its own."""
        while not self._stopping.is_set():
            try:
                pause = await self._step(self._schedule)
                self._offline = False
            except QueueUnavailable as error:
                if not (self._offline or self._only_requested):
                    log.warning("queue unavailable", error=error, waiting_for="reconcile")
                self._offline = True
                pause = _OFFLINE_PAUSE
            except Exception:
                # This runs beside the webhook and the copies, and a fault in it must not end them.
                log.exception("reconcile planning broken")
                pause = _BROKEN_PAUSE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            self._wake.clear()

    async def _step(self, schedule: Schedule) -> float:
        """Run what is due; return the seconds after which to look again."""
        rules = self._rules
        state = await ReconcileState.read(self._queue)
        if rules is not self._rules:
            # They changed while Redis was asked, and the answer is older than they are.
            return 0.0
        if self._only_requested and not state.is_requested:
            return _LOOK_SECONDS
        left = (self._planned(schedule, state) - state.now).total_seconds()
        if state.running is not None:
            return _LOOK_SECONDS
        if left > 0:
            return min(left, _LOOK_SECONDS)
        # Several processes may come here for one due run. The first gets the lease, and none gets it once a run has
        # ended that is not in the state yet: so each due run is done once.
        lease = await self._reconciles.begin(state.last_started)
        if lease is not None:
            await self._run(lease, state, schedule)
        return 0.0

    def _planned(self, schedule: Schedule, state: ReconcileState) -> datetime:
        """Return when this process begins the next run unless another does; the same until a run has ended."""
        # A clock that was set back would delay the plan by the same time.
        set_back = self._last_now is not None and state.now < self._last_now
        first = self._in_force_since is None
        since = self._in_force_since = self._in_force_since or state.now
        # Once a completed run had these rules, they never need one of their own again: while an upgrade lasts,
        # processes with other rules run reconciles too, and each would answer the other's with its own, endlessly.
        self._uncovered = self._uncovered and not state.covers(self._rules.digest, since)
        asked = state.is_requested or state.is_approved
        basis = (state.last_started, self._uncovered, asked)
        if self._plan is None or self._plan[0] != basis or set_back:
            due = next_run(schedule, state)
            failed = state.last is not None and state.last.findings.error is not None and state.last.ended >= since
            if self._uncovered and not failed:
                due = state.now
            spread = schedule.spread
            # Without a last one, Redis was put back to an older state: nothing is sure before the next one.
            missing = state.last is not None and state.last.findings.unlisted > 0
            if missing or (due <= state.now and (first or self._uncovered or state.last_started is None)):
                spread = min(spread, _SPREAD_AT_START)
            if asked:
                # A person is waiting, and the first process that sees it has the lease.
                spread = 0.0
            begins = due + timedelta(seconds=random.uniform(0, spread))  # noqa: S311 - no secret
            self._plan = (basis, begins)
            log.info("reconcile scheduled", next=iso(begins), schedule=str(schedule), new_rules=self._uncovered)
        self._last_now = state.now
        return self._plan[1]

    async def _run(self, lease: ReconcileLease, state: ReconcileState, schedule: Schedule) -> None:
        """Do the run that became due by ``state``, and record its result."""
        rules, self._new_rules = self._rules, self._uncovered
        last = state.last if state.last is not None and state.last.rules == rules.digest else None
        # What the last run saw in place is not compared again where this one only completes it.
        repeated = last if last is not None and _is_repeat(schedule, state) else None
        log.info("reconcile started", repeat=repeated is not None)
        trust = None if repeated is None else (state.now - repeated.scheduled_from).total_seconds() + 1
        listing = Listing(rules, self._copier.registries, copier=self._copier)
        # The approval is for the findings of the last run with these rules, and for their number.
        approved = last.findings.held if last is not None and state.is_approved else 0
        limit = ReplaceLimit(self._replaces, approved) if self._replaces is not None else None
        options = BackfillOptions(retries=None, detach=True, trust=trust, probe=False, limit=limit)
        backfill = Backfill(listing, self._copier, self._queue, options=options, checks=self._checks)

        def recorded(found: Findings) -> Coroutine[Any, Any, ReconcileResult | None]:
            whole = None if repeated is None else repeated.scheduled_from
            return lease.end(found, rules.digest, whole, _repeats(state.last, found))

        running = asyncio.create_task(self._register_and_compare(backfill))
        renewing = asyncio.create_task(lease.keep(lambda: Progress(backfill.report.listed, backfill.report.ended)))
        await self._wait(running, renewing, timeout=self._deadline)
        # Renewing ends by itself only if the lease is lost. Another process may hold it by now, so this run must end.
        # If it has just ended by itself, Redis decides whether its result still counts.
        lost = renewing.done()
        await cancel_all({running, renewing})
        if not running.cancelled() and running.exception() is None:
            await self._record(self._findings(running.result()), backfill.report, recorded)
        elif self._stopping.is_set():
            log.info("reconcile stopped")
            with contextlib.suppress(QueueUnavailable):
                await lease.give_back()
        elif lost:
            log.warning("reconcile lost", reason="its lease could not be renewed; another process may run it")
        else:
            error = self._why(running)
            found = replace(self._findings(backfill.report), error=error)
            await self._record(found, backfill.report, recorded)

    async def _register_and_compare(self, backfill: Backfill) -> Report:
        """Register the webhook policies, then compare even if that failed."""
        self._unregistered = None
        if self._registrar is not None:
            try:
                self._unregistered = await self._registrar.run()
            except Exception:
                # Lost events must still be found, even more without a webhook.
                log.exception("webhook registration broken")
        return await backfill.run()

    def _findings(self, report: Report) -> Findings:
        return replace(findings(report, new_rules=self._new_rules), unregistered=self._unregistered)

    def _why(self, running: asyncio.Task[Report]) -> str:
        """Return the reason why a run failed."""
        if running.cancelled():
            return f"it did not end within {self._deadline:g} s"
        error = running.exception()
        if isinstance(error, ReplicatorError):
            return ErrorText.of(error).stored
        log.error("reconcile broken", exc_info=error)
        return f"a fault in the program, see the log: {type(error).__name__}"

    async def _record(
        self,
        found: Findings,
        report: Report,
        end: Callable[[Findings], Coroutine[Any, Any, ReconcileResult | None]],
    ) -> None:
        """Record the result of a run in Redis, for all processes, and in the log."""
        for row in [row for row in report.failures if row.outcome in TROUBLE][:_SHOWN_FAILURES]:
            log.warning("reconcile failure", source=row.source, destination=row.destination, error=row.error)
        if report.lost:
            log.warning("destination lost images", images=report.lost, examples=report.lost_examples)
        if found.held:
            what = f"{found.held} of {found.compared} images would be replaced; this is normal once after image-syncer"
            log.warning("reconcile held", reason=what, approve="replicator reconcile approve")
        warnings = report.warnings[:_SHOWN_FAILURES]
        for warning in warnings:
            if warning not in self._warned:
                log.warning("reconcile warning", warning=warning)
        self._warned = warnings
        recording = asyncio.create_task(end(found))
        await self._wait(recording)
        await asyncio.wait({recording}, timeout=_RECORD_SECONDS)
        await cancel_all({recording})
        result = None if recording.cancelled() or recording.exception() is not None else recording.result()
        if result is None:
            log.warning("reconcile lost", reason="its result could not be recorded; it runs again")
        elif result.findings.error is not None:
            log.warning("reconcile failed", **result.to_json())
        else:
            ended = result.findings
            level = logging.WARNING if not ended.complete or ended.stale or ended.lost else logging.INFO
            log.log(level, "reconcile done", **result.to_json())

    async def _wait(self, *tasks: asyncio.Task[Any], timeout: float | None = None) -> None:
        """Wait until one of the tasks is done, the timeout is over, or this process ends."""
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({*tasks, stopped}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await cancel_all(tasks)
            raise
        finally:
            stopped.cancel()
