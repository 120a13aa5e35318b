"""Probes and their findings, and the comparison of clocks that several probes make."""

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
    from collections.abc import Awaitable, Callable, Collection, Iterable

    from replicator.timetable import HostTimetables

PROBE_SECONDS = 10.0
"""Timeout of one probe."""
_TOLERATED_SECONDS = 60.0
"""Difference between two clocks that does no harm."""


class FindingState(StrEnum):
    """The result of a probe."""

    OK = "ok"
    WARNING = "warning"
    """Something that a person should look at, and that stops no copy."""
    FAILED = "failed"
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the output.

    Attributes:
        name: the kind of probe, e.g. ``push``.
        subject: a host, a rule, a repository or an address.
        state: the result.
        message: the finding; for a failure, also the remedy.
    """

    name: str
    subject: str
    state: FindingState
    message: str


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe that has not run yet.

    Attributes:
        name: the name of its finding.
        subject: the subject of its finding.
        run: runs it; a `ReplicatorError` becomes a finding.
    """

    name: str
    subject: str
    run: Callable[[], Awaitable[Iterable[Finding]]]


async def run_probe(probe: Probe, seconds: float = PROBE_SECONDS) -> list[Finding]:
    """Run a probe with a timeout; return its findings, or its failure as one."""
    try:
        async with asyncio.timeout(seconds):
            return list(await probe.run())
    except ReplicatorError as error:
        message = "; ".join([explained(error), *getattr(error, "__notes__", ())])
    except TimeoutError:
        message = f"no answer within {seconds:g} s: check that it is reachable from here and not overloaded"
    return [Finding(probe.name, probe.subject, FindingState.FAILED, message)]


def clock_problem(theirs: datetime, ours: datetime, other: str, effect: str) -> str | None:
    """Describe clocks that differ by a minute or more; None if they agree.

    Args:
        theirs: the other side's time.
        ours: this machine's time at that moment.
        other: the name of the other side.
        effect: what the difference breaks.
    """
    ahead = (theirs - ours).total_seconds()
    if abs(ahead) < _TOLERATED_SECONDS:
        return None
    way = "ahead of" if ahead > 0 else "behind"
    return f"the clock of {other} is {abs(ahead):.0f} s {way} this machine's: {effect}; synchronize both by NTP"


def parse_date(header: str | None) -> datetime | None:
    """Parse a ``Date`` header (RFC 9110, section 6.6.1); None if it is missing or malformed."""
    if header is None:
        return None
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def judge_limits(setting: str, limits: HostTimetables, hosts: Collection[str], now: datetime) -> list[Finding]:
    """Say which limits are in force; nothing if there never is one.

    Args:
        setting: where they stand.
        limits: its value.
        hosts: the registries that the rules name.
        now: the present.
    """
    if not (text := limits.describe(now)):
        return []
    found = [Finding("limits", setting, FindingState.OK, text)]
    for host in sorted(set(limits.hosts) - {host.lower() for host in hosts}):
        advice = "Write the host exactly as in the rules."
        message = f"The rules contain no registry {host}, so this limit has no effect. {advice}"
        found.append(Finding("limits", setting, FindingState.FAILED, message))
    return found
