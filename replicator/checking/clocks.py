"""Whether clocks agree."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_TOLERATED_SECONDS = 60.0


def clock_complaint(theirs: datetime, ours: datetime, who: str, hurts: str) -> str | None:
    """Say what to do about clocks that are a minute or more apart; None if they agree.

    Args:
        theirs: the other side's time.
        ours: this machine's at that moment.
        who: the other side.
        hurts: what goes wrong by that.
    """
    ahead = (theirs - ours).total_seconds()
    if abs(ahead) < _TOLERATED_SECONDS:
        return None
    way = "ahead of" if ahead > 0 else "behind"
    return f"the clock of {who} is {abs(ahead):.0f} s {way} this machine's: {hurts}; set both by NTP"


def parse_date(header: str | None) -> datetime | None:
    """Read a ``Date`` header (RFC 9110, section 6.6.1); None if there is none that can be read."""
    if header is None:
        return None
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
