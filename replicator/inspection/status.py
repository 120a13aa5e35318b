"""What the queue does at one moment: counts, copies that run or wait for their next try, workers, the reconcile."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from rich.console import Group
from rich.filesize import decimal
from rich.live import Live
from rich.table import Table
from rich.text import Text

from replicator.exit_codes import OK
from replicator.inspection.opening import existing_queue
from replicator.printing import age, document, iso, page, plain
from replicator.queue import Lane, QueueUnavailable, ReconcileState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, RenderableType

    from replicator.queue import Counts, Queue, ReconcileResult, RunningJob, WaitingJob, WorkerInfo
    from replicator.settings import Settings

_SHOWN = 20
"""Waiting copies in the table; the count tells how many there are, and JSON has up to a thousand."""


@dataclass(frozen=True, slots=True)
class Status:
    """The queue at one moment. Its parts are asked for one after the other, so they may differ by a job or two.

    Attributes:
        taken: when it was asked for (UTC).
        where: which queue, without its password.
        counts: jobs by state.
        running: what runs, the oldest first.
        waiting: what waits for its next try, the next one first; a thousand at most.
        workers: who is alive.
        reconcile: the scheduled reconcile that runs, and how the last one ended.
    """

    taken: datetime
    where: str
    counts: Counts
    running: Sequence[RunningJob]
    waiting: Sequence[WaitingJob]
    workers: Sequence[WorkerInfo]
    reconcile: ReconcileState

    @classmethod
    async def read(cls, queue: Queue) -> Self:
        """Ask the queue.

        Raises:
            QueueUnavailable: it does not answer.
        """
        return cls(
            taken=datetime.now(UTC),
            where=queue.where,
            counts=await queue.counts(),
            running=await queue.running(),
            waiting=await queue.waiting(),
            workers=await queue.workers(),
            reconcile=await ReconcileState.read(queue),
        )

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values; times are RFC 3339 in UTC, ``bytes`` those that were read from the source so far."""
        return {
            "taken": iso(self.taken),
            "queue": self.where,
            "lanes": {
                str(lane): {"queued": count.queued, "running": count.running, "waiting": count.waiting}
                for lane, count in self.counts.lanes.items()
            },
            "dead": self.counts.dead,
            "running": [
                {
                    "destination": job.id,
                    "lane": str(job.lane),
                    "since": iso(job.since),
                    "bytes": job.bytes_done,
                    "tries": job.tries,
                    "worker": job.worker,
                }
                for job in self.running
            ],
            "waiting": [
                {
                    "destination": job.id,
                    "lane": str(job.lane),
                    "error_class": str(job.error_class),
                    "message": job.message,
                    "tries": job.tries,
                    "first": iso(job.first),
                    "next": iso(job.due),
                }
                for job in self.waiting
            ],
            "workers": [
                {
                    "id": worker.id,
                    "host": worker.host,
                    "pid": worker.pid,
                    "started": iso(worker.started),
                    "seen": iso(worker.seen),
                    "running": {str(lane): number for lane, number in worker.running.items()},
                    "concurrency": {str(lane): number for lane, number in worker.concurrency.items()},
                    "stopping": worker.stopping,
                }
                for worker in self.workers
            ],
            **self._reconcile_json(),
        }

    def _reconcile_json(self) -> dict[str, Any]:
        """Give what is known of reconciles; nothing when there never was one."""
        running, last = self.reconcile.running, self.reconcile.last
        if running is None and last is None:
            return {}
        now = {
            "since": iso(running.since),
            "host": running.host,
            "pid": running.pid,
            "listed": running.progress.listed,
            "done": running.progress.done,
        } if running is not None else None  # fmt: skip
        return {"reconcile": {"running": now, "last": last.to_json() if last is not None else None}}

    def __rich__(self) -> RenderableType:
        """Draw it for a person."""
        parts: list[RenderableType] = [self._head(), self._lanes()]
        if self.counts.dead:
            parts.append(Text(f"{self.counts.dead} given up: replicator failures lists them", style="red"))
        if self.running:
            parts += [Text(), self._running()]
        if self.waiting:
            parts += [Text(), self._waiting()]
            more = len(self.waiting) - _SHOWN
            if more > 0:
                parts.append(Text(f"and {more}{'' if len(self.waiting) < 1000 else ' or more'} others"))
        if self.workers:
            parts += [Text(), self._workers()]
        if reconciles := self._reconciles():
            parts += [Text(), *reconciles]
        return Group(*parts)

    def _head(self) -> Text:
        alive = len(self.workers)
        head = Text("queue ").append_text(plain(self.where)).append(", ")
        if not alive:
            return head.append("no worker runs", style="yellow")
        return head.append(f"{alive} worker{'s' if alive > 1 else ''}")

    def _lanes(self) -> Table:
        table = _table("", ">queued", ">running", ">waiting for a retry")
        for lane, count in self.counts.lanes.items():
            table.add_row(str(lane), str(count.queued), str(count.running), str(count.waiting))
        return table

    def _running(self) -> Table:
        table = _table("running", "lane", ">since", ">bytes", ">try")
        for job in self.running:
            since = age((self.taken - job.since).total_seconds())
            table.add_row(plain(job.id), str(job.lane), since, decimal(job.bytes_done), str(job.tries))
        return table

    def _waiting(self) -> Table:
        table = _table("waiting for a retry", "lane", ">next in", ">tries", "class")
        for job in self.waiting[:_SHOWN]:
            due = age((job.due - self.taken).total_seconds())
            what = Group(plain(job.id), Text("  ").append_text(plain(job.message)))
            table.add_row(what, str(job.lane), due, str(job.tries), str(job.error_class))
        return table

    def _workers(self) -> Table:
        table = _table("worker", ">up", *(f">{lane}" for lane in Lane), "")
        for worker in self.workers:
            slots = (f"{worker.running.get(lane, 0)} of {worker.concurrency.get(lane, 0)}" for lane in Lane)
            up = age((self.taken - worker.started).total_seconds())
            table.add_row(plain(f"{worker.host}:{worker.pid}"), up, *slots, "stopping" if worker.stopping else "")
        return table

    def _reconciles(self) -> list[Text]:
        """Tell of the reconcile that runs and of the last one, a line each."""
        lines, now = [], self.reconcile.now
        if (running := self.reconcile.running) is not None:
            since = age((now - running.since).total_seconds())
            line = Text(f"reconcile running for {since} on ").append_text(plain(f"{running.host}:{running.pid}"))
            lines.append(line.append(f", {running.progress.done} of {running.progress.listed} tags so far"))
        if (last := self.reconcile.last) is not None:
            lines.append(_last_reconcile(last, age((now - last.ended).total_seconds())))
        return lines


