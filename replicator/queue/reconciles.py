"""The lease on the scheduled reconcile: over all processes on one queue one run at a time, and each due run once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from replicator.console import iso
from replicator.queue.job import QueueUnavailable
from replicator.queue.records import EPOCH, Moment, decode, encode, milliseconds, moment

if TYPE_CHECKING:
    from replicator.queue.client import Queue

_SURE = 5 / 6
"""Fraction of the lease after which a run that could not renew it stops: before another process can begin one."""
_PAUSE = 1 / 30
"""Fraction of the lease between two requests while Redis is away."""
_MOST_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: the tags listed so far, and those of them that are done."""

    listed: int = 0
    done: int = 0


@dataclass(frozen=True, slots=True)
class Findings:
    """What a run found.

    Attributes:
        listed: tags that the rules name.
        up_to_date: tags whose destination was right.
        drift: tags that differed, were queued, and were not in the queue before: their events were lost.
        skipped: tags that their rule leaves out.
        failed: listings and comparisons that failed.
        stale: tags that were left out while their destination still holds a former image.
        lost: tags that were missing at their destination although this installation had seen them there.
        unregistered: projects whose webhook policy could not be ensured; None where that was not wanted.
        error: why the run as a whole failed; None when it was completed.
    """

    listed: int = 0
    up_to_date: int = 0
    drift: int = 0
    skipped: int = 0
    failed: int = 0
    warnings: int = 0
    unregistered: int | None = None
    error: str | None = None
    stale: int = 0
    lost: int = 0

    @property
    def complete(self) -> bool:
        """Whether every tag that the rules name was compared."""
        return self.error is None and not self.failed


@dataclass(frozen=True, slots=True)
class _ResultRecord:
    """A run that has ended, as the record in Redis. The last three are missing where they say nothing."""

    host: str
    listed: int
    up_to_date: int
    drift: int
    skipped: int
    failed: int
    warnings: int
    error: str | None
    started: Moment
    ended: Moment
    unregistered: int | None = None
    stale: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class ReconcileResult:
    """A run that has ended: when it began and ended by Redis's clock (UTC), on which host, and what it found."""

    started: datetime
    ended: datetime
    host: str
    findings: Findings

    @classmethod
    def read(cls, data: bytes) -> ReconcileResult | None:
        """Read the record; None where there is none, or it has the form of another version of this program."""
        try:
            record = decode(_ResultRecord, data)
        except ValueError:
            return None
        findings = Findings(**{each.name: getattr(record, each.name) for each in fields(Findings)})
        return cls(record.started, record.ended, record.host, findings)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.ended - self.started).total_seconds()

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values for a report; times are RFC 3339 in UTC."""
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
            "stale": found.stale,
            "lost": found.lost,
            **({} if found.unregistered is None else {"unregistered": found.unregistered}),
            "error": found.error,
        }


@dataclass(frozen=True, slots=True)
class _RunRecord:
    """A run under way, as the record in Redis. The script adds the token of the lease and the time of the start."""

    host: str
    pid: int
    listed: int
    done: int
    since: Moment

    @classmethod
    def of(cls, progress: Progress) -> bytes:
        """Give the JSON of this process's run."""
        record = cls(socket.gethostname(), os.getpid(), progress.listed, progress.done, since=EPOCH)
        return encode(record, without={"since"})


@dataclass(frozen=True, slots=True)
class RunningReconcile:
    """A run under way: where, since when (UTC, Redis's clock), and how far it was some seconds ago."""

    host: str
    pid: int
    since: datetime
    progress: Progress

    @classmethod
    def read(cls, data: bytes) -> RunningReconcile | None:
        """Read the record; None without one."""
        if not data:
            return None
        record = decode(_RunRecord, data)
        return cls(record.host, record.pid, record.since, Progress(record.listed, record.done))


@dataclass(frozen=True, slots=True)
class ReconcileState:
    """What all processes know of reconciles.

    Attributes:
        now: the time of Redis (UTC).
        last_started: when the last run that ended began (UTC); None when there was none.
        last: how it ended; None when there was none, or another version of this program recorded it.
        running: the run under way; None when there is none.
        last_success: when the last run ended that was completed (UTC); None when there was none.
        rules: when the last completed run with some rules ended (UTC), by the digest of the rules; the newest first.
    """

    now: datetime
    last_started: datetime | None
    last: ReconcileResult | None
    running: RunningReconcile | None
    last_success: datetime | None = None
    rules: Mapping[str, datetime] = field(default_factory=dict)

    def covers(self, digest: str, since: datetime) -> bool:
        """Tell whether the last completed run had the rules with this digest, or one that ended after ``since``."""
        ended = self.rules.get(digest)
        return ended is not None and (ended >= since or digest == next(iter(self.rules)))

    @classmethod
    async def read(cls, queue: Queue) -> ReconcileState:
        """Ask the queue.

        Raises:
            QueueUnavailable: it does not answer.
        """
        now, started, result, running, success, rules = await queue.ask("reconcile_show")
        last = ReconcileResult.read(result)
        succeeded = moment(int(success)) if success else None
        if last is not None and last.findings.error is None:
            # An older version of this program stores the result alone.
            succeeded = last.ended
        return cls(
            now=moment(now),
            last_started=moment(int(started)) if started else None,
            last=last,
            running=RunningReconcile.read(running),
            last_success=succeeded,
            rules=_read_rules(rules.decode()),
        )


