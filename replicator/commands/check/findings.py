"""What a probe is, and what it finds.

Whether clocks agree.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from replicator.errors import ReplicatorError
from replicator.replication.advice import explained

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

PROBE_SECONDS = 10.0
"""What one probe may take."""


class FindingState(StrEnum):
    """How a probe ended."""

    OK = "ok"
    FAILED = "failed"
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer.

    Attributes:
        name: what was tried, e.g. ``push``.
        subject: at what: a host, a rule, a repository.
        state: how it ended.
        message: what was seen; of a failure, with what to do.
    """

    name: str
    subject: str
    state: FindingState
    message: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Something to try.

    Attributes:
        name: what is tried.
        subject: at what.
        run: tries it; what it raises of this package's errors becomes a failure.
    """

    name: str
    subject: str
    run: Callable[[], Awaitable[Iterable[Finding]]]


async def tried(probe: Probe, seconds: float = PROBE_SECONDS) -> list[Finding]:
    """Run a probe within its deadline, in seconds; return what it found, or its failure."""
    try:
        async with asyncio.timeout(seconds):
            return list(await probe.run())
    except ReplicatorError as error:
        message = "; ".join([explained(error), *getattr(error, "__notes__", ())])
    except TimeoutError:
        message = f"not answered within {seconds:g} s: is it reachable from here, and not overloaded?"
    return [Finding(probe.name, probe.subject, FindingState.FAILED, message)]


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
