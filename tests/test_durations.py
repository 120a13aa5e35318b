"""Durations and moments are parsed as people mean them, or refused with an example."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.schedule import parse_duration, parse_moment

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=8)))


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("1.5h", timedelta(minutes=90)),
        (" 7d ", timedelta(days=7)),
        ("2w", timedelta(weeks=2)),
        ("0s", timedelta(0)),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize("text", ["", "5", "h", "-1h", "1 h", "1H", "1e3s", "5min", "٣h", "1h30m", "999999999w", "11y"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"7d|ten years"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("24h", NOW - timedelta(days=1)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=NOW.tzinfo)),
        ("2026-01-31T18:00", datetime(2026, 1, 31, 18, tzinfo=NOW.tzinfo)),
        ("2026-01-31T18:00Z", datetime(2026, 1, 31, 18, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_duration_ago_or_a_date(text: str, moment: datetime) -> None:
    assert parse_moment(text, NOW) == moment
    assert parse_moment(text, NOW).tzinfo is not None


@given(st.text(max_size=30))
def test_any_text_is_a_duration_and_moment_or_refused(text: str) -> None:
    for parse in (parse_duration, lambda words: parse_moment(words, NOW)):
        with contextlib.suppress(ValueError):
            parse(text)
