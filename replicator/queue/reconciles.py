"""Who runs the scheduled reconcile, over all processes on one queue: one at a time, and each due one once."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from replicator.console import iso
from replicator.queue.job import QueueUnavailable, dump_json, load_json
from replicator.queue.snapshot import moment

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from replicator.queue.client import Queue

_SURE = 5 / 6
"""The part of the lease for which a run that could not renew it goes on: it has ended before another begins."""
_PAUSE = 1 / 30
"""The part of the lease after which Redis, being away, is asked again."""
_MOST_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: the tags that were listed so far, and those of them that are done."""

    listed: int = 0
    done: int = 0


@dataclass(frozen=True, slots=True)
class Findings:
    """What a run found.

    Attributes:
        listed: tags that the rules name.
        up_to_date: of these, those whose destination was right.
        drift: those that differed, were queued, and were not in the queue already: what no event told of.
        skipped: those that are left out, as their rule says.
        failed: what could not be listed or compared.
        warnings: how many were given.
        unregistered: projects whose webhook policy could not be made sure of; None where that was not wanted.
        error: why the run as a whole failed; None when it came to its end.
    """

    listed: int = 0
    up_to_date: int = 0
    drift: int = 0
    skipped: int = 0
    failed: int = 0
    warnings: int = 0
    unregistered: int | None = None
    error: str | None = None

    @property
    def complete(self) -> bool:
        """Whether every tag that the rules name was compared."""
        return self.error is None and not self.failed


@dataclass(frozen=True, slots=True)
class ReconcileResult:
    """How the last run ended: when it began and ended by Redis's clock (UTC), on which host, and what it found."""

    started: datetime
    ended: datetime
    host: str
    findings: Findings

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.ended - self.started).total_seconds()

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values; times are RFC 3339 in UTC."""
        found = self.findings
        return {
            "started": iso(self.started),
            "ended": iso(self.ended),
            "seconds": self.seconds,
            "host": self.host,
            "listed": found.listed,
            "up_to_date": found.up_to_date,
            "drift": found.drift,
            "skipped": found.skipped,
            "failed": found.failed,
            "complete": found.complete,
            "warnings": found.warnings,
            **({} if found.unregistered is None else {"unregistered": found.unregistered}),
            "error": found.error,
        }


@dataclass(frozen=True, slots=True)
class RunningReconcile:
    """A run under way: where, since when (UTC, Redis's clock), and how far it was some seconds ago."""

    host: str
    pid: int
    since: datetime
    progress: Progress


@dataclass(frozen=True, slots=True)
class ReconcileState:
    """What all processes know of reconciles.

    Attributes:
        now: the time of Redis (UTC).
        last_started: when the last run that ended began (UTC); None when there was none.
        last: how it ended; None when there was none, or another version of this program noted it.
        running: the run under way; None when there is none.
        last_success: when the last run ended that came to its end (UTC); None when there was none.
    """

    now: datetime
    last_started: datetime | None
    last: ReconcileResult | None
    running: RunningReconcile | None
    last_success: datetime | None = None

    @classmethod
    async def read(cls, queue: Queue) -> ReconcileState:
        """Ask the queue.

        Raises:
            QueueUnavailable: it does not answer.
        """
        now, started, result, running, success = await queue.ask("reconcile_show")
        last = read_result(result)
        succeeded = moment(int(success)) if success else None
        if last is not None and last.findings.error is None:
            # An older version of this program notes the result alone.
            succeeded = last.ended
        return cls(
            now=moment(now),
            last_started=moment(int(started)) if started else None,
            last=last,
            running=_read_running(running),
            last_success=succeeded,
        )


class ReconcileLease:
    """The right to run a reconcile, which no other process has meanwhile.

    Args:
        queue: over whose processes.
        token: what it is held by.
        started: when the run began, in milliseconds since 1970 by Redis's clock.
        taken: when the lease was asked for, by the event loop's clock.
        seconds: after which it lapses unless it is renewed.
    """

    def __init__(self, queue: Queue, token: str, started: int, taken: float, seconds: float) -> None:
        self._queue = queue
        self._token = token
        self._started = started
        self._renewed = taken
        self._seconds = seconds

    async def keep(self, progress: Callable[[], Progress]) -> None:
        """Renew it until it is lost, and return then: the run must end at once.

        It is lost when another has it, and when Redis was away for so long that another may soon have it.

        Args:
            progress: tells how far the run is.
        """
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self._seconds / 3)
            asked = clock()
            try:
                async with asyncio.timeout_at(self._renewed + self._seconds * _SURE):
                    held = await self._renew(progress())
            except TimeoutError:
                return
            if not held:
                return
            self._renewed = asked

    async def _renew(self, progress: Progress) -> bool:
        record = dump_json({**_place(), "listed": progress.listed, "done": progress.done})
        while True:
            try:
                return bool(await self._queue.ask("reconcile_renew", self._token, record, _ms(self._seconds)))
            except QueueUnavailable:
                await asyncio.sleep(self._seconds * _PAUSE)

    async def end(self, findings: Findings) -> ReconcileResult | None:
        """Note what the run found, and give the lease back. Redis away is waited for, as long as a lease lasts.

        Returns:
            What was noted; None when the lease was lost meanwhile, so that the run does not count.

        Raises:
            QueueUnavailable: it could not be noted; the run does not count once the lease has lapsed.
        """
        error = findings.error[:_MOST_CHARACTERS] if findings.error is not None else None
        record = {name: getattr(findings, name) for name in _COUNTS}
        if findings.unregistered is not None:
            record["unregistered"] = findings.unregistered
        text = dump_json({"host": socket.gethostname(), **record, "error": error})
        clock = asyncio.get_running_loop().time
        last = clock() + self._seconds
        while True:
            try:
                return read_result(await self._queue.ask("reconcile_end", self._token, str(self._started), text))
            except QueueUnavailable:
                if clock() > last:
                    raise
                await asyncio.sleep(self._seconds * _PAUSE)

    async def give_back(self) -> None:
        """Give the lease back for a run that did not come to its end: whoever is next begins it anew.

        Raises:
            QueueUnavailable: Redis is away; the lease lapses.
        """
        await self._queue.ask("reconcile_end", self._token, str(self._started), "")


