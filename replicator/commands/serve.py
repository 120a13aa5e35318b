"""``replicator serve`` and ``replicator worker``, which run until a signal."""

# Annotations are evaluated at once, here and in the other modules of commands: typer reads them when it runs.
from collections.abc import Callable
from typing import Annotated

import typer

from replicator.commands.options import (
    Auth,
    Config,
    Images,
    Listen,
    Log,
    LogFormat,
    LogLevel,
    Namespace,
    RedisUrl,
    Registry,
    StateDir,
    log_rules,
    rules_options,
    run,
    setting_options,
    settings_of,
)
from replicator.errors import ConfigError, Problem
from replicator.queue import Lane
from replicator.rules.defaults import RulesOptions
from replicator.server import process
from replicator.server.reload import Configuration
from replicator.server.runtime import AcceptedRules
from replicator.settings import Settings, load_settings

Concurrency = Annotated[
    int | None, typer.Option(metavar="NUMBER", help="Concurrent copies for events (REPLICATOR_CONCURRENCY).")
]
Lanes = Annotated[
    list[Lane] | None,
    typer.Option(
        "--lane", metavar="LANE", help="Copy only for this lane: events or backfill; both by default. Repeatable."
    ),
]
Reconcile = Annotated[
    str | None,
    typer.Option(
        metavar="SCHEDULE",
        help="Schedule of the full comparison (reconcile): off, 90s, 30m, 6h, 1d or a cron expression "
        "(REPLICATOR_RECONCILE).",
    ),
]
Strict = Annotated[
    bool | None,
    typer.Option(
        "--strict",
        help="Exit with code 2 on an invalid rules file, instead of starting with its last valid version "
        "(REPLICATOR_STRICT).",
    ),
]


def serve(
    context: typer.Context,
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
    registry: Registry = None,
    namespace: Namespace = None,
    listen: Listen = None,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
    concurrency: Concurrency = None,
    reconcile: Reconcile = None,
    worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Also copy in this process.")] = True,
    lane: Lanes = None,
    strict: Strict = None,
    log: Log = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Receive Harbor's webhooks and copy every pushed image. Runs until SIGTERM."""
    if lane and not worker:
        message = "--no-worker copies nothing, so no lane can be served; leave one of the two out"
        raise ConfigError("command line", [Problem("--lane", message)])
    first, load = _configuration(context)
    run(process.serve(first, load, lanes=(lane or list(Lane)) if worker else []))


def worker(
    context: typer.Context,
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
    registry: Registry = None,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
    concurrency: Concurrency = None,
    lane: Lanes = None,
    reconcile: Reconcile = None,
    strict: Strict = None,
    log: Log = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Copy queued images. Runs until SIGTERM. Any number of workers can share one Redis."""
    first, load = _configuration(context)
    run(process.work(first, load, lanes=lane or list(Lane)))


def _configuration(context: typer.Context) -> tuple[Configuration, Callable[[], Configuration]]:
    """Load the configuration, and return it with the function that reloads it.

    Raises:
        ConfigError: it can't be used.
    """
    first = settings_of(context)
    rules = AcceptedRules(first)

    def configuration(settings: Settings, *, strict: bool = False) -> Configuration:
        options = RulesOptions(**rules_options(context, settings))
        found = rules.load(settings, options, strict=strict)
        log_rules(found.rules)
        return found

    return configuration(first, strict=first.strict), lambda: configuration(load_settings(**setting_options(context)))
