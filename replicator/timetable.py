"""Limits as people write them: a rate, or a timetable of rates, for all registries or for one.

    40Mbit/s
    08:00-20:00 Asia/Shanghai 20Mbit/s, else unlimited
    Mon-Fri 08:00-20:00 Asia/Shanghai 20Mbit/s, Sat Sun 22:00-06:00 5MB/s, else 100Mbit/s
    40Mbit/s; registry.example.com=10Mbit/s

Commas separate the windows of a timetable, of which the first that fits counts; semicolons separate registries. A
window without a time zone is in that of the window before it, or else in the local one.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from replicator.reference import full_host
from replicator.schedule import LOCAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_MAX_CHARACTERS = 4000
_MAX_WINDOWS = 50
_UNLIMITED = "unlimited"
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_EVERY_DAY = frozenset(range(7))
_MINUTES = 24 * 60
_PUNCTUATION = str.maketrans("\uff1a\uff0c\uff1b\uff0d\uff1d\u2013", ":,;-=-")
"""Punctuation as Chinese keyboards write it, and the en dash."""
_TIMES = re.compile(r"([0-9]{1,2}):([0-9]{2})-([0-9]{1,2}):([0-9]{2})\Z")
_DASH = re.compile(r"(?<=[0-9])\s*-\s*(?=[0-9])")
_OFFSET = re.compile(r"(?:UTC|GMT)?[+-][0-9:]+\Z|CST\Z", re.IGNORECASE)
"""Names of zones that are an offset, or stand for several."""
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?\Z")
_NUMBER = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,6})?\Z")
_AMOUNT = re.compile(r"(?P<number>[0-9]{1,12}(?:\.[0-9]{1,6})?)\s*(?P<unit>[A-Za-z/]*)\Z")
_UNITS = {
    f"{prefix}{name}/s": factor * size
    for name, size in (("bit", 1 / 8), ("B", 1))
    for prefix, factor in {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}.items()
}
_LEAST_BANDWIDTH = 8_000.0
"""Bytes a second; below that no body moves often enough to keep its connection alive."""
_MOST_BANDWIDTH = 1e12 / 8
_LEAST_REQUESTS, _MOST_REQUESTS = 0.1, 1e5


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit.

    Attributes:
        rate: in bytes or requests a second; None for none.
        text: as it was written.
    """

    rate: float | None = None
    text: str = field(default=_UNLIMITED, compare=False)


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the day.

    Attributes:
        days: on which it begins, Monday is 0.
        start: minutes after midnight.
        end: minutes after midnight; it ends on the next day if that is no later than the start.
        zone: of both.
        limit: what counts meanwhile.
    """

    days: frozenset[int]
    start: int
    end: int
    zone: tzinfo
    limit: Limit

    def holds(self, moment: datetime) -> bool:
        """Tell whether an aware moment is in it."""
        local = moment.astimezone(self.zone)
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        return (day in self.days and minute >= self.start) or ((day - 1) % 7 in self.days and minute < self.end)

    def edges(self, moment: datetime) -> Iterator[datetime]:
        """Yield every moment (UTC) of the week around ``moment`` at which it may begin or end."""
        first = moment.astimezone(self.zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        for days in range(-1, 9):
            midnight = first + timedelta(days=days)
            for minutes in (self.start, self.end):
                for fold in (0, 1):  # an hour that comes twice has two of them
                    edge = (midnight + timedelta(minutes=minutes)).replace(tzinfo=self.zone, fold=fold)
                    yield edge.astimezone(UTC)
            yield from self._jump(midnight.replace(tzinfo=self.zone).astimezone(UTC))

    def _jump(self, start: datetime) -> Iterator[datetime]:
        """Yield the minute of the next day, if any, at which the clocks of the zone change."""
        low, high = start.replace(second=0), start.replace(second=0) + timedelta(days=1)
        before = low.astimezone(self.zone).utcoffset()
        if high.astimezone(self.zone).utcoffset() == before:
            return
        while high - low > timedelta(minutes=1):
            middle = low + timedelta(minutes=(high - low) // timedelta(minutes=2))
            low, high = (middle, high) if middle.astimezone(self.zone).utcoffset() == before else (low, middle)
        yield high


@dataclass(frozen=True, slots=True)
class Timetable:
    """The limit of one registry over time: that of the first window which holds, or else ``otherwise``."""

    windows: Sequence[Window] = ()
    otherwise: Limit = Limit()

    @property
    def is_unlimited(self) -> bool:
        """Whether there is never a limit."""
        return all(limit.rate is None for limit in (self.otherwise, *(window.limit for window in self.windows)))

    def at(self, moment: datetime) -> Limit:
        """Return the limit at an aware moment."""
        return next((window.limit for window in self.windows if window.holds(moment)), self.otherwise)

    def change_after(self, moment: datetime) -> datetime | None:
        """Return when (UTC) the limit changes after an aware moment; None if it does not within a week."""
        limit = self.at(moment)
        edges = sorted({edge for window in self.windows for edge in window.edges(moment)})
        return next((edge for edge in edges if edge > moment and self.at(edge) != limit), None)

    def describe(self, moment: datetime) -> str:
        """Describe the limit at a moment, and the next one: ``20Mbit/s until 2026-03-02 20:00 CST, then unlimited``."""
        limit, change = self.at(moment), self.change_after(moment)
        if change is None:
            return limit.text
        local = change.astimezone(self.windows[0].zone)
        return f"{limit.text} until {local:%Y-%m-%d %H:%M %Z}, then {self.at(change).text}"


UNLIMITED = Timetable()
"""Never a limit."""


@dataclass(frozen=True, slots=True)
class HostTimetables:
    """The timetable of every registry: one for all, and those of single hosts (in lower case)."""

    general: Timetable = UNLIMITED
    hosts: Mapping[str, Timetable] = field(default_factory=dict)

    def of(self, host: str) -> Timetable:
        """Return the timetable of a host."""
        return self.hosts.get(full_host(host), self.general)

    def describe(self, moment: datetime) -> str:
        """Describe the limit at a moment; empty if there is never one."""
        parts = [] if self.general.is_unlimited else [self.general.describe(moment)]
        return "; ".join([*parts, *(f"{host}: {one.describe(moment)}" for host, one in sorted(self.hosts.items()))])


def parse_bandwidth(text: str) -> HostTimetables:
    """Parse limits in bits (``bit/s``) or bytes (``B/s``) a second.

    Returns:
        Timetables in bytes a second.

    Raises:
        ValueError: with every problem of the text, and what to write instead.
    """
    return _Parser(_bandwidth, "40Mbit/s").parse(text)


def parse_request_rates(text: str) -> HostTimetables:
    """Parse limits in requests a second, such as ``50`` or ``0.5``.

    Raises:
        ValueError: with every problem of the text, and what to write instead.
    """
    return _Parser(_requests, "50").parse(text)


def _bandwidth(text: str) -> float:
    match = _AMOUNT.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a bandwidth; write e.g. 40Mbit/s, 5MB/s, 512KiB/s or unlimited")
    number, unit = match["number"], match["unit"]
    factor = _UNITS.get(unit)
    if factor is None:
        prefix = unit[:1].upper() if unit[:1].upper() in ("K", "M", "G") else "M"
        prefix = "k" if prefix == "K" else prefix
        what = f"{unit!r} is not a unit" if unit else "there is no unit"
        raise ValueError(f"{text!r}: {what}; write {number}{prefix}bit/s for bits, or {number}{prefix}B/s for bytes")
    rate = float(number) * factor
    if not _LEAST_BANDWIDTH <= rate <= _MOST_BANDWIDTH:
        raise ValueError(f"{text!r} is out of range; write 64kbit/s to 1000Gbit/s, or unlimited")
    return rate


def _requests(text: str) -> float:
    if not _NUMBER.match(text):
        raise ValueError(f"{text!r} is not a number of requests a second; write e.g. 50, 0.5 or unlimited")
    if not _LEAST_REQUESTS <= float(text) <= _MOST_REQUESTS:
        raise ValueError(f"{text!r} is out of range; write 0.1 to 100000, or unlimited")
    return float(text)


class _Parser:
    """Reads one text, and collects its problems.

    Args:
        rate: reads a rate; its error says what to write.
        example: of a rate.
    """

    def __init__(self, rate: Callable[[str], float], example: str) -> None:
        self._rate = rate
        self._example = example
        self._problems: list[str] = []

    def parse(self, text: str) -> HostTimetables:
        if len(text) > _MAX_CHARACTERS:
            raise ValueError(f"is longer than {_MAX_CHARACTERS} characters")
        text = text.translate(_PUNCTUATION)
        found: dict[str | None, Timetable] = {}
        for part in filter(None, (part.strip() for part in text.split(";"))):
            name, equals, rest = part.partition("=")
            host = self._host(name.strip()) if equals else None
            if host in found:
                whose = f"{host} has two limits" if host is not None else "all registries have two limits"
                self._problem(f"{whose}; separate the windows of one by commas, and write HOST= before that of one")
            found[host] = self._timetable(rest if equals else part)
        if not found:
            self._problem(f"is empty; write e.g. {self._example} or {_UNLIMITED}")
        if self._problems:
            raise ValueError("; ".join(dict.fromkeys(self._problems)))
        general = found.pop(None, UNLIMITED)
        return HostTimetables(general, {host: one for host, one in found.items() if host is not None})

    def _host(self, text: str) -> str:
        if not _HOST.match(text):
            self._problem(f"{text!r} is not a registry; write its host as the rules do, e.g. registry.example.com")
        return full_host(text)

    def _timetable(self, text: str) -> Timetable:
        windows: list[Window] = []
        otherwise: Limit | None = None
        entries = [_DASH.sub("-", entry).split() for entry in text.split(",")]
        zone: tzinfo = LOCAL
        for words in filter(None, entries):
            if not any(":" in word for word in words) and all(_day(name) is not None for name in words[0].split("-")):
                self._problem(
                    f"{' '.join(words)!r} has days without a time; write e.g. Mon-Fri 00:00-24:00 {self._example}, or "
                    f"Mon Wed 08:00-20:00 {self._example} for single days"
                )
            elif words[0].lower() == "else" or not any(":" in word for word in words):
                if otherwise is not None:
                    self._problem(f"{' '.join(words)!r}: there is already a limit for all other times; keep one")
                otherwise = self._limit(words[1:] if words[0].lower() == "else" else words)
            else:
                window = self._window(words, zone)
                zone = window.zone
                windows.append(window)
        if otherwise is None:
            some = "add a limit for all other times" if windows else f"{text.strip()!r} is no limit; write one"
            self._problem(f"{some}, e.g. {'else ' if windows else ''}{_UNLIMITED}")
        if len(windows) > _MAX_WINDOWS:
            self._problem(f"there are more than {_MAX_WINDOWS} windows")
        return Timetable(tuple(windows), otherwise or Limit())

    def _window(self, words: list[str], zone: tzinfo) -> Window:
        place = next(number for number, word in enumerate(words) if ":" in word)
        days, rest = self._days(words[:place]), words[place + 1 :]
        start, end = self._times(words[place])
        if rest and not rest[0][0].isdigit() and rest[0].lower() != _UNLIMITED:
            zone = self._zone(rest.pop(0))
        return Window(days, start, end, zone, self._limit(rest))

    def _days(self, words: list[str]) -> frozenset[int]:
        days: set[int] = set()
        for word in words:
            first, _, last = word.partition("-")
            numbers = [_day(name) for name in (first, last or first)]
            if None in numbers:
                self._problem(f"{word!r} is not a day; write e.g. Mon, Sat Sun or Mon-Fri")
                continue
            begin, end = (number for number in numbers if number is not None)
            days |= {(begin + step) % 7 for step in range((end - begin) % 7 + 1)}
        return frozenset(days) or _EVERY_DAY

    def _times(self, word: str) -> tuple[int, int]:
        match = _TIMES.match(word)
        hours = [int(text) for text in match.groups()] if match else [99] * 4
        start, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
        if max(start, end) > _MINUTES or max(hours[1], hours[3]) > 59 or start == _MINUTES:
            self._problem(f"{word!r} is not a window; write e.g. 08:00-20:00, or 22:00-06:00 over midnight")
        elif start == end:
            self._problem(f"{word!r} is empty; write 00:00-24:00 for a whole day")
        return start, end

    def _zone(self, name: str) -> tzinfo:
        if name.upper() == "UTC":
            return UTC
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            zones = _zones()
        if not zones:
            self._problem(
                f"{name!r} can't be used, as this machine has no time zone data; install the package tzdata (of the "
                "system, or from PyPI), or write UTC"
            )
            return UTC
        near = [] if _OFFSET.match(name) else difflib.get_close_matches(name, zones, n=1)
        self._problem(f"{name!r} is not a time zone; write e.g. {near[0] if near else 'Asia/Shanghai'}")
        return UTC

    def _limit(self, words: list[str]) -> Limit:
        text = " ".join(words)
        if text.lower() == _UNLIMITED:
            return Limit()
        if not text:
            self._problem(f"a limit is missing; write e.g. {self._example} or {_UNLIMITED}")
            return Limit()
        try:
            return Limit(self._rate(text), text)
        except ValueError as error:
            self._problem(str(error))
            return Limit()

    def _problem(self, message: str) -> None:
        self._problems.append(message)


@cache
def _zones() -> frozenset[str]:
    """List the time zones of this machine; the library opens every file of them."""
    return frozenset(available_timezones())


def _day(text: str) -> int | None:
    """Return the number of a day by its name or the first three letters of it."""
    name = text.lower()
    return next((number for number, day in enumerate(_DAYS) if name in (day, day[:3])), None)
