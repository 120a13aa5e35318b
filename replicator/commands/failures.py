"""``replicator failures``: list the dead letters, retry them or drop them."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from replicator.commands.options import Json, RedisUrl, StateDir, parse_reference, run, settings_of
from replicator.commands.status import existing_queue
from replicator.console import document, iso, local, page, plain, say, stderr
from replicator.errors import FAILED, OK, ConfigError, Problem
from replicator.queue import DeadLetter, DeadLetters
from replicator.settings import Settings

_NONE = "no dead letters"
_UNKNOWN = "no dead letter with this destination"
_LOST = "can't be retried as its content is lost, push the tag again"

References = Annotated[list[str] | None, typer.Argument(metavar="REF", help="Destinations of the dead letters.")]
All = Annotated[bool, typer.Option("--all", help="All dead letters.")]

failures = typer.Typer(invoke_without_command=True, add_completion=False)


@failures.callback()
def list_failures(
    context: typer.Context, as_json: Json = False, redis_url: RedisUrl = None, state_dir: StateDir = None
) -> None:
    """List the dead letters: copies that are no longer retried. Subcommands retry or drop them."""
    if context.invoked_subcommand is None:
        run(print_failures(settings_of(context, quiet=True), as_json=as_json, out=Console()))
    if as_json:
        raise ConfigError("command line", [Problem("--json", "works for the list alone")])


@failures.command()
def retry(
    context: typer.Context,
    ref: References = None,
    every_one: All = False,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Queue dead letters again, as if their tags had just been pushed."""
    settings = settings_of(context, quiet=True)
    run(retry_failures(settings, _destinations(ref, every_one), out=Console(), err=stderr()))


@failures.command()
def drop(
    context: typer.Context,
    ref: References = None,
    every_one: All = False,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Delete dead letters; the images at their destinations stay."""
    settings = settings_of(context, quiet=True)
    run(drop_failures(settings, _destinations(ref, every_one), out=Console(), err=stderr()))


async def print_failures(settings: Settings, *, as_json: bool, out: Console) -> int:
    """Print all dead letters, the oldest first: as a table, or as a JSON array of `letter_json`.

    Raises:
        ConfigError: the queue's settings are wrong.
        QueueError: the queue does not answer.
    """
    async with existing_queue(settings) as queue:
        letters = await DeadLetters(queue).all()
    if as_json:
        document([letter_json(letter) for letter in letters], out)
    elif letters:
        page(failures_table(letters), out)
    else:
        say(_NONE, out)
    return OK


async def retry_failures(settings: Settings, references: Sequence[str] | None, *, out: Console, err: Console) -> int:
    """Queue dead letters again, with a fresh count of attempts.

    Args:
        settings: where the queue is.
        references: their destinations; None for all.
        out: the console for what was queued.
        err: the console for what could not be queued.

    Returns:
        The exit code: `OK`, or `FAILED` if a reference is no dead letter or can't be queued.

    Raises:
        ConfigError: the queue's settings are wrong.
        QueueError: the queue does not answer.
    """
    async with existing_queue(settings) as queue:
        queued = await DeadLetters(queue).retry(references)
        done = set(queued)
        named = references is not None
        missing = [reference for reference in dict.fromkeys(references or ()) if reference not in done]
        # With --all, a letter that is left is reported only if its content is lost: it may be a new failure.
        left = await DeadLetters(queue).all() if missing or not named else []
        lost = [letter.id for letter in left if letter.id not in done and letter.payload is None]
        idle = bool(queued) and not await queue.workers()
    _list("queued again", queued, out)
    refused = [reference for reference in lost if not named or reference in missing]
    unknown = [reference for reference in missing if reference not in lost]
    if not (named or queued or refused):
        say(_NONE, out)
    _list(_LOST, refused, err)
    _list(_UNKNOWN, unknown, err)
    if idle:
        say("no worker runs: the copies begin when one is started", err)
    return FAILED if refused or unknown else OK


async def drop_failures(settings: Settings, references: Sequence[str] | None, *, out: Console, err: Console) -> int:
    """Delete dead letters. The next push of a tag copies it as usual.

    Args:
        settings: where the queue is.
        references: their destinations; None for all.
        out: the console for what was deleted.
        err: the console for what was not found.

    Returns:
        The exit code: `OK`, or `FAILED` if a reference is no dead letter.

    Raises:
        ConfigError: the queue's settings are wrong.
        QueueError: the queue does not answer.
    """
    async with existing_queue(settings) as queue:
        dropped = await DeadLetters(queue).drop(references)
    _list("dropped", dropped, out)
    unknown = [reference for reference in dict.fromkeys(references or ()) if reference not in dropped]
    _list(_UNKNOWN, unknown, err)
    if references is None and not dropped:
        say(_NONE, out)
    return FAILED if unknown else OK


def letter_json(letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter as JSON values.

    Keys: ``source`` and ``rule`` (null when the stored job is lost), ``destination``, ``lane``, ``error_class``,
    ``message``, ``tries``, ``first`` and ``last`` (RFC 3339, UTC).
    """
    payload = letter.payload or {}
    return {
        "source": payload.get("source"),
        "destination": letter.id,
        "rule": payload.get("rule"),
        "lane": str(letter.lane),
        "error_class": str(letter.error_class),
        "message": letter.message,
        "tries": letter.tries,
        "first": iso(letter.first),
        "last": iso(letter.last),
    }


def failures_table(letters: Sequence[DeadLetter]) -> Table:
    """Draw dead letters as a table. Source, destination and reason share a column, which takes the remaining width."""
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold", leading=1)
    table.add_column("copy and reason", overflow="fold")
    table.add_column("class", no_wrap=True)
    table.add_column("attempts", justify="right", no_wrap=True)
    table.add_column("first, last", no_wrap=True)
    for letter in letters:
        source = (letter.payload or {}).get("source")
        what = Group(
            plain(str(source) if source else "(its source is lost)"),
            Text("-> ").append_text(plain(letter.id)),
            plain(letter.message),
        )
        times = f"{local(letter.first)}\n{local(letter.last)}"
        table.add_row(what, str(letter.error_class), str(letter.tries), times)
    return table


def _list(what: str, references: Iterable[str], console: Console) -> None:
    for reference in references:
        say(f"{what}: {reference}", console)


def _destinations(references: list[str] | None, every_one: bool) -> list[str] | None:
    """Return the destinations that the command line names; None for all."""
    if bool(references) == every_one:
        raise ConfigError("command line", [Problem("REF", "name the destinations or use --all, not both")])
    return None if every_one else [str(parse_reference(text, "REF")) for text in references or ()]