def _last_reconcile(last: ReconcileResult, ended: str) -> Text:
    found = last.findings
    line = Text(f"last reconcile {ended} ago on ").append_text(plain(last.host)).append(": ")
    if found.error is not None:
        return line.append("failed, ", style="red").append_text(plain(found.error))
    line.append(f"{found.listed} tags in {last.seconds:.1f} s, {found.up_to_date} up to date, drift {found.drift}")
    line.append(f", {found.skipped} skipped, {found.warnings} warnings")
    if found.unregistered:
        line.append(f", {found.unregistered} projects without a sure webhook policy", style="yellow")
    return line.append(f", {found.failed} failed", style="red" if found.failed else "")


async def show_status(settings: Settings, *, as_json: bool, every: float | None, out: Console, err: Console) -> int:
    """Print what the queue does, once or again and again.

    Args:
        settings: where the queue is.
        as_json: print `Status.to_json` instead of tables; with ``every``, one line each time.
        every: seconds between two looks, until the process is ended; None to look once.
        out: where to; a terminal is redrawn.
        err: where an outage of the queue is told meanwhile.

    Returns:
        The exit code: `OK`.

    Raises:
        ConfigError: the queue's settings are wrong.
        QueueError: the queue does not answer, and ``every`` is None.
    """
    async with existing_queue(settings) as queue:
        if every is None:
            status = await Status.read(queue)
            if as_json:
                document(status.to_json(), out)
            else:
                page(status, out)
        elif out.is_terminal and not as_json:
            await _redraw(queue, every, out)
        else:
            await _repeat(queue, every, out, err, as_json=as_json)
    return OK


async def _redraw(queue: Queue, every: float, out: Console) -> None:
    with Live(console=out, screen=True, auto_refresh=False) as live:
        while True:
            try:
                live.update(await Status.read(queue), refresh=True)
            except QueueUnavailable as error:
                live.update(plain(str(error)), refresh=True)
            await asyncio.sleep(every)


async def _repeat(queue: Queue, every: float, out: Console, err: Console, *, as_json: bool) -> None:
    while True:
        try:
            status = await Status.read(queue)
        except QueueUnavailable as error:
            err.print(plain(str(error)), soft_wrap=True)
        else:
            if as_json:
                document(status.to_json(), out, one_line=True)
            else:
                page(Group(Text(iso(status.taken)), status, Text()), out)
        await asyncio.sleep(every)


def _table(*headings: str) -> Table:
    """Make an empty table; ``>`` before a heading puts its column to the right, and the first takes the room left."""
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
