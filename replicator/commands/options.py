"""Options that several commands share, and the work that every command does with them first.

A command lists its options as parameters, since typer makes the help from them: hence the long signatures of commands.
It does not pass them on one by one. Typer keeps their values in the context, and `settings_of` and `rules_of` take
theirs from there.
"""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar

import structlog
import typer
import uvloop

from replicator.errors import INTERRUPTED, OK, ConfigError, Problem
from replicator.logs import configure_logs
from replicator.reference import HUB, Platform, Reference, full_host, full_name
from replicator.settings import Settings, load_settings, unknown_variables, variables

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from replicator.replication.signing import SigningKey
    from replicator.rules import Rules
    from replicator.timetable import HostTimetables

T = TypeVar("T")

_OBJECTS_A_COLLECTION = 5_000

Config = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="Rules file, JSON or YAML, or a directory of them (REPLICATOR_CONFIG)."),
]
Auth = Annotated[Path | None, typer.Option(metavar="FILE", help="Separate file for the auth part of the rules.")]
Images = Annotated[Path | None, typer.Option(metavar="FILE", help="Separate file for the images part of the rules.")]
Registry = Annotated[str | None, typer.Option(metavar="HOST", help='Registry of destinations written as "".')]
Namespace = Annotated[str | None, typer.Option(metavar="NAME", help='Namespace of destinations written as "".')]
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Only matching sources, e.g. team/** or team/app:v1*; repeatable."),
]
RedisUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Redis of the queue. Set REPLICATOR_REDIS_URL if the URL has a password. Default: an embedded server.",
    ),
]
StateDir = Annotated[
    Path | None,
    typer.Option(metavar="DIRECTORY", help="Directory of the embedded queue's data (REPLICATOR_STATE_DIR)."),
]
Listen = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Address of the webhook (REPLICATOR_LISTEN).")]
Log = Annotated[Path | None, typer.Option(metavar="FILE", help="Append log lines to this file instead of stderr.")]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    typer.Option(metavar="LEVEL", help="Lowest level to log: debug, info, warning or error (REPLICATOR_LOG_LEVEL)."),
]
LogFormat = Annotated[
    Literal["auto", "console", "json"] | None,
    typer.Option(metavar="FORMAT", help="Format of log lines: auto, console or json (REPLICATOR_LOG_FORMAT)."),
]
Records = Annotated[Path | None, typer.Option(metavar="FILE", hidden=True, help="Of image-syncer 1.0; has no effect.")]
Attest = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write all rows and a signed statement to this file.")
]
Key = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="PEM file of the signing key, created if missing; with --check, of the public key.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def settings_of(context: typer.Context, *, quiet: bool = False) -> Settings:
    """Load the settings with a command's options, and configure logging.

    Args:
        context: the command's context.
        quiet: log only warnings and errors, unless a level is set or ``--log`` names a file.

    Raises:
        ConfigError: a setting is invalid.
    """
    log = context.params.get("log")
    settings = load_settings(**setting_options(context))
    unset = "log_level" not in settings.model_fields_set
    level = "warning" if quiet and log is None and unset else settings.log_level
    configure_logs(level, settings.log_format, log)
    if context.params.get("records") is not None:
        message = "has no effect: replicator compares with the destination, and reads or writes no such file"
        structlog.get_logger("replicator").warning("option", name="--records", problem=message)
    for problem in unknown_variables():
        structlog.get_logger("replicator").warning("unknown setting", name=problem.path, problem=problem.message)
    return settings


def setting_options(context: typer.Context) -> dict[str, Any]:
    """Return the values of a command's options by the setting that each overrides; None for one that was not given.

    A command of a group, such as ``failures retry``, falls back to the options before its name.
    """
    found: dict[str, Any] = {}
    place: Any = context
    while place is not None:
        for name, value in place.params.items():
            if name in Settings.model_fields and found.get(name) is None:
                found[name] = value
        place = place.parent
    return found


def rules_of(
    context: typer.Context, settings: Settings, platforms: tuple[Platform, ...] = (), *, offline: bool = False
) -> Rules:
    """Load the rules with a command's options; log the source of every login, and what looks like a mistake.

    Args:
        context: the command's context.
        settings: where the rules are.
        platforms: for rules that list none; empty for all.
        offline: nothing is contacted, so that a password may be missing.

    Raises:
        ConfigError: no file is given, or one is invalid; with every problem of all files.
    """
    from replicator.rules import load

    options = rules_options(context, settings, platforms)
    options["environ"].offline = offline
    return log_rules(load(settings.config, auth=settings.auth, images=settings.images, **options))


def rules_options(context: typer.Context, settings: Settings, platforms: tuple[Platform, ...] = ()) -> dict[str, Any]:
    """Return what rules depend on beside their files, see `replicator.rules.defaults.RulesOptions`.

    Raises:
        ConfigError: no file is given.
    """
    if settings.config is None and settings.images is None:
        message = "no rules file: give --config FILE, or set REPLICATOR_CONFIG"
        raise ConfigError("command line", [Problem("--config", message)])
    from replicator.registry.docker_logins import docker_logins

    known = variables()
    if settings.config is not None:
        known.beside = settings.config if settings.config.is_dir() else settings.config.parent
    return {
        "environ": known,
        "registry": context.params.get("registry"),
        "namespace": context.params.get("namespace"),
        "platforms": platforms,
        "elsewhere": docker_logins(settings.docker_config),
    }


def log_rules(rules: Rules) -> Rules:
    """Log the source of every login, and what looks like a mistake; return the rules."""
    for host, source in rules.logins:
        structlog.get_logger("replicator").info("login configured", registry=host, source=source)
    for warning in rules.warnings:
        structlog.get_logger("replicator").warning("rules", path=warning.path, problem=warning.message)
    return rules


def parse_reference(text: str, argument: str) -> Reference:
    """Parse an image reference from the command line; every name of Docker Hub's registry is its host.

    Raises:
        ConfigError: it is none.
    """
    return _parsed(argument, Reference.parse, full_name(text) if full_host(text.partition("/")[0]) == HUB else text)


def parse_platforms(option: str, texts: Iterable[str] | None) -> tuple[Platform, ...]:
    """Parse platforms such as ``linux/arm64/v8`` from an option's values.

    Raises:
        ConfigError: one is none.
    """
    return tuple(_parsed(option, Platform.parse, text) for text in texts or ())


def run(command: Coroutine[Any, Any, int | None]) -> NoReturn:
    """Run a command to its end, and exit with the code that it returns; None is `OK`."""
    # What is loaded by now lives as long as the process. Little of the rest is in a cycle, and a search for that after
    # every 700 objects, Python's default, takes a twentieth of a backfill.
    gc.freeze()
    gc.set_threshold(_OBJECTS_A_COLLECTION)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            code = runner.run(command)
        except KeyboardInterrupt:
            code = INTERRUPTED
    raise typer.Exit(code or OK)


def _parsed(option: str, parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError("command line", [Problem(option, str(error))]) from None


def signing_key(file: Path) -> SigningKey:
    """Open the key that signs; tell a person if it was made."""
    from replicator.console import say, stderr
    from replicator.replication.signing import open_signing_key, public_file

    key = open_signing_key(file)
    if key.is_new:
        say(f"created a new key, {file}; use {public_file(file)} to check its signatures", stderr())
    return key


def platforms_of(systems: Sequence[str] | None, architectures: Sequence[str] | None) -> tuple[Platform, ...]:
    """Return the platforms that image-syncer's ``--os`` and ``--arch`` ask for: every pair of both, or () for all.

    Args:
        systems: lists with commas, e.g. ``linux,windows``.
        architectures: lists with commas, e.g. ``amd64,arm64:v8``.

    Raises:
        ConfigError: an item is invalid.
    """
    by_system = parse_platforms("--os", [f"{name}/*" for name in items("--os", systems)])
    names = items("--arch", architectures)
    by_architecture = parse_platforms("--arch", [f"*/{name.replace(':', '/')}" for name in names])
    if not by_system or not by_architecture:
        return (*by_system, *by_architecture)
    return tuple(Platform(one.os, other.architecture, other.variant) for one in by_system for other in by_architecture)


