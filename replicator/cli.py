"""The command line: options in, exit code out. What the commands do is in the modules below.

Each command imports what it needs itself: a copy of one image neither waits nor pays for a queue and a web server.

Exit codes: 0 all in place, 1 a copy failed, 2 usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Coroutine  # noqa: TC003 - typer reads the annotations when it runs
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import structlog
import typer
import uvloop
from rich.console import Console

from replicator import __version__, exit_codes
from replicator.choosing import Arch, Choice, Os, Platforms, Signatures, chosen, wished
from replicator.errors import ConfigError, Problem, ReplicatorError
from replicator.logs import configure_logs
from replicator.reference import Reference
from replicator.rules import Rules, load, load_credentials
from replicator.settings import Settings, load_settings, unknown_variables, variables

app = typer.Typer(
    name="replicator",
    help="Replicate images from Harbor to Alibaba Cloud Container Registry, on every push and in bulk.",
    epilog="Settings come from REPLICATOR_ variables, .env and secret files too; options win. Exit codes: 0 all in "
    "place, 1 a copy failed, 2 usage or configuration, 130 interrupted.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

failures = typer.Typer(invoke_without_command=True)
app.add_typer(failures, name="failures")

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]
Config = Annotated[Path | None, typer.Option(help="Rules file, JSON or YAML (REPLICATOR_CONFIG).")]
Auth = Annotated[Path | None, typer.Option(help="File with the rules' auth part, where it is a file of its own.")]
Images = Annotated[Path | None, typer.Option(help="File with the rules' images part, where it is a file of its own.")]
Registry = Annotated[str | None, typer.Option(help='Registry of destinations that are "".')]
Namespace = Annotated[str | None, typer.Option(help='Namespace of destinations that are "".')]
RedisUrl = Annotated[
    str | None,
    typer.Option(help="Redis of the queue (REPLICATOR_REDIS_URL; a password belongs there). Without: an embedded one."),
]
StateDir = Annotated[Path | None, typer.Option(help="Where the embedded queue keeps its data (REPLICATOR_STATE_DIR).")]
LogLevel = Annotated[Level | None, typer.Option(help="The least that is logged (REPLICATOR_LOG_LEVEL).")]
LogFormat = Annotated[Format | None, typer.Option(help="Form of log lines (REPLICATOR_LOG_FORMAT).")]
Log = Annotated[Path | None, typer.Option(help="Append log lines to this file instead of stderr.")]
Concurrency = Annotated[int | None, typer.Option(help="Copies for events at once (REPLICATOR_CONCURRENCY).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Failed = Annotated[list[str] | None, typer.Argument(metavar="REF", help="Destinations of the failed copies.")]
All = Annotated[bool, typer.Option("--all", help="Every one there is.")]

_WATCH_SECONDS = 2.0


def _version(value: bool) -> None:
    if value:
        print(f"replicator {__version__}")  # noqa: T201 - the answer
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Stand before every command."""


@app.command()
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
    worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Copy in this process too.")] = True,
    log: Log = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Take Harbor's webhooks and copy what is pushed, until SIGTERM."""
    settings = _settings(
        log,
        config=config,
        auth=auth,
        images=images,
        listen=listen,
        redis_url=redis_url,
        state_dir=state_dir,
        concurrency=concurrency,
        log_level=log_level,
        log_format=log_format,
    )
    rules = _rules(settings, registry, namespace)
    from replicator import serving

    _run(serving.serve(settings, rules, with_worker=worker))


