"""The scheduled reconcile: the findings of a run, the shared state, and the lease of the one that runs."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from replicator.console import iso
from replicator.errors import ErrorText, error_fields
from replicator.queue.job import QueueUnavailable
from replicator.queue.records import EPOCH, Moment, decode, encode, moment, read_times

if TYPE_CHECKING:
    from replicator.queue.client import Queue

_SURE = 5 / 6
"""Fraction of the lease after which a run that could not renew it stops: before another process can begin one."""
_PAUSE = 1 / 30
"""Fraction of the lease between two requests while Redis is away."""
_MOST_CHARACTERS = 400
"""Characters of each part of an error."""
_ALWAYS = frozenset({"host", "listed", "up_to_date", "drift", "skipped", "failed", "warnings", "error"})
"""Fields of a record that older versions need; of the others those that say nothing are left out."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: the tags listed so far, and those of them that are done."""

    listed: int = 0
    done: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """A tag that was not compared or replaced, or an unlisted source; the reason as `ErrorText.stored`."""

    what: str
    why: str

    @property
    def text(self) -> ErrorText:
        """The reason."""
        return ErrorText.parse(self.why)


RESULTS = ("up_to_date", "drift", "pending", "skipped", "failed", "held")
"""Fields of `Findings` that count the listed tags by result."""


