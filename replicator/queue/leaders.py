"""Leaderships: one process sends the notices to people, one reconciles and one sweeps, for all on one queue."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import uuid4

from replicator.console import iso
from replicator.queue.dead_letters import DeadLetter
from replicator.queue.history import note_action
from replicator.queue.job import Lane
from replicator.queue.reconciles import Progress, ReconcileLease, RunningReconcile, RunRecord
from replicator.queue.records import decode, encode, milliseconds, moment
from replicator.queue.traffic import LostEvents, read_lost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from replicator.queue.client import Queue
    from replicator.queue.reconciles import ReconcileResult

_MOST_CHARACTERS = 2000
_WEBHOOKS_KEPT = 10 * 60 * 1000
"""Milliseconds beyond the lease for which it is known which Harbors send events, without another sweep."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """Something that a process can't do, and works without.

    Attributes:
        host: its machine's name.
        since: when it was first reported, in milliseconds since 1970 by Redis's clock.
    """

    host: str
    text: str
    since: int


@dataclass(frozen=True, slots=True)
class Leadership:
    """This process sends the notices, until the lease expires.

    Attributes:
        now: the time of Redis, in milliseconds since 1970.
        told: the last state stored by `Notices.keep`, by any process; empty without one.
        complaints: of all processes that are alive.
    """

    now: int
    told: bytes
    complaints: tuple[Complaint, ...]


@dataclass(frozen=True, slots=True)
class NewDeadLetters:
    """Dead letters since a mark.

    Attributes:
        dead: number of all dead letters.
        newer: number of those that are newer than the mark.
        mark: of the newest.
        first: the first newer ones.
    """

    dead: int
    newer: int
    mark: int
    first: tuple[DeadLetter, ...]


class Notices:
    """Takes the leadership for this process.

    Args:
        queue: over whose processes there is one leader.
        lease: seconds after which another process leads for one that died, and its complaint is void.
    """

    def __init__(self, queue: Queue, *, lease: float = 60.0) -> None:
        self._queue = queue
        self._lease = int(lease * 1000)
        self._token = uuid4().hex

    async def begin(self, complaint: str | None) -> Leadership | None:
        """Take or renew the leadership, and publish a complaint.

        Args:
            complaint: the present problem of this process; None if all is well.

        Returns:
            The leadership; None when another process has it.

        Raises:
            QueueUnavailable: Redis is away or takes nothing.
        """
        # The name of a file may hold bytes that are no text.
        text = (complaint or "")[:_MOST_CHARACTERS].encode(errors="replace")
        leads, *rest = await self._queue.ask("notices_take", self._token, self._lease, socket.gethostname(), text)
        if not leads:
            return None
        now, told, *complaints = rest
        return Leadership(now, told, tuple(decode(Complaint, record) for record in complaints))

    async def keep(self, told: bytes) -> bool:
        """Store the notices that were sent, for the next leader.

        Returns:
            Whether it is stored; if not, the leadership was lost, and nothing more may be sent.

        Raises:
            QueueUnavailable: Redis is away or refuses; it may still be stored.
        """
        return bool(await self._queue.ask("notices_keep", self._token, told))

    async def end(self) -> None:
        """Leave the leadership to another process.

        Raises:
            QueueUnavailable: Redis is away; the lease expires.
        """
        await self._queue.ask("notices_release", self._token)

    async def new_dead_letters(self, mark: int, most: int) -> NewDeadLetters:
        """Return the dead letters since a mark.

        Args:
            mark: `NewDeadLetters.mark` of the last answer; 0 for all.
            most: how many of them are shown.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        dead, newer, newest, *records = await self._queue.ask("dead_letters_since", mark, most)
        return NewDeadLetters(dead, newer, newest, tuple(decode(DeadLetter, record) for record in records))


