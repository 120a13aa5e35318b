"""What a person reads when a backfill has ended."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from replicator.commands.backfill_display import Display, Plan, summary
from replicator.errors import ErrorText
from replicator.queue import Causes
from replicator.replication.report import Report, Row, RowOutcome
from tests.docs.pages import ROOT, blocks
from tests.rules.building import ACR, HARBOR

DIGESTS = [f"sha256:{character * 64}" for character in "abc"]


def report_of(*rows: Row, complete: bool = True, **fields: bool) -> Report:
    report = Report(**fields, complete=complete, seconds=3.25)  # type: ignore[arg-type]  # mypy takes every value for one of any field
    for row in rows:
        report.add(row)
    return report


def paper(width: int | None = None) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=width is not None, color_system=None)


def summarised(report: Report, causes: Causes | None = None) -> str:
    console = paper()
    with console.capture() as capture:
        summary(report, console, causes=causes or Causes())
    return capture.get()


def planned(*rows: Row, width: int | None = None) -> str:
    console = paper(width)
    plan = Plan(console)
    for row in rows:
        plan.row(row)
    with console.capture() as capture:
        plan.end()
    return capture.get()


def test_the_plan_in_the_documentation_is_one() -> None:
    page = ROOT / "docs" / "backfill.md"
    (example,) = [block.text for block in blocks("text") if block.page == page and "SOURCE" in block.text]
    source, destination = f"{HARBOR}/team/app", f"{ACR}/team-mirror/app"
    rows = [
        Row(
            f"{source}:v3",
            f"{destination}:v3",
            RowOutcome.WOULD_COPY,
            DIGESTS[0],
            size=61_300_000,
            note="it is not there yet",
        ),
        Row(f"{source}:v1", f"{destination}:v1", RowOutcome.UP_TO_DATE, DIGESTS[1], size=60_900_000),
        Row(
            f"{source}:v2",
            f"{destination}:v2",
            RowOutcome.WOULD_COPY,
            DIGESTS[2],
            size=60_900_000,
            note="sha256:dddddddddddd is there",
        ),
    ]
    assert planned(*rows, width=200) == example


def test_the_plan_says_why_something_is_not_copied_and_folds_no_name_where_there_is_no_terminal() -> None:
    name = f"{HARBOR}/{'long/' * 40}x:v1"
    text = planned(
        Row(name, f"{ACR}/a/b:v1", RowOutcome.SKIPPED, note="no image of it is for\nlinux/s390x"),
        Row(f"{HARBOR}/a/[bold]:v1", f"{ACR}/a/b:v2", RowOutcome.UP_TO_DATE, DIGESTS[0], note="2 are left out"),
        Row(f"{HARBOR}/a/b:v1", "", RowOutcome.FAILED, error="it is told apart"),
    )
    assert name in text
    assert "\tskip\t" in text
    assert "no image of it is for linux/s390x" in text
    assert "/a/[bold]:v1" in text
    assert "up to date; 2 are left out" in text
    assert "told apart" not in text
    assert all(len(line) < 40 for line in planned(Row(name, "", RowOutcome.FAILED), width=39).split("\n"))


def test_the_summary_says_how_to_delete_what_is_queued_and_what_was_cancelled() -> None:
    report = report_of(Row("a", "b", RowOutcome.QUEUED), Row("a", "c", RowOutcome.CANCELLED), interrupted=True)
    console = paper()
    with console.capture() as capture:
        summary(report, console, causes=Causes(), run="backfill-0123")
    assert "replicator queue cancel --run backfill-0123 --lane backfill" in capture.get()
    assert "Cancelled: 1; run the backfill again to copy them" in capture.get()
    assert "queue cancel" not in summarised(report), "copies that nobody follows have no run"


@pytest.mark.parametrize(
    ("fields", "head"),
    [
        ({}, "Done in 3.2 s"),
        ({"interrupted": True}, "Interrupted after 3.2 s"),
        ({"failed_fast": True}, "Stopped at the first failure after 3.2 s"),
        ({"failed_fast": True, "broken_off": True}, "Aborted after 3.2 s"),
    ],
)
def test_the_summary_says_how_the_run_ended_and_what_is_left_to_do(fields: dict[str, bool], head: str) -> None:
    text = summarised(report_of(Row("a", "b", RowOutcome.COPIED), **fields))
    assert head in text
    assert "Still queued" not in text
    outcomes = [RowOutcome.QUEUED, RowOutcome.NOT_BEGUN, RowOutcome.NOT_BEGUN]
    text = summarised(report_of(*(Row("a", "b", outcome) for outcome in outcomes), **fields))
    assert "Still queued: 1; the next worker or backfill copies them" in text
    assert "Not started: 2; run the backfill again to copy them" in text


def test_a_plan_of_any_length_is_printed_sorted() -> None:
    rows = [Row(f"{HARBOR}/a/b:{number:05}", "x", RowOutcome.WOULD_COPY) for number in range(2500)]
    lines = [line.split()[0] for line in planned(*reversed(rows)).splitlines()]
    assert [line for line in lines if line != "SOURCE"] == [row.source for row in rows]
    assert planned() == ""


def denied(number: int) -> Row:
    name = f"app-{number}"
    error = ErrorText(
        f"{ACR}: PUT /v2/closed/{name}/manifests/1.0", "403, the registry says: DENIED", "ask for a right"
    )
    return Row(f"{HARBOR}/lib/{name}:1.0", f"{ACR}/closed/{name}:1.0", RowOutcome.FAILED, error=error.stored)


def test_copies_that_fail_for_one_reason_are_told_once_with_a_few_examples() -> None:
    lost = Row(f"{HARBOR}/gone", "", RowOutcome.NOT_LISTED, error="can't be listed: 404")
    rows = [*map(denied, range(153)), lost]
    console = paper()
    with console.capture() as capture:
        display = Display(console)
        for row in rows:
            display.row(row)
    live = capture.get()
    assert live.count("ask for a right") == 1, "the whole text once"
    assert f"failed {HARBOR}/lib/app-152:1.0 -> {ACR}/closed/app-152:1.0: 403, the registry says: DENIED\n" in live
    text = summarised(report_of(*rows), display.causes)
    assert f"Failed:\n  153 copies, one reason: {ACR}/closed: 403, the registry says: DENIED\n" in text
    assert text.count(f" -> {ACR}/closed/") == 5
    assert "    and 148 more: --report lists them all\n" in text
    assert text.count("ask for a right") == 1
    assert f"  {HARBOR}/gone\n    can't be listed: 404\n" in text
    assert "153  failed" in text


def test_the_summary_says_what_was_not_looked_at() -> None:
    report = report_of(Row("a", "b", RowOutcome.UP_TO_DATE), complete=False)
    assert "Skipped as older" not in summarised(report)
    report.older, report.trusted = 3, 1
    text = summarised(report)
    assert "1  up to date (1 recently verified, not checked again)" in text
    assert "Skipped as older than --since: 3" in text
    assert "The list of tags is incomplete" in text
    assert "The list of tags" not in summarised(report_of())


def test_what_was_lost_and_what_still_holds_a_former_image_are_told_apart() -> None:
    report = report_of(Row("a", "b", RowOutcome.SKIPPED, still_holds=DIGESTS[0]))
    report.lost, report.lost_examples = 3, ["r.example.com/a:1", "r.example.com/a:2"]
    told = summarised(report)
    assert "Warning: 3 tags that were in place before were missing, e.g. r.example.com/a:1:" in told
    assert "Warning: 1 destination still holds an old image" in told


def test_what_destinations_refuse_is_counted_by_kind_and_is_no_trouble() -> None:
    kinds = ["chart", "chart", "cache", "application/vnd.example+type"]
    report = report_of(*(Row("a", "b", RowOutcome.SKIPPED, refused=kind) for kind in kinds))
    refused = "Skipped, because the destination refuses the kind: cache 1, chart 2, other 1; with types: all"
    assert refused in summarised(report)
    assert report.troubles == 0


@pytest.mark.parametrize("outcome", [RowOutcome.COPIED, RowOutcome.WOULD_COPY])
def test_what_stands_over_another_image_is_counted_once(outcome: RowOutcome) -> None:
    text = summarised(report_of(Row("h/a:1", "r/a:1", outcome, DIGESTS[0], replaced=DIGESTS[1])))
    assert text.count("(1 over another image)") == 1
    assert f"1  {outcome} (1 over another image)" in text
