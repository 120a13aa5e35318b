"""``replicator history``: recent copies, reconciles and actions of people."""

from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from replicator.commands.failures import table_of
from replicator.commands.options import Json, RedisUrl, StateDir, run, settings_of
from replicator.commands.status import existing_queue
from replicator.console import document, error_lines, iso, local, page, plain
from replicator.errors import OK, ErrorText, class_word, error_fields
from replicator.queue import History
from replicator.settings import Settings

_SHOWN = 20
"""Rows of each table by default."""


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
                "error_class": None if each.error_class is None else class_word(each.error_class),
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
    actions = table_of("action", "by", "when")
    for action in read.actions[:limit]:
        what = plain(f"{action.action}: {action.what}")
        actions.add_row(what, plain(action.by), local(action.at))
    reconciles = table_of("reconcile", ">listed", ">drift", ">failed", "when")
    for result in read.reconciles[:limit]:
        found = result.findings
        trouble = str(ErrorText.parse(found.error)) if found.error is not None else found.shortfall
        how = plain(f"on {result.host}{f': {trouble}' if trouble else ''}")
        numbers = (str(number) for number in (found.listed, found.drift, found.failed))
        reconciles.add_row(how, *numbers, local(result.ended))
    copies = table_of("copy", "result", "when")
    for ended in read.ended[:limit]:
        replaced = f"replaced: {ended.replaced}" if ended.replaced else ""
        lines = [plain(ended.source or "(unknown source)"), plain(f"-> {ended.id}"), *error_lines(ended.note)]
        copies.add_row(Group(*lines, *([plain(replaced)] if replaced else [])), ended.result, local(ended.at))
    tables = (("No actions.", actions), ("No reconciles.", reconciles), ("No copies.", copies))
    parts = [part for none, table in tables for part in (table if table.row_count else Text(none), Text())]
    return Group(*parts[:-1])
