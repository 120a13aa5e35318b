"""When a scheduled run is due."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.schedule import LOCAL, Cron, Every, Schedule, parse_schedule

if TYPE_CHECKING:
    from collections.abc import Iterator

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

moments = st.integers(0, 100 * 365 * 86_400).map(
    lambda second: datetime(1990, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
)
names = st.sampled_from(["*", "*/7", "5", "1-4", "2,3", "1-5/2"])
crons = st.builds(
    lambda minute, hour, day, month, weekday: Cron(f"{minute} {hour} {day} {month} {weekday}"),
    names,
    names,
    names,
    st.sampled_from(["*", "2", "3-11"]),
    st.sampled_from(["*", "0", "MON-FRI", "5L", "7"]),
)
schedules: st.SearchStrategy[Schedule] = st.builds(Every, st.integers(1, 366 * 86_400)) | crons


@pytest.fixture(
    params=["America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Shanghai", "CET-1CEST,M3.5.0,M10.5.0/3"]
)
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from in_zone(request.param, monkeypatch)


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from in_zone("America/New_York", monkeypatch)


def in_zone(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", name)
        time.tzset()
        yield name
    time.tzset()


def runs(schedule: Schedule, first: datetime, number: int) -> list[datetime]:
    """The starts of runs that begin when they are due, from one that began at ``first``."""
    found = [first]
    for _ in range(number):
        found.append(schedule.due(found[-1], found[-1]))
    return found[1:]


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("off", None),
        (" OFF\n", None),
        ("90s", Every(90)),
        ("30m", Every(1800)),
        ("6h", Every(21_600)),
        ("1d", Every(86_400)),
        ("24H", Every(86_400)),
        ("1s", Every(1)),
        ("1.5h", Every(5400)),
        ("1w", Every(604_800)),
        ("17 3 * * *", Cron("17 3 * * *")),
        ("  */30   8-18 * *  mon-fri ", Cron("*/30 8-18 * * mon-fri")),
    ],
)
def test_a_schedule_is_off_an_interval_or_a_cron_expression(text: str, schedule: Schedule | None) -> None:
    assert parse_schedule(text) == schedule


@pytest.mark.parametrize(
    "text",
    [
        "",
        "on",
        "never",
        "0s",
        "24",
        "-1h",
        "h",
        "400d",
        "9999999999999d",
        "٣h",
        "1 h",
        "@daily",
        "* * * *",
        "* * * * * *",
        "61 * * * *",
        "x * * * *",
        "0 0 31 2 *",
        "0 0 30 2 *",
        "* * * * " + "1," * 200 + "1",
    ],
)
def test_any_other_schedule_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"17 3 \* \* \*"):
        parse_schedule(text)


@given(st.text(max_size=60) | st.text("0123456789*/,-L#W SMHDmonjafeb", max_size=60))
def test_any_text_is_a_schedule_or_a_value_error(text: str) -> None:
    try:
        schedule = parse_schedule(text)
    except ValueError:
        return
    assert schedule is None or schedule.due(NOON, NOON) >= NOON


@given(st.integers(1, 366 * 86_400))
def test_an_interval_is_written_as_it_is_parsed(seconds: int) -> None:
    assert parse_schedule(str(Every(seconds))) == Every(seconds)


@given(schedules, moments)
def test_without_an_earlier_run_one_is_due_now(schedule: Schedule, now: datetime) -> None:
    assert schedule.due(None, now) == now


@given(schedules, moments, moments)
def test_a_run_is_never_due_in_the_past(schedule: Schedule, last: datetime, now: datetime) -> None:
    assert schedule.due(last, now) >= now


@given(schedules, moments)
def test_a_run_is_due_after_the_one_before_it(schedule: Schedule, last: datetime) -> None:
    assert schedule.due(last, last) > last


@given(schedules, moments, moments, moments)
def test_a_later_run_is_never_followed_by_an_earlier_one(
    schedule: Schedule, last: datetime, later: datetime, now: datetime
) -> None:
    last, later, now = sorted([last, later, now])
    assert schedule.due(last, now) <= schedule.due(later, now)
    assert schedule.due(last, later) <= schedule.due(last, now)


@given(schedules, moments, moments)
def test_a_run_that_is_not_due_yet_does_not_move(schedule: Schedule, last: datetime, now: datetime) -> None:
    last, now = sorted([last, now])
    due = schedule.due(last, last)
    assert schedule.due(last, now) == max(due, now)


@given(st.integers(1, 86_400), moments, moments)
def test_a_clock_set_back_delays_a_run_by_one_interval_at_most(seconds: int, last: datetime, now: datetime) -> None:
    assert Every(seconds).due(last, now) <= now + timedelta(seconds=seconds)


def test_an_overdue_run_is_due_now_and_once() -> None:
    assert Every(3600).due(NOON - timedelta(days=9), NOON) == NOON
    assert Cron("0 3 * * *").due(NOON - timedelta(days=9), NOON) == NOON
    assert Every(3600).due(NOON, NOON) == NOON + timedelta(hours=1)


@pytest.mark.parametrize(
    ("schedule", "seconds"), [(Every(2), 0.2), (Every(60), 6), (Every(86_400), 300), (Cron(""), 60)]
)
def test_runs_are_spread_over_a_small_part_of_the_interval(schedule: Schedule, seconds: float) -> None:
    assert schedule.spread == pytest.approx(seconds)


def test_a_cron_expression_means_local_time(new_york: str) -> None:
    due = Cron("17 3 * * *").due(NOON, NOON)
    assert due == datetime(2026, 1, 2, 3, 17, tzinfo=ZoneInfo(new_york))


def test_a_run_in_a_skipped_hour_comes_after_it(new_york: str) -> None:
    # In 2026 clocks there go from 2:00 to 3:00 on 8 March.
    starts = runs(Cron("30 2 * * *"), datetime(2026, 3, 7, 0, tzinfo=ZoneInfo(new_york)), 3)
    assert [start.astimezone(ZoneInfo(new_york)).strftime("%d %H:%M") for start in starts] == [
        "07 02:30",
        "08 03:00",
        "09 02:30",
    ]


def test_a_run_in_a_repeated_hour_comes_once(new_york: str) -> None:
    # In 2026 clocks there go from 2:00 back to 1:00 on 1 November.
    zone = ZoneInfo(new_york)
    starts = runs(Cron("30 1 * * *"), datetime(2026, 10, 31, 12, tzinfo=zone), 2)
    assert [start.astimezone(zone).strftime("%d %H:%M") for start in starts] == ["01 01:30", "02 01:30"]
    # Nor does it come again for a run that began between the two.
    between = datetime(2026, 11, 1, 1, 10, tzinfo=zone, fold=1)
    (start,) = runs(Cron("30 1 * * *"), between, 1)
    assert start.astimezone(zone).strftime("%d %H:%M") == "02 01:30"


def test_a_run_every_half_hour_comes_every_half_hour_whatever_the_clocks_do(new_york: str) -> None:
    for month, day in ((3, 7), (10, 31)):
        first = datetime(2026, month, day, 22, tzinfo=ZoneInfo(new_york)).astimezone(UTC)
        starts = runs(Cron("*/30 * * * *"), first, 16)
        assert starts == [first + timedelta(minutes=30 * number) for number in range(1, 17)]


def test_the_local_zone_is_that_of_the_process(zone: str) -> None:
    assert zone
    first = datetime(2026, 1, 1, tzinfo=UTC)
    for half_hours in range(0, 366 * 48, 7):
        moment = first + timedelta(minutes=30 * half_hours)
        local = moment.astimezone(LOCAL)
        assert local.astimezone(UTC) == moment
        assert local.replace(tzinfo=None, fold=0) == moment.astimezone().replace(tzinfo=None)


def test_aware_times_of_any_zone_are_the_same_moments() -> None:
    there = timezone(timedelta(hours=8))
    for schedule in (Every(3600), Cron("0 3 * * *")):
        assert schedule.due(NOON.astimezone(there), NOON) == schedule.due(NOON, NOON)
