"""``replicator failures``: the dead letters, by cause or one by one, retried and dropped."""

import json
import shutil
from collections.abc import Container, Iterable, Sequence
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from replicator.commands.options import Json, RedisUrl, StateDir, parse_reference, run, settings_of
from replicator.commands.status import existing_queue
from replicator.console import document, error_lines, iso, local, page, plain, record, say, stderr
from replicator.errors import FAILED, OK, ConfigError, ErrorText, Problem, class_word, error_fields
from replicator.queue import (
    Cause,
    CauseReader,
    Causes,
    DeadLetter,
    DeadLetters,
    KeySilence,
    Queue,
    Selection,
    letters_of,
    list_waits,
    named,
    note_action,
    read_letters,
    system_user,
)
from replicator.settings import Settings

_IN_MEMORY = 1024 * 1024
"""Characters of a list that are kept in memory; more are in a temporary file."""
_NONE = "no dead letters"
_NO_CAUSE = "no dead letter has this cause: replicator failures lists the causes"
_UNKNOWN = "no dead letter with this destination"
_LOST = "can't be retried, because its content is lost: push the tag again"

References = Annotated[
    list[str] | None, typer.Argument(metavar="REFERENCE...", help="Destinations of the dead letters.")
]
CauseId = Annotated[str | None, typer.Option("--cause", metavar="ID", help="Only those of this cause.")]
All = Annotated[bool, typer.Option("--all", help="All dead letters.")]

failures = typer.Typer(invoke_without_command=True, add_completion=False)


