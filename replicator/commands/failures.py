"""``replicator failures`` and ``replicator history``: the dead letters, and what ended and was done lately."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from replicator.commands.options import Json, RedisUrl, StateDir, parse_reference, run, settings_of
from replicator.commands.status import existing_queue
from replicator.console import document, error_lines, iso, local, page, plain, say, stderr
from replicator.errors import FAILED, OK, ConfigError, ErrorText, Problem, error_fields
from replicator.queue import DeadLetter, DeadLetters, History, Queue, Selection, named, note_action, system_user
from replicator.settings import Settings

_SHOWN = 20
"""Rows of each table of the history by default."""
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


def history(
    context: typer.Context,
    as_json: Json = False,
    limit: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, help="Maximum rows of each table; --json prints all.")
    ] = _SHOWN,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Show the latest actions of people, reconciles and finished copies."""
    run(print_history(settings_of(context, quiet=True), as_json=as_json, limit=limit, out=Console()))


async def print_history(settings: Settings, *, as_json: bool, limit: int, out: Console) -> int:
    """Print the history, the newest first: as tables, or as a JSON object of `history_json`.

    Raises:
        ConfigError: the queue's settings are wrong.
        QueueError: the queue does not answer.
    """
    async with existing_queue(settings) as queue:
        read = await History.read(queue)
    if as_json:
        document(history_json(read), out)
    else:
        page(draw_history(read, limit), out)
    return OK


def history_json(read: History) -> dict[str, Any]:
    """Return the history as JSON values: ``actions``, ``reconciles`` and ``copies``, lists with the newest first.

    Times are RFC 3339 in UTC; ``seconds`` is how long the last attempt took, ``lag`` how long its push waited.
    """
    return {
        "actions": [
            {"at": iso(each.at), "action": each.action, "what": each.what, "by": each.by} for each in read.actions
        ],
        "reconciles": [each.to_json() for each in read.reconciles],
        "copies": [
            {
                "at": iso(each.at),
                "source": each.source or None,
                "destination": each.id,
                "rule": each.rule or None,
                "lane": str(each.lane),
                "result": each.result,
                "note": str(ErrorText.parse(each.note)),
                **error_fields(None if each.error_class is None else each.note),
                "replaced": each.replaced or None,
                "error_class": None if each.error_class is None else str(each.error_class),
                "bytes": each.bytes,
                "seconds": each.seconds,
                "lag": each.lag,
                "tries": each.tries,
            }
            for each in read.ended
        ],
    }


def draw_history(read: History, limit: int) -> RenderableType:
    """Draw the newest entries of the history as a table for each kind."""
    actions = _table("action", "by", "when")
    for action in read.actions[:limit]:
        what = plain(f"{action.action}: {action.what}")
        actions.add_row(what, plain(action.by), local(action.at))
    reconciles = _table("reconcile", ">listed", ">drift", ">failed", "when")
    for result in read.reconciles[:limit]:
        found = result.findings
        trouble = str(ErrorText.parse(found.error)) if found.error is not None else found.shortfall
        how = plain(f"on {result.host}{f': {trouble}' if trouble else ''}")
        numbers = (str(number) for number in (found.listed, found.drift, found.failed))
        reconciles.add_row(how, *numbers, local(result.ended))
    copies = _table("copy", "result", "when")
    for ended in read.ended[:limit]:
        replaced = f"replaced: {ended.replaced}" if ended.replaced else ""
        lines = [plain(ended.source or "(unknown source)"), plain(f"-> {ended.id}"), *error_lines(ended.note)]
        copies.add_row(Group(*lines, *([plain(replaced)] if replaced else [])), ended.result, local(ended.at))
    tables = (("No actions.", actions), ("No reconciles.", reconciles), ("No copies.", copies))
    parts = [part for none, table in tables for part in (table if table.row_count else Text(none), Text())]
    return Group(*parts[:-1])


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
        by_name = references is not None
        missing = [reference for reference in dict.fromkeys(references or ()) if reference not in done]
        # With --all, a letter that is left is reported only if its content is lost: it may be a new failure.
        left = await DeadLetters(queue).all() if missing or not by_name else []
        lost = [letter.id for letter in left if letter.id not in done and letter.payload is None]
        idle = bool(queued) and not await queue.workers()
        await _note(queue, "retry", queued, everything=not by_name)
    _list("queued again", queued, out)
    refused = [reference for reference in lost if not by_name or reference in missing]
    unknown = [reference for reference in missing if reference not in lost]
    if not (by_name or queued or refused):
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
        await _note(queue, "drop", dropped, everything=references is None)
        unknown = [reference for reference in dict.fromkeys(references or ()) if reference not in dropped]
        pending = await queue.pending(dict.fromkeys(unknown, "")) if unknown else set()
    _list("dropped", dropped, out)
    _list(_UNKNOWN, [reference for reference in unknown if reference not in pending], err)
    for reference in sorted(pending):
        say(f"still pending, so it is no dead letter: {reference}", err)
        say(f"replicator queue cancel {Selection(destination=reference).options} deletes it", err, indent=2)
    if references is None and not dropped:
        say(_NONE, out)
    return FAILED if unknown else OK


def letter_json(letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter as JSON values.

    Keys: ``source`` and ``rule`` (null when the stored job is lost), ``destination``, ``lane``, ``error_class``,
    ``message`` and its parts ``what``, ``why`` and ``do``, ``tries``, ``first`` and ``last`` (RFC 3339, UTC).
    """
    payload = letter.payload or {}
    return {
        "source": payload.get("source"),
        "destination": letter.id,
        "rule": payload.get("rule"),
        "lane": str(letter.lane),
        "error_class": str(letter.error_class),
        "message": str(ErrorText.parse(letter.message)),
        **error_fields(letter.message),
        "tries": letter.tries,
        "first": iso(letter.first),
        "last": iso(letter.last),
    }


def failures_table(letters: Sequence[DeadLetter]) -> Table:
    """Draw dead letters as a table. Source, destination and reason share a column, which takes the remaining width."""
    table = _table("copy and reason", "class", ">attempts", "first, last", leading=1)
    for letter in letters:
        source = (letter.payload or {}).get("source")
        what = Group(
            plain(str(source) if source else "(its source is lost)"),
            Text("-> ").append_text(plain(letter.id)),
            *error_lines(letter.message),
        )
        times = f"{local(letter.first)}\n{local(letter.last)}"
        table.add_row(what, str(letter.error_class), str(letter.tries), times)
    return table


def _table(*headings: str, leading: int = 0) -> Table:
    """Make an empty table; only its first column may wrap. ``>`` before a heading aligns its column right."""
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold", leading=leading)
    first, *others = headings
    table.add_column(first, overflow="fold")
    for heading in others:
        table.add_column(heading.removeprefix(">"), justify="right" if heading[0] == ">" else "left", no_wrap=True)
    return table


async def _note(queue: Queue, action: str, references: Sequence[str], *, everything: bool) -> None:
    if references:
        what = f"all {len(references):,} dead letters" if everything else f"dead letter {named(references)}"
        await note_action(queue, action=action, what=what, by=system_user())


def _list(what: str, references: Iterable[str], console: Console) -> None:
    for reference in references:
        say(f"{what}: {reference}", console)


def _destinations(references: list[str] | None, every_one: bool) -> list[str] | None:
    """Return the destinations that the command line names; None for all."""
    if bool(references) == every_one:
        raise ConfigError("command line", [Problem("REF", "name the destinations or use --all, not both")])
    return None if every_one else [str(parse_reference(text, "REF")) for text in references or ()]