class Reconciles:
    """Takes the lease on the reconcile for this process: each due run is done once.

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
        record = RunRecord.of(Progress())
        asked = asyncio.get_running_loop().time()
        started = await self._queue.ask("reconcile_take", self._token, int(self._lease * 1000), record, known)
        token, self._token = self._token, ""
        return ReconcileLease(self._queue, token, started, asked, self._lease) if started else None


async def approve(queue: Queue, result: ReconcileResult, by: str) -> bool:
    """Approve what a run wants to replace: the next run with the same rules replaces as many images without a question.

    Args:
        queue: of the installation.
        result: the findings of the last run, as the person saw them.
        by: the person who approves it, for the history.

    Returns:
        Whether it is approved; if not, another run has ended since, and may want to replace others.

    Raises:
        QueueUnavailable: Redis is away or takes nothing.
    """
    if not result.findings.held or not await queue.ask("reconcile_approve", str(milliseconds(result.started))):
        return False
    found = result.findings
    what = f"reconcile of {iso(result.started)}: replace {found.held:,} of {found.compared:,} images"
    await note_action(queue, action="approve", what=what, by=by)
    return True


@dataclass(frozen=True, slots=True)
class RequestedReconcile:
    """A reconcile that somebody asked for.

    Attributes:
        is_new: whether no earlier request is waiting.
        running: the run under way, after whose end it begins; None if it begins within seconds.
    """

    is_new: bool
    running: RunningReconcile | None


async def request_reconcile(queue: Queue, by: str) -> RequestedReconcile:
    """Request a reconcile that begins after this moment, independent of the schedule; a second request changes nothing.

    A ``serve`` or ``worker`` process begins it within seconds; without one it waits for the next.

    Args:
        queue: of the installation.
        by: the person who requests it, for the history.

    Raises:
        QueueUnavailable: Redis is away or takes nothing.
    """
    is_new, running = await queue.ask("reconcile_request")
    if is_new:
        await note_action(queue, action="reconcile", what="compare all that the rules name now", by=by)
    return RequestedReconcile(bool(is_new), RunningReconcile.read(running))


@dataclass(frozen=True, slots=True)
class SweptProject:
    """How far a project of a Harbor was swept.

    Attributes:
        listed: when it was listed last, in milliseconds since 1970 by Redis's clock; 0 for never.
        seen: the newest time of a change that was read, in milliseconds since 1970 by Harbor's clock; 0 for none.
        done: repositories that were compared, with the time of the change; those that are read again.
        pending: repositories still to compare, with the lane for tags that differ.
        fresh: its Harbor was never swept before, so the reconcile compares its present tags.
    """

    listed: int = 0
    seen: int = 0
    done: dict[str, int] = field(default_factory=dict)
    pending: dict[str, Lane] = field(default_factory=dict)
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class _Webhooks:
    """The record behind `SweepState.webhooks` and `SweepState.secrets`."""

    enabled: dict[str, bool]
    secrets: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SweepState:
    """The results of sweeps.

    Attributes:
        ended: when the last one ended, UTC; None before the first.
        replaced: copies that they queued because no event had, since the beginning.
        problem: the reason why the last one was incomplete; empty if it was not.
        webhooks: whether the system settings of a Harbor switch webhooks on, by its host; without Harbors that do not
            say so, and empty once sweeps have stopped.
        lost: the last repositories with tags that no event had announced, the newest first.
        secrets: when the first secret of a robot account ends with which a Harbor is read, in Unix time, by its host;
            without those that never end, or are not shown to the account.
    """

    ended: datetime | None
    replaced: int
    problem: str
    webhooks: Mapping[str, bool] = field(default_factory=dict)
    lost: Sequence[LostEvents] = ()
    secrets: Mapping[str, float] = field(default_factory=dict)

    @property
    def switched_off(self) -> list[str]:
        """The Harbors whose system settings switch webhooks off."""
        return sorted(host for host, enabled in self.webhooks.items() if not enabled)

    @classmethod
    async def read(cls, queue: Queue) -> SweepState:
        """Read it.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        ended, replaced, problem, webhooks, lost = await queue.ask("sweep_show")
        when = moment(float(ended)) if ended else None
        found = decode(_Webhooks, webhooks) if webhooks else _Webhooks({})
        read, lines = read_lost(lost), problem.decode(errors="replace")
        return cls(when, int(replaced or 0), lines, found.enabled, read, found.secrets)


class Sweeps:
    """Takes the leadership of sweeps for this process.

    Args:
        queue: over whose processes there is one leader.
        lease: seconds after which another process leads for one that died.
    """

    def __init__(self, queue: Queue, *, lease: float) -> None:
        self._queue = queue
        self._lease = int(lease * 1000)
        self._token = uuid4().hex

    async def begin(self) -> tuple[datetime, dict[str, SweptProject]] | None:
        """Take or renew the leadership.

        Returns:
            Redis's time, and the projects by ``HOST/PROJECT``; None when another process leads.

        Raises:
            QueueUnavailable: Redis is away or takes nothing.
        """
        leads, *rest = await self._queue.ask("sweep_take", self._token, self._lease)
        if not leads:
            return None
        now, fields = rest
        projects: dict[str, SweptProject] = {}
        for name, record in zip(fields[::2], fields[1::2], strict=True):
            try:
                projects[name.decode()] = decode(SweptProject, record)
            except ValueError:
                # Of another version of this program: it begins again.
                continue
        return moment(float(now)), projects

    async def keep(self, projects: Mapping[str, SweptProject], replaced: int = 0, repository: str = "") -> bool:
        """Store how far projects were swept, and renew the leadership.

        Args:
            projects: by ``HOST/PROJECT``.
            replaced: copies that were queued since the last call.
            repository: the source of those copies.

        Returns:
            Whether it is stored; if not, another process leads.

        Raises:
            QueueUnavailable: Redis is away or takes nothing.
        """
        fields = [part for name, project in projects.items() for part in (name, encode(project))]
        return bool(await self._queue.ask("sweep_keep", self._token, self._lease, replaced, repository, *fields))

    async def end(self, problem: str, webhooks: Mapping[str, bool], secrets: Mapping[str, float] | None = None) -> None:
        """Note that a sweep has ended.

        Args:
            problem: the reason why it was incomplete; empty if it was not.
            webhooks: whether the system settings of a Harbor switch webhooks on, by its host.
            secrets: when the first secret of a robot account ends with which a Harbor is read, in Unix time.

        Raises:
            QueueUnavailable: Redis is away or takes nothing.
        """
        text = problem[:_MOST_CHARACTERS].encode(errors="replace")
        kept = self._lease + _WEBHOOKS_KEPT
        await self._queue.ask(
            "sweep_end", self._token, text, encode(_Webhooks(dict(webhooks), dict(secrets or {}))), kept
        )

    async def release(self) -> None:
        """Leave the leadership to another process.

        Raises:
            QueueUnavailable: Redis is away; the lease expires.
        """
        await self._queue.ask("sweep_release", self._token)
