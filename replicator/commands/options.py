"""The options that several commands share.

What of an image is copied, as the command line says it: the options, and what they mean.

What every command does before and after its work: settings, rules and references in, the exit code out.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import structlog
import typer
import uvloop
from rich.console import Console

from replicator.aliyun.acr import automatic_attestations
from replicator.copy.options import Attestations, CopyOptions
from replicator.errors import INTERRUPTED, OK, ConfigError, Problem
from replicator.logs import configure_logs
from replicator.reference import Platform, Reference
from replicator.settings import Settings, load_settings, unknown_variables, variables

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from replicator.rules import Rules

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
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    typer.Option(help="The least that is logged (REPLICATOR_LOG_LEVEL)."),
]
LogFormat = Annotated[
    Literal["auto", "console", "json"] | None, typer.Option(help="Form of log lines (REPLICATOR_LOG_FORMAT).")
]
Log = Annotated[Path | None, typer.Option(help="Append log lines to this file instead of stderr.")]

Platforms = Annotated[
    list[str] | None, typer.Option(metavar="OS/ARCH", help="Only images for this platform, e.g. linux/arm64/v8.")
]
Choice = Annotated[
    Literal["keep", "strip", "fail"] | None,
    typer.Option(help="BuildKit's attestations; when not said: kept, but for those that ACR refuses."),
]
Signatures = Annotated[bool, typer.Option("--signatures", help="Signatures and whatever else refers to the image too.")]
Os = Annotated[
    list[str] | None, typer.Option(metavar="OS,...", help="Only for these, where a rule names no platforms.")
]
Arch = Annotated[
    list[str] | None,
    typer.Option(metavar="ARCH,...", help="Only for these, e.g. amd64,arm64:v8, where a rule names no platforms."),
]


def chosen(
    destination: Reference, platforms: Iterable[str] | None, attestations: str | None, signatures: bool
) -> CopyOptions:
    """Return what ``--platform``, ``--attestations`` and ``--signatures`` ask for.

    Args:
        destination: decides about attestations where the option does not; under a digest no byte may change.
        platforms: as they are written.
        attestations: a word of `Attestations`; None when not said.
        signatures: whether they are copied too.

    Raises:
        ConfigError: a text is no platform, or less is asked for under a digest.
    """
    wishes = tuple(_platform("--platform", text) for text in platforms or ())
    choice = Attestations(attestations) if attestations is not None else automatic_attestations(destination.registry)
    options = CopyOptions(wishes, choice, signatures)
    if destination.digest is None:
        return options
    if options.platforms or choice is Attestations.STRIP:
        option = "--platform" if options.platforms else "--attestations"
        message = "what is left of an image has another digest than the one DESTINATION names: name a tag there"
        raise ConfigError("command line", [Problem(option, message)])
    return options if attestations is not None else CopyOptions((), Attestations.KEEP, signatures)


def wished(systems: Iterable[str] | None, architectures: Iterable[str] | None) -> tuple[Platform, ...]:
    """Return the platforms that image-syncer's ``--os`` and ``--arch`` ask for, every pair of both; none for all.

    Args:
        systems: lists with commas, e.g. ``linux,windows``.
        architectures: lists with commas, e.g. ``amd64,arm64:v8``.

    Raises:
        ConfigError: a text is none of these.
    """
    by_system = [_platform("--os", f"{text}/*") for text in _items("--os", systems)]
    by_architecture = [_platform("--arch", f"*/{text.replace(':', '/')}") for text in _items("--arch", architectures)]
    if not by_system or not by_architecture:
        return (*by_system, *by_architecture)
    return tuple(Platform(one.os, other.architecture, other.variant) for one in by_system for other in by_architecture)


def _items(option: str, lists: Iterable[str] | None) -> list[str]:
    items = [item.strip() for text in lists or () for item in text.split(",")]
    for item in items:
        if not item or "/" in item:
            message = f"{item[:100]!r} is no name: commas stand between names, e.g. linux,windows or amd64,arm64:v8"
            raise ConfigError("command line", [Problem(option, message)])
    return items


def _platform(option: str, text: str) -> Platform:
    try:
        return Platform.parse(text)
    except ValueError as error:
        raise ConfigError("command line", [Problem(option, str(error))]) from None


def prepared_settings(log: Path | None, *, quiet: bool = False, **options: Any) -> Settings:
    """Read the settings, and have log lines come out as they say.

    Args:
        log: the file that lines are appended to; None for stderr.
        quiet: only warnings and errors, where the settings say nothing of it.
        options: what the command line says, by setting; None means that it says nothing.

    Raises:
        ConfigError: a setting can't be used.
    """
    settings = load_settings(**options)
    level = "warning" if quiet and "log_level" not in settings.model_fields_set else settings.log_level
    configure_logs(level, settings.log_format, log)
    for problem in unknown_variables():
        structlog.get_logger("replicator").warning("unknown setting", name=problem.path, problem=problem.message)
    return settings


def given_rules(settings: Settings, registry: str | None = None, namespace: str | None = None, **options: Any) -> Rules:
    """Read the rules that the settings name, and log what looks like a mistake in them, and whence the logins are.

    Args:
        settings: say where they are, and where Docker's logins are.
        registry: the default registry; wins over the file's.
        namespace: the default namespace; wins over the file's.
        options: more that `replicator.rules.load` takes.

    Raises:
        ConfigError: no file is named, or it is wrong.
    """
    if settings.config is None and settings.images is None:
        message = "no rules file: give --config FILE, or set REPLICATOR_CONFIG"
        raise ConfigError("command line", [Problem("--config", message)])
    from replicator.registry.docker_logins import docker_logins
    from replicator.rules import load

    rules = load(
        settings.config,
        auth=settings.auth,
        images=settings.images,
        environ=variables(),
        registry=registry,
        namespace=namespace,
        elsewhere=docker_logins(settings.docker_config),
        **options,
    )
    for host, source in rules.logins:
        structlog.get_logger("replicator").info("login", registry=host, source=source)
    for warning in rules.warnings:
        structlog.get_logger("replicator").warning("rules", path=warning.path, problem=warning.message)
    return rules


def given_reference(text: str, name: str) -> Reference:
    """Read an image's name.

    Args:
        text: as it was written.
        name: what the argument is called.

    Raises:
        ConfigError: it is none.
    """
    try:
        return Reference.parse(text)
    except ValueError as error:
        raise ConfigError("command line", [Problem(name, str(error))]) from None


def stderr() -> Console:
    """Return where progress and failures are shown."""
    return Console(stderr=True)


def run(command: Coroutine[Any, Any, int | None]) -> NoReturn:
    """Run a command to its end, and leave with the exit code it returns; None is `OK`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            code = runner.run(command)
        except KeyboardInterrupt:
            code = INTERRUPTED
    leave(code or OK)


def leave(code: int) -> NoReturn:
    """End with an exit code."""
    raise typer.Exit(code)
