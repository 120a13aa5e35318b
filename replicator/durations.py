"""Lengths of time and moments, as people write them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

_DURATION = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]{1,6})?)(?P<unit>[smhdw])\Z")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
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
    duration = timedelta(**{_UNITS[match["unit"]]: min(float(match["number"]), 1e8)})
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
