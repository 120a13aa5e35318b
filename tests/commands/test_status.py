"""What ``status`` and ``failures`` print, from values; that they ask the right queue is tested end to end."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console, RenderableType

from replicator.commands.failures import failures_table, letter_json
from replicator.commands.status import draw_status
from replicator.console import age, document, iso, page, plain
from replicator.errors import ErrorClass
from replicator.queue import (
    Causes,
    Counts,
    DeadLetter,
    Differing,
    Failure,
    Findings,
    KeySilence,
    Lane,
    LaneCounts,
    ProcessInfo,
    Progress,
    PublicCopy,
    ReconcileResult,
    ReconcileState,
    RunningJob,
    RunningReconcile,
    Status,
    WaitingJob,
    WorkerInfo,
)
from replicator.queue.leaders import SweepState
from replicator.queue.observations import ClockSetBack

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
REFERENCE = "registry.cn-beijing.aliyuncs.com/a-namespace/with-a-rather-long-name-of-a-repository:v1.2.3-release"


def waiting(number: int) -> WaitingJob:
    due = NOON + timedelta(minutes=number)
    return WaitingJob(f"r.example/a:{number}", Lane.EVENTS, ErrorClass.TRANSIENT, "it said 503", 2, NOON, due)


NEVER = ReconcileState(NOON, None, None, None)


def status(*, waits: int = 0, workers: int = 1, reconcile: ReconcileState = NEVER) -> Status:
    worker = WorkerInfo(
        "h:1:x", "h", 1, NOON - timedelta(hours=2), NOON, {Lane.EVENTS: 1}, {Lane.EVENTS: 8, Lane.BACKFILL: 5}, True
    )
    return Status(
        taken=NOON,
        where="unix:///state/valkey.sock",
        counts=Counts({Lane.EVENTS: LaneCounts(1, 2, waits), Lane.BACKFILL: LaneCounts(10_000, 5, 0)}, 4),
        running=[RunningJob(REFERENCE, Lane.BACKFILL, "h:1:x", NOON - timedelta(seconds=90), 3, 1_500_000)],
        waiting=[waiting(number) for number in range(waits)],
        workers=[worker] * workers,
        reconcile=reconcile,
        sweep=SweepState(None, 0, ""),
    )


def letter(message: str = "denied", *, lost: bool = False) -> DeadLetter:
    payload = None if lost else {"source": "harbor.example.com/a/b:v1", "destination": REFERENCE, "rule": "a rule"}
    return DeadLetter(REFERENCE, Lane.EVENTS, payload, ErrorClass.PERMANENT, message, 3, NOON, NOON)


def printed(what: Status | RenderableType, *, terminal: bool = False, width: int = 80) -> str:
    out = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, legacy_windows=False)
    page(draw_status(what) if isinstance(what, Status) else what, out)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-3, "0 s"), (0.9, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (90_000, "1 d")],
)
def test_a_length_of_time_is_told_in_its_largest_unit(seconds: float, shown: str) -> None:
    assert age(seconds) == shown


def test_registries_that_do_not_answer_are_named() -> None:
    silence = KeySilence("acr.example", NOON, 60.0, "no connection", {Lane.EVENTS: 1, Lane.BACKFILL: 0})
    seen = replace(status(), silent=[silence])
    assert "registry acr.example has not answered since 2026-01-01 12:00 UTC; 1 copy waits for it" in printed(
        seen, width=120
    )
    named = {"registry": "acr.example", "since": iso(NOON), "message": "no connection", "waiting": 1}
    words = {"what": silence.sentence, "why": "no connection", "do": "nothing: it is retried automatically"}
    assert seen.to_json()["silent"] == [named | words]
    assert "silent" not in status().to_json()


def test_a_refused_login_is_explained_once_and_its_copies_wait_for_it() -> None:
    why = "acr.example: GET token\nthe login was refused\ncheck the password; it is sent again at 12:01:00 UTC"
    silence = KeySilence("login:acr.example/me", NOON, 60.0, why, {Lane.EVENTS: 3, Lane.BACKFILL: 0})
    stale = "acr.example: GET token\nthe login was refused\nit is sent again at 11:00:00 UTC"
    seen = status(waits=3)
    jobs = [replace(job, message=stale, waits_for=silence.key) for job in seen.waiting[:2]]
    shown = printed(replace(seen, waiting=[*jobs, seen.waiting[2]], silent=[silence]), width=120)
    for line in why.split("\n"):
        assert shown.count(f"\n  {line}\n") == 1
    assert "11:00:00" not in shown
    assert shown.count("waits for the login me at acr.example") == 2
    assert shown.count("it said 503") == 1
    (told,) = replace(seen, silent=[silence]).to_json()["silent"]
    assert told["why"] == "acr.example: GET token: the login was refused"
    assert told["do"] == "check the password; it is sent again at 12:01:00 UTC"


def test_a_process_that_does_not_use_its_files_is_told_with_since_when() -> None:
    process = ProcessInfo(
        "serve", "1", "h", 1, NOON, NOON, "b.yaml: a typing mistake", problem_since=NOON, out=("b.yaml",)
    )
    seen = replace(status(), refusing=[process])
    assert f"serve on h:1 does not use the current files since {iso(NOON)}: b.yaml" in printed(seen, width=120)
    told = {"host": "h", "pid": 1, "since": iso(NOON), "problem": "b.yaml: a typing mistake", "out": ["b.yaml"]}
    words = {
        "what": f"serve on h:1 does not use the current files since {iso(NOON)}",
        "why": "b.yaml: a typing mistake",
        "do": "correct the files: changes are loaded automatically",
    }
    assert seen.to_json()["configuration"] == [told | words]
    assert "configuration" not in status().to_json()


def test_private_images_that_are_public_at_their_destination_are_told_with_what_to_do() -> None:
    copy = PublicCopy("h.example/team/app:v1", "registry.cn-beijing.aliyuncs.com/team/app:v1", NOON)
    text = printed(replace(status(), public=[copy]), width=300)
    assert "1 image is private at the source, and anyone may pull it at the destination:" in text
    assert f"{copy.source} -> {copy.destination}" in text
    assert "set the type (仓库类型) of the repository app to private (私有)" in text
    told = {"source": copy.source, "destination": copy.destination, "since": iso(NOON)}
    assert replace(status(), public=[copy]).to_json()["public"] == [told]
    assert "public" not in status().to_json()


def test_a_clock_of_redis_that_was_set_back_is_told() -> None:
    seen = replace(status(), clock=ClockSetBack(NOON, 3600.0))
    assert "the clock of Redis was set back by 3600 s at 2026-01-01T12:00:00.000Z" in printed(seen, width=140)
    assert seen.to_json()["clock"] == {"set_back": iso(NOON), "seconds": 3600.0}
    assert "clock" not in status().to_json()


def test_processes_with_different_rules_are_told_once_that_lasts_longer_than_an_update() -> None:
    differing = Differing(400.0, ("serve a:1 has 0123", "worker b:2 has 4567"))
    seen = replace(status(), differing=differing, ownerless=1)
    shown = printed(seen, width=300)
    assert "different rules for 6 min (serve a:1 has 0123, worker b:2 has 4567)" in shown
    assert "1 copy waits for a process with its rules, and is skipped after ten minutes without one" in shown
    told = seen.to_json()
    assert told["rules_differ"] == {"seconds": 400.0, "processes": list(differing.sides)}
    assert told["without_rules"] == 1
    assert "different" not in printed(replace(seen, differing=replace(differing, seconds=200.0)), width=300)
    assert not {"rules_differ", "without_rules"} & set(status().to_json())


def test_harbors_whose_webhooks_are_switched_off_are_named() -> None:
    seen = replace(status(), sweep=SweepState(NOON, 3, "", {"a.example": False, "b.example": True}))
    assert "a.example: webhooks are switched off" in printed(seen, width=120)
    assert seen.to_json()["sweep"]["switched_off"] == ["a.example"]
    for replaced, copies in (0, "no copy"), (1, "1 copy"), (2, "2 copies"):
        swept = printed(replace(seen, sweep=replace(seen.sweep, replaced=replaced)), width=120)
        assert f"last sweep 0 s ago; sweeps have queued {copies} without a webhook so far" in swept
    well = replace(seen, sweep=replace(seen.sweep, webhooks={"b.example": True}))
    assert "switched off" not in printed(well)
    assert "switched_off" not in well.to_json()["sweep"]


def test_times_in_json_are_utc_with_milliseconds() -> None:
    assert iso(NOON) == "2026-01-01T12:00:00.000Z"
    assert datetime.fromisoformat(iso(NOON)) == NOON


def test_everything_about_the_queue_is_in_the_tables() -> None:
    shown = printed(status(waits=1))
    for part in (
        "unix:///state/valkey.sock",
        "1 worker",
        "10000",
        "4 dead letters: replicator failures",
        REFERENCE,
        "1 min",
        "1.5 MB",
        "it said 503",
        "h:1",
        "2 h",
        "1 of 8",
        "0 of 5",
        "stopping",
    ):
        assert part in shown, part
    assert "no worker runs" in printed(status(workers=0))


def test_dead_letters_are_told_by_cause_with_a_line_each() -> None:
    causes = Causes()
    for number in range(3):
        causes.add(
            "permanent", f"r.example said\nword {chr(97 + number)} of its own", "", f"r.example/team/app{number}:v1"
        )
    shown = printed(draw_status(status(), causes), width=200)
    assert "4 dead letters: replicator failures shows their causes\n" in shown
    assert "  1 copy: r.example/team: word b of its own\n" in shown
    assert "  (these are the causes of the first 3)\n" in shown
    for number in range(3, 9):
        causes.add(
            "permanent", f"r.example said\nword {chr(97 + number)} of its own", "", f"r.example/team/app{number}:v1"
        )
    shown = printed(draw_status(status(), causes), width=200)
    assert shown.count("of its own") == 5
    assert "  and 4 more causes\n" in shown


def test_a_lane_with_queued_copies_that_no_worker_serves_is_named() -> None:
    seen = status()
    worker = replace(seen.workers[0], stopping=False)
    assert "none serves" not in printed(replace(seen, workers=[worker]))
    events = replace(worker, concurrency={Lane.EVENTS: 16})
    assert "1 worker, but none serves the lane backfill" in printed(replace(seen, workers=[events]))


def test_requests_and_bodies_that_wait_at_registries_are_counted_over_all_workers() -> None:
    seen = status(workers=2)
    waits = replace(seen.workers[0], waiting={Lane.EVENTS: 0, Lane.BACKFILL: 12})
    seen = replace(seen, workers=[waits, replace(waits, waiting={Lane.BACKFILL: 3}), seen.workers[0]])
    assert seen.waiting_at_registries == {Lane.BACKFILL: 15}
    assert "3 workers, 15 requests wait at registries (backfill)" in " ".join(printed(seen).split())
    told = [worker["waiting"] for worker in seen.to_json()["workers"]]
    assert told == [{"events": 0, "backfill": 12}, {"backfill": 3}, {}]


def test_of_many_that_wait_the_first_are_shown_and_the_others_counted() -> None:
    shown = printed(status(waits=25))
    assert shown.count("it said 503") == 20
    assert "and 5 others" in shown
    assert "and 980 or more others" in printed(status(waits=1000))
    assert len(status(waits=25).to_json()["waiting"]) == 25


def test_a_reconcile_that_runs_and_the_last_one_are_shown() -> None:
    started = NOON - timedelta(hours=3)
    found = Findings(1000, 985, drift=7, skipped=3, failed=5, warnings=1, stale=2, lost=4)
    result = ReconcileResult(started, started + timedelta(seconds=42.5), "h2", found)
    running = RunningReconcile("h1", 17, NOON - timedelta(seconds=90), Progress(800, 340))
    seen = status(reconcile=ReconcileState(NOON, started, result, running))
    shown = printed(seen)
    assert "reconcile running for 1 min on h1:17, 340 of 800 tags so far" in shown
    assert "last reconcile 2 h ago on h2: 1000 tags in 42.5 s, 985 up to date, drift 7, 3 skipped" in shown
    assert "2 still hold an old image, 4 were in place before and were missing, 5 failed" in shown
    assert seen.to_json()["reconcile"] == {
        "running": {"since": "2026-01-01T11:58:30.000Z", "host": "h1", "pid": 17, "listed": 800, "done": 340},
        "last": {
            "started": "2026-01-01T09:00:00.000Z",
            "ended": "2026-01-01T09:00:42.500Z",
            "seconds": 42.5,
            "host": "h2",
            "listed": 1000,
            "up_to_date": 985,
            "drift": 7,
            "pending": 0,
            "skipped": 3,
            "failed": 5,
            "held": 0,
            "collisions": 0,
            "unlisted": 0,
            "complete": False,
            "warnings": 1,
            "stale": 2,
            "lost": 4,
            "error": None,
        },
    }


def test_what_a_reconcile_could_not_compare_is_shown_with_reasons_and_what_waits_for_an_approval() -> None:
    failures = (Failure("h/lost/**", "not found"), Failure("h/a:v1", "sha256:b is there"))
    found = Findings(2000, 1600, 4, 0, 90, pending=6, held=300, unlisted=1, failures=failures)
    state = ReconcileState(NOON, NOON, ReconcileResult(NOON, NOON, "h", found), None)
    shown = printed(status(reconcile=state))
    assert "drift 4, 6 queued, 0 skipped, 0 warnings, 90 failed, 300 held; 1 source not listed" in shown
    assert "  h/lost/**: not found\n  h/a:v1: sha256:b is there\n  and 389 more" in shown
    assert "300 of 1910 images would be replaced: replicator reconcile approve replaces them" in shown
    assert status(reconcile=state).to_json()["reconcile"]["last"]["failures"][0] == {
        "what": "h/lost/**",
        "why": "not found",
        "do": "",
    }
    assert "would be replaced: approved" in printed(status(reconcile=replace(state, approved=NOON)))


def test_a_reconcile_that_failed_is_shown_with_its_reason() -> None:
    result = ReconcileResult(NOON, NOON, "h", Findings(error="nothing could be\x1b listed"))
    seen = status(reconcile=ReconcileState(NOON, NOON, result, None))
    assert "failed, nothing could be\tlisted" in printed(seen)
    assert seen.to_json()["reconcile"]["running"] is None


def test_of_reconciles_nothing_is_shown_when_there_never_was_one() -> None:
    assert "reconcile" not in printed(status())
    assert "reconcile" not in status().to_json()


def test_a_reference_is_broken_in_two_on_a_narrow_terminal_but_not_in_a_pipe() -> None:
    for what in (status(), failures_table([letter()])):
        assert REFERENCE in printed(what, width=40)
        narrow = printed(what, terminal=True, width=70)
        assert REFERENCE not in narrow
        assert max(map(len, narrow.splitlines())) <= 70
        assert "…" not in narrow, "nothing of a name is left out"


def test_what_a_registry_says_can_not_command_the_terminal_or_look_like_markup() -> None:
    hostile = "\x1b[2J\x07gone\r\n[red]x[/red] :smile: \u202eabc"
    for shown in (
        printed(failures_table([letter(hostile)])),
        printed(failures_table([letter(hostile)]), terminal=True),
    ):
        assert not {"\x1b", "\x07", "\r", "\u202e"} & set(shown)
        assert "[red]x[/red] :smile:" in shown
    assert "\n" not in plain(hostile).plain


def test_a_failure_whose_job_is_lost_is_listed_without_its_source() -> None:
    values = letter_json(letter(lost=True))
    assert (values["source"], values["rule"], values["destination"]) == (None, None, REFERENCE)
    assert "its source is lost" in printed(failures_table([letter(lost=True)]))


@pytest.mark.parametrize("one_line", [True, False])
def test_json_is_printed_as_it_is(one_line: bool) -> None:
    out = Console(file=io.StringIO(), width=20, color_system=None)
    value = {"message": "[b]" + "x" * 100 + ":smile: 镜像\x1b"}
    document(value, out, one_line=one_line)
    assert isinstance(out.file, io.StringIO)
    assert json.loads(out.file.getvalue()) == value
    assert out.file.getvalue().count("\n") == (1 if one_line else 3)
