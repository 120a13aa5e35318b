"""Limits as people write them, and the moments at which they change."""

from __future__ import annotations

import re
import zoneinfo
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.timetable import HostTimetables, Limit, Timetable, Window, parse_bandwidth, parse_request_rates

SHANGHAI, NEW_YORK = ZoneInfo("Asia/Shanghai"), ZoneInfo("America/New_York")
MONDAY = datetime(2026, 3, 2, 12, tzinfo=SHANGHAI)
MBIT = 1e6 / 8

zones = st.sampled_from(
    [UTC, SHANGHAI, NEW_YORK, *map(ZoneInfo, ("Australia/Lord_Howe", "Europe/London", "Asia/Kathmandu"))]
)
limits = st.sampled_from([Limit(), Limit(MBIT, "1Mbit/s"), Limit(5e6, "5MB/s")])
minutes = st.integers(0, 24 * 60 - 1)
windows = st.builds(Window, st.frozensets(st.integers(0, 6), min_size=1), minutes, minutes, zones, limits).filter(
    lambda window: window.start != window.end
)
timetables = st.builds(Timetable, st.lists(windows, max_size=3), limits)
moments = st.integers(0, 2 * 366 * 86_400).map(lambda second: datetime(2025, 1, 1, tzinfo=UTC) + timedelta(0, second))


def rate(text: str) -> float | None:
    return parse_bandwidth(text).general.otherwise.rate


@pytest.mark.parametrize(
    ("text", "bytes_per_second"),
    [
        ("40Mbit/s", 5e6),
        ("40 Mbit/s", 5e6),
        (" 5MB/s\n", 5e6),
        ("512KiB/s", 524_288),
        ("64kbit/s", 8000),
        ("64Kbit/s", 8000),
        ("1.5MiB/s", 1.5 * 2**20),
        ("1Gbit/s", 125e6),
        ("1Mibit/s", 2**17),
        ("100000B/s", 1e5),
        ("unlimited", None),
        ("Unlimited", None),
    ],
)
def test_a_bandwidth_is_in_bits_or_bytes(text: str, bytes_per_second: float | None) -> None:
    assert rate(text) == bytes_per_second


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("", "write e.g. 40Mbit/s or unlimited"),
        ("40", "40Mbit/s for bits, or 40MB/s for bytes"),
        ("40Mbps", "40Mbit/s for bits, or 40MB/s for bytes"),
        ("8k", "8kbit/s for bits, or 8kB/s for bytes"),
        ("20Mb/s", "20Mbit/s for bits, or 20MB/s for bytes"),
        ("0Mbit/s", "64kbit/s to 1000Gbit/s, or unlimited"),
        ("1bit/s", "64kbit/s to 1000Gbit/s, or unlimited"),
        ("-4Mbit/s", "write e.g. 40Mbit/s"),
        ("fast", "write e.g. 40Mbit/s"),
        ("else", "a limit is missing; write e.g. 40Mbit/s"),
        ("08:00-20:00 5MB/s", "add a limit for all other times, e.g. else unlimited"),
        ("08:00-20:00, else 5MB/s", "a limit is missing"),
        ("8-20 5MB/s, else unlimited", "is not a bandwidth"),
        ("08:00-25:00 5MB/s, else unlimited", "write e.g. 08:00-20:00, or 22:00-06:00 over midnight"),
        ("08:60-09:00 5MB/s, else unlimited", "write e.g. 08:00-20:00"),
        ("24:00-09:00 5MB/s, else unlimited", "write e.g. 08:00-20:00"),
        ("08:00-08:00 5MB/s, else unlimited", "write 00:00-24:00 for a whole day"),
        ("Mop 08:00-09:00 5MB/s, else unlimited", "write e.g. Mon, Sat Sun or Mon-Fri"),
        ("08:00-09:00 Asia/Shangai 5MB/s, else unlimited", "write e.g. Asia/Shanghai"),
        ("08:00-09:00 Asia 5MB/s, else unlimited", "is not a time zone"),
        ("08:00-09:00 CST 5MB/s, else unlimited", "'CST' is not a time zone; write e.g. Asia/Shanghai"),
        ("08:00-09:00 UTC+8 5MB/s, else unlimited", "'UTC+8' is not a time zone; write e.g. Asia/Shanghai"),
        ("08:00-09:00 GMT+8 5MB/s, else unlimited", "'GMT+8' is not a time zone; write e.g. Asia/Shanghai"),
        ("08:00-09:00 +08:00 5MB/s, else unlimited", "'+08:00' is not a time zone; write e.g. Asia/Shanghai"),
        ("Mon-Fri 5MB/s, else unlimited", "'Mon-Fri 5MB/s' has days without a time; write e.g. Mon-Fri 00:00-24:00"),
        ("Mon,Tue 08:00-20:00 5MB/s, else unlimited", "Mon Wed 08:00-20:00 40Mbit/s for single days"),
        ("08:00-09:00 ../Shanghai 5MB/s, else unlimited", "is not a time zone"),
        ("5MB/s, else 6MB/s", "there is already a limit for all other times"),
        ("5MB/s; 6MB/s", "write HOST= before that of one"),
        ("a.example=5MB/s; A.example=6MB/s", "a.example has two limits"),
        ("https://a.example=5MB/s", "write its host as the rules do"),
        ("=5MB/s", "is not a registry"),
        (",", "is no limit; write one"),
        ("5MB/s" + " " * 4000, "longer than 4000 characters"),
        (", ".join(["08:00-09:00 5MB/s"] * 51) + ", else unlimited", "more than 50 windows"),
    ],
)
def test_any_other_text_is_refused_with_what_to_write_instead(text: str, instead: str) -> None:
    with pytest.raises(ValueError, match=re.escape(instead)):
        parse_bandwidth(text)


