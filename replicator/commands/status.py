"""``replicator status``: the queue at one moment, or continuously."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.table import Table
from rich.text import Text

from replicator.commands.options import Json, RedisUrl, StateDir, run, settings_of
from replicator.console import age, document, error_lines, iso, page, plain, say, stderr
from replicator.errors import FAILED, OK, ConfigError, ErrorText, Problem
from replicator.queue import (
    Causes,
    Lane,
    Pause,
    Queue,
    QueueUnavailable,
    ReconcileResult,
    ReconcileState,
    Status,
    approve,
    ownerless,
    sample_causes,
    system_user,
)
from replicator.queue.job import name_key
from replicator.queue.leaders import SweepState
from replicator.queue.move import LeftBehind, left_behind
from replicator.server.runtime import open_queue
from replicator.settings import Settings

_SILENT = "webhooks are switched off in the system settings of this Harbor, so it sends no events"
_WATCH_SECONDS = 2.0
_SHOWN = 20
"""Waiting copies in the table. The counts say how many there are; JSON lists up to a thousand."""
_CAUSES = 5
"""Causes of dead letters that are shown; JSON lists all."""


def status(
    context: typer.Context,
    seconds: Annotated[
        float | None,
        typer.Argument(metavar="SECONDS", min=0.1, max=86_400, help="Interval of --watch; 2 by default."),
    ] = None,
    continuously: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    as_json: Json = False,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Show the queue: queued and running copies, waiting retries, dead letters and workers."""
    if seconds is not None and not continuously:
        raise ConfigError("command line", [Problem("SECONDS", "is the interval of --watch: add --watch")])
    settings = settings_of(context, quiet=True)
    every = (seconds or _WATCH_SECONDS) if continuously else None
    run(show_status(settings, as_json=as_json, every=every, out=Console(), err=stderr()))


async def show_status(settings: Settings, *, as_json: bool, every: float | None, out: Console, err: Console) -> int:
    """Print the queue's status, once or until the process ends.

    Args:
        settings: where the queue is.
        as_json: print `Status.to_json` instead of tables; with ``every``, one line each time.
        every: seconds between two reads; None to read once.
        out: the console of the status; a terminal is redrawn.
        err: the console of the queue's outages.

    Raises:
        ConfigError: the queue's settings are wrong.
        QueueError: the queue does not answer, and ``every`` is None.
    """
    async with existing_queue(settings) as queue:
        if every is None:
            left = await _left_behind(settings)
            read, causes = await _read(queue)
            if as_json:
                document(_json(read, causes) | ({} if left is None else {"left_behind": left.to_json()}), out)
            else:
                lines = [] if left is None else [_yellow(left.sentence)]
                page(Group(draw_status(read, causes), *lines), out)
        elif out.is_terminal and not as_json:
            await _redraw(queue, every, out)
        else:
            await _repeat(queue, every, out, err, as_json=as_json)
    return OK


async def _read(queue: Queue) -> tuple[Status, Causes]:
    read = await Status.read(queue)
    return read, await sample_causes(queue) if read.counts.dead else Causes()


def _json(status: Status, causes: Causes) -> dict[str, Any]:
    return status.to_json() | ({"causes": [each.to_json() for each in causes.sorted()]} if causes.total else {})


async def _left_behind(settings: Settings) -> LeftBehind | None:
    """Look for work in the state directory if the queue is in Redis."""
    if settings.redis_url is None:
        return None
    return await left_behind(settings.state_dir, settings.redis_prefix, settings.queue_server)


reconcile = typer.Typer(no_args_is_help=True, add_completion=False)


@reconcile.callback()
def about_reconciles() -> None:
    """Approve the replacements of a waiting reconcile."""


@reconcile.command("approve")
def approve_reconcile(
    context: typer.Context, as_json: Json = False, redis_url: RedisUrl = None, state_dir: StateDir = None
) -> None:
    """Approve once. The next reconcile starts within seconds, and may replace as many images as the last one found."""
    run(approve_replacements(settings_of(context, quiet=True), as_json=as_json, out=Console(), err=stderr()))


