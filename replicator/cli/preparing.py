"""What every command does before and after its work: settings, rules and references in, the exit code out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn

import structlog
import typer
import uvloop
from rich.console import Console

from replicator import exit_codes
from replicator.errors import ConfigError, Problem
from replicator.logs import configure_logs
from replicator.reference import Reference
from replicator.settings import Settings, load_settings, unknown_variables, variables

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from replicator.rules import Rules


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
    from replicator.docker import docker_logins
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
    """Run a command to its end, and leave with the exit code it returns; None is `exit_codes.OK`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            code = runner.run(command)
        except KeyboardInterrupt:
            code = exit_codes.INTERRUPTED
    leave(code or exit_codes.OK)


def leave(code: int) -> NoReturn:
    """End with an exit code."""
    raise typer.Exit(code)
