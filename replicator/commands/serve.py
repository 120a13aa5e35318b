"""``replicator serve`` and ``replicator worker``, which run until a signal."""

# Annotations are evaluated at once, here and in the other modules of commands: typer reads them when it runs.
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from replicator.commands.options import (
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
    given_rules,
    prepared_settings,
    run,
)
from replicator.server import process
from replicator.server.reload import Configuration, marks, watched_files
from replicator.settings import Settings, load_settings

Concurrency = Annotated[int | None, typer.Option(help="Copies for events at once (REPLICATOR_CONCURRENCY).")]
Reconcile = Annotated[
    str | None,
    typer.Option(
        metavar="WHEN",
        help="When everything is compared and what differs is queued: off, 90s, 30m, 6h, 1d or a cron expression "
        "(REPLICATOR_RECONCILE).",
    ),
]


def serve(
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
    registry: Registry = None,
    namespace: Namespace = None,
    listen: Annotated[str | None, typer.Option(help="Address of the webhook, host:port (REPLICATOR_LISTEN).")] = None,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
    concurrency: Concurrency = None,
    reconcile: Reconcile = None,
    worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Copy in this process too.")] = True,
    log: Log = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Take Harbor's webhooks and copy what is pushed, until SIGTERM."""
    first, load = _configuration(
        log,
        registry,
        namespace,
        config=config,
        auth=auth,
        images=images,
        listen=listen,
        redis_url=redis_url,
        state_dir=state_dir,
        concurrency=concurrency,
        reconcile=reconcile,
        log_level=log_level,
        log_format=log_format,
    )
    run(process.serve(first, load, with_worker=worker))


def worker(
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
    registry: Registry = None,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
    concurrency: Concurrency = None,
    reconcile: Reconcile = None,
    log: Log = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Copy what is queued, until SIGTERM; run as many as you like on one Redis."""
    first, load = _configuration(
        log,
        registry,
        namespace,
        config=config,
        auth=auth,
        images=images,
        redis_url=redis_url,
        state_dir=state_dir,
        concurrency=concurrency,
        reconcile=reconcile,
        log_level=log_level,
        log_format=log_format,
    )
    run(process.work(first, load))


def _configuration(
    log: Path | None, registry: str | None, namespace: str | None, **options: Any
) -> tuple[Configuration, Callable[[], Configuration]]:
    """Read what is in force from the start, and return it with what reads it anew.

    Raises:
        ConfigError: it can't be used.
    """

    def configuration(settings: Settings) -> Configuration:
        seen = marks(watched_files(settings))
        return Configuration(settings, given_rules(settings, registry, namespace), seen)

    return configuration(prepared_settings(log, **options)), lambda: configuration(load_settings(**options))
