"""A reconciler that plans, repeats what could not be listed, and holds back what replaces too much."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from replicator.commands.backfill_display import summary
from replicator.console import short
from replicator.copy import Comparison, Copier, Result
from replicator.queue import (
    Causes,
    Findings,
    Lane,
    Observations,
    ReconcileResult,
    Reconciles,
    ReconcileState,
    approve,
    request_reconcile,
)
from replicator.queue.reconciles import RESULTS
from replicator.reference import Reference
from replicator.registry import Registries
from replicator.replication import reconciler
from replicator.replication.backfill import Backfill
from replicator.replication.enqueue import BackfillOptions, KeptCopies, ReplaceLimit
from replicator.replication.listing import Found, Listing
from replicator.replication.reconciler import Reconciler, findings, next_run
from replicator.replication.report import Report, Row, RowFormat, RowOutcome, RowsFile
from replicator.replication.transfer import access_by
from replicator.rules import Asked, CopyRequest
from replicator.schedule import Every
from tests.queue.conftest import eventually
from tests.replication.conftest import QUICK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.rules import Rules
    from tests.replication.conftest import House, Stage

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DAY = Every(86_400)
IMAGES = {"BEHIND/plain/app": "BEHIND/copies/app", "BEHIND/gone/app": "BEHIND/copies/gone"}
APP = {"BEHIND/plain/app": "BEHIND/copies/app"}


async def test_a_fault_in_planning_is_logged_and_planning_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = 0
    third = asyncio.Event()

    async def read(_: Any) -> ReconcileState:
        nonlocal faults
        faults += 1
        if faults == 3:
            third.set()
        raise ZeroDivisionError

    monkeypatch.setattr(ReconcileState, "read", read)
    monkeypatch.setattr(reconciler, "_BROKEN_PAUSE", 0.01)
    nothing: Any = None
    with structlog.testing.capture_logs() as logs:
        running = asyncio.create_task(Reconciler(Every(1), nothing, nothing, nothing).run())
        waiting = asyncio.create_task(third.wait())
        done, _ = await asyncio.wait({running, waiting}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        waiting.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
    assert done == {waiting}, "the process that runs the reconciler would have ended"
    assert [(line["event"], line["log_level"]) for line in logs[:2]] == [("reconcile planning broken", "error")] * 2


@settings(max_examples=40)
@given(st.lists(st.sampled_from(RowOutcome), max_size=20), st.integers(0, 40))
def test_the_numbers_of_every_run_add_up_wherever_they_are_told(
    tmp_path_factory: pytest.TempPathFactory, outcomes: list[RowOutcome], drift: int
) -> None:
    report, file = Report(), tmp_path_factory.mktemp("rows") / "rows.json"
    output = RowsFile(file, RowFormat.JSON)
    for number, outcome in enumerate(outcomes):
        row = Row(f"h/a:{number}", "", outcome, error="no")
        report.listed += outcome is not RowOutcome.NOT_LISTED
        report.add(row)
        output.row(row)
    output.end()
    report.drift = min(drift, report.counts[RowOutcome.QUEUED])
    report.complete = True
    found = findings(report)
    assert found.listed == sum(getattr(found, name) for name in RESULTS)
    assert min(getattr(found, name) for name in RESULTS) >= 0
    result = ReconcileResult(NOON, NOON, "h", found).to_json()
    assert result["listed"] == sum(result[name] for name in RESULTS)
    assert (found.unlisted, found.complete) == (
        outcomes.count(RowOutcome.NOT_LISTED),
        found.error is None and not {RowOutcome.FAILED, RowOutcome.NOT_LISTED, RowOutcome.HELD} & set(outcomes),
    )
    rows = [row["outcome"] for row in json.loads(file.read_text())]
    assert len(rows) - rows.count("not listed") == found.listed == report.ended
    console = Console(file=io.StringIO(), width=200)
    summary(report, console, causes=Causes())
    written = console.file.getvalue().rpartition("  listed")  # type: ignore[attr-defined]  # it is a StringIO
    table = [line.split() for line in written[2].splitlines()]
    assert int(written[0].split()[-1]) == sum(int(words[0]) for words in table if words and words[0].isdecimal())


def incomplete(repeats: int, *, unlisted: int = 1, whole: datetime = NOON, **more: Any) -> ReconcileState:
    """The state a minute after a run that began at noon at the earliest, and took a minute."""
    found = Findings(listed=3, up_to_date=3, unlisted=unlisted, **more)
    result = ReconcileResult(NOON, NOON, "h", found, "rules", whole, repeats)
    return ReconcileState(NOON + timedelta(minutes=1), NOON, result, None)


def test_what_could_not_be_listed_is_tried_again_after_ten_minutes_then_later_and_never_after_the_schedule() -> None:
    due = [(next_run(DAY, incomplete(repeats)) - NOON).total_seconds() / 60 for repeats in range(9)]
    assert due == [10, 20, 40, 80, 160, 320, 640, 1280, 1440]
    assert next_run(DAY, incomplete(10**6)) == NOON + timedelta(days=1)
    assert next_run(DAY, incomplete(0, unlisted=0, failed=2)) == NOON + timedelta(days=1)
    assert next_run(Every(60), incomplete(0)) == NOON + timedelta(minutes=1)
    # Repeats do not put off the next full comparison.
    assert next_run(DAY, incomplete(7, whole=NOON - timedelta(hours=23))) == NOON + timedelta(hours=1)


class Runs:
    """Reconciles of a house without Harbor's API, one after the other; each is due when it is asked for."""

    def __init__(self, stage: Stage, registries: Registries) -> None:
        self._stage, self.registries = stage, registries
        self.compared: list[str] = []

    def rules(self, images: dict[str, Any]) -> Rules:
        return self._stage.house.rules(images)

    async def state(self) -> ReconcileState:
        return await ReconcileState.read(self._stage.queue)

    async def __call__(self, images: dict[str, Any], replaces: int | None = None) -> Findings:
        """Look once, as a process that has just started; return what the last run found."""
        self.compared.clear()
        rules, queue = self.rules(images), self._stage.queue
        async with contextlib.aclosing(Observations(queue)) as checks:
            made = Reconciler(DAY, rules, Copier(self.registries), queue, checks, replaces=replaces)
            await made._step(DAY)
        last = (await self.state()).last
        assert last is not None
        return last.findings