async def approve_replacements(settings: Settings, *, as_json: bool = False, out: Console, err: Console) -> int:
    """Approve the replacements of the last reconcile, once.

    Returns:
        The exit code: `OK`, or `FAILED` if none waits for an approval.

    Raises:
        ConfigError: the queue's settings are wrong.
        QueueError: the queue does not answer.
    """
    async with existing_queue(settings) as queue:
        state = await ReconcileState.read(queue)
        last = state.last
        if last is None or not await approve(queue, last, system_user()):
            if as_json:
                document({"approved": False, "images": 0}, out)
            say("no reconcile waits for an approval: replicator status shows the last one", err)
            return FAILED
        idle = not await queue.workers()
    if as_json:
        document({"approved": True, "images": last.findings.held}, out)
    else:
        say(f"approved: the next reconcile may replace {last.findings.held:,} images", out)
    if idle:
        say("no worker runs: start replicator serve or worker to begin it", err)
    return OK


@asynccontextmanager
async def existing_queue(settings: Settings) -> AsyncIterator[Queue]:
    """Open the queue of the settings; an embedded server that does not run is started meanwhile.

    Raises:
        ConfigError: the settings can't be used, or the state directory does not exist. It is not created: an empty
            queue would hide that the options are wrong.
        QueueError: the embedded server does not start.
    """
    if settings.redis_url is None and not settings.state_dir.exists():
        message = (
            "does not exist, so no replicator has run with it: run this as the user of the service and with its "
            "settings (--state-dir or REPLICATOR_STATE_DIR, or the Redis URL)"
        )
        raise ConfigError(f"state directory {settings.state_dir}", [Problem("", message)])
    async with open_queue(settings) as queue:
        yield queue


def draw_status(status: Status, causes: Causes | None = None) -> RenderableType:
    """Draw the status as a headline and tables.

    Args:
        status: the status.
        causes: of its dead letters, or of the first of them; None if they are not known.
    """
    limits = [Text("limits: ").append_text(plain(text)) for text in status.limits]
    parts: list[RenderableType] = [_head(status), *limits, *draw_pauses(status.pauses), _lanes(status)]
    parts += _warnings(status, causes or Causes())
    if status.running:
        parts += [Text(), _running(status)]
    if status.waiting:
        parts += [Text(), _waiting(status)]
        more = len(status.waiting) - _SHOWN
        if more > 0:
            parts.append(Text(f"and {more}{'' if len(status.waiting) < 1000 else ' or more'} others"))
    if status.workers:
        parts += [Text(), _workers(status)]
    if reconciles := _reconciles(status):
        parts += [Text(), *reconciles]
    return Group(*parts)


def _warnings(status: Status, causes: Causes) -> list[Text]:
    """Draw the problems that need a person, as lines."""
    lines = []
    if dead := status.counts.dead:
        letters = "dead letter" if dead == 1 else "dead letters"
        shows = "replicator failures shows " + ("its cause" if dead == 1 else "their causes")
        lines.append(Text(f"{dead} {letters}: {shows}", style="red"))
        first = causes.sorted()
        lines += [Text("  ").append_text(plain(each.sentence)) for each in first[:_CAUSES]]
        if len(first) > _CAUSES:
            lines.append(Text(f"  and {len(first) - _CAUSES} more causes"))
        if first and causes.total < dead:
            lines.append(Text(f"  (these are the causes of the first {causes.total:,})"))
    for silence in status.silent:
        lines.append(_yellow(silence.sentence))
        lines += [Text("  ").append_text(line) for line in error_lines(silence.why)]
    if status.differing is not None and status.differing.is_old:
        lines.append(_yellow(status.differing.sentence))
    if status.ownerless:
        lines.append(_yellow(ownerless(status.ownerless)))
    lines += [_yellow(process.problem_sentence) for process in status.refusing]
    if status.public:
        lines += _public(status)
    if status.clock is not None:
        lines.append(_yellow(status.clock.sentence))
    return lines


