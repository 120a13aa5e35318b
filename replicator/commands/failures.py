"""``replicator failures``: dead letters, the copies that were given up: list them, queue them again, forget them."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from replicator.commands.options import RedisUrl, StateDir, given_reference, prepared_settings, run, stderr
from replicator.commands.status import Json, existing_queue
from replicator.console import document, iso, local, page, plain
from replicator.errors import FAILED, OK, ConfigError, Problem
from replicator.queue import DeadLetter, DeadLetters
from replicator.settings import Settings

_NONE = "no failures: nothing was given up"


async def print_failures(settings: Settings, *, as_json: bool, out: Console) -> int:
    """Print every dead letter, the oldest first.

    Args:
        settings: where the queue is.
        as_json: print a JSON array, a `letter_json` each, instead of a table.
        out: where to.

    Returns:
        The exit code: `OK`, however many there are.

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
        out.print(_NONE)
    return OK


async def retry_failures(settings: Settings, references: Sequence[str] | None, *, out: Console, err: Console) -> int:
    """Queue dead letters anew, with a fresh count of tries.

    Args:
        settings: where the queue is.
        references: destinations of those that are meant; None for all.
        out: where what was done is told.
        err: where what could not be done is told.

    Returns:
        The exit code: `OK`, or `FAILED` when one is no dead letter or can't be queued.

    Raises:
        ConfigError: the queue's settings are wrong.
        QueueError: the queue does not answer.
    """
    async with existing_queue(settings) as queue:
        queued = await DeadLetters(queue).retry(references)
        done = set(queued)
        named = references is not None
        missing = [reference for reference in dict.fromkeys(references or ()) if reference not in done]
        # Who asks for all is told of those that are lost, and not of those that were given up again meanwhile.
        left = await DeadLetters(queue).all() if missing or not named else []
        lost = [letter.id for letter in left if letter.id not in done and letter.payload is None]
        idle = bool(queued) and not await queue.workers()
    _tell("queued again", queued, out)
    refused = [reference for reference in lost if not named or reference in missing]
    unknown = [reference for reference in missing if reference not in lost]
    if not (named or queued or refused):
        out.print(_NONE)
    _tell("can't be queued again as its content is lost, push the tag again", refused, err)
    _tell("no failure of this destination", unknown, err)
    if idle:
        err.print("no worker runs now; the copies begin when one is started", soft_wrap=True, highlight=False)
    return FAILED if refused or unknown else OK


async def drop_failures(settings: Settings, references: Sequence[str] | None, *, out: Console, err: Console) -> int:
    """Forget dead letters. Their destinations stay as they are; the next push of a tag copies it as ever.

    Args:
        settings: where the queue is.
        references: destinations of those that are meant; None for all.
        out: where what was done is told.
        err: where what could not be done is told.

    Returns:
        The exit code: `OK`, or `FAILED` when one is no dead letter.

    Raises:
        ConfigError: the queue's settings are wrong.
        QueueError: the queue does not answer.
    """
    async with existing_queue(settings) as queue:
        dropped = await DeadLetters(queue).drop(references)
    _tell("dropped", dropped, out)
    unknown = [reference for reference in dict.fromkeys(references or ()) if reference not in dropped]
    _tell("no failure of this destination", unknown, err)
    if references is None and not dropped:
        out.print(_NONE)
    return FAILED if unknown else OK


def letter_json(letter: DeadLetter) -> dict[str, Any]:
    """Give a dead letter as JSON values.

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
    """Draw dead letters as a table: from where to where and why in one column, which takes the room that is left."""
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold", leading=1)
    table.add_column("copy and reason", overflow="fold")
    table.add_column("class", no_wrap=True)
    table.add_column("tries", justify="right", no_wrap=True)
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


def _tell(what: str, references: Iterable[str], console: Console) -> None:
    for reference in references:
        console.print(f"{what}: {reference}", soft_wrap=True, markup=False, highlight=False)


Failed = Annotated[list[str] | None, typer.Argument(metavar="REF", help="Destinations of the failed copies.")]
All = Annotated[bool, typer.Option("--all", help="Every one there is.")]

failures = typer.Typer(invoke_without_command=True)


@failures.callback()
def list_failures(
    context: typer.Context, as_json: Json = False, redis_url: RedisUrl = None, state_dir: StateDir = None
) -> None:
    """List the copies that were given up; with a command, queue them again or forget them."""
    context.obj = {"redis_url": redis_url, "state_dir": state_dir}
    if context.invoked_subcommand is None:
        settings = prepared_settings(None, quiet=True, **context.obj)
        run(print_failures(settings, as_json=as_json, out=Console()))
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
    run(retry_failures(settings, _failed(ref, every_one), out=Console(), err=stderr()))


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
    run(drop_failures(settings, _failed(ref, every_one), out=Console(), err=stderr()))


def _nearest(context: typer.Context, **options: Any) -> dict[str, Any]:
    """Give the options of a command, and where it says nothing those that stand before its name."""
    return {name: context.obj[name] if value is None else value for name, value in options.items()}


def _failed(references: list[str] | None, every_one: bool) -> list[str] | None:
    """Give the destinations that are meant; None for all."""
    if bool(references) == every_one:
        raise ConfigError("command line", [Problem("REF", "name the destinations, or say --all; not both")])
    return None if every_one else [str(given_reference(text, "REF")) for text in references or ()]
