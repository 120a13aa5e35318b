"""``replicator health``, which asks a running process; ``status`` and ``failures``, which look into the queue."""

from typing import Annotated, Any

import typer
from rich.console import Console

from replicator import exit_codes
from replicator.cli.options import RedisUrl, StateDir
from replicator.cli.preparing import given_reference, prepared_settings, run, stderr
from replicator.errors import ConfigError, Problem

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Failed = Annotated[list[str] | None, typer.Argument(metavar="REF", help="Destinations of the failed copies.")]
All = Annotated[bool, typer.Option("--all", help="Every one there is.")]

_WATCH_SECONDS = 2.0

failures = typer.Typer(invoke_without_command=True)


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
    settings = prepared_settings(None, quiet=True, redis_url=redis_url, state_dir=state_dir)
    every = (seconds or _WATCH_SECONDS) if watch else None
    from replicator import inspection

    run(inspection.show_status(settings, as_json=as_json, every=every, out=Console(), err=stderr()))


def health(
    listen: Annotated[str | None, typer.Option(help="Address of the webhook, host:port (REPLICATOR_LISTEN).")] = None,
) -> None:
    """Ask the replicator on this machine whether it serves; exit code 0 if it does, else 1.

    It is asked at REPLICATOR_METRICS_LISTEN, where that is set, else at the webhook's address.
    """
    settings = prepared_settings(None, quiet=True, listen=listen)
    from replicator.probes import is_alive, probes_at

    async def asked() -> int:
        base = probes_at(settings)
        alive = await is_alive(base)
        stderr().print(f"{base.authority}: {'a replicator serves' if alive else 'no replicator answers'}", markup=False)
        return exit_codes.OK if alive else exit_codes.FAILED

    run(asked())


@failures.callback()
def list_failures(
    context: typer.Context, as_json: Json = False, redis_url: RedisUrl = None, state_dir: StateDir = None
) -> None:
    """List the copies that were given up; with a command, queue them again or forget them."""
    context.obj = {"redis_url": redis_url, "state_dir": state_dir}
    if context.invoked_subcommand is None:
        settings = prepared_settings(None, quiet=True, **context.obj)
        from replicator import inspection

        run(inspection.list_failures(settings, as_json=as_json, out=Console()))
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
    settings = prepared_settings(None, quiet=True, **_nearest(context, redis_url=redis_url, state_dir=state_dir))
    from replicator import inspection

    run(inspection.retry_failures(settings, _failed(ref, every_one), out=Console(), err=stderr()))


@failures.command()
def drop(
    context: typer.Context,
    ref: Failed = None,
    every_one: All = False,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Forget copies that were given up; what is at their destinations stays."""
    settings = prepared_settings(None, quiet=True, **_nearest(context, redis_url=redis_url, state_dir=state_dir))
    from replicator import inspection

    run(inspection.drop_failures(settings, _failed(ref, every_one), out=Console(), err=stderr()))


def _nearest(context: typer.Context, **options: Any) -> dict[str, Any]:
    """Give the options of a command, and where it says nothing those that stand before its name."""
    return {name: context.obj[name] if value is None else value for name, value in options.items()}


def _failed(references: list[str] | None, every_one: bool) -> list[str] | None:
    """Give the destinations that are meant; None for all."""
    if bool(references) == every_one:
        raise ConfigError("command line", [Problem("REF", "name the destinations, or say --all; not both")])
    return None if every_one else [str(given_reference(text, "REF")) for text in references or ()]