class ReconcileLease:
    """The right to run a reconcile, which no other process has meanwhile.

    Args:
        queue: over whose processes.
        token: the lease's value in Redis.
        started: when the run began, in milliseconds since 1970 by Redis's clock.
        taken: when the lease was asked for, by the event loop's clock.
        seconds: how long it lasts unless it is renewed.
    """

    def __init__(self, queue: Queue, token: str, started: int, taken: float, seconds: float) -> None:
        self._queue = queue
        self._token = token
        self._started = started
        self._renewed = taken
        self._seconds = seconds

    async def keep(self, progress: Callable[[], Progress]) -> None:
        """Renew the lease until it is lost, and return then: the run must stop at once.

        It is lost when another process has it, and when Redis was away for so long that another may soon have it.

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
            # The time of the request: Redis counts the lease from a moment after it.
            self._renewed = asked

    async def _renew(self, progress: Progress) -> bool:
        record = _RunRecord.of(progress)
        while True:
            try:
                return bool(await self._queue.ask("reconcile_renew", self._token, _ms(self._seconds), record))
            except QueueUnavailable:
                await asyncio.sleep(self._seconds * _PAUSE)

    async def end(self, findings: Findings, rules: str = "") -> ReconcileResult | None:
        """Record what the run found, and release the lease. An outage of Redis is waited out for up to a lease.

        Args:
            findings: what it found.
            rules: the digest of its rules, stored when it was completed; empty to store none.

        Returns:
            What was recorded; None when the lease was lost meanwhile, so that the run does not count.

        Raises:
            QueueUnavailable: it could not be recorded; the run does not count once the lease has expired.
        """
        record = _ResultRecord(
            host=socket.gethostname(),
            listed=findings.listed,
            up_to_date=findings.up_to_date,
            drift=findings.drift,
            skipped=findings.skipped,
            failed=findings.failed,
            warnings=findings.warnings,
            error=findings.error[:_MOST_CHARACTERS] if findings.error is not None else None,
            unregistered=findings.unregistered,
            stale=findings.stale,
            lost=findings.lost,
            started=EPOCH,
            ended=EPOCH,
        )
        optional = {name for name in ("unregistered", "stale", "lost") if not getattr(findings, name)}
        optional -= {"unregistered"} if findings.unregistered is not None else set()
        # The script adds the times, by its own clock.
        data = encode(record, without={"started", "ended"} | optional)
        clock = asyncio.get_running_loop().time
        last = clock() + self._seconds
        while True:
            try:
                return ReconcileResult.read(await self._release(data, rules))
            except QueueUnavailable:
                if clock() > last:
                    raise
                await asyncio.sleep(self._seconds * _PAUSE)

    async def give_back(self) -> None:
        """Release the lease of a run that was not completed: the next process begins it again.

        Raises:
            QueueUnavailable: Redis is away; the lease expires.
        """
        await self._release(b"")

    async def _release(self, result: bytes, rules: str = "") -> bytes:
        arguments = (self._token, str(self._started), result, rules)
        answer: bytes = await self._queue.ask("reconcile_release", *arguments)
        return answer


class Reconciles:
    """Takes the lease for this process.

    Args:
        queue: over whose processes a run is the only one.
        lease: seconds after which another process begins the run of one that died.
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
        # Kept until an answer is heard: a lease that was taken with its answer lost is given to the same token again.
        self._token = self._token or uuid4().hex
        known = "" if last_started is None else str(milliseconds(last_started))
        record = _RunRecord.of(Progress())
        asked = asyncio.get_running_loop().time()
        started = await self._queue.ask("reconcile_take", self._token, _ms(self._lease), record, known)
        token, self._token = self._token, ""
        return ReconcileLease(self._queue, token, started, asked, self._lease) if started else None


def _read_rules(text: str) -> dict[str, datetime]:
    """Read ``digest:milliseconds``, several separated by spaces. Records of another form are left out."""
    found = {}
    for entry in text.split():
        digest, _, ended = entry.partition(":")
        with contextlib.suppress(ValueError):
            found[digest] = moment(float(ended))
    return found


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
