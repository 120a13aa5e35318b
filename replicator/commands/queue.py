"""``replicator queue``: list, pause, resume and cancel the copies that are pending."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from replicator.commands.options import Json, RedisUrl, StateDir, run, settings_of
from replicator.commands.status import draw_pauses, existing_queue
from replicator.console import document, error_lines, iso, local, page, plain, say, stderr
from replicator.errors import FAILED, OK, ConfigError, ErrorText, Problem, error_fields
from replicator.queue import (
    Lane,
    Pause,
    PendingJob,
    Queue,
    Selection,
    cancel,
    list_jobs,
    list_pauses,
    note_action,
    pause,
    resume,
    system_user,
)
from replicator.queue.move import Left, move_state
from replicator.server.runtime import open_queue
from replicator.settings import Settings

_LIMIT = 1000
_ENDING_SECONDS = 10.0
"""Seconds for which a cancellation waits for running copies. One that is writing its tag finishes that first."""
_LOOK_SECONDS = 0.2

Rules = Annotated[list[str] | None, typer.Option("--rule", metavar="KEY", help="Copies by this rule; repeatable.")]
Sources = Annotated[
    list[str] | None,
    typer.Option("--source", metavar="PATTERN", help="From these images, e.g. team/** or team/app:v1*; repeatable."),
]
Destinations = Annotated[
    list[str] | None, typer.Option("--destination", metavar="PATTERN", help="To these images; repeatable.")
]
Hosts = Annotated[
    list[str] | None, typer.Option("--host", metavar="HOST", help="From or to this registry; repeatable.")
]
Lanes = Annotated[list[Lane] | None, typer.Option("--lane", metavar="LANE", help="events or backfill; repeatable.")]
Runs = Annotated[
    list[str] | None,
    typer.Option("--run", metavar="ID", help="Queued by this backfill. It prints its id at the end."),
]
All = Annotated[bool, typer.Option("--all", help="All copies; for resume, all pauses.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count the selected copies.")]

queue = typer.Typer(
    help="List, pause, resume and cancel pending copies, or move them all to a Redis.",
    no_args_is_help=True,
    add_completion=False,
)


@queue.command("list")
def show(
    context: typer.Context,
    rule: Rules = None,
    source: Sources = None,
    destination: Destinations = None,
    host: Hosts = None,
    lane: Lanes = None,
    run_id: Runs = None,
    limit: Annotated[int, typer.Option(metavar="NUMBER", min=1, max=100_000, help="Maximum rows.")] = _LIMIT,
    as_json: Json = False,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """List pending copies and active pauses. Options select some of them."""
    selections = _selected(context) or (Selection(),)
    run(print_jobs(settings_of(context, quiet=True), selections, limit=limit, as_json=as_json, out=Console()))


@queue.command("pause")
def hold(
    context: typer.Context,
    rule: Rules = None,
    source: Sources = None,
    destination: Destinations = None,
    host: Hosts = None,
    lane: Lanes = None,
    run_id: Runs = None,
    every_one: All = False,
    now: Annotated[bool, typer.Option("--now", help="Also hand back running copies; by default they finish.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Pause the selected copies in all processes. Pushes are still accepted and queued."""
    selections = _needed(context, every_one)
    settings = settings_of(context, quiet=True)
    run(pause_jobs(settings, selections, now=now, dry_run=dry_run, as_json=as_json, out=Console()))