@failures.callback()
def list_failures(
    context: typer.Context,
    cause: CauseId = None,
    every_one: Annotated[bool, typer.Option("--list", help="List each dead letter instead of the causes.")] = False,
    by_cause: Annotated[bool, typer.Option("--by-cause", help="With --json: the causes instead of the list.")] = False,
    as_json: Json = False,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Show dead letters (copies that are no longer retried) by cause. Subcommands retry or drop them."""
    if context.invoked_subcommand is None:
        settings, out = settings_of(context, quiet=True), Console()
        if by_cause or not (as_json or every_one or cause):
            run(print_causes(settings, as_json=as_json, out=out))
        run(print_failures(settings, cause=cause, as_json=as_json, out=out))
    if as_json or every_one or by_cause or cause:
        raise ConfigError("command line", [Problem("--json", "give options behind the name of the subcommand")])


@failures.command()
def retry(
    context: typer.Context,
    ref: References = None,
    every_one: All = False,
    cause: CauseId = None,
    as_json: Json = False,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Queue dead letters again, as if their tags had just been pushed."""
    settings = settings_of(context, quiet=True)
    chosen = _chosen(ref, every_one, cause)
    run(retry_failures(settings, chosen, cause=cause, as_json=as_json, out=Console(), err=stderr()))


@failures.command()
def drop(
    context: typer.Context,
    ref: References = None,
    every_one: All = False,
    cause: CauseId = None,
    as_json: Json = False,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Delete dead letters. Images at their destinations stay."""
    settings = settings_of(context, quiet=True)
    chosen = _chosen(ref, every_one, cause)
    run(drop_failures(settings, chosen, cause=cause, as_json=as_json, out=Console(), err=stderr()))


async def print_causes(settings: Settings, *, as_json: bool, out: Console) -> int:
    """Print the causes of all dead letters, the one with the most first: as text, or as a JSON array.

    Raises:
        ConfigError: the queue's settings are wrong.
        QueueError: the queue does not answer.
    """
    async with existing_queue(settings) as queue:
        causes = await CauseReader(queue).read()
        silent = [] if causes or as_json else await list_waits(queue)
    if as_json:
        document([cause.to_json() for cause in causes], out)
    elif not causes:
        _say_none(silent, out)
    for cause in () if as_json else causes:
        if out.is_terminal:
            page(Group(*draw_cause(cause), Text()), out)
        else:
            told = {**cause.to_json(), "examples": None, "example": [str(each) for each in cause.examples]}
            record(told | {"show": cause.command(), "retry": cause.command("retry")}, out)
    return OK


async def print_failures(settings: Settings, *, cause: str | None = None, as_json: bool, out: Console) -> int:
    """Print dead letters, the oldest first: as tables, without a terminal as records, or as an array of `letter_json`.

    Args:
        settings: where the queue is.
        cause: the id of the cause whose dead letters are printed; None for all.
        as_json: print JSON.
        out: the console.

    Returns:
        The exit code: `OK`, or `FAILED` if there is no such cause.

    Raises:
        ConfigError: the queue's settings are wrong.
        QueueError: the queue does not answer.
    """
    causes, printed = Causes(), 0
    # JSON is printed once it is whole: a reader must not get the beginning of an array, and then an error.
    with SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8", errors="backslashreplace") as text:
        async with existing_queue(settings) as queue:
            async for letters in read_letters(queue):
                found = [(letter, causes.add_letter(letter).id) for letter in letters]
                found = [(letter, each) for letter, each in found if cause in (None, each)]
                if out.is_terminal and not as_json and found:
                    page(failures_table([letter for letter, _ in found]), out)
                for letter, each in () if out.is_terminal and not as_json else found:
                    values = letter_json(letter) | {"cause": each}
                    if as_json:
                        row = json.dumps(values, indent=2, ensure_ascii=False).replace("\n", "\n  ")
                        text.write(f"{',' if printed else '['}\n  {row}")
                        printed += 1
                    else:
                        record(values | {"message": None}, out)
                printed += 0 if as_json else len(found)
            silent = [] if printed or as_json else await list_waits(queue)
        if as_json:
            text.write("\n]\n" if printed else "[]\n")
            text.seek(0)
            shutil.copyfileobj(text, out.file)
    if not (printed or as_json):
        if cause is None:
            _say_none(silent, out)
        else:
            say(_NO_CAUSE, out)
    return OK if printed or cause is None else FAILED


def _say_none(silent: Sequence[KeySilence], out: Console) -> None:
    """Say that there are no dead letters, and name the logins and hosts whose waiting copies may become some."""
    say(_NONE, out)
    for silence in silent:
        say(f"{silence.sentence}: replicator status says why", out)


def draw_cause(cause: Cause) -> list[Text]:
    """Draw a cause as lines."""
    first, *others = [cause.sentence, *cause.text.lines]
    said = [line for line in others if line not in first]
    times = f"first {local(cause.first)}, last {local(cause.last)}" if cause.first and cause.last else ""
    example = f"e.g. {cause.examples[0]}" if cause.examples else ""
    hints = (f"show: {cause.command()}", f"retry: {cause.command('retry')}")
    lines = filter(None, (*said, "; ".join(filter(None, (cause.error_class, times))), example, *hints))
    return [Text("", style="bold").append_text(plain(first)), *(Text("  ").append_text(plain(line)) for line in lines)]


async def retry_failures(
    settings: Settings,
    references: Sequence[str] | None,
    *,
    cause: str | None = None,
    as_json: bool = False,
    out: Console,
    err: Console,
) -> int:
    """Queue dead letters again, with a fresh count of attempts.

    Args:
        settings: where the queue is.
        references: their destinations; None for all, or for those of ``cause``.
        cause: the id of the cause whose dead letters are meant.
        as_json: print ``queued``, ``lost`` and ``unknown`` as one JSON object.
        out: the console for queued copies.
        err: the console for copies that could not be queued.

    Returns:
        The exit code: `OK`, or `FAILED` if a reference is no dead letter or can't be queued, or there is no such cause.

    Raises:
        ConfigError: the queue's settings are wrong.
        QueueError: the queue does not answer.
    """
    async with existing_queue(settings) as queue:
        if cause is not None:
            references = await _of_cause(queue, cause)
        queued = await DeadLetters(queue).retry(references)
        done = set(queued)
        by_name = references is not None
        missing = [reference for reference in dict.fromkeys(references or ()) if reference not in done]
        lost = await _lost(queue, missing if by_name else None, done)
        idle = bool(queued) and not await queue.workers()
        await _note(queue, "retry", queued, everything=not by_name)
    unknown = [reference for reference in missing if reference not in lost]
    if as_json:
        document({"queued": queued, "lost": lost, "unknown": unknown}, out)
    else:
        _list("queued again", queued, out)
        if not (queued or lost) and (cause is not None or not by_name):
            say(_NO_CAUSE if cause is not None else _NONE, out)
        _list(_LOST, lost, err)
        _list(_UNKNOWN, unknown, err)
    if idle:
        say("no worker runs: the copies begin when one is started", err)
    return FAILED if lost or unknown or (cause is not None and not queued) else OK


async def drop_failures(
    settings: Settings,
    references: Sequence[str] | None,
    *,
    cause: str | None = None,
    as_json: bool = False,
    out: Console,
    err: Console,
) -> int:
    """Delete dead letters. The next push of a tag copies it as usual.

    Args:
        settings: where the queue is.
        references: their destinations; None for all, or for those of ``cause``.
        cause: the id of the cause whose dead letters are meant.
        as_json: print ``dropped``, ``pending`` and ``unknown`` as one JSON object.
        out: the console for deleted dead letters.
        err: the console for dead letters that were not found.

    Returns:
        The exit code: `OK`, or `FAILED` if a reference is no dead letter, or there is no such cause.

    Raises:
        ConfigError: the queue's settings are wrong.
        QueueError: the queue does not answer.
    """
    async with existing_queue(settings) as queue:
        if cause is not None:
            references = await _of_cause(queue, cause)
        dropped = await DeadLetters(queue).drop(references)
        await _note(queue, "drop", dropped, everything=references is None)
        done = set(dropped)
        missing = [reference for reference in dict.fromkeys(references or ()) if reference not in done]
        pending = await queue.pending(dict.fromkeys(missing, "")) if missing else set()
    unknown = [reference for reference in missing if reference not in pending]
    if as_json:
        document({"dropped": dropped, "pending": sorted(pending), "unknown": unknown}, out)
    else:
        _list("dropped", dropped, out)
        _list(_UNKNOWN, unknown, err)
        for reference in sorted(pending):
            say(f"still pending, so it is no dead letter: {reference}", err)
            say(f"replicator queue cancel {Selection(destination=reference).options} deletes it", err, indent=2)
        if not dropped and (cause is not None or references is None):
            say(_NO_CAUSE if cause is not None else _NONE, out)
    return FAILED if missing or (cause is not None and not dropped) else OK


async def _lost(queue: Queue, among: Sequence[str] | None, done: Container[str]) -> list[str]:
    """Return the dead letters whose content is lost, among those that are named, or of all but those that are done."""
    if among is not None:
        return [letter.id for _, letter in await DeadLetters(queue).marks(among) if letter.payload is None]
    # The rest may be new failures.
    pages = read_letters(queue)
    return [each.id async for letters in pages for each in letters if each.payload is None and each.id not in done]


async def _of_cause(queue: Queue, cause: str) -> list[str]:
    return [letter.id async for letters in letters_of(queue, cause) for letter in letters]


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
        "error_class": class_word(letter.error_class),
        "message": str(ErrorText.parse(letter.message)),
        **error_fields(letter.message),
        "tries": letter.tries,
        "first": iso(letter.first),
        "last": iso(letter.last),
    }


def failures_table(letters: Sequence[DeadLetter]) -> Table:
    """Draw dead letters as a table. Source, destination and reason share a column, which takes the remaining width."""
    table = table_of("copy and reason", "class", ">attempts", "first, last", leading=1)
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


def table_of(*headings: str, leading: int = 0) -> Table:
    """Make an empty table; only its first column may wrap. ``>`` before a heading aligns its column right."""
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold", leading=leading)
    first, *others = headings
    table.add_column(first, overflow="fold")
    for heading in others:
        table.add_column(heading.removeprefix(">"), justify="right" if heading[0] == ">" else "left", no_wrap=True)
    return table


async def _note(queue: Queue, action: str, references: Sequence[str], *, everything: bool) -> None:
    if references:
        every = everything and len(references) > 1
        what = f"all {len(references):,} dead letters" if every else f"dead letter {named(references)}"
        await note_action(queue, action=action, what=what, by=system_user())


def _list(what: str, references: Iterable[str], console: Console) -> None:
    for reference in references:
        say(f"{what}: {reference}", console)


def _chosen(references: list[str] | None, every_one: bool, cause: str | None) -> list[str] | None:
    """Return the destinations that the command line names; None for all, or for those of a cause."""
    if bool(references) + every_one + (cause is not None) != 1:
        message = "name the destinations, or use --all or --cause: one of the three"
        raise ConfigError("command line", [Problem("REF", message)])
    return [str(parse_reference(text, "REF")) for text in references] if references else None