def _yellow(sentence: str) -> Text:
    return Text("", style="yellow").append_text(plain(sentence))


def draw_pauses(pauses: Sequence[Pause]) -> list[Text]:
    """Draw pauses as lines, each with the command that ends it."""
    lines = []
    for each in pauses:
        lines.append(_yellow(each.sentence))
        lines.append(Text("  ").append_text(plain(f"replicator queue resume {each.selection.options}")))
    return lines


async def _redraw(queue: Queue, every: float, out: Console) -> None:
    with Live(console=out, screen=True, auto_refresh=False) as live:
        while True:
            try:
                live.update(draw_status(*await _read(queue)), refresh=True)
            except QueueUnavailable as error:
                live.update(plain(str(error)), refresh=True)
            await asyncio.sleep(every)


async def _repeat(queue: Queue, every: float, out: Console, err: Console, *, as_json: bool) -> None:
    while True:
        try:
            status, causes = await _read(queue)
        except QueueUnavailable as error:
            say(str(error), err)
        else:
            if as_json:
                document(_json(status, causes), out, one_line=True)
            else:
                page(Group(Text(iso(status.taken)), draw_status(status, causes), Text()), out)
        await asyncio.sleep(every)


def _head(status: Status) -> Text:
    alive = len(status.workers)
    server = f" ({status.server})" if status.server else ""
    head = Text("queue ").append_text(plain(status.where + server)).append(", ")
    if not alive:
        return head.append("no worker runs", style="yellow")
    head.append(f"{alive} worker{'s' if alive > 1 else ''}")
    for lane, number in status.waiting_at_registries.items():
        head.append(f", {number} request{' waits' if number == 1 else 's wait'} at registries ({lane})")
    if status.unserved:
        head.append(f", but none serves the lane {' or '.join(status.unserved)}", style="yellow")
    return head


def _public(status: Status) -> list[Text]:
    # Imported here: it is rarely needed, and this command starts quickly.
    from replicator.replication.advice import close_to_anyone, public_copies

    lines = [Text(f"{public_copies(len(status.public))}:", style="yellow")]
    for copy in status.public[:_SHOWN]:
        lines.append(Text("  ").append_text(plain(f"{copy.source} -> {copy.destination}")))
        lines.append(Text("    ").append_text(plain(close_to_anyone(copy.destination))))
    if len(status.public) > _SHOWN:
        lines.append(Text(f"  and {len(status.public) - _SHOWN} more"))
    return lines


def _lanes(status: Status) -> Table:
    held = any(count.paused for count in status.counts.lanes.values())
    table = _table("", ">queued", ">running", ">waiting for a retry", *([">paused"] if held else []))
    for lane, count in status.counts.lanes.items():
        numbers = (count.queued, count.running, count.waiting, *([count.paused] if held else []))
        table.add_row(str(lane), *map(str, numbers))
    return table


def _running(status: Status) -> Table:
    table = _table("running", "lane", ">since", ">bytes", ">attempt")
    for job in status.running:
        since = age((status.taken - job.since).total_seconds())
        table.add_row(plain(job.id), str(job.lane), since, decimal(job.bytes_done), str(job.tries))
    return table


def _waiting(status: Status) -> Table:
    table = _table("waiting for a retry", "lane", ">next in", ">attempts", "class")
    silent = {silence.key for silence in status.silent}
    for job in status.waiting[:_SHOWN]:
        due = age((job.due - status.taken).total_seconds())
        # The reason is shown once, with the key, and there it is up to date.
        why = [plain(f"waits for {name_key(job.waits_for)}")] if job.waits_for in silent else error_lines(job.message)
        what = Group(plain(job.id), *(Text("  ").append_text(line) for line in why))
        table.add_row(what, str(job.lane), due, str(job.tries), str(job.error_class))
    return table


