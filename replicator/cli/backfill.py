"""``replicator backfill``."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from replicator.cli.choosing import Arch, Os, wished
from replicator.cli.options import (
    Auth,
    Config,
    Images,
    Log,
    LogFormat,
    LogLevel,
    Namespace,
    RedisUrl,
    Registry,
    StateDir,
)
from replicator.cli.preparing import given_rules, prepared_settings, run, stderr
from replicator.durations import parse_duration, parse_moment
from replicator.errors import ConfigError, Problem

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
    from replicator.backfill import (
        IN_PLACE,
        ImagesFile,
        ListFormat,
        Manner,
        Output,
        RowFormat,
        RowOutcome,
        RowsFile,
        run_backfill,
    )
    from replicator.rules import Narrowing

    manner = Manner(
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
            manner=manner,
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