@pytest.fixture
async def runs(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runs]:
    monkeypatch.setattr(reconciler, "_SPREAD_AT_START", 0.0)
    monkeypatch.setattr(Every, "spread", 0.0)
    async with Registries(access_by(stage.house.rules(IMAGES).credentials), timing=QUICK) as registries:
        made = Runs(stage, registries)
        original = Copier.compare

        async def compare(copier: Copier, source: Reference, *arguments: Any, **more: Any) -> Any:
            made.compared.append(source.repository.name)
            return await original(copier, source, *arguments, **more)

        monkeypatch.setattr(Copier, "compare", compare)
        yield made


async def test_a_repeat_brings_what_could_not_be_listed_and_compares_nothing_else_again(
    runs: Runs, stage: Stage, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.put(["plain/app:v1", "plain/app:v2"])
    await runs({"BEHIND/plain/app": "BEHIND/copies/app"})
    await stage.copy(IMAGES)
    first = await runs(IMAGES)
    assert (first.listed, first.up_to_date, first.unlisted, first.complete) == (2, 2, 1, False)
    assert [each.what for each in first.failures] == [f"{house.behind}/gone/app"]
    before = await runs.state()
    assert before.last is not None
    # Not due yet: the next one is as far as the first pause.
    assert await runs(IMAGES) == first
    assert runs.compared == []
    monkeypatch.setattr(reconciler, "_RETRY_AFTER", timedelta(0))
    assert (await runs(IMAGES)).unlisted == 1
    between = (await runs.state()).last
    assert between is not None
    assert (between.repeats, between.whole, runs.compared) == (1, before.last.started, [])
    assert (await runs.state()).last_success == before.last_success
    await house.put(["gone/app:v1"])
    found = await runs(IMAGES)
    assert (found.listed, found.up_to_date, found.drift, found.unlisted, found.complete) == (3, 2, 1, 0, True)
    assert runs.compared == ["gone/app"]
    after = await runs.state()
    assert after.last is not None
    assert after.last_success == after.last.ended
    assert (after.last.repeats, after.last.scheduled_from) == (0, before.last.started)


async def test_something_else_that_goes_missing_is_tried_again_soon(
    runs: Runs, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "_RETRY_AFTER", timedelta(0))
    await house.put(["plain/app:v1"])
    more = {"BEHIND/lost/app": "BEHIND/copies/lost", **IMAGES}
    repeats = []
    for images in (IMAGES, IMAGES, IMAGES, more, more, IMAGES):
        await runs(images)
        last = (await runs.state()).last
        assert last is not None
        repeats.append(last.repeats)
    assert repeats == [0, 1, 2, 0, 1, 2]


async def test_a_run_that_was_asked_for_compares_everything_at_once_even_where_the_schedule_is_off(
    runs: Runs, stage: Stage, house: House
) -> None:
    await house.put(["plain/app:v1"])
    assert (await runs(APP)).drift == 0
    await runs(APP)
    assert runs.compared == [], "none is due"
    await house.put(["plain/app:v2"])
    await request_reconcile(stage.queue, "a person")
    assert (await runs(APP)).listed == 2
    assert len(runs.compared) == 2
    async with contextlib.aclosing(Observations(stage.queue)) as checks:
        off = Reconciler(None, stage.house.rules(APP), Copier(runs.registries), stage.queue, checks)
        before = (await runs.state()).last_started
        async with off.beside():
            await request_reconcile(stage.queue, "a person")

            async def ended() -> bool:
                return (await runs.state()).last_started != before

            await eventually(ended)
            assert not (await runs.state()).is_requested


async def put_over(house: House, number: int, missing: int = 1) -> None:
    """Push tags, and other images to their destinations; some have none."""
    await house.put(f"plain/app:v{each}" for each in range(number + missing))
    await house.put(f"copies/app:v{each}" for each in range(number))


async def test_a_run_that_would_replace_much_replaces_nothing_until_it_is_approved_once(
    runs: Runs, stage: Stage, house: House
) -> None:
    await put_over(house, 4)
    held = await runs(APP, replaces=3)
    assert (held.listed, held.held, held.pending, held.complete) == (5, 4, 1, False)
    assert await stage.queued(Lane.BACKFILL) == 1, "the missing tag goes on"
    assert held.failures[0].why.startswith("sha256:")
    state = await runs.state()
    assert (state.awaits_approval, state.is_approved, state.last_success) == (True, False, None)
    assert await runs(APP, replaces=3) == held, "none is due before a person says so"
    assert state.last is not None
    assert await approve(stage.queue, state.last, "a person")
    assert (await runs.state()).is_approved
    after = await runs(APP, replaces=3)
    assert (after.held, after.drift, after.pending, after.complete) == (0, 4, 1, True)
    assert await stage.queued(Lane.BACKFILL) == 5
    assert not await approve(stage.queue, state.last, "a person"), "it is void once another run has ended"
    # What comes later is asked for again.
    await stage.copy(APP)
    await put_over(house, 4)
    await stage.queue.redis.delete(f"{stage.queue.prefix}:reconcile")
    assert (await runs(APP, replaces=3)).held == 4


async def test_sweeps_replace_nothing_while_a_run_waits_for_an_approval(stage: Stage, house: House) -> None:
    sweeper = await stage.sweeper({"HARBOR/team/**": "BEHIND/copies/{name}"})
    await sweeper.step()
    lease = await Reconciles(stage.queue).begin(None)
    assert lease is not None
    await lease.end(Findings(listed=2000, held=300), "rules")
    await house.put(["team/app:v1", "team/app:v2", "copies/app:v1"])
    await sweeper.step()
    assert await stage.queued() == 1, "the missing tag alone"


async def test_an_approval_is_for_the_same_rules_and_for_as_many_images(runs: Runs, stage: Stage, house: House) -> None:
    await put_over(house, 4)
    await runs(APP, replaces=3)
    state = await runs.state()
    assert state.last is not None
    assert await approve(stage.queue, state.last, "a person")
    # Five more than were approved.
    await put_over(house, 9)
    found = await runs(APP, replaces=3)
    assert (found.held, found.drift + found.pending) == (5, 5)
    state = await runs.state()
    assert state.last is not None
    assert await approve(stage.queue, state.last, "a person")
    other = await runs({"BEHIND/plain/app": "BEHIND/copies/app:v1"} | APP, replaces=3)
    assert (other.held > 0, (await runs.state()).is_approved) == (True, False)


@pytest.mark.parametrize(("number", "missing", "replaces"), [(4, 1, 4), (4, 1, None), (4, 36, 3), (0, 5, 0)])
async def test_few_replacements_need_no_approval(
    runs: Runs, house: House, number: int, missing: int, replaces: int | None
) -> None:
    await put_over(house, number, missing)
    found = await runs(APP, replaces=replaces)
    assert (found.held, found.pending, found.complete) == (0, number + missing, True)


def test_only_what_may_replace_an_image_is_kept_and_comes_out_as_it_went_in() -> None:
    source = Reference.parse("h.example/team/app:v1")
    digest = f"sha256:{'a' * 64}"
    request = CopyRequest(source, Reference.parse("r.example/mirror/app:v1"), "rule")
    found = Found(Asked(request, frozenset({"rule"})), digest, 123)
    signature = Found(Asked(replace(request, signature=True), frozenset({"rule"})))
    other = Comparison(None, digest, digest, present=digest)
    kept = KeptCopies(ReplaceLimit(0, approved=1))
    for comparison in (replace(other, present=None), replace(other, result=Result.UP_TO_DATE, lacks_signatures=True)):
        assert not kept.takes(found, comparison)
    assert not kept.takes(signature, other)
    assert not kept.takes(found, other), "the first is approved"
    # What a passing error hid may be another image, but is none that is known.
    assert [kept.takes(found, comparison) for comparison in (other, None, other)] == [True] * 3
    assert not KeptCopies(None).takes(found, other)
    out = list(kept)
    assert sorted(note for _, note in out) == ["", f"{short(digest)} is there", f"{short(digest)} is there"]
    assert {(each.request.source, each.size) for each, _ in out} == {(source, 123)}
    assert out[0][0].request.announced == digest
    kept.close()


@pytest.mark.parametrize("answer", [True, False])
async def test_a_backfill_asks_once_with_the_numbers_and_leaves_the_images_where_the_answer_is_no(
    stage: Stage, house: House, answer: bool
) -> None:
    await put_over(house, 3)
    asked: list[tuple[int, int]] = []

    async def ask(replacements: int, compared: int) -> bool:
        asked.append((replacements, compared))
        return answer

    rules, rows = house.rules(APP), list[Row]()
    async with Registries(access_by(rules.credentials), timing=QUICK) as registries:
        options = BackfillOptions(detach=True, limit=ReplaceLimit(2, ask=ask))
        listing = Listing(rules, registries)
        report = await Backfill(listing, Copier(registries), stage.queue, options=options, on_row=rows.append).run()
    assert asked == [(3, 4)]
    expected = {RowOutcome.QUEUED: 4} if answer else {RowOutcome.QUEUED: 1, RowOutcome.HELD: 3}
    assert {outcome: count for outcome, count in report.counts.items() if count} == expected
    assert len(rows) == report.listed == 4
    assert await stage.queued(Lane.BACKFILL) == expected[RowOutcome.QUEUED]
