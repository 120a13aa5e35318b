"""When the next run of something is due: every so often, or by a cron expression in the local time zone.

Lengths of time and moments, as people write them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TypeAlias

from cronsim import CronSim, CronSimError

_DURATION = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]{1,6})?)(?P<unit>[smhdw])\Z")
_DURATION_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MOST = timedelta(days=3660)


def parse_duration(text: str) -> timedelta:
    """Read a length of time: a number and ``s``, ``m``, ``h``, ``d`` or ``w``, e.g. ``90s``, ``1.5h``, ``7d``.

    Raises:
        ValueError: it is none, or of more than ten years; the message gives an example.
    """
    match = _DURATION.match(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no length of time; write a number and s, m, h, d or w, e.g. 30m or 7d")
    # The number is bounded by its digits, so no unit makes it overflow but weeks, which the check below is for.
    duration = timedelta(**{_DURATION_UNITS[match["unit"]]: min(float(match["number"]), 1e8)})
    if duration > _MOST:
        raise ValueError(f"{text!r} is more than ten years")
    return duration


def parse_moment(text: str, now: datetime) -> datetime:
    """Read a moment: how long ago it was, or a date with or without a time (ISO 8601), e.g. ``24h``, ``2026-01-31``.

    Args:
        text: as it was written; without a time zone it is in that of ``now``.
        now: the present, with a time zone.

    Raises:
        ValueError: it is none; the message gives examples.
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
            f"{text!r} is no moment; write how long ago, e.g. 24h or 7d, or a date, e.g. 2026-01-31 or 2026-01-31T18:00"
        ) from None


_OFF = "off"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST = 366 * 86_400
_MOST_CHARACTERS = 200
_FIELDS = 5
_HINT = "write off, an interval of at least 1s such as 90s, 30m, 6h or 1d, or a cron expression such as 17 3 * * *"
_SEARCHED = timedelta(days=50 * 365)
"""How far ahead a moment of a cron expression is looked for."""


class _Local(tzinfo):
    """This process's time zone, as the C library knows it: from ``TZ``, else the machine's."""

    def utcoffset(self, moment: datetime | None, /) -> timedelta | None:
        return None if moment is None else moment.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, _: datetime | None, /) -> timedelta | None:
        return None

    def tzname(self, moment: datetime | None, /) -> str | None:
        return None if moment is None else moment.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, moment: datetime, /) -> datetime:
        local = moment.replace(tzinfo=UTC).astimezone()
        first = local.replace(tzinfo=self, fold=0)
        # The hour that a clock set back goes through twice: which of the two it is.
        return first if first.utcoffset() == local.utcoffset() else first.replace(fold=1)


LOCAL = _Local()
"""The time zone of cron expressions."""


@dataclass(frozen=True, slots=True)
class Every:
    """A run every so many seconds, counted from start to start."""

    seconds: int

    def due(self, last_started: datetime | None, now: datetime) -> datetime:
        """Return the first moment, ``now`` or later, at which a run is due. Both times are aware.

        Args:
            last_started: when the last run began; None when there was none: one is due now. A time after ``now`` was
                noted before the clock was set back, and counts as now.
            now: the present.
        """
        if last_started is None:
            return now
        return max(now, min(last_started, now) + timedelta(seconds=self.seconds))

    @property
    def spread(self) -> float:
        """The seconds over which runs of several processes should be spread."""
        return min(self.seconds / 10, 300.0)

    def __str__(self) -> str:
        unit = next(name for name, length in reversed(_UNITS.items()) if self.seconds % length == 0)
        return f"{self.seconds // _UNITS[unit]}{unit}"


@dataclass(frozen=True, slots=True)
class Cron:
    """A run at every moment that a cron expression of five fields names, in the local time zone.

    Where the clock is set forward, a run at a time that there is not comes at the next that there is; where it is set
    back, one at a time that comes twice comes once.
    """

    expression: str

    def due(self, last_started: datetime | None, now: datetime) -> datetime:
        """Return the first moment, ``now`` or later, at which a run is due. Both times are aware.

        Args:
            last_started: when the last run began; None when there was none: one is due now. A time after ``now`` was
                noted before the clock was set back, and counts as now.
            now: the present.
        """
        if last_started is None:
            return now
        since = min(last_started, now).astimezone(UTC)
        moments = (moment.astimezone(UTC) for moment in CronSim(self.expression, since.astimezone(LOCAL)))
        # Of an hour that comes twice the expression means the first, which may be over.
        return max(now, next((moment for moment in moments if moment > since), since + _SEARCHED))

    @property
    def spread(self) -> float:
        """The seconds over which runs of several processes should be spread."""
        return 60.0

    def __str__(self) -> str:
        return self.expression


Schedule: TypeAlias = Every | Cron
"""When runs are due."""


def parse_schedule(text: str) -> Schedule | None:
    """Read a schedule: ``off``, an interval like ``90s``, ``30m``, ``6h`` or ``1d``, or a cron expression.

    The expression has five fields: minute, hour, day of the month, month, day of the week. They are those of Debian's
    cron, with ``L``, ``LW`` and ``#`` beside; see the library ``cronsim``.

    Returns:
        The schedule; None for ``off``.

    Raises:
        ValueError: it is none of these, or no moment of the expression comes in fifty years.
    """
    words = text.strip().split()
    if len(words) == 1:
        return _interval(words[0].lower())
    if len(words) != _FIELDS or len(text) > _MOST_CHARACTERS:
        raise ValueError(_HINT)
    expression = " ".join(words)
    try:
        found = next(CronSim(expression, datetime(2001, 1, 1, tzinfo=UTC)), None)
    except CronSimError as error:
        raise ValueError(f"{str(error).lower()} in the cron expression; {_HINT}") from None
    if found is None:
        raise ValueError(f"the cron expression names no moment of the next fifty years; {_HINT}")
    return Cron(expression)


def _interval(word: str) -> Every | None:
    if word == _OFF:
        return None
    try:
        seconds = int(parse_duration(word).total_seconds())
    except ValueError:
        seconds = 0
    if not 1 <= seconds <= _LONGEST:
        raise ValueError(_HINT)
    return Every(seconds)
