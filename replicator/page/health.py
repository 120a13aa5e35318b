"""How the installation is, in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replicator.page.facts import Facts


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
