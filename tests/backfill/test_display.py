"""What a person reads when a backfill has ended."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from replicator.backfill import Report, Row, RowOutcome
from replicator.backfill.display import plan, summary
from tests.docs.pages import ROOT, blocks
from tests.rules.building import ACR, HARBOR

DIGESTS = [f"sha256:{character * 64}" for character in "abc"]


def report_of(*rows: Row, **fields: bool) -> Report:
    report = Report(**fields, seconds=3.25)  # type: ignore[arg-type]  # mypy takes every value for one of any field
    for row in rows:
        report.add(row)
    return report


def printed(show: object, report: Report, *, width: int | None = None) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=width is not None, color_system=None)
    assert callable(show)
    with console.capture() as capture:
        show(report, console)
    return capture.get()


def test_the_plan_in_the_documentation_is_one() -> None:
    page = ROOT / "docs" / "backfill.md"
    (example,) = [block.text for block in blocks("text") if block.page == page]
    source, destination = f"{HARBOR}/team/app", f"{ACR}/team-mirror/app"
    rows = [
        Row(f"{source}:v3", f"{destination}:v3", RowOutcome.WOULD_COPY, DIGESTS[0], note="it is not there yet"),
        Row(f"{source}:v1", f"{destination}:v1", RowOutcome.UP_TO_DATE, DIGESTS[1]),
        Row(
            f"{source}:v2", f"{destination}:v2", RowOutcome.WOULD_COPY, DIGESTS[2], note="sha256:dddddddddddd is there"
        ),
    ]
    assert printed(plan, report_of(*rows)) == example


def test_the_plan_says_why_something_is_not_copied_and_folds_no_name_where_there_is_no_terminal() -> None:
    name = f"{HARBOR}/{'long/' * 40}x:v1"
    text = printed(
        plan,
        report_of(
            Row(name, f"{ACR}/a/b:v1", RowOutcome.SKIPPED, note="no image of it is for linux/s390x"),
            Row(f"{HARBOR}/a/[bold]:v1", f"{ACR}/a/b:v2", RowOutcome.UP_TO_DATE, DIGESTS[0], note="2 are left out"),
            Row(f"{HARBOR}/a/b:v1", "", RowOutcome.FAILED, error="it is told apart"),
        ),
    )
    assert name in text
    assert "skip    " in text
    assert "no image of it is for linux/s390x" in text
    assert "/a/[bold]:v1" in text
    assert "up to date; 2 are left out" in text
    assert "told apart" not in text
    assert all(
        len(line) < 40 for line in printed(plan, report_of(Row(name, "", RowOutcome.FAILED)), width=39).split("\n")
    )


@pytest.mark.parametrize(
    ("fields", "head"),
    [
        ({}, "Done in 3.2 s"),
        ({"interrupted": True}, "Interrupted after 3.2 s"),
        ({"failed_fast": True}, "Ended at the first failure after 3.2 s"),
        ({"failed_fast": True, "broken_off": True}, "Broken off after 3.2 s"),
    ],
)
def test_the_summary_says_how_the_run_ended_and_what_is_left_to_do(fields: dict[str, bool], head: str) -> None:
    text = printed(summary, report_of(Row("a", "b", RowOutcome.COPIED), **fields))
    assert head in text
    assert "What " not in text
    outcomes = [RowOutcome.QUEUED, RowOutcome.NOT_BEGUN, RowOutcome.NOT_BEGUN]
    text = printed(summary, report_of(*(Row("a", "b", outcome) for outcome in outcomes), **fields))
    assert "What is queued (1) is copied by the next worker or backfill" in text
    assert "What was not begun (2) needs another backfill" in text
