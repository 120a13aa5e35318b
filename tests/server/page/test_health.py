"""The headline of the status page says the most important thing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from replicator.queue import (
    Counts,
    Differing,
    Failure,
    Findings,
    History,
    KeySilence,
    Lane,
    LaneCounts,
    Pause,
    ProcessInfo,
    PublicCopy,
    ReconcileResult,
    ReconcileState,
    Selection,
)
from replicator.queue.leaders import SweepState
from replicator.server.page.facts import Facts
from replicator.server.page.health import Health
from replicator.server.page.health import health as health_in
from replicator.server.page.language import messages
from tests.commands.test_status import NOON, status

EN = messages("en")
REFUSED = ProcessInfo("serve", "1", "h", 1, NOON, NOON, "images: no such thing")
FAILED = ReconcileResult(NOON, NOON + timedelta(seconds=1), "h", Findings(error="nothing could be listed"))


def health(facts: Facts) -> Health:
    return health_in(facts, EN)


def facts(
    *, queued: int = 0, running: int = 0, waiting: int = 0, dead: int = 0, refused: int = 0, failed: bool = False
) -> Facts:
    lanes = {Lane.EVENTS: LaneCounts(queued, running, waiting), Lane.BACKFILL: LaneCounts(0, 0, 0)}
    worker = replace(status().workers[0], stopping=False)
    reconcile = ReconcileState(NOON, NOON, FAILED if failed else None, None)
    seen = replace(status(reconcile=reconcile), counts=Counts(lanes, dead), workers=[worker])
    return Facts(seen, History(NOON), [REFUSED] * refused)


def test_the_worst_fact_is_the_headline() -> None:
    everything = {"queued": 3, "running": 2, "waiting": 1, "dead": 1200, "refused": 1, "failed": True}
    said = []
    for name in ("refused", "dead", "failed", "waiting", "queued", "running"):
        found = health(facts(**everything))  # type: ignore[arg-type]  # values of two kinds, each fitting its name
        said.append((found.level, found.sentence, found.detail))
        del everything[name]
    assert said == [
        (
            "warning",
            "The changed configuration has an error. Still using the previous one.",
            "images: no such thing",
        ),
        ("warning", "1,200 copies failed and are not retried automatically.", ""),
        ("warning", "The last reconcile failed.", "nothing could be listed"),
        ("warning", "1 copy failed and will be retried.", ""),
        ("good", "All is well: 2 copying, 3 queued.", ""),
        ("good", "All is well: 2 copying, 0 queued.", ""),
    ]
    assert health(facts()).sentence == "All is well: the queue is empty."


def test_a_rules_file_that_is_left_out_is_named() -> None:
    seen = facts(refused=1)
    assert health(seen).level == "warning"
    out = [replace(REFUSED, out=("b.yaml",)), replace(REFUSED, out=("b.yaml", "a.yaml"))]
    found = health(replace(seen, processes=out))
    assert found.sentence == "A rules file has an error. Nothing is copied by the rules of a.yaml and 1 more."


def test_a_pause_comes_before_what_it_may_be_the_reason_of() -> None:
    seen = facts(queued=3, dead=1, refused=1)
    pauses = [Pause(Selection(), NOON, "alice@host", 3), Pause(Selection(rule="a"), NOON, "bob@host", 0)]
    found = health(replace(seen, status=replace(seen.status, pauses=pauses)))
    assert found.level == "warning"
    assert found.sentence == (
        "Everything has been paused since 2026-01-01 12:00 UTC by alice@host; 3 copies wait. And 1 more."
    )


def test_an_incomplete_reconcile_is_not_well_and_one_that_waits_for_a_person_goes_first() -> None:
    found = Findings(3, drift=1, failed=3, collisions=2, unlisted=1, failures=(Failure("h/lost/**", "not found"),))
    for findings, sentence, detail in (
        (
            found,
            "The last reconcile was incomplete: 1 source can't be listed, 2 copies collide, 1 image can't be compared.",
            "h/lost/**: not found",
        ),
        (
            replace(found, listed=2003, held=300),
            "The reconcile would replace 300 of 2,000 images, and waits for an approval.",
            EN("health.held_advice"),
        ),
    ):
        state = ReconcileState(NOON, NOON, ReconcileResult(NOON, NOON, "h", findings), None)
        seen = facts(queued=1)
        shown = health(replace(seen, status=replace(seen.status, reconcile=state)))
        assert (shown.level, shown.sentence, shown.detail) == ("warning", sentence, detail)


def test_an_error_in_several_processes_is_shown_with_their_number() -> None:
    assert health(facts(refused=3)).detail == "3 processes: images: no such thing"
    several = replace(facts(), processes=[replace(REFUSED, problem="what\nwhy\ndo")] * 2)
    assert health(several).detail == "2 processes: what\nwhy\ndo"


def test_queued_copies_of_a_lane_that_no_worker_serves_are_bad_news() -> None:
    seen = facts(queued=3, dead=1)
    worker = replace(seen.status.workers[0], concurrency={Lane.BACKFILL: 16})
    others = replace(seen, status=replace(seen.status, workers=[worker]))
    assert health(others).level == "bad"
    assert health(others).sentence == "No worker serves the lane events (3 queued)."
    both = replace(seen, status=replace(seen.status, workers=[worker, seen.status.workers[0]]))
    assert health(both).level == "warning"


def test_a_registry_that_does_not_answer_is_named_with_the_copies_that_wait_for_it() -> None:
    lanes = {Lane.EVENTS: 73, Lane.BACKFILL: 1}
    silent = [KeySilence(f"{name}.example", NOON, 60.0, "no connection", lanes) for name in ("acr", "other")]
    seen = facts(waiting=74, dead=2)
    found = health(replace(seen, status=replace(seen.status, silent=silent)))
    assert (found.level, found.detail) == ("warning", "no connection")
    assert found.sentence == (
        "Registry acr.example has not answered since 2026-01-01 12:00 UTC; 74 copies wait for it. And 1 more."
    )


def test_processes_with_different_rules_and_copies_without_any_are_named() -> None:
    seen, differing = facts(dead=2), Differing(400.0, ("serve a:1 has 0123", "worker b:2 has 4567"))
    found = health(replace(seen, status=replace(seen.status, differing=differing, ownerless=3)))
    assert (found.level, found.sentence) == ("warning", "Processes on this queue have different rules.")
    assert "for 6 min (serve a:1 has 0123, worker b:2 has 4567)" in found.detail
    # An update takes a while.
    young = replace(seen.status, differing=replace(differing, seconds=299.0), ownerless=3)
    assert health(replace(seen, status=young)).sentence == (
        "3 copies wait for a process with their rules, and are skipped after ten minutes without one."
    )


def test_a_harbor_whose_webhooks_are_switched_off_is_named_with_what_to_do() -> None:
    sweep = SweepState(NOON, 0, "", {"a.example": False, "b.example": True, "c.example": False})
    seen = facts(waiting=1, dead=2)
    found = health(replace(seen, status=replace(seen.status, sweep=sweep)))
    assert (found.level, found.sentence) == ("warning", "Webhooks are switched off at a.example and 1 more.")
    assert "System Settings" in found.detail


def test_a_private_image_that_is_public_at_its_destination_is_named_after_failures_and_before_retries() -> None:
    copy = PublicCopy("h.example/team/app:v1", "acr.example/team/app:v1", NOON)
    seen = facts(waiting=1, failed=True)
    found = health(replace(seen, status=replace(seen.status, public=[copy, copy])))
    assert (found.level, found.detail) == ("warning", "h.example/team/app:v1 at acr.example/team/app:v1")
    assert found.sentence == "2 images are private at the source, and anyone may pull them at the destination."
    worse = facts(dead=1)
    assert "failed" in health(replace(worse, status=replace(worse.status, public=[copy]))).sentence


def test_a_worker_that_is_stopping_copies_nothing_new() -> None:
    seen = facts(queued=3, dead=1)
    stopping = replace(seen, status=replace(seen.status, workers=[replace(seen.status.workers[0], stopping=True)]))
    assert health(stopping).level == "bad"
    assert health(stopping).sentence == "Nothing is being copied: no worker is running (3 queued)."
