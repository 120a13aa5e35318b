"""``replicator backfill``: a backfill with a worker for its copies, its progress and its exit code."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from replicator import __version__
from replicator.commands.backfill_display import Display, Plan, summary, tell_unknown_rules
from replicator.commands.options import (
    Attest,
    Auth,
    Config,
    Images,
    Key,
    Log,
    LogFormat,
    LogLevel,
    Namespace,
    Only,
    Records,
    RedisUrl,
    Registry,
    StateDir,
    contradictions,
    parse_rates,
    platforms_of,
    rules_of,
    run,
    settings_of,
    signing_key,
)
from replicator.console import record, say, stderr
from replicator.errors import FAILED, INTERRUPTED, OK, ConfigError, Problem
from replicator.queue import InForce, Lane, LoadedConfig, Queue, QueueError, Worker, announced, list_pauses
from replicator.replication.attestation import AttestationFile, Facts, is_whole
from replicator.replication.backfill import Backfill
from replicator.replication.enqueue import BackfillOptions, ReplaceLimit
from replicator.replication.forecast import Forecast
from replicator.replication.job import Handler
from replicator.replication.listing import Listing
from replicator.replication.publicity import open_publicity
from replicator.replication.report import (
    IN_PLACE,
    ImagesFile,
    ListFormat,
    Output,
    Report,
    Row,
    RowFormat,
    RowOutcome,
    RowsFile,
    end_all,
)
from replicator.replication.transfer import access_by, open_registries
from replicator.rules import Narrowing, Rules
from replicator.schedule import parse_duration, parse_moment
from replicator.server.runtime import (
    make_worker,
    open_checks,
    open_copier,
    open_queue,
    origin_of,
    retry_policy,
    run_with_worker,
)
from replicator.settings import Settings
from replicator.tasks import graceful_shutdown

_WITHIN = "7d"
_EVENT_COPIES = 2
"""Concurrent copies for events beside a backfill: one of its own tags may be pushed meanwhile."""
_NOT_YET_CAP = 60.0
"""Longest pause, in seconds, before a copy that waits for a gate at the source is retried: a person is waiting."""
_EXCLUSIVE = (
    ("--detach", "--dry-run", "which queues nothing"),
    ("--fast", "--dry-run", "which does not open the queue, where verified destinations are remembered"),
    ("--fast", "--force", "which also copies what is up to date"),
    ("--attest", "--dry-run", "which copies nothing: use replicator verify"),
    ("--attest", "--detach", "which does not wait for the copies"),
    ("--attest", "--fast", "which does not ask the destination"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class BackfillRequest:
    """The options of the command line.

    Attributes:
        settings: the queue, timeouts and concurrency.
        rules: the sources and their destinations.
        options: how the backfill works.
        narrowing: the part of the rules that is meant; None for all.
        dry_run: only list what would be copied.
        yes: replace any number of existing images without a question.
        outputs: files that are written meanwhile, and complete at the end.
        attestation: one of them, which says whether the run came to its end.
        strict: a destination that still holds an old image counts as a failure.
    """

    settings: Settings
    rules: Rules
    options: BackfillOptions
    narrowing: Narrowing | None = None
    dry_run: bool = False
    yes: bool = False
    outputs: Sequence[Output] = ()
    attestation: AttestationFile | None = None
    strict: bool = False


def backfill(
    context: typer.Context,
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
    registry: Registry = None,
    namespace: Namespace = None,
    records: Records = None,
    backfill_concurrency: Annotated[
        int | None,
        typer.Option("--proc", "-p", metavar="NUMBER", help="Concurrent copies (REPLICATOR_BACKFILL_CONCURRENCY)."),
    ] = None,
    only: Only = None,
    rule: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Only the rule with this key; repeatable.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="Only tags pushed since then, if Harbor knows the time: 24h, 7d or 2026-01-31T18:00.",
        ),
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Skip destinations that were verified recently.")] = False,
    within: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help=f"Age limit of --fast, e.g. 12h or 30d; default {_WITHIN}."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also copy images that are up to date.")] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Only queue the differences; serve or worker copies them.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 1 if a destination still has an old image.")
    ] = False,
    retries: Annotated[
        int, typer.Option("--retries", "-r", min=0, max=1000, metavar="NUMBER", help="Retries of a failing copy.")
    ] = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the copies, but copy nothing.")] = False,
    forecast: Annotated[
        bool, typer.Option("--forecast", help="With --dry-run: estimate bytes, requests and time.")
    ] = False,
    rate: Annotated[
        str | None,
        typer.Option(metavar="RATE", help="Rate for --forecast, e.g. 40Mbit/s or 5MB/s (REPLICATOR_BANDWIDTH)."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before replacing many existing images.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write one row per tag to this file; .json, .jsonl or .csv sets the format."),
    ] = None,
    report_format: Annotated[
        Literal["json", "jsonl", "csv"] | None,
        typer.Option(
            metavar="FORMAT", help="Format of the report: json, jsonl or csv. Default: by the name of the file."
        ),
    ] = None,
    attest: Attest = None,
    key: Key = None,
    output_success_images: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the successful images to this file: each source and its destinations."
        ),
    ] = None,
    output_failed_images: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The same for failed images; --images can read this file."),
    ] = None,
    output_images_format: Annotated[
        Literal["json", "yaml"], typer.Option(metavar="FORMAT", help="Format of these two files: json or yaml.")
    ] = "yaml",
    os: Annotated[
        list[str] | None,
        typer.Option(metavar="OS,...", help="Only these operating systems, for rules without platforms."),
    ] = None,
    arch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ARCH,...", help="Only these architectures, e.g. amd64,arm64:v8, for rules without platforms."
        ),
    ] = None,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
    log: Log = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Copy all existing tags that match the rules, and report each result."""
    problems = contradictions(
        _EXCLUSIVE,
        {"--detach": detach, "--dry-run": dry_run, "--fast": fast, "--force": force, "--attest": attest is not None},
        {
            "--report-format": (report_format, "--report", report),
            "--within": (within, "--fast", fast or None),
            "--attest": (attest, "--key", key),
            "--key": (key, "--attest", attest),
            "--forecast": (forecast or None, "--dry-run", dry_run or None),
            "--rate": (rate, "--forecast", forecast or None),
        },
    )
    moment, trust = _parse_times(since, within or _WITHIN, problems)
    rates = parse_rates("--rate", rate, problems)
    if problems:
        raise ConfigError("command line", problems)
    # The progress is enough on stderr, unless more is asked for.
    settings = settings_of(context, quiet=True)
    rules = rules_of(context, settings, platforms_of(os, arch))
    options = BackfillOptions(
        retries=retries,
        force=force,
        fail_fast=settings.backfill_concurrency if fail_fast else 0,
        detach=detach,
        since=moment,
        trust=trust if fast else None,
        forecast=Forecast(rates or settings.upload_limits) if forecast else None,
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
    narrowing = Narrowing(rules, only or (), rule or ())
    attestation = None
    if attest is not None and key is not None:
        facts = Facts(rules.digest, "backfill", tuple(only or ()), tuple(rule or ()), since=moment)
        attestation = AttestationFile("--attest", attest, signing_key(key), facts)
        outputs.append(attestation)
    request = BackfillRequest(
        settings, rules, options, narrowing, dry_run, yes, outputs=outputs, attestation=attestation, strict=strict
    )
    run(run_backfill(request, out=Console(), err=stderr()))


async def run_backfill(request: BackfillRequest, *, out: Console, err: Console) -> int:
    """Run a backfill, with a worker for its copies unless it is a dry run or detached.

    Args:
        request: what to do.
        out: the console of the summary.
        err: the console of progress and failures.

    Returns:
        The exit code: `OK`, `FAILED` or `INTERRUPTED`.

    Raises:
        ConfigError: a file can't be written, or the queue's settings are wrong; nothing was started.
        ReplicatorError: a file could be written at the start, but not at the end.
        QueueError: the queue accepts nothing.
    """
    settings, rules, outputs = request.settings, request.rules, list(request.outputs)
    forecast = request.options.forecast
    observer = forecast.observer() if forecast is not None else None
    for output in outputs:
        output.check()
    display = Display(err)
    if request.dry_run:
        outputs.append(Plan(out))

    def on_row(row: Row) -> None:
        display.row(row)
        for output in outputs:
            output.row(row)

    with graceful_shutdown() as shutdown:
        async with contextlib.AsyncExitStack() as stack:
            queue = None if request.dry_run else await stack.enter_async_context(open_queue(settings))
            registries, copier = await stack.enter_async_context(
                open_registries(settings, access_by(rules.credentials), observer=observer)
                if queue is None
                else open_copier(settings, rules, queue)
            )
            checks = None if queue is None else await stack.enter_async_context(open_checks(queue))
            listing = Listing(rules, registries, request.narrowing, copier)
            options = dataclasses.replace(request.options, limit=_limit(request, display))
            task = Backfill(listing, copier, queue, options=options, checks=checks, on_row=on_row)
            task.report.warnings += [str(warning) for warning in rules.warnings]
            in_force = None
            if queue is not None:
                await _tell_pauses(queue, err)
                origin, loaded = origin_of(settings), LoadedConfig(time.time(), None)
                in_force = InForce(queue, rules.digest, rules.parts, origin=origin, stays=False)
                shown = announced(queue, "backfill", __version__, lambda: loaded, rules=in_force)
                if request.options.detach:
                    task.report.warnings += await tell_unknown_rules(queue, rules, err)
                    # Announced once, so that others know its rules; it has no worker.
                    async with shown:
                        pass
                else:
                    await stack.enter_async_context(shown)
            try:
                async with display.follow(task.report, queue):
                    if queue is None or request.options.detach:
                        await task.run()
                    else:
                        async with open_publicity(queue, registries, rules) as publicity:
                            handler = Handler(copier, checks, rules, in_force, publicity)
                            await run_with_worker(_worker(settings, queue, handler, in_force), task, shutdown)
                    if queue is not None and request.options.detach:
                        task.report.warnings += await _no_worker_warning(queue, task.report)
            finally:
                if request.attestation is not None:
                    request.attestation.facts.complete = is_whole(task.report)
                # The files before the summary, whose reader may be gone (`replicator backfill | head`).
                try:
                    end_all(outputs)
                finally:
                    run_id = task.run_id if queue is not None and task.follows_copies else ""
                    summary(task.report, out, causes=display.causes, run=run_id)
                    # That of a part would be taken for the whole.
                    if forecast is not None and task.report.complete and not task.report.interrupted:
                        record(forecast.facts(listing.quota), out)
        return _exit_code(task.report, strict=request.strict)
    return INTERRUPTED


def _limit(request: BackfillRequest, display: Display) -> ReplaceLimit | None:
    """Return from which number of replacements a person is asked; None if no person can be asked, as in a cron job."""
    most = request.settings.reconcile_replaces
    if most is None or request.yes or not (sys.stdin is not None and sys.stdin.isatty() and display.is_terminal):
        return None
    return ReplaceLimit(most, ask=display.ask)


def _parse_times(since: str | None, within: str, problems: list[Problem]) -> tuple[datetime | None, float]:
    """Parse ``--since`` and ``--within`` (to seconds), and add what can't be parsed to the problems."""
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


def _exit_code(report: Report, *, strict: bool) -> int:
    if report.interrupted:
        return INTERRUPTED
    failed = report.troubles or report.counts[RowOutcome.HELD] or report.counts[RowOutcome.CANCELLED]
    return FAILED if failed or (strict and report.stale) else OK


async def _tell_pauses(queue: Queue, err: Console) -> None:
    with contextlib.suppress(QueueError):
        for each in await list_pauses(queue):
            say(
                f"{each.sentence}; replicator queue resume {each.selection.options}",
                err,
                label="paused:",
                style="yellow",
            )


async def _no_worker_warning(queue: Queue, report: Report) -> list[str]:
    with contextlib.suppress(QueueError):
        workers = await queue.workers()
        if report.counts[RowOutcome.QUEUED] and not any(worker.serves(Lane.BACKFILL) for worker in workers):
            if any(not worker.stopping for worker in workers):
                lacking, wanted = "no worker serves the lane backfill", "a worker for this lane"
            else:
                lacking, wanted = "no worker runs", "replicator serve or worker"
            return [f"{lacking} on {queue.where}: nothing is copied until {wanted} runs"]
    return []


def _worker(settings: Settings, queue: Queue, handler: Handler, in_force: InForce | None) -> Worker:
    policy = dataclasses.replace(retry_policy(settings), not_yet_cap=_NOT_YET_CAP)
    concurrency = {Lane.EVENTS: _EVENT_COPIES, Lane.BACKFILL: settings.backfill_concurrency}
    return make_worker(settings, queue, handler, concurrency=concurrency, policy=policy, in_force=in_force)