@app.command()
def worker(
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
    registry: Registry = None,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
    concurrency: Concurrency = None,
    log: Log = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Copy what is queued, until SIGTERM; run as many as you like on one Redis."""
    settings = _settings(
        log,
        config=config,
        auth=auth,
        images=images,
        redis_url=redis_url,
        state_dir=state_dir,
        concurrency=concurrency,
        log_level=log_level,
        log_format=log_format,
    )
    from replicator import serving

    _run(serving.work(settings, _rules(settings, registry, namespace)))


@app.command()
def backfill(
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
    registry: Registry = None,
    namespace: Namespace = None,
    proc: Annotated[int | None, typer.Option(help="Copies at once (REPLICATOR_BACKFILL_CONCURRENCY).")] = None,
    retries: Annotated[int, typer.Option(min=0, max=1000, help="How often a failing copy is tried again.")] = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be copied.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write a row a tag to this file, as JSON.")] = None,
    os: Os = None,
    arch: Arch = None,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
    log: Log = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Bring every existing tag that the rules name to its destination, and say what became of each."""
    settings = _settings(
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
    rules = _rules(settings, registry, namespace, platforms=wished(os, arch))
    from replicator.backfill import run_backfill

    _run(
        run_backfill(
            settings, rules, retries=retries, dry_run=dry_run, report_file=report, out=Console(), err=_stderr()
        )
    )


@app.command()
def copy(
    source: Annotated[str, typer.Argument(help="What to copy: registry/repository:tag, or @digest.")],
    destination: Annotated[str, typer.Argument(help="Where to: registry/repository:tag.")],
    config: Config = None,
    auth: Auth = None,
    insecure: Annotated[
        list[str] | None, typer.Option(help="A registry whose TLS certificate is not verified, or with plain HTTP.")
    ] = None,
    platform: Platforms = None,
    attestations: Choice = None,
    signatures: Signatures = False,
    log: Log = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Copy one image now, in the foreground; with a rules file, using its credentials."""
    settings = _settings(log, quiet=log is None, config=config, auth=auth, log_level=log_level, log_format=log_format)
    given = settings.config is not None or settings.auth is not None
    target = _reference(destination, "DESTINATION")
    credentials = load_credentials(settings.config, auth=settings.auth, environ=variables()) if given else None
    from replicator.foreground import copy_one

    _run(
        copy_one(
            settings,
            credentials,
            _reference(source, "SOURCE"),
            target,
            options=chosen(target, platform, attestations, signatures),
            insecure=insecure or (),
            out=Console(),
        )
    )


@app.command()
def explain(
    reference: Annotated[str, typer.Argument(help="An image at the source: registry/repository:tag.")],
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
    registry: Registry = None,
    namespace: Namespace = None,
) -> None:
    """Say which rules match an image and where it would go; nothing is contacted."""
    settings = _settings(None, quiet=True, config=config, auth=auth, images=images)
    rules = _rules(settings, registry, namespace)
    from replicator.foreground import explain_reference

    _exit(explain_reference(rules, _reference(reference, "REFERENCE"), out=Console()))


@app.command()
def status(
    seconds: Annotated[
        float | None,
        typer.Argument(metavar="SECONDS", min=0.1, max=86_400, help="With --watch: how often; 2 when not said."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    as_json: Json = False,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Show what the queue does: what is queued, runs, waits for a retry or was given up, and who works."""
    if seconds is not None and not watch:
        raise ConfigError("command line", [Problem("SECONDS", "says how often to look; it goes with --watch")])
    settings = _settings(None, quiet=True, redis_url=redis_url, state_dir=state_dir)
    every = (seconds or _WATCH_SECONDS) if watch else None
    from replicator import inspection

    _run(inspection.show_status(settings, as_json=as_json, every=every, out=Console(), err=_stderr()))


@failures.callback()
def list_failures(
    context: typer.Context, as_json: Json = False, redis_url: RedisUrl = None, state_dir: StateDir = None
) -> None:
    """List the copies that were given up; with a command, queue them again or forget them."""
    context.obj = {"redis_url": redis_url, "state_dir": state_dir}
    if context.invoked_subcommand is None:
        settings = _settings(None, quiet=True, **context.obj)
        from replicator import inspection

        _run(inspection.list_failures(settings, as_json=as_json, out=Console()))
    if as_json:
        raise ConfigError("command line", [Problem("--json", "is for the list alone")])


@failures.command()
def retry(
    context: typer.Context,
    ref: Failed = None,
    every_one: All = False,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Queue copies that were given up again, as if their tags had just been pushed."""
    settings = _settings(None, quiet=True, **_nearest(context, redis_url=redis_url, state_dir=state_dir))
    from replicator import inspection

    _run(inspection.retry_failures(settings, _failed(ref, every_one), out=Console(), err=_stderr()))


@failures.command()
def drop(
    context: typer.Context,
    ref: Failed = None,
    every_one: All = False,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Forget copies that were given up; what is at their destinations stays."""
    settings = _settings(None, quiet=True, **_nearest(context, redis_url=redis_url, state_dir=state_dir))
    from replicator import inspection

    _run(inspection.drop_failures(settings, _failed(ref, every_one), out=Console(), err=_stderr()))


def _nearest(context: typer.Context, **options: Any) -> dict[str, Any]:
    """Give the options of a command, and where it says nothing those that stand before its name."""
    return {name: context.obj[name] if value is None else value for name, value in options.items()}


def _failed(references: list[str] | None, every_one: bool) -> list[str] | None:
    """Give the destinations that are meant; None for all."""
    if bool(references) == every_one:
        raise ConfigError("command line", [Problem("REF", "name the destinations, or say --all; not both")])
    return None if every_one else [str(_reference(text, "REF")) for text in references or ()]


def _settings(log: Path | None, *, quiet: bool = False, **options: Any) -> Settings:
    settings = load_settings(**options)
    level = "warning" if quiet and "log_level" not in settings.model_fields_set else settings.log_level
    configure_logs(level, settings.log_format, log)
    for problem in unknown_variables():
        structlog.get_logger("replicator").warning("unknown setting", name=problem.path, problem=problem.message)
    return settings


def _rules(settings: Settings, registry: str | None = None, namespace: str | None = None, **options: Any) -> Rules:
    if settings.config is None and settings.images is None:
        message = "no rules file: give --config FILE, or set REPLICATOR_CONFIG"
        raise ConfigError("command line", [Problem("--config", message)])
    rules = load(
        settings.config,
        auth=settings.auth,
        images=settings.images,
        environ=variables(),
        registry=registry,
        namespace=namespace,
        **options,
    )
    for warning in rules.warnings:
        structlog.get_logger("replicator").warning("rules", path=warning.path, problem=warning.message)
    return rules


def _reference(text: str, name: str) -> Reference:
    try:
        return Reference.parse(text)
    except ValueError as error:
        raise ConfigError("command line", [Problem(name, str(error))]) from None


def _stderr() -> Console:
    return Console(stderr=True)


def _run(command: Coroutine[Any, Any, int | None]) -> NoReturn:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            code = runner.run(command)
        except KeyboardInterrupt:
            code = exit_codes.INTERRUPTED
    _exit(code or exit_codes.OK)


def _exit(code: int) -> NoReturn:
    raise typer.Exit(code)


def main() -> None:
    """Run the command line; the program's entry point."""
    try:
        app()
    except ConfigError as error:
        code = _told(error, exit_codes.USAGE)
    except ReplicatorError as error:
        code = _told(error, exit_codes.FAILED)
    except BrokenPipeError:
        # Who read our output has gone; nothing more can be said to them.
        with contextlib.suppress(OSError):
            sys.stdout.close()
        code = exit_codes.FAILED
    sys.exit(code)


def _told(error: Exception, code: int) -> int:
    print(f"replicator: {error}", file=sys.stderr)  # noqa: T201 - to the person who called
    for note in getattr(error, "__notes__", ()):
        print(f"  {note}", file=sys.stderr)  # noqa: T201 - the same
    return code