class Reconciles:
    """This process's way to the lease.

    Args:
        queue: over whose processes a run is the only one.
        lease: seconds after which the run of a process that died is begun anew by another.
    """

    def __init__(self, queue: Queue, *, lease: float = 30.0) -> None:
        self._queue = queue
        self._lease = lease
        self._token = ""

    async def begin(self, last_started: datetime | None) -> ReconcileLease | None:
        """Begin a run, if it is still due.

        Args:
            last_started: `ReconcileState.last_started`, by which it is due.

        Returns:
            The right to run it; None when another process runs one, or one has ended since.

        Raises:
            QueueUnavailable: Redis is away or takes nothing.
        """
        # Should the answer not be heard, the same token asks for it again.
        self._token = self._token or uuid4().hex
        known = "" if last_started is None else str(round(last_started.timestamp() * 1000))
        record = dump_json({**_place(), "listed": 0, "done": 0})
        asked = asyncio.get_running_loop().time()
        started = await self._queue.ask("reconcile_begin", self._token, record, _ms(self._lease), known)
        token, self._token = self._token, ""
        return ReconcileLease(self._queue, token, started, asked, self._lease) if started else None


_COUNTS = ("listed", "up_to_date", "drift", "skipped", "failed", "warnings")


def _place() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid()}


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def read_result(text: bytes) -> ReconcileResult | None:
    """Read what ``reconcile_end`` in ``lua/`` wrote; None where it is nothing, or of another version."""
    try:
        fields = load_json(text)
        counts = {name: int(fields[name]) for name in _COUNTS}
        unregistered = int(fields["unregistered"]) if "unregistered" in fields else None
        findings = Findings(**counts, unregistered=unregistered, error=fields["error"])
        return ReconcileResult(moment(fields["started"]), moment(fields["ended"]), fields["host"], findings)
    except (ValueError, KeyError, TypeError):
        return None


def _read_running(text: bytes) -> RunningReconcile | None:
    """Read what ``reconcile_begin`` in ``lua/`` or ``reconcile_renew`` in ``lua/`` wrote; None where it is nothing."""
    if not text:
        return None
    fields = load_json(text)
    progress = Progress(int(fields["listed"]), int(fields["done"]))
    return RunningReconcile(fields["host"], int(fields["pid"]), moment(fields["since"]), progress)
