"""The page's address: filters, pages, and links that hold under any path."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urljoin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ErrorClass
from replicator.queue import Ended, LagSpan, Lane
from replicator.server.page.facts import ROWS, View, activity, sheet
from replicator.server.page.language import messages
from replicator.server.page.rendering import chart

EN = messages("en")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ENTRY = Ended(NOON, "r.example/a:1", Lane.EVENTS, "copied", "h.example/a:1", "a rule", "", None, 1, 1.0, 2.0, 1)
FAILED = replace(ENTRY, id="r.example/B:2", result="given up", note="denied by ACR", error_class=ErrorClass.PERMANENT)
VIEWS = st.builds(
    View,
    result=st.text(max_size=20).map(str.strip),
    text=st.text(max_size=20).map(str.strip),
    rule=st.text(max_size=20).map(str.strip),
    page=st.integers(1, 1000),
    cause=st.text(max_size=20).map(str.strip),
    letters=st.integers(1, 1000),
    hours=st.sampled_from((6, 24, 48)),
)


def view(query: str) -> View:
    return View.of(dict(parse_qsl(query.removeprefix("?"), keep_blank_values=True)))


@given(VIEWS)
def test_a_link_leads_back_to_the_view_it_was_made_from(chosen: View) -> None:
    assert view(chosen.link()) == chosen
    assert view(chosen.link(page=3)) == replace(chosen, page=3)


@given(VIEWS, st.sampled_from(("/", "/replicator/", "/a/b")))
def test_a_link_stays_on_the_path_of_the_page(chosen: View, path: str) -> None:
    leads = urljoin(f"https://h.example{path}?old=1", chosen.link())
    assert leads.partition("?")[0] == f"https://h.example{path}"


@given(st.dictionaries(st.sampled_from(("page", "cause", "letters", "hours", "text", "done")), st.text(max_size=30)))
def test_no_address_raises_an_error(query: dict[str, str]) -> None:
    chosen = View.of(query)
    assert chosen.page >= 1
    assert chosen.letters >= 1
    assert chosen.hours in (6, 24, 48)


def test_filters_choose_by_result_rule_and_a_part_of_any_name_or_reason() -> None:
    every = [ENTRY, FAILED, replace(ENTRY, rule="another")]
    assert View().chosen(every) == every
    assert View(result="given up").chosen(every) == [FAILED]
    assert View(rule="another").chosen(every) == [every[2]]
    assert View(text="EXAMPLE/b").chosen(every) == [FAILED]
    assert View(text="by acr").chosen(every) == [FAILED]
    assert View(text="by acr", result="copied").chosen(every) == []


@given(st.integers(0, 500), st.integers(1, 50))
def test_all_pages_together_hold_every_row_once(number: int, page: int) -> None:
    rows = list(range(number))
    pages = [sheet(rows, one) for one in range(1, sheet(rows, 1).pages + 1)]
    assert [row for one in pages for row in one.rows] == rows
    assert all(len(one.rows) <= ROWS for one in pages)
    assert sheet(rows, page).number <= pages[-1].number


spans = st.builds(
    lambda back, number, mean, more: LagSpan(NOON - timedelta(minutes=15 * back), number, mean, mean + more),
    st.integers(0, 200),
    st.integers(1, 1000),
    st.floats(0, 1e5),
    st.floats(0, 1e6),
)


@given(st.lists(spans, max_size=50), st.sampled_from((6, 24, 48)))
def test_everything_in_the_chart_is_inside_its_bounds(known: list[LagSpan], hours: int) -> None:
    drawn = chart(known, NOON, hours, EN)
    for bar in drawn.bars:
        assert 0 <= bar.left <= 100
        assert 0 <= bar.longest <= bar.mean <= drawn.bottom <= drawn.height
    assert all(0 <= line.at <= drawn.bottom for line in drawn.levels)
    assert all(0 <= mark.at < 100 for mark in drawn.hours)
    assert len(drawn.bars) == sum(span.start >= NOON - timedelta(hours=hours) for span in known)


def test_the_chart_has_a_summary_and_tooltips_in_words() -> None:
    assert chart([], NOON, 24, EN).summary == "No push was replicated in the last 24 hours."
    known = [LagSpan(NOON - timedelta(hours=1), 3, 2.0, 4.0), LagSpan(NOON - timedelta(hours=7), 1, 10.0, 600.0)]
    assert chart(known, NOON, 24, EN).summary == (
        "4 pushes replicated in the last 24 hours: average 4.0 s, maximum 10 min."
    )
    assert chart(known, NOON, 6, EN).bars[0].text == "11:00 UTC: 3 copies, average 2.0 s, maximum 4.0 s"


@pytest.mark.parametrize(("seconds", "shown"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (10, "10 s"), (125, "2 min")])
def test_short_durations_have_one_decimal(seconds: float, shown: str) -> None:
    assert EN.duration(seconds) == shown


def test_each_rule_shows_its_recent_results_and_the_last_time() -> None:
    first, second = activity(["a rule", "idle"], [FAILED, replace(ENTRY, at=NOON - timedelta(hours=1))])
    assert (first.results, first.last) == ({"given up": 1, "copied": 1}, NOON)
    assert (second.results, second.last) == ({}, None)
