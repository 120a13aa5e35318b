"""The commands that come to an end, each as a function from its options to an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING

from rich.filesize import decimal
from rich.markup import escape

from replicator import replication
from replicator.backfill import Backfill, Display, Report, check_writable, summary
from replicator.cancelling import cancel_all
from replicator.copy import Outcome, Result
from replicator.queue import Lane
from replicator.registry import Access
from replicator.replication import access_by
from replicator.rules import CopyRequest
from replicator.runtime import on_signals, open_queue, open_registries, open_worker, retry_policy

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from rich.console import Console

    from replicator.queue import Queue
    from replicator.reference import Reference, Repository
    from replicator.rules import Credentials, Rules
    from replicator.settings import Settings

OK = 0
"""Everything is in place."""
FAILED = 1
"""A copy failed."""
USAGE = 2
"""The command line, the settings or the rules can't be used; nothing was started."""
INTERRUPTED = 130
"""Ended by Ctrl-C or SIGTERM before it was done."""

_LAST_WORDS_SECONDS = 1.0
_EVENT_COPIES = 2
"""Copies at once that a backfill gives to events: a tag of its own may be pushed meanwhile."""
_NOT_YET_CAP = 60.0


async def backfill(
    settings: Settings,
    rules: Rules,
    *,
    retries: int,
    dry_run: bool,
    report_file: Path | None,
    out: Console,
    err: Console,
) -> int:
    """Bring every tag that the rules name to its destination.

    Args:
        settings: the queue, time limits and numbers at once.
        rules: say what is copied where.
        retries: how often a failing copy is tried again.
        dry_run: only say what would be copied.
        report_file: where to write a row a tag, as JSON.
        out: where the summary goes.
        err: where progress and failures are shown meanwhile.

    Returns:
        The exit code: `OK`, `FAILED` or `INTERRUPTED`.

    Raises:
        ConfigError: the report can't be written, or the queue's settings are wrong.
        QueueError: the queue takes nothing.
    """
    if report_file is not None:
        check_writable(report_file)
    display = Display(err)
    async with contextlib.AsyncExitStack() as stack:
        registries, _ = await stack.enter_async_context(open_registries(settings, access_by(rules.credentials)))
        queue = None if dry_run else await stack.enter_async_context(open_queue(settings))
        task = Backfill(rules, registries, queue, retries=retries, on_row=display.row)
        task.report.warnings += [str(warning) for warning in rules.warnings]
        try:
            async with display.follow(task.report):
                if queue is None:
                    await _stoppable(task)
                else:
                    await _with_worker(settings, rules, queue, task)
        finally:
            summary(task.report, out)
            if report_file is not None:
                task.report.write(report_file)
    return _exit_code(task.report)


def _exit_code(report: Report) -> int:
    if report.interrupted:
        return INTERRUPTED
    return FAILED if report.failures else OK


async def _stoppable(task: Backfill) -> None:
    running = asyncio.create_task(task.run())

    def stop() -> None:
        running.cancel()

    with on_signals(stop), contextlib.suppress(asyncio.CancelledError):
        await running


async def _with_worker(settings: Settings, rules: Rules, queue: Queue, task: Backfill) -> None:
    """Run a backfill beside a worker for its copies; a signal stops both, the running copies within their time."""
    # A person waits for the end: a gate at the source is asked more often, and given up after the retries.
    policy = dataclasses.replace(retry_policy(settings), not_yet_cap=_NOT_YET_CAP)
    concurrency = {Lane.EVENTS: _EVENT_COPIES, Lane.BACKFILL: settings.backfill_concurrency}
    async with open_worker(settings, rules, queue, concurrency=concurrency, policy=policy) as worker:
        listing = asyncio.create_task(task.run())
        working = asyncio.create_task(worker.run())

        def stop() -> None:
            task.stop()
            worker.stop()

        try:
            with on_signals(stop):
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
            await cancel_all({listing})
            await asyncio.wait({working})
        working.result()
        if not listing.cancelled():
            listing.result()


async def copy(
    settings: Settings,
    credentials: Credentials | None,
    source: Reference,
    destination: Reference,
    *,
    insecure: Collection[str],
    out: Console,
) -> int:
    """Copy one image, in the foreground and without a queue.

    Args:
        settings: time limits and numbers at once.
        credentials: who we are at which registry; None for nobody anywhere.
        source: what to copy.
        destination: where to.
        insecure: registries whose TLS certificate is not verified, and that may be spoken to in plain HTTP.
        out: where the outcome goes.

    Returns:
        The exit code: `OK`.

    Raises:
        ReplicatorError: it failed.
    """
    known = access_by(credentials.find) if credentials is not None else lambda _: Access()

    def access(repository: Repository) -> Access:
        found = known(repository)
        return dataclasses.replace(found, insecure=True) if repository.registry in insecure else found

    async with open_registries(settings, access) as (_, copier):
        outcome = await replication.copy(copier, CopyRequest(source, destination, rule=""))
    out.print(_sentence(outcome), soft_wrap=True, highlight=False)
    return OK


def _sentence(outcome: Outcome) -> str:
    if outcome.result is Result.UP_TO_DATE:
        return f"up to date: {escape(outcome.destination)} is {outcome.digest}"
    return (
        f"copied {escape(outcome.source)} to {escape(outcome.destination)}: {outcome.digest}, "
        f"{decimal(outcome.bytes)} in {outcome.seconds:.1f} s; blobs: {outcome.blobs_copied} sent, "
        f"{outcome.blobs_mounted} mounted, {outcome.blobs_present} there already; manifests: {outcome.manifests}"
    )


def explain(rules: Rules, reference: Reference, *, out: Console) -> int:
    """Print which rules match a reference and where it would go; nothing is contacted.

    Returns:
        The exit code: `OK` when it would go somewhere, else `FAILED`.
    """
    explanations = rules.explain(reference)
    for item in explanations:
        mark = "[green]matches[/green]" if item.matches else "[dim]no match[/dim]"
        out.print(f"{mark}  {escape(item.rule)}: {escape(item.reason)}", soft_wrap=True, highlight=False)
    requests = rules.destinations(reference)
    for request in requests:
        latest = " (if it is among the latest when it is copied)" if request.selection is not None else ""
        out.print(
            f"{escape(str(request.source))} -> {escape(str(request.destination))}{latest}",
            soft_wrap=True,
            highlight=False,
        )
    if not requests:
        out.print(f"{escape(str(reference))} would not be copied", soft_wrap=True, highlight=False)
    return OK if requests else FAILED
