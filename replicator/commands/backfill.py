"""``replicator backfill``.

``replicator backfill``: a backfill beside a worker for its copies, what is shown of it, and its exit code.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from replicator.commands.backfill_display import Display, Plan, summary
from replicator.commands.options import (
    Arch,
    Auth,
    Config,
    Images,
    Log,
    LogFormat,
    LogLevel,
    Namespace,
    Os,
    RedisUrl,
    Registry,
    StateDir,
    given_rules,
    prepared_settings,
    run,
    stderr,
    wished,
)
from replicator.copy import Copier
from replicator.errors import FAILED, INTERRUPTED, OK, ConfigError, Problem
from replicator.queue import Lane, Observations, Queue, QueueError, Worker
from replicator.replication.backfill import Backfill, BackfillOptions
from replicator.replication.job import Handler
from replicator.replication.listing import Listing
from replicator.replication.report import Report, Row, RowOutcome
from replicator.replication.report_files import IN_PLACE, ImagesFile, ListFormat, Output, RowFormat, RowsFile, end_all
from replicator.replication.transfer import access_by, open_registries
from replicator.rules import Narrowing, Rules
from replicator.schedule import parse_duration, parse_moment
from replicator.server.runtime import make_worker, open_checks, open_copier, open_queue, retry_policy
from replicator.settings import Settings
from replicator.tasks import Shutdown, cancel_all, graceful_shutdown

_WITHIN = "7d"


def backfill(
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
    registry: Registry = None,
    namespace: Namespace = None,
    proc: Annotated[
        int | None, typer.Option("--proc", "-p", help="Copies at once (REPLICATOR_BACKFILL_CONCURRENCY).")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Only sources like this, e.g. team/** or team/app:v1*; repeatable."),
    ] = None,
    rule: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Only the rule with this key; repeatable.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="Only tags set since then, where Harbor tells: 24h, 7d or 2026-01-31T18:00."),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Don't ask again for what this installation saw to be right lately.")
    ] = False,
    within: Annotated[
        str | None, typer.Option(metavar="TIME", help=f"How lately, with --fast: 12h, 30d; {_WITHIN} without.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Copy also what is at its destination already.")] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="End at the first failure.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Queue what differs, and leave the copying to serve or worker.")
    ] = False,
    retries: Annotated[
        int, typer.Option("--retries", "-r", min=0, max=1000, help="How often a failing copy is tried again.")
    ] = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be copied.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write a row a tag to this file: .json, .jsonl or .csv by its ending.")
    ] = None,
    report_format: Annotated[
        Literal["json", "jsonl", "csv"] | None, typer.Option(help="The report's format, whatever its file's ending.")
    ] = None,
    output_success_images: Annotated[
        Path | None, typer.Option(help="Write what is in place to this file: each source and its destinations.")
    ] = None,
    output_failed_images: Annotated[
        Path | None, typer.Option(help="The same of what failed; such a file can be given to --images.")
    ] = None,
    output_images_format: Annotated[
        Literal["json", "yaml"], typer.Option(help="The format of these two files.")
    ] = "yaml",
    os: Os = None,
    arch: Arch = None,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
    log: Log = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Bring every existing tag that the rules name to its destination, and say what became of each."""
    problems = _contradictions(
        {"--detach": detach, "--dry-run": dry_run, "--fast": fast, "--force": force},
        {"--report-format": (report_format, "--report", report), "--within": (within, "--fast", fast or None)},
    )
    moment, trust = _read(since, within or _WITHIN, problems)
    if problems:
        raise ConfigError("command line", problems)
    settings = prepared_settings(
        log,
        # On stderr the progress is enough, unless more is asked for.
        quiet=log is None,
        config=config,
        auth=auth,
        images=images,
        backfill_concurrency=proc,
        redis_url=redis_url,
        state_dir=state_dir,
        log_level=log_level,
        log_format=log_format,
    )
    rules = given_rules(settings, registry, namespace, platforms=wished(os, arch))
    options = BackfillOptions(
        retries=retries,
        force=force,
        fail_fast=settings.backfill_concurrency if fail_fast else 0,
        detach=detach,
        since=moment,
        trust=trust if fast else None,
    )
    outputs: list[Output] = []
    if report is not None:
        outputs.append(RowsFile(report, RowFormat(report_format) if report_format else None))
    lists = (
        ("--output-success-images", output_success_images, IN_PLACE),
        ("--output-failed-images", output_failed_images, {RowOutcome.FAILED}),
    )
    outputs += [
        ImagesFile(option, file, outcomes, ListFormat(output_images_format))
        for option, file, outcomes in lists
        if file is not None
    ]
    run(
        run_backfill(
            settings,
            rules,
            options=options,
            narrowing=Narrowing(rules, only or (), rule or ()),
            dry_run=dry_run,
            outputs=outputs,
            out=Console(),
            err=stderr(),
        )
    )