@dataclass(frozen=True, slots=True)
class Findings:
    """The numbers of a run; ``listed`` is the sum of `RESULTS`.

    Attributes:
        listed: tags that the rules name.
        up_to_date: tags whose destination was right.
        drift: tags that differed, were queued, and were not in the queue before: their events were lost. None after a
            change of the rules, which explains them.
        pending: tags whose copies were in the queue already, or that are queued for another reason than a lost event;
            after an error also those that were not compared.
        skipped: tags that their rule leaves out.
        failed: tags that could not be compared.
        held: tags of other images at the destination that wait for an approval, because they are so many.
        collisions: those of ``failed`` whose destination is that of another source too.
        unlisted: repositories, projects and patterns that could not be listed; no tags, so not in ``listed``.
        stale: tags that were left out while their destination still holds an old image.
        lost: tags that were missing at their destination although this installation had seen them there.
        unregistered: projects whose webhook policy could not be ensured; None where that was not wanted.
        failures: the first of ``unlisted``, ``failed`` and ``held``, with their reasons.
        missing: short digests of the first names of ``unlisted``.
        error: why the whole run failed; None if it was completed.
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
    pending: int = 0
    held: int = 0
    collisions: int = 0
    unlisted: int = 0
    failures: tuple[Failure, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every tag that the rules name was compared, and all that differ were queued."""
        return self.error is None and not (self.failed or self.unlisted or self.held)

    @property
    def compared(self) -> int:
        """How many tags were compared."""
        return self.listed - self.failed

    @property
    def shortfall(self) -> str:
        """The missing part, e.g. ``2 sources can't be listed, 3 copies collide``; empty if nothing is missing."""
        uncompared = self.failed - self.collisions
        parts = (
            (self.held, "existing image waits for an approval", "existing images wait for an approval"),
            (self.unlisted, "source can't be listed", "sources can't be listed"),
            (self.collisions, "copy collides", "copies collide"),
            (uncompared, "image can't be compared", "images can't be compared"),
        )
        return ", ".join(f"{number:,} {one if number == 1 else many}" for number, one, many in parts if number > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ResultRecord(Findings):
    """A run that has ended, as the record in Redis. ``unregistered`` is missing where it was not wanted.

    Records of older versions have fewer fields, and their ``failed`` counts lists too.
    """

    host: str
    started: Moment
    ended: Moment
    rules: str = ""
    whole: Moment | None = None
    repeats: int = 0


@dataclass(frozen=True, slots=True)
class ReconcileResult:
    """A run that has ended.

    Attributes:
        started: when it began by Redis's clock (UTC).
        ended: when it ended, likewise.
        host: where it ran.
        findings: its findings.
        rules: the digest of its rules; empty where it was complete, and in records of older versions.
        whole: when the last run began that trusted no comparison of a run before it: this one, or the one that this
            one repeats.
        repeats: how many runs in a row have tried again what could not be listed.
    """

    started: datetime
    ended: datetime
    host: str
    findings: Findings
    rules: str = ""
    whole: datetime | None = None
    repeats: int = 0

    @classmethod
    def read(cls, data: bytes) -> ReconcileResult | None:
        """Read the record; None where there is none, or it has the form of another version of this program."""
        try:
            record = decode(_ResultRecord, data)
        except ValueError:
            return None
        findings = Findings(**{each.name: getattr(record, each.name) for each in fields(Findings)})
        whole = record.whole or record.started
        return cls(record.started, record.ended, record.host, findings, record.rules, whole, record.repeats)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.ended - self.started).total_seconds()

    @property
    def scheduled_from(self) -> datetime:
        """The start from which the schedule counts."""
        return self.whole or self.started

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values for a report; times are RFC 3339 in UTC."""
        found = self.findings
        counts = ("listed", *RESULTS, "collisions", "unlisted")
        failures = [{"what": each.what, "why": each.text.cause, "do": each.text.do} for each in found.failures]
        return {
            "started": iso(self.started),
            "ended": iso(self.ended),
            "seconds": self.seconds,
            "host": self.host,
            **{name: getattr(found, name) for name in counts},
            "complete": found.complete,
            "warnings": found.warnings,
            "stale": found.stale,
            "lost": found.lost,
            **({} if found.unregistered is None else {"unregistered": found.unregistered}),
            **({"failures": failures} if failures else {}),
            "error": str(ErrorText.parse(found.error or "")) or None,
            **({} if found.error is None else error_fields(found.error)),
        }


@dataclass(frozen=True, slots=True)
class RunRecord:
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
        record = decode(RunRecord, data)
        return cls(record.host, record.pid, record.since, Progress(record.listed, record.done))


@dataclass(frozen=True, slots=True)
class ReconcileState:
    """The shared state of reconciles.

    Attributes:
        now: the time of Redis (UTC).
        last_started: when the last run that ended began (UTC); None when there was none.
        last: how it ended; None when there was none, or another version of this program recorded it.
        running: the run under way; None when there is none.
        last_success: when the last run ended that compared everything (UTC); None when there was none.
        rules: when the last run with some rules came to its end (UTC), by the digest of the rules; the newest first.
        approved: when the run began whose replacements a person has approved (UTC); None when there is none.
        is_requested: whether somebody asked for a run that has not ended yet.
    """

    now: datetime
    last_started: datetime | None
    last: ReconcileResult | None
    running: RunningReconcile | None
    last_success: datetime | None = None
    rules: Mapping[str, datetime] = field(default_factory=dict)
    approved: datetime | None = None
    is_requested: bool = False

    @property
    def awaits_approval(self) -> bool:
        """Whether the last run would replace so many images that it needs an approval, and has none."""
        return self.last is not None and self.last.findings.held > 0 and not self.is_approved

    @property
    def is_approved(self) -> bool:
        """Whether a person has approved what the last run wants to replace; this is void once another run has ended."""
        return self.last is not None and self.last.findings.held > 0 and self.approved == self.last_started

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
        now, result, running, rules, requested, *times = await queue.ask("reconcile_show")
        last = ReconcileResult.read(result)
        started, succeeded, approved = (moment(int(time)) if time else None for time in times)
        if last is not None and last.findings.complete:
            # An older version of this program stores the result alone.
            succeeded = last.ended
        known, now_running = read_times(rules.decode()), RunningReconcile.read(running)
        return cls(moment(now), started, last, now_running, succeeded, known, approved, bool(requested))


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
        record = RunRecord.of(progress)
        while True:
            try:
                lease = int(self._seconds * 1000)
                return bool(await self._queue.ask("reconcile_renew", self._token, lease, record))
            except QueueUnavailable:
                await asyncio.sleep(self._seconds * _PAUSE)

    async def end(
        self, findings: Findings, rules: str = "", whole: datetime | None = None, repeats: int = 0
    ) -> ReconcileResult | None:
        """Record what the run found, and release the lease. An outage of Redis is waited out for up to a lease.

        Args:
            findings: its findings.
            rules: the digest of its rules, stored when it came to its end; empty to store none.
            whole: see `ReconcileResult`; None for this run.
            repeats: see `ReconcileResult`.

        Returns:
            What was recorded; None when the lease was lost meanwhile, so that the run does not count.

        Raises:
            QueueUnavailable: it could not be recorded; the run does not count once the lease has expired.
        """
        error = None if findings.error is None else ErrorText.parse(findings.error).bounded(_MOST_CHARACTERS).stored
        known = {each.name: getattr(findings, each.name) for each in fields(Findings)} | {"error": error}
        record = _ResultRecord(
            host=socket.gethostname(),
            started=EPOCH,
            ended=EPOCH,
            rules="" if findings.complete else rules,
            whole=whole,
            repeats=repeats,
            **known,
        )
        # The script adds the times, by its own clock. Lua would write an empty list as an object.
        silent = {each.name for each in fields(record) if getattr(record, each.name) == each.default} - _ALWAYS
        data = encode(record, without={"started", "ended"} | silent)
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
        answer: bytes = await self._queue.ask("reconcile_release", self._token, str(self._started), result, rules)
        return answer
