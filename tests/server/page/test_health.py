"""The sentence at the top says the most important thing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from replicator.queue import Counts, Findings, History, Lane, LaneCounts, ProcessInfo, ReconcileResult, ReconcileState
from replicator.server.page.facts import Facts, health
from tests.commands.test_status import NOON, status

REFUSED = ProcessInfo("serve", "1", "h", 1, NOON, NOON, "images: no such thing")
FAILED = ReconcileResult(NOON, NOON + timedelta(seconds=1), "h", Findings(error="nothing could be listed"))


def facts(
    *, queued: int = 0, running: int = 0, waiting: int = 0, dead: int = 0, refused: int = 0, failed: bool = False
) -> Facts:
    lanes = {Lane.EVENTS: LaneCounts(queued, running, waiting), Lane.BACKFILL: LaneCounts(0, 0, 0)}
    worker = replace(status().workers[0], stopping=False)
    reconcile = ReconcileState(NOON, NOON, FAILED if failed else None, None)
    seen = replace(status(reconcile=reconcile), counts=Counts(lanes, dead), workers=[worker])
    return Facts(seen, History(NOON), [REFUSED] * refused)


def test_what_is_worse_is_said_first() -> None:
    everything = {"queued": 3, "running": 2, "waiting": 1, "dead": 1200, "refused": 1, "failed": True}
    said = []
    for name in ("refused", "dead", "failed", "waiting", "queued", "running"):
        found = health(facts(**everything))  # type: ignore[arg-type]  # values of two kinds, each fitting its name
        said.append((found.level, found.sentence))
        del everything[name]
    assert said == [
        ("warning", "1 process could not take over what the files say now."),
        ("warning", "1,200 copies were given up."),
        ("warning", "The last reconcile failed."),
        ("warning", "1 copy failed, and will be tried again."),
        ("good", "All goes well: 2 copying, 3 queued."),
        ("good", "All goes well: 2 copying, 0 queued."),
    ]
    assert health(facts()).sentence == "All is well: nothing is waiting."


def test_a_worker_that_is_stopping_copies_nothing_new() -> None:
    seen = facts(queued=3, dead=1)
    stopping = replace(seen, status=replace(seen.status, workers=[replace(seen.status.workers[0], stopping=True)]))
    assert health(stopping).level == "bad"
    assert health(stopping).sentence == "Nothing is copied: no worker runs, and 3 wait."
