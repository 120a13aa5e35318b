"""What the status page shows: one reading of the queue, the headline that sums it up, and the activity of each rule."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replicator.queue import History, ProcessInfo, QueueUnavailable, Status, processes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from replicator.queue import DeadLetterPage, Ended, Queue

_FRESH_SECONDS = 1.0
_DEADLINE = 5.0


@dataclass(frozen=True, slots=True)
class Facts:
    """The installation at one moment: the queue as ``replicator status`` shows it, its history and its processes."""

    status: Status
    history: History
    processes: Sequence[ProcessInfo]

    @classmethod
    async def read(cls, queue: Queue) -> Facts:
        """Read the queue.

        Raises:
            QueueUnavailable: Redis does not answer within a few seconds.
        """
        try:
            async with asyncio.timeout(_DEADLINE):
                return cls(await Status.read(queue), await History.read(queue), await processes(queue))
        except TimeoutError:
            raise QueueUnavailable(f"{queue.where} did not answer everything within {_DEADLINE:g} s") from None


@dataclass(frozen=True, slots=True)
class PageData:
    """What one page is rendered from: the facts, and the requested part of the dead letters."""

    facts: Facts
    dead_letters: DeadLetterPage


class PageCache:
    """Reads the queue at most once a second, so that many open pages cost Redis as much as one."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._lock = asyncio.Lock()
        self._cached: Facts | QueueUnavailable | None = None
        self._expires = 0.0

    async def read(self) -> Facts:
        """Return facts that are at most a second old.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        clock = asyncio.get_running_loop().time
        async with self._lock:
            if self._cached is None or clock() >= self._expires:
                try:
                    self._cached = await Facts.read(self._queue)
                except QueueUnavailable as error:
                    # The failure is cached too: while Redis is down, each page would wait for its own timeout.
                    self._cached = error
                self._expires = clock() + _FRESH_SECONDS
            cached = self._cached
        if isinstance(cached, QueueUnavailable):
            raise QueueUnavailable(str(cached))
        return cached

    def invalidate(self) -> None:
        """Read again next time: something has changed."""
        self._cached = None


@dataclass(frozen=True, slots=True)
class Health:
    """The headline: how serious it is (``good``, ``warning`` or ``bad``), one sentence, and the error behind it."""

    level: str
    sentence: str
    detail: str = ""


def health(facts: Facts) -> Health:
    """Return the most important fact: what has stopped, then what needs a person, then what is in progress."""
    status = facts.status
    lanes = status.counts.lanes.values()
    queued, running = sum(lane.queued for lane in lanes), sum(lane.running for lane in lanes)
    waiting, last, dead = sum(lane.waiting for lane in lanes), status.reconcile.last, status.counts.dead
    refused = [process for process in facts.processes if process.problem]
    if not any(not worker.stopping for worker in status.workers):
        backlog = f" ({queued:,} queued)" if queued else ""
        return Health("bad", f"Nothing is being copied: no worker is running{backlog}.")
    if status.unserved:
        unserved = " or ".join(f"{lane} ({status.counts.lanes[lane].queued:,} queued)" for lane in status.unserved)
        return Health("bad", f"No worker copies for the lane {unserved}.")
    if refused:
        who = "" if len(refused) == 1 else f"{len(refused)} processes: "
        sentence = "The changed configuration has an error. Still using the previous one."
        return Health("warning", sentence, f"{who}{refused[0].problem}")
    if status.silent:
        more = f" And {len(status.silent) - 1} more." if len(status.silent) > 1 else ""
        sentence = status.silent[0].sentence
        return Health("warning", f"{sentence[0].upper()}{sentence[1:]}.{more}", status.silent[0].why)
    if dead:
        are = "copy failed and is" if dead == 1 else "copies failed and are"
        return Health("warning", f"{dead:,} {are} not retried automatically.")
    if last is not None and last.findings.error is not None:
        return Health("warning", "The last reconcile failed.", last.findings.error)
    if waiting:
        return Health("warning", f"{waiting:,} cop{'y' if waiting == 1 else 'ies'} failed and will be retried.")
    if queued or running:
        return Health("good", f"All is well: {running:,} copying, {queued:,} queued.")
    return Health("good", "All is well: the queue is empty.")


@dataclass(frozen=True, slots=True)
class RuleActivity:
    """A rule's key, the results of its recent copies with their numbers, and when the last one ended (UTC)."""

    key: str
    results: Mapping[str, int]
    last: datetime | None


def activity(keys: Iterable[str], ended: Sequence[Ended]) -> list[RuleActivity]:
    """Count the recent copies of each rule, in the order of ``keys``.

    Args:
        keys: the keys of the rules.
        ended: recent copies, the newest first.
    """
    counts: dict[str, Counter[str]] = {}
    last: dict[str, datetime] = {}
    for entry in ended:
        counts.setdefault(entry.rule, Counter())[entry.result] += 1
        last.setdefault(entry.rule, entry.at)
    return [RuleActivity(key, counts.get(key, Counter()), last.get(key)) for key in keys]