def test_punctuation_may_be_that_of_chinese_keyboards() -> None:
    plain = "Mon-Fri 08:00-20:00 Asia/Shanghai 5MB/s, else 6MB/s; a.example=7MB/s"
    wide = plain.translate(str.maketrans(":,;-=", "\uff1a\uff0c\uff1b\uff0d\uff1d"))
    assert parse_bandwidth(wide) == parse_bandwidth(plain)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="Mop") as caught:
        parse_bandwidth("Mop 8:00-25:00 Asia/Shangai 20Mbps; a/b=7x")
    for part in ("'Mop'", "'8:00-25:00'", "'Asia/Shangai'", "'20Mbps'", "else unlimited", "'a/b'", "'7x'"):
        assert part in str(caught.value), part


@pytest.mark.parametrize(("text", "number"), [("50", 50.0), ("0.5", 0.5), ("unlimited", None)])
def test_requests_are_plain_numbers(text: str, number: float | None) -> None:
    assert parse_request_rates(text).general.otherwise.rate == number


@pytest.mark.parametrize("text", ["0", "0.01", "50/s", "1000000", "fifty", "-1", "nan", "1e3"])
def test_a_rate_of_requests_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="unlimited"):
        parse_request_rates(text)


def test_a_window_counts_in_its_own_time_zone() -> None:
    table = parse_bandwidth("08:00-20:00 Asia/Shanghai 20Mbit/s, else unlimited").general
    assert table.at(MONDAY).rate == 20 * MBIT
    assert table.at(MONDAY.replace(hour=7, minute=59)).rate is None
    assert table.at(MONDAY.replace(hour=8, minute=0)).rate == 20 * MBIT
    assert table.at(MONDAY.replace(hour=19, minute=59, second=59)).rate == 20 * MBIT
    assert table.at(MONDAY.replace(hour=20)).rate is None
    assert table.change_after(MONDAY) == MONDAY.replace(hour=20)
    assert table.describe(MONDAY) == "20Mbit/s until 2026-03-02 20:00 CST, then unlimited"


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    table = parse_bandwidth("Fri 22:00 - 06:00 Asia/Shanghai 5MB/s, else 1MB/s").general
    friday = MONDAY + timedelta(days=4)
    assert table.at(friday.replace(hour=5)).rate == 1e6
    assert table.at(friday.replace(hour=23)).rate == 5e6
    assert table.at((friday + timedelta(days=1)).replace(hour=5)).rate == 5e6
    assert table.at((friday + timedelta(days=1)).replace(hour=23)).rate == 1e6


