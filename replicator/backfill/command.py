"""``replicator backfill``: a backfill beside a worker for its copies, what is shown of it, and its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING

from replicator.backfill.display import Display
from replicator.backfill.files import end_all
from replicator.backfill.report import Report, RowOutcome
from replicator.backfill.run import Backfill
from replicator.backfill.summary import Plan, summary
from replicator.cancelling import cancel_all
from replicator.exit_codes import FAILED, INTERRUPTED, OK
from replicator.queue import Lane, QueueError
from replicator.runtime import make_worker, open_checks, open_copier, open_queue, retry_policy
from replicator.signals import ending_at_signals
from replicator.transfer import access_by, open_registries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from replicator.backfill.files import Output
    from replicator.backfill.manner import Manner
    from replicator.backfill.report import Row
    from replicator.copy import Copier
    from replicator.queue import Checks, Queue, Worker
    from replicator.registry import Registries
    from replicator.rules import Narrowing, Rules
    from replicator.settings import Settings
    from replicator.signals import Ending

_LAST_WORDS_SECONDS = 1.0
_EVENT_COPIES = 2
"""Copies at once that a backfill gives to events: a tag of its own may be pushed meanwhile."""
_NOT_YET_CAP = 60.0


async def run_backfill(
    settings: Settings,
    rules: Rules,
    *,
    manner: Manner,
    narrowing: Narrowing | None = None,
    dry_run: bool,
    outputs: Sequence[Output] = (),
    out: Console,
    err: Console,
) -> int:
    """Bring every tag that the rules name to its destination.

    Args:
        settings: the queue, time limits and numbers at once.
        rules: say what is copied where.
        manner: how to go about it.
        narrowing: what is meant, of all that the rules name; None for everything.
        dry_run: only say what would be copied.
        outputs: the files that are written meanwhile, and complete at the end.
        out: where the summary goes.
        err: where progress and failures are shown meanwhile.

    Returns:
        The exit code: `OK`, `FAILED` or `INTERRUPTED`.

    Raises:
        ConfigError: a file can't be written, or the queue's settings are wrong; nothing was started.
        ReplicatorError: a file could be written at the start and can't at the end.
        QueueError: the queue takes nothing.
    """
    for output in outputs:
        output.check()
    display = Display(err)
    if dry_run:
        outputs = [*outputs, Plan(out)]

    def tell(row: Row) -> None:
        display.row(row)
        for output in outputs:
            output.row(row)

    with ending_at_signals() as ending:
        async with contextlib.AsyncExitStack() as stack:
            queue = None if dry_run else await stack.enter_async_context(open_queue(settings))
            registries, copier = await stack.enter_async_context(
                open_registries(settings, access_by(rules.credentials))
                if queue is None
                else open_copier(settings, rules, queue)
            )
            checks = None if queue is None else await stack.enter_async_context(open_checks(queue))
            task = Backfill(
                rules,
                registries,
                copier,
                queue,
                manner=manner,
                narrowing=narrowing,
                checks=checks,
                on_row=tell,
            )
            task.report.warnings += [str(warning) for warning in rules.warnings]
            try:
                async with display.follow(task.report, queue):
                    if queue is None or manner.detach:
                        await task.run()
                    else:
                        worker = _worker(settings, queue, registries, copier, checks)
                        await _with_worker(worker, task, ending)
                    if queue is not None and manner.detach:
                        task.report.warnings += await _nobody_works(queue, task.report)
            finally:
                # The files first: who reads the summary may be gone (`replicator backfill | head`).
                try:
                    end_all(outputs)
                finally:
                    summary(task.report, out)
        return _exit_code(task.report)
    return INTERRUPTED


def _exit_code(report: Report) -> int:
    if report.interrupted:
        return INTERRUPTED
    return FAILED if report.counts[RowOutcome.FAILED] else OK


async def _nobody_works(queue: Queue, report: Report) -> list[str]:
    """Warn of copies that are queued where no process would begin them."""
    with contextlib.suppress(QueueError):
        if report.counts[RowOutcome.QUEUED] and not await queue.workers():
            return [f"no replicator works on {queue.where}: nothing is copied until replicator serve or worker runs"]
    return []


def _worker(settings: Settings, queue: Queue, registries: Registries, copier: Copier, checks: Checks | None) -> Worker:
    # A person waits for the end: a gate at the source is asked more often, and given up after the retries.
    policy = dataclasses.replace(retry_policy(settings), not_yet_cap=_NOT_YET_CAP)
    concurrency = {Lane.EVENTS: _EVENT_COPIES, Lane.BACKFILL: settings.backfill_concurrency}
    return make_worker(settings, queue, registries, copier, concurrency=concurrency, policy=policy, checks=checks)


async def _with_worker(worker: Worker, task: Backfill, ending: Ending) -> None:
    """Run a backfill beside a worker for its copies.

    A signal stops both, the running copies within their time; so does a failure that ends the run.
    """
    listing = asyncio.create_task(task.run())
    working = asyncio.create_task(worker.run())
    failing = asyncio.create_task(task.failed_fast.wait())

    def stop() -> None:
        task.stop()
        worker.stop()

    try:
        ending.started(stop)
        await asyncio.wait({listing, working, failing}, return_when=asyncio.FIRST_COMPLETED)
        if failing.done() and not ending.asked:
            worker.stop()
        await asyncio.wait({listing, working}, return_when=asyncio.FIRST_COMPLETED)
        if not listing.done():
            # Stopped: what ended last is still to be heard of.
            await asyncio.wait({listing}, timeout=_LAST_WORDS_SECONDS)
            await cancel_all({listing})
        else:
            worker.stop()
        await asyncio.wait({listing, working})
    finally:
        worker.stop()
        await cancel_all({listing, failing})
        await asyncio.wait({working})
    working.result()
    if not listing.cancelled():
        listing.result()