@queue.command("resume")
def go_on(
    context: typer.Context,
    rule: Rules = None,
    source: Sources = None,
    destination: Destinations = None,
    host: Hosts = None,
    lane: Lanes = None,
    run_id: Runs = None,
    every_one: All = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """End the pause with the same options; with --all, every pause."""
    selections = None if every_one else _needed(context, every_one)
    settings = settings_of(context, quiet=True)
    run(resume_jobs(settings, selections, dry_run=dry_run, as_json=as_json, out=Console(), err=stderr()))


@queue.command("cancel")
def forget(
    context: typer.Context,
    rule: Rules = None,
    source: Sources = None,
    destination: Destinations = None,
    host: Hosts = None,
    lane: Lanes = None,
    run_id: Runs = None,
    every_one: All = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Delete pending copies and stop running ones. Destinations stay unchanged. A reconcile may queue them again."""
    selections = _needed(context, every_one)
    settings = settings_of(context, quiet=True)
    run(cancel_jobs(settings, selections, dry_run=dry_run, as_json=as_json, out=Console(), err=stderr()))


@queue.command()
def move(context: typer.Context, as_json: Json = False, redis_url: RedisUrl = None, state_dir: StateDir = None) -> None:
    """Move jobs, dead letters and the history from the state directory to the Redis of the settings.

    Stop the replicator that uses the state directory first. Run it again to continue an interrupted move.
    """
    run(move_to_redis(settings_of(context, quiet=True), as_json=as_json, out=Console(), err=stderr()))


async def print_jobs(
    settings: Settings, selections: Sequence[Selection], *, limit: int, as_json: bool, out: Console
) -> int:
    """Print pending copies and the pauses in force, as tables or as the JSON object of `jobs_json`.

    Raises:
        ConfigError: the queue's settings are wrong.
        QueueError: the queue does not answer.
    """
    async with existing_queue(settings) as queue:
        pauses = await list_pauses(queue)
        jobs, total = await list_jobs(queue, selections, limit=limit)
    jobs.sort(key=lambda job: (job.state, job.due))
    if as_json:
        document(jobs_json(jobs, total, pauses), out)
    else:
        page(draw_jobs(jobs, total, pauses), out)
    return OK


async def pause_jobs(
    settings: Settings, selections: Sequence[Selection], *, now: bool, dry_run: bool, as_json: bool, out: Console
) -> int:
    """Pause copies, and print how many of them are pending.

    Raises:
        ConfigError: the queue's settings are wrong.
        QueueError: the queue does not answer, or there are too many pauses.
    """
    async with existing_queue(settings) as queue:
        told = 0
        if not dry_run:
            told = await pause(queue, selections, by=system_user(), now=now)
            await _note(queue, "pause", selections, ", running copies too" if now else "")
        pending, running = await cancel(queue, selections, dry_run=True)
    if as_json:
        facts = {"copies": pending, "running": len(running), "handed_back": told}
        document(_outcome(selections, dry_run=dry_run, **facts), out)
        return OK
    for each in selections:
        say(f"{'would be paused' if dry_run else 'paused'}: {each.sentence}", out)
    say(f"{_copies(pending)} pending, {len(running)} running{_handed_back(told, len(running))}", out)
    for each in () if dry_run else selections:
        say(f"to resume: replicator queue resume {each.options}", out)
    return OK


async def resume_jobs(
    settings: Settings,
    selections: Sequence[Selection] | None,
    *,
    dry_run: bool,
    as_json: bool,
    out: Console,
    err: Console,
) -> int:
    """End the pauses of some selections, or with None all; return `FAILED` if one of them is not paused.

    Raises:
        ConfigError: the queue's settings are wrong.
        QueueError: the queue does not answer.
    """
    async with existing_queue(settings) as queue:
        pauses = await list_pauses(queue)
        known = [each.selection for each in pauses]
        meant = [each for each in known if selections is None or each in selections]
        if meant and not dry_run:
            await resume(queue, meant)
            await _note(queue, "resume", meant)
    unknown = [each for each in selections or () if each not in known]
    if as_json:
        document(_outcome(meant, dry_run=dry_run, not_paused=[each.to_json() for each in unknown]), out)
    else:
        for each in meant:
            say(f"{'would be resumed' if dry_run else 'resumed'}: {each.sentence}", out)
        if selections is None and not meant:
            say("nothing is paused", out)
    for each in unknown:
        say(f"not paused: {each.sentence}", err)
    if unknown and len(known) > len(meant):
        say("resume takes the options of the pause: replicator queue list shows them", err)
    return FAILED if unknown else OK


async def cancel_jobs(
    settings: Settings,
    selections: Sequence[Selection],
    *,
    dry_run: bool,
    as_json: bool,
    out: Console,
    err: Console,
) -> int:
    """Cancel copies, and wait a few seconds for those that run; return `FAILED` if one does not end.

    Raises:
        ConfigError: the queue's settings are wrong.
        QueueError: the queue does not answer; some may be cancelled.
    """
    async with existing_queue(settings) as queue:
        cancelled, told = await cancel(queue, selections, dry_run=dry_run)
        left: list[str] = []
        if not dry_run and (cancelled or told):
            await _note(queue, "cancel", selections, f": {_copies(cancelled + len(told))}")
            left = await _left(queue, set(told)) if told else []
    if as_json:
        facts = {"copies": cancelled, "running": len(told), "still_running": left}
        document(_outcome(selections, dry_run=dry_run, **facts), out)
    else:
        would, running = "would be " if dry_run else "", len(told) - len(left)
        say(f"{would}cancelled: {_copies(cancelled + running)}{f', {running} of them running' if told else ''}", out)
    for each in left:
        say(f"still running: {each}; its worker stops it as soon as it can", err)
    return FAILED if left else OK


def jobs_json(jobs: Sequence[PendingJob], total: int, pauses: Sequence[Pause]) -> dict[str, Any]:
    """Return pending copies and pauses as JSON values; times are RFC 3339 in UTC."""
    return {
        "pauses": [each.to_json() for each in pauses],
        "total": total,
        "copies": [
            {
                "source": job.source or None,
                "destination": job.id,
                "rule": job.rule or None,
                "lane": str(job.lane),
                "state": job.state,
                "due": iso(job.due),
                "message": str(ErrorText.parse(job.failure)) or None,
                **error_fields(job.failure or None),
            }
            for job in jobs
        ],
    }


def draw_jobs(jobs: Sequence[PendingJob], total: int, pauses: Sequence[Pause]) -> RenderableType:
    """Draw pauses and pending copies."""
    parts: list[RenderableType] = [*draw_pauses(pauses)]
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    table.add_column("copy", overflow="fold")
    for heading in ("state", "lane", "due"):
        table.add_column(heading, no_wrap=True)
    for job in jobs:
        what = Group(plain(job.source or "(unknown source)"), plain(f"-> {job.id}"), *error_lines(job.failure))
        table.add_row(what, job.state, str(job.lane), "" if job.state in ("running", "paused") else local(job.due))
    parts += [table] if jobs else [Text("no pending copies")]
    if total > len(jobs):
        parts.append(Text(f"and {total - len(jobs)} more"))
    return Group(*parts)


def _selected(context: typer.Context) -> tuple[Selection, ...]:
    """Return a selection for every combination of the options; none without any.

    Raises:
        ConfigError: a pattern is too long, or has too many wildcards.
    """
    names = ("rule", "source", "destination", "host", "lane", "run_id")
    values = {name.removesuffix("_id"): context.params[name] or () for name in names}
    try:
        return Selection.combinations(**values) if any(values.values()) else ()
    except ValueError as error:
        raise ConfigError("command line", [Problem("", str(error))]) from None


def _needed(context: typer.Context, every_one: bool) -> tuple[Selection, ...]:
    selections = _selected(context)
    if bool(selections) == every_one:
        message = "select copies with --rule, --source, --destination, --host, --lane or --run, or use --all alone"
        raise ConfigError("command line", [Problem("", message)])
    return selections or (Selection(),)


async def move_to_redis(settings: Settings, *, as_json: bool = False, out: Console, err: Console) -> int:
    """Move the content of the state directory to the Redis of the settings.

    Args:
        settings: both places.
        as_json: print ``jobs`` and ``dead_letters``, how many were moved, as one JSON object.
        out: the console for the result.
        err: the console for how far an interrupted move came.

    Raises:
        ConfigError: no Redis is set, or the state directory can't be used.
        QueueError: another process uses the state directory, or Redis does not answer.
    """
    if settings.redis_url is None:
        raise ConfigError("settings", [Problem("REPLICATOR_REDIS_URL", "is not set: it is the target of the move")])
    moved, ended = Left(), False

    def progress(so_far: Left) -> None:
        nonlocal moved
        moved = so_far

    async with open_queue(settings) as target:
        try:
            moved = await move_state(settings.state_dir, target, settings.queue_server, progress=progress)
            ended = True
        finally:
            if moved:
                await note_action(target, action="move", what=f"{moved} from {settings.state_dir}", by=system_user())
            if moved and not ended:
                say(f"{moved} were moved; run the command again for the rest", err)
        if as_json:
            document({"jobs": moved.jobs, "dead_letters": moved.letters}, out)
        else:
            say(f"{moved or 'nothing'} moved from {settings.state_dir} to {target.where}", out)
        if moved and not await target.workers():
            say("no worker runs: start one to begin the copies", err)
    return OK


async def _note(queue: Queue, action: str, selections: Sequence[Selection], more: str = "") -> None:
    what = "; ".join(each.sentence for each in selections)
    await note_action(queue, action=action, what=f"{what}{more}", by=system_user())


async def _left(queue: Queue, told: set[str]) -> list[str]:
    """Wait for cancelled copies to stop; return those that still run after a few seconds."""
    ends = asyncio.get_running_loop().time() + _ENDING_SECONDS
    while True:
        left = [job.id for job in await queue.running() if job.id in told]
        if not left or asyncio.get_running_loop().time() >= ends:
            return left
        await asyncio.sleep(_LOOK_SECONDS)


def _outcome(selections: Sequence[Selection], *, dry_run: bool, **facts: Any) -> dict[str, Any]:
    return {"selections": [each.to_json() for each in selections], "dry_run": dry_run, **facts}


def _copies(number: int) -> str:
    return f"{number:,} cop{'y' if number == 1 else 'ies'}"


def _handed_back(told: int, running: int) -> str:
    if told:
        return f", {told} of them returned to the queue"
    return ", which finish first; --now returns them to the queue" if running else ""
