"""What a person sees of a backfill while it runs."""

from __future__ import annotations

import asyncio
import io
import os
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from replicator.commands.backfill_display import ProgressView, Throughput
from replicator.console import confirm
from replicator.queue import Lane
from replicator.queue.job import RunningJob
from replicator.replication.report import Report, Row, RowOutcome
from tests.docs.pages import ROOT, blocks
from tests.rules.building import ACR

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def running(*names: str, size: int = 0) -> list[RunningJob]:
    return [RunningJob(name, Lane.BACKFILL, "host:1:a", NOW, 1, size) for name in names]


def drawn(progress: ProgressView) -> str:
    console = Console(file=io.StringIO(), width=120, color_system=None)
    with console.capture() as capture:
        console.print(progress)
    return capture.get()


@pytest.mark.parametrize(
    ("line", "answer"), [(b"y\n", True), (b"Yes\n", True), (b"\n", False), (b"no\n", False), (b"\x04", False)]
)
async def test_a_question_at_a_terminal_is_answered_by_a_line_and_no_by_default(
    monkeypatch: pytest.MonkeyPatch, line: bytes, answer: bool
) -> None:
    person, terminal = os.openpty()
    console = Console(file=io.StringIO())
    with os.fdopen(terminal) as stdin, os.fdopen(person, "wb", buffering=0) as keyboard:
        monkeypatch.setattr("sys.stdin", stdin)
        asking = asyncio.create_task(confirm("Replace [them]?", console))
        await asyncio.sleep(0)
        keyboard.write(line)
        async with asyncio.timeout(30):
            assert await asking is answer
    assert console.file.getvalue() == "Replace [them]? [y/N] "  # type: ignore[attr-defined]  # it is a StringIO


def test_the_pace_is_that_of_the_last_half_minute() -> None:
    pace = Throughput()
    assert (pace.tags, pace.seconds_for(5)) == (0.0, None)
    for second in range(61):
        # All in place for half a minute, and then copies.
        pace.mark(float(second), 100 * min(second, 30) + max(0, second - 30), 1000 * max(0, second - 30))
    assert (round(pace.tags), round(pace.bytes)) == (1, 1000)
    assert round(pace.seconds_for(120) or 0) == 120


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 10**9), st.integers(0, 10**15)), max_size=50))
def test_no_pace_is_below_nothing_and_none_needs_more_than_half_a_minute(marks: list[tuple[float, int, int]]) -> None:
    pace = Throughput()
    for now, tags, size in sorted(marks):
        pace.mark(now, tags, size)
        assert pace.tags >= 0
        assert pace.bytes >= 0


def test_a_line_says_how_far_it_is_how_fast_and_what_is_under_way() -> None:
    report = Report(listed=120)
    progress = ProgressView(report)
    progress.update(0.0, ())
    assert progress.line() == "0 of 120 tags done (still listing), 0 bytes copied"
    for number in range(40):
        outcome = RowOutcome.FAILED if number == 0 else RowOutcome.COPIED
        report.add(Row(f"a:{number}", f"b:{number}", outcome, bytes=1_000_000))
    progress.update(20.0, running("b:40", "b:41", size=5_000_000))
    assert progress.line() == (
        "40 of 120 tags done (still listing), 1 failed, 50.0 MB copied, 2.5 MB/s, about 40 s left for these, "
        "copying b:40 b:41"
    )
    report.complete = True
    assert progress.line().startswith(
        "40 of 120 tags done, 1 failed, 50.0 MB copied, 2.5 MB/s, about 40 s left, copying"
    )


def test_the_line_in_the_documentation_is_one() -> None:
    page = ROOT / "docs" / "backfill.md"
    (example,) = [block.text for block in blocks("text") if block.page == page and "tags done" in block.text]
    report = Report(listed=10_000)
    progress = ProgressView(report)
    report.add(Row("a", "b", RowOutcome.COPIED, bytes=3_400_000_000 - 24_100_000 * 30))
    for _ in range(886):
        report.add(Row("a", "b", RowOutcome.UP_TO_DATE))
    progress.update(0.0, ())
    for number in range(363):
        report.add(Row("a", "b", RowOutcome.FAILED if number < 2 else RowOutcome.UP_TO_DATE))
    progress.update(30.0, running(f"{ACR}/team-mirror/app:v7", size=24_100_000 * 30))
    assert progress.line() == example.strip()


def test_what_is_in_place_has_a_pace_in_tags() -> None:
    report = Report(listed=1000, complete=True)
    progress = ProgressView(report)
    progress.update(0.0, ())
    for number in range(500):
        report.add(Row(f"a:{number}", f"b:{number}", RowOutcome.UP_TO_DATE))
    progress.update(1.0, ())
    assert progress.line() == "500 of 1000 tags done, 0 bytes copied, 500 tags/s, about 1 s left"


def test_a_terminal_shows_some_of_what_is_under_way_and_no_markup_of_others() -> None:
    report = Report(listed=9, complete=True)
    progress = ProgressView(report)
    progress.update(0.0, running(*(f"acr/[bold]{number}:\x1b[31mv1" for number in range(8))))
    text = drawn(progress)
    assert text.count("copying acr/[bold]") == 5
    assert "and 3 more" in text
    assert "\x1b" not in text
    assert "0 of 9" in text
    assert drawn(ProgressView(Report())).strip().startswith("backfill")