def items(option: str, lists: Sequence[str] | None) -> list[str]:
    """Return the items of an option that is repeatable, and takes several with commas between them."""
    # An empty option has no effect, as in image-syncer.
    items = [item.strip() for text in lists or () if text for item in text.split(",")]
    for item in items:
        if not item or "/" in item:
            message = f"{item[:100]!r} is not a name: separate names by commas, e.g. linux,windows or amd64,arm64:v8"
            raise ConfigError("command line", [Problem(option, message)])
    return items


def contradictions(
    exclusive: Iterable[tuple[str, str, str]],
    given: Mapping[str, bool],
    needing: Mapping[str, tuple[object, str, object]],
) -> list[Problem]:
    """Find options that can't be combined.

    Args:
        exclusive: pairs of flags that can't be combined, each with the reason.
        given: flags, and whether each is set.
        needing: options with their value, the option that each requires, and the value of that.
    """
    problems = [
        Problem(one, f"can't be combined with {other}, {why}")
        for one, other, why in exclusive
        if given[one] and given[other]
    ]
    problems += [
        Problem(option, f"requires {required}")
        for option, (value, required, other) in needing.items()
        if value is not None and other is None
    ]
    return problems


def parse_rates(option: str, text: str | None, problems: list[Problem]) -> HostTimetables | None:
    """Parse bytes a second, and add what can't be parsed to the problems; None where no text is given."""
    from replicator.timetable import parse_bandwidth

    try:
        return parse_bandwidth(text) if text is not None else None
    except ValueError as error:
        problems.append(Problem(option, str(error)))
        return None