def _workers(status: Status) -> Table:
    table = _table("worker", ">up", *(f">{lane}" for lane in Lane), "")
    for worker in status.workers:
        slots = (f"{worker.running.get(lane, 0)} of {worker.concurrency.get(lane, 0)}" for lane in Lane)
        up = age((status.taken - worker.started).total_seconds())
        table.add_row(plain(f"{worker.host}:{worker.pid}"), up, *slots, "stopping" if worker.stopping else "")
    return table


def _reconciles(status: Status) -> list[Text]:
    """Describe the running reconcile and the last one, a line each."""
    lines, now = [], status.reconcile.now
    if (running := status.reconcile.running) is not None:
        since = age((now - running.since).total_seconds())
        line = Text(f"reconcile running for {since} on ").append_text(plain(f"{running.host}:{running.pid}"))
        lines.append(line.append(f", {running.progress.done} of {running.progress.listed} tags so far"))
    if (last := status.reconcile.last) is not None:
        lines.append(_last_reconcile(last, age((now - last.ended).total_seconds())))
        lines += _shortfall(status.reconcile)
    if (ended := status.sweep.ended) is not None:
        lines.append(_sweeps(status.sweep, age((now - ended).total_seconds())))
    return lines + [plain(f"{registry}: {_SILENT}") for registry in status.sweep.switched_off]


def _sweeps(sweep: SweepState, ended: str) -> Text:
    copies = {0: "no copy", 1: "1 copy"}.get(sweep.replaced, f"{sweep.replaced:,} copies")
    line = Text(f"last sweep {ended} ago; sweeps have queued {copies} without a webhook so far")
    return line.append("; ").append_text(plain(sweep.problem)) if sweep.problem else line


def _last_reconcile(last: ReconcileResult, ended: str) -> Text:
    found = last.findings
    line = Text(f"last reconcile {ended} ago on ").append_text(plain(last.host)).append(": ")
    if found.error is not None:
        return line.append("failed, ", style="red").append_text(plain(str(ErrorText.parse(found.error))))
    line.append(f"{found.listed} tags in {last.seconds:.1f} s, {found.up_to_date} up to date, drift {found.drift}")
    line.append(f", {found.pending} queued" if found.pending else "")
    line.append(f", {found.skipped} skipped, {found.warnings} warnings")
    if found.stale:
        line.append(f", {found.stale} still hold an old image", style="yellow")
    if found.lost:
        line.append(f", {found.lost} were in place before and were missing", style="yellow")
    if found.unregistered:
        line.append(f", {found.unregistered} projects without a verified webhook policy", style="yellow")
    line.append(f", {found.failed} failed", style="red" if found.failed else "")
    if found.held:
        line.append(f", {found.held} held", style="red")
    if found.unlisted:
        line.append(f"; {found.unlisted} {'source' if found.unlisted == 1 else 'sources'} not listed", style="red")
    return line


def _shortfall(state: ReconcileState) -> list[Text]:
    """Say how much the last reconcile could not compare, and how much waits for an approval."""
    if state.last is None:
        return []
    found = state.last.findings
    lines = [Text("  ").append_text(plain(f"{each.what}: {each.text}")) for each in found.failures]
    if (more := found.failed + found.unlisted + found.held - len(lines)) > 0 and lines:
        lines.append(Text(f"  and {more} more"))
    if found.held:
        waits = (
            "approved, it begins within seconds" if state.is_approved else "replicator reconcile approve replaces them"
        )
        words = f"{found.held} of {found.compared} images would be replaced: {waits}"
        lines.append(Text(words, style="" if state.is_approved else "yellow"))
    return lines


def _table(*headings: str) -> Table:
    """Make an empty table. ``>`` before a heading aligns its column right; only the first column may wrap."""
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        right = heading.startswith(">")
        table.add_column(
            heading.removeprefix(">"),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=number > 0,
        )
    return table
