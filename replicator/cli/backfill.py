"""``replicator backfill``."""

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
from replicator.errors import ConfigError, Problem


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
    if detach and dry_run:
        raise ConfigError("command line", [Problem("--detach", "queues copies, and --dry-run does not; not both")])
    if report_format is not None and report is None:
        raise ConfigError(
            "command line", [Problem("--report-format", "says how --report is written, which is missing")]
        )
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
        ListFormat,
        Manner,
        RowFormat,
        RowOutcome,
        images_output,
        rows_output,
        run_backfill,
    )
    from replicator.rules import Narrowing

    manner = Manner(
        retries=retries,
        force=force,
        fail_fast=settings.backfill_concurrency if fail_fast else 0,
        detach=detach,
    )
    outputs = [rows_output(report, RowFormat(report_format) if report_format else None)] if report else []
    lists = (
        ("--output-success-images", output_success_images, IN_PLACE),
        ("--output-failed-images", output_failed_images, {RowOutcome.FAILED}),
    )
    outputs += [
        images_output(option, file, outcomes, ListFormat(output_images_format))
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
