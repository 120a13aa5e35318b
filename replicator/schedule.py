"""Durations, moments and schedules as people write them, and when a scheduled run is due.

A schedule is an interval or a cron expression in the local time zone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TypeAlias

from cronsim import CronSim, CronSimError

_DURATION = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]{1,6})?)(?P<unit>[smhdw])\Z")
_DURATION_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MAX_DURATION = timedelta(days=3660)


def parse_duration(text: str) -> timedelta:
    """Parse a duration: a number and ``s``, ``m``, ``h``, ``d`` or ``w``, e.g. ``90s``, ``1.5h``, ``7d``.

    Raises:
        ValueError: it is invalid, or longer than ten years; the message gives an example.
    """
    match = _DURATION.match(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a number and s, m, h, d or w, e.g. 30m or 7d")
    # timedelta overflows at 10^9 days; 10^8 of any unit does not, and of days or weeks is refused below.
    duration = timedelta(**{_DURATION_UNITS[match["unit"]]: min(float(match["number"]), 1e8)})
    if duration > _MAX_DURATION:
        raise ValueError(f"{text!r} is longer than ten years")
    return duration


def parse_interval(text: str) -> float | None:
    """Parse the interval of something that is done all the time, and return its seconds; None for ``off``.

    Raises:
        ValueError: it is no duration, or not between ten seconds and an hour.
    """
    if text == _OFF:
        return None
    seconds = parse_duration(text).total_seconds()
    if not 10 <= seconds <= 3600:
        raise ValueError(f"{text!r} is not between 10s and 1h")
    return seconds


def parse_moment(text: str, now: datetime) -> datetime:
    """Parse a moment: how long ago, or an ISO 8601 date with or without a time, e.g. ``24h``, ``2026-01-31``.

    Args:
        text: the moment; without a time zone it is in that of ``now``.
        now: the present, with a time zone.

    Raises:
        ValueError: it is invalid; the message gives examples.
    """
    try:
        return now - parse_duration(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text.strip())
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=now.tzinfo)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is not a time; write an age, e.g. 24h, or a date, e.g. 2026-01-31 or 2026-01-31T18:00"
        ) from None


_OFF = "off"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_MAX_INTERVAL = 366 * 86_400
_MAX_CHARACTERS = 200
_FIELDS = 5
_HINT = "write off, an interval of at least 1s such as 90s, 30m, 6h or 1d, or a cron expression such as 17 3 * * *"
_HORIZON = timedelta(days=50 * 365)
"""How far ahead CronSim searches for the next moment of a cron expression."""


class _Local(tzinfo):
    """The time zone of this process, as the C library knows it: from ``TZ``, or else the machine's."""

    def utcoffset(self, moment: datetime | None, /) -> timedelta | None:
        return None if moment is None else moment.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, _: datetime | None, /) -> timedelta | None:
        return None

    def tzname(self, moment: datetime | None, /) -> str | None:
        return None if moment is None else moment.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, moment: datetime, /) -> datetime:
        local = moment.replace(tzinfo=UTC).astimezone()
        first = local.replace(tzinfo=self, fold=0)
        # When clocks go back, one hour comes twice: fold tells which of the two this is.
        return first if first.utcoffset() == local.utcoffset() else first.replace(fold=1)


LOCAL = _Local()
"""The time zone of cron expressions."""


@dataclass(frozen=True, slots=True)
class Every:
    """A fixed interval, counted from start to start."""

    seconds: int

    def due(self, last_started: datetime | None, now: datetime) -> datetime:
        """Return when the next run is due: ``now`` or later.

        Args:
            last_started: when the last run started (aware); None if there was none, and one is due now. A time in the
                future was noted before the clock was set back, and counts as now.
            now: the present (aware).
        """
        if last_started is None:
            return now
        return max(now, min(last_started, now) + timedelta(seconds=self.seconds))

    @property
    def spread(self) -> float:
        """Seconds over which several processes spread their starts."""
        return min(self.seconds / 10, 300.0)

    def __str__(self) -> str:
        unit = next(name for name, length in reversed(_UNITS.items()) if self.seconds % length == 0)
        return f"{self.seconds // _UNITS[unit]}{unit}"


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression of five fields, in the local time zone.

    When clocks go forward, a run at a time that is skipped is due at the next one that exists. When they go back, a
    run at a time that comes twice is due once.
    """

    expression: str

    def due(self, last_started: datetime | None, now: datetime) -> datetime:
        """Return when the next run is due: ``now`` or later.

        Args:
            last_started: when the last run started (aware); None if there was none, and one is due now. A time in the
                future was noted before the clock was set back, and counts as now.
            now: the present (aware).
        """
        if last_started is None:
            return now
        since = min(last_started, now).astimezone(UTC)
        moments = (moment.astimezone(UTC) for moment in CronSim(self.expression, since.astimezone(LOCAL)))
        # Of an hour that comes twice CronSim yields the first, which may be before `since`.
        return max(now, next((moment for moment in moments if moment > since), since + _HORIZON))

    @property
    def spread(self) -> float:
        """Seconds over which several processes spread their starts."""
        return 60.0

    def __str__(self) -> str:
        return self.expression


Schedule: TypeAlias = Every | Cron


def parse_schedule(text: str) -> Schedule | None:
    """Parse a schedule: ``off`` (None), an interval like ``90s``, ``30m``, ``6h`` or ``1d``, or a cron expression.

    The expression has the five fields of Debian's cron: minute, hour, day of the month, month, day of the week; and
    ``L``, ``LW`` and ``#``, see https://github.com/cuu508/cronsim.

    Raises:
        ValueError: it is none of these, or the expression matches no moment within fifty years.
    """
    words = text.strip().split()
    if len(words) == 1:
        return _interval(words[0].lower())
    if len(words) != _FIELDS or len(text) > _MAX_CHARACTERS:
        raise ValueError(_HINT)
    expression = " ".join(words)
    try:
        found = next(CronSim(expression, datetime(2001, 1, 1, tzinfo=UTC)), None)
    except CronSimError as error:
        raise ValueError(f"{str(error).lower()} in the cron expression; {_HINT}") from None
    if found is None:
        raise ValueError(f"the cron expression matches no time in the next fifty years; {_HINT}")
    return Cron(expression)


def _interval(word: str) -> Every | None:
    if word == _OFF:
        return None
    try:
        seconds = int(parse_duration(word).total_seconds())
    except ValueError:
        seconds = 0
    if not 1 <= seconds <= _MAX_INTERVAL:
        raise ValueError(_HINT)
    return Every(seconds)
