"""What is seen of an installation at one moment, as far as people are told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from replicator.notify.message import Example
from replicator.queue import Lane, ReconcileState

if TYPE_CHECKING:
    from replicator.queue import Buried, Complaint, Notices, Queue, ReconcileResult, Turn, WaitingJob

EXAMPLES = 5
"""How many examples a message has at the most."""
_WAITING = 1000
"""Copies that wait for a retry and are looked at; the queue may hold more."""


@dataclass(frozen=True, slots=True)
class Lateness:
    """How long copies of what was pushed have been waiting.

    Attributes:
        seconds: for how long the oldest has been due and not begun, or failing; 0 when none is.
        failing: how many of them wait for a retry.
        examples: the oldest of those.
        workers: how many processes copy.
    """

    seconds: float
    failing: int = 0
    examples: tuple[Example, ...] = ()
    workers: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """One moment.

    Attributes:
        now: milliseconds since 1970 by Redis's clock.
        buried: the dead letters, and which of them are new.
        lateness: of copies for events.
        reconcile: how the last one ended; None where that is not known.
        complaints: of processes whose configuration was refused.
    """

    now: int
    buried: Buried
    lateness: Lateness
    reconcile: ReconcileResult | None
    complaints: tuple[Complaint, ...]


async def look(queue: Queue, notices: Notices, turn: Turn, mark: int) -> Seen:
    """Look at the queue; a few commands, whose number no backlog changes.

    Args:
        queue: what is looked at.
        notices: of the same queue.
        turn: this process's.
        mark: of the dead letters that were told of.

    Raises:
        QueueUnavailable: it does not answer.
    """
    return Seen(
        now=turn.now,
        buried=await notices.buried(mark, EXAMPLES),
        lateness=await _lateness(queue, turn.now),
        reconcile=(await ReconcileState.read(queue)).last,
        complaints=turn.complaints,
    )


async def _lateness(queue: Queue, now: int) -> Lateness:
    not_begun = (await queue.oldest())[Lane.EVENTS]
    waiting = [job for job in await queue.waiting(limit=_WAITING) if job.lane is Lane.EVENTS]
    # By when they first failed, not by when they are tried next.
    oldest = sorted(waiting, key=lambda job: job.first)
    failing = now / 1000 - oldest[0].first.timestamp() if oldest else 0.0
    examples = tuple(map(_example, oldest[:EXAMPLES]))
    return Lateness(max(not_begun, failing), len(oldest), examples, len(await queue.workers()))


def _example(job: WaitingJob) -> Example:
    return Example.of(job.id, f"{job.error_class}, {job.tries} tries: {job.message}")