_NOT_BOTH = (
    ("--detach", "--dry-run", "queues copies, and --dry-run does not"),
    ("--fast", "--dry-run", "needs what the queue keeps, and --dry-run does without the queue"),
    ("--fast", "--force", "leaves out what is right, and --force does not"),
)


def _contradictions(given: Mapping[str, bool], needing: Mapping[str, tuple[object, str, object]]) -> list[Problem]:
    """Find options that don't go together.

    Args:
        given: switches, and whether each is on.
        needing: options with their value, the option that each needs, and the value of that.
    """
    problems = [Problem(one, f"{why}; not both") for one, other, why in _NOT_BOTH if given[one] and given[other]]
    problems += [
        Problem(option, f"is about {needed}, which is missing")
        for option, (value, needed, other) in needing.items()
        if value is not None and other is None
    ]
    return problems


def _read(since: str | None, within: str, problems: list[Problem]) -> tuple[datetime | None, float]:
    """Read times, and note what can't be read."""
    moment, trust = None, 0.0
    try:
        moment = parse_moment(since, datetime.now().astimezone()) if since is not None else None
    except ValueError as error:
        problems.append(Problem("--since", str(error)))
    try:
        trust = parse_duration(within).total_seconds()
    except ValueError as error:
        problems.append(Problem("--within", str(error)))
    return moment, trust


_LAST_WORDS_SECONDS = 1.0
_EVENT_COPIES = 2
"""Copies at once that a backfill gives to events: a tag of its own may be pushed meanwhile."""
_NOT_YET_CAP = 60.0


async def run_backfill(
    settings: Settings,
    rules: Rules,
    *,
    options: BackfillOptions,
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
        options: how it is done.
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

    with graceful_shutdown() as shutdown:
        async with contextlib.AsyncExitStack() as stack:
            queue = None if dry_run else await stack.enter_async_context(open_queue(settings))
            registries, copier = await stack.enter_async_context(
                open_registries(settings, access_by(rules.credentials))
                if queue is None
                else open_copier(settings, rules, queue)
            )
            checks = None if queue is None else await stack.enter_async_context(open_checks(queue))
            listing = Listing(rules, registries, narrowing)
            task = Backfill(listing, copier, queue, options=options, checks=checks, on_row=tell)
            task.report.warnings += [str(warning) for warning in rules.warnings]
            try:
                async with display.follow(task.report, queue):
                    if queue is None or options.detach:
                        await task.run()
                    else:
                        worker = _worker(settings, queue, copier, checks)
                        await _with_worker(worker, task, shutdown)
                    if queue is not None and options.detach:
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


def _worker(settings: Settings, queue: Queue, copier: Copier, checks: Observations | None) -> Worker:
    # A person waits for the end: a gate at the source is asked more often, and given up after the retries.
    policy = dataclasses.replace(retry_policy(settings), not_yet_cap=_NOT_YET_CAP)
    concurrency = {Lane.EVENTS: _EVENT_COPIES, Lane.BACKFILL: settings.backfill_concurrency}
    handler = Handler(copier, checks)
    return make_worker(settings, queue, handler, concurrency=concurrency, policy=policy)


async def _with_worker(worker: Worker, task: Backfill, shutdown: Shutdown) -> None:
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
        shutdown.on_signal(stop)
        await asyncio.wait({listing, working, failing}, return_when=asyncio.FIRST_COMPLETED)
        if failing.done() and not shutdown.requested:
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