def test_days_are_single_ones_and_ranges_and_the_zone_holds_for_the_windows_after_it() -> None:
    text = "Mon-Fri 08:00-20:00 Asia/Shanghai 1MB/s, Sat Sunday 10:00-12:00 2MB/s, Sun-Mon 13:00-14:00 UTC 3MB/s, 4MB/s"
    first, second, third = parse_bandwidth(text).general.windows
    assert [sorted(window.days) for window in (first, second, third)] == [[0, 1, 2, 3, 4], [5, 6], [0, 6]]
    assert (first.zone, second.zone, third.zone) == (SHANGHAI, SHANGHAI, UTC)


def test_of_windows_that_overlap_the_first_counts() -> None:
    table = parse_bandwidth("12:00-13:00 UTC 1MB/s, 00:00-24:00 2MB/s, else 3MB/s").general
    assert table.at(MONDAY.replace(hour=12, tzinfo=UTC)).rate == 1e6
    assert table.at(MONDAY.replace(hour=13, tzinfo=UTC)).rate == 2e6


def test_a_registry_may_have_a_limit_of_its_own() -> None:
    found = parse_bandwidth("40Mbit/s; Registry.Example.com:5000 = 08:00-20:00 UTC 1MB/s, else 2MB/s")
    assert found.of("other.example.com").at(MONDAY).rate == 5e6
    assert found.of("registry.example.com:5000").otherwise.rate == 2e6
    assert found.describe(MONDAY).startswith("40Mbit/s; registry.example.com:5000: 2MB/s until ")
    assert parse_bandwidth("a.example=1MB/s").of("b.example").is_unlimited


def test_what_is_never_limited_is_not_described() -> None:
    assert HostTimetables().describe(MONDAY) == ""
    assert parse_bandwidth("08:00-09:00 unlimited, else unlimited").describe(MONDAY) == ""


def test_clocks_that_change_make_a_window_longer_or_shorter() -> None:
    # In 2026 clocks there go from 2:00 to 3:00 on 8 March, and from 2:00 back to 1:00 on 1 November.
    table = parse_bandwidth("01:30-02:30 America/New_York 1MB/s, else unlimited").general
    spring = datetime(2026, 3, 8, tzinfo=NEW_YORK)
    start = table.change_after(spring)
    assert start == datetime(2026, 3, 8, 6, 30, tzinfo=UTC)
    assert table.change_after(start) == datetime(2026, 3, 8, 7, 0, tzinfo=UTC), "2:00 is 3:00, so it is over"
    edges, moment = [], datetime(2026, 11, 1, tzinfo=NEW_YORK).astimezone(UTC)
    for _ in range(4):
        moment = table.change_after(moment) or moment
        edges.append(f"{moment:%H:%M}")
    assert edges == ["05:30", "06:00", "06:30", "07:30"], "local time alone decides: 1:00 to 1:30 comes again"


def test_a_machine_without_time_zones_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.timetable._zones", frozenset)

    def missing(name: str) -> ZoneInfo:
        raise zoneinfo.ZoneInfoNotFoundError(name)

    monkeypatch.setattr("replicator.timetable.ZoneInfo", missing)
    with pytest.raises(ValueError, match="install the package tzdata"):
        parse_bandwidth("08:00-20:00 Asia/Shanghai 20Mbit/s, else unlimited")
    assert parse_bandwidth("08:00-20:00 UTC 20Mbit/s, else unlimited").general.windows[0].zone is UTC


@given(st.text(max_size=80) | st.text("0123456789:-,;= MGkBbit/sUTCelsunmonfri", max_size=80))
@settings(deadline=None)
def test_any_text_is_limits_or_a_value_error(text: str) -> None:
    for parse in (parse_bandwidth, parse_request_rates):
        try:
            found = parse(text)
        except ValueError:
            continue
        assert found.general.change_after(MONDAY) != MONDAY


@given(timetables, moments)
@settings(deadline=None, max_examples=40)
def test_nothing_changes_before_the_next_change_and_something_does_then(table: Timetable, moment: datetime) -> None:
    limit, change = table.at(moment), table.change_after(moment)
    until = change or moment + timedelta(days=7)
    assert until > moment
    for step in range(97):
        assert table.at(moment + (until - moment) * step / 97) == limit
    assert table.at(until - timedelta(microseconds=1)) == limit
    if change is not None:
        assert table.at(change) != limit
