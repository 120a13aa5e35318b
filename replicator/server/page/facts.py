"""What the page shows, asked from the queue: the same at every process, and at most once a second.

How the installation is, in one sentence.

What each rule did lately.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replicator.queue import History, ProcessInfo, QueueUnavailable, Status, processes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from replicator.queue import Ended, Queue

_FRESH_SECONDS = 1.0
_DEADLINE = 5.0


@dataclass(frozen=True, slots=True)
class Facts:
    """The installation at one moment: the queue as ``replicator status`` shows it, its past, and its processes."""

    status: Status
    history: History
    processes: Sequence[ProcessInfo]

    @classmethod
    async def read(cls, queue: Queue) -> Facts:
        """Ask the queue.

        Raises:
            QueueUnavailable: it does not answer, in a few seconds at the most.
        """
        try:
            async with asyncio.timeout(_DEADLINE):
                return cls(await Status.read(queue), await History.read(queue), await processes(queue))
        except TimeoutError:
            raise QueueUnavailable(f"{queue.where} did not tell all within {_DEADLINE:g} s") from None


class PageCache:
    """Looks at the queue for all who ask at a time, so that many open pages cost what one costs.

    Args:
        queue: what is looked at.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._turn = asyncio.Lock()
        self._seen: Facts | QueueUnavailable | None = None
        self._until = 0.0

    async def look(self) -> Facts:
        """Return what was seen within the last second.

        Raises:
            QueueUnavailable: the queue does not answer.
        """
        clock = asyncio.get_running_loop().time
        async with self._turn:
            if self._seen is None or clock() >= self._until:
                try:
                    self._seen = await Facts.read(self._queue)
                except QueueUnavailable as error:
                    self._seen = error
                self._until = clock() + _FRESH_SECONDS
            seen = self._seen
        if isinstance(seen, QueueUnavailable):
            raise QueueUnavailable(str(seen))
        return seen

    def forget(self) -> None:
        """Look anew when next asked: something was changed."""
        self._seen = None


@dataclass(frozen=True, slots=True)
class Health:
    """A sentence, and how serious it is: ``good``, ``warning`` or ``bad``."""

    level: str
    sentence: str


def health(facts: Facts) -> Health:
    """Say the most important thing: what stands still, then what needs a person, then what goes on."""
    status = facts.status
    lanes = status.counts.lanes.values()
    queued, running = sum(lane.queued for lane in lanes), sum(lane.running for lane in lanes)
    waiting, last = sum(lane.waiting for lane in lanes), status.reconcile.last
    refused = [process for process in facts.processes if process.problem is not None]
    if not any(not worker.stopping for worker in status.workers):
        return Health("bad", f"Nothing is copied: no worker runs{f', and {queued} wait' if queued else ''}.")
    if refused:
        return Health("warning", f"{_many(len(refused), 'process')} could not take over what the files say now.")
    if status.counts.dead:
        return Health("warning", f"{_many(status.counts.dead, 'copy', 'copies')} {_was(status.counts.dead)} given up.")
    if last is not None and last.findings.error is not None:
        return Health("warning", "The last reconcile failed.")
    if waiting:
        return Health("warning", f"{_many(waiting, 'copy', 'copies')} failed, and will be tried again.")
    if queued or running:
        return Health("good", f"All goes well: {running} copying, {queued} queued.")
    return Health("good", "All is well: nothing is waiting.")


def _many(number: int, one: str, several: str = "") -> str:
    return f"{number:,} {one if number == 1 else several or one + 'es'}"


def _was(number: int) -> str:
    return "was" if number == 1 else "were"


@dataclass(frozen=True, slots=True)
class RuleActivity:
    """A rule: its key, how many of the recent copies by it ended how, and when the last one did (UTC)."""

    key: str
    results: Mapping[str, int]
    last: datetime | None


def activity(keys: Iterable[str], ended: Sequence[Ended]) -> list[RuleActivity]:
    """Count for each rule, in the order of ``keys``.

    Args:
        keys: the rules'.
        ended: recent copies, the newest first.
    """
    counts: dict[str, Counter[str]] = {}
    last: dict[str, datetime] = {}
    for entry in ended:
        counts.setdefault(entry.rule, Counter())[entry.result] += 1
        last.setdefault(entry.rule, entry.at)
    return [RuleActivity(key, counts.get(key, Counter()), last.get(key)) for key in keys]
