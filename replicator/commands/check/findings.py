"""Probes and their findings, and the comparison of clocks that several probes make."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from redis.exceptions import (
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from replicator.errors import ErrorText, ReplicatorError, error_fields
from replicator.queue.scripts import advice
from replicator.registry.errors import Denied, LoginRefused, Unauthorized
from replicator.replication.advice import explained

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

    from replicator.timetable import HostTimetables

PROBE_SECONDS = 10.0
"""Timeout of one probe."""
_TOLERATED_SECONDS = 60.0
"""Difference between two clocks that does no harm."""
_MAX_NAMED = 5
MAX_QUOTED = 200
"""Characters of another side's words in a finding."""
_LOGIN_WORDS = ("invalid username-password", "without any password configured", "Authentication required")


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
        message: the finding; for a failure, also the remedy, as `replicator.errors.ErrorText.stored`.
    """

    name: str
    subject: str
    state: FindingState
    message: str

    def to_json(self) -> dict[str, str | None]:
        """Return its fields, and ``what``, ``why`` and ``do`` of what is not right, which are null for the rest."""
        is_wrong = self.state in (FindingState.FAILED, FindingState.WARNING)
        text = ErrorText.parse(self.message)
        parts = error_fields(self.message if is_wrong else None)
        return {"name": self.name, "subject": self.subject, "state": self.state, "message": str(text), **parts}


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe that has not run yet.

    Attributes:
        name: the name of its finding.
        subject: the subject of its finding.
        run: runs it; a `ReplicatorError` becomes a finding.
        project: that it lists with a login, which works; None if there is no project or no login.
    """

    name: str
    subject: str
    run: Callable[[], Awaitable[Iterable[Finding]]]
    project: str | None = None


async def run_probe(probe: Probe, seconds: float = PROBE_SECONDS) -> list[Finding]:
    """Run a probe with a timeout; return its findings, or its failure as one."""
    try:
        async with asyncio.timeout(seconds):
            return list(await probe.run())
    except ReplicatorError as error:
        text = explained(error)
        if probe.project and isinstance(error, Denied | Unauthorized) and not isinstance(error, LoginRefused):
            # Harbor says the same of a project that does not exist. The notes name the rights.
            text = replace(text, do=f"there is no project {probe.project!r}, or this account may not see it")
        message = replace(text, do="; ".join(filter(None, [text.do, *getattr(error, "__notes__", ())]))).stored
    except TimeoutError:
        message = f"no answer within {seconds:g} s\n\ncheck that it is reachable from here and not overloaded"
    return [Finding(probe.name, probe.subject, FindingState.FAILED, message)]


def summary(found: Sequence[Finding]) -> str:
    """Say in a sentence how all tests ended: the first failures have scrolled away by then."""
    failed = [f"{each.name} {each.subject}" for each in found if each.state is FindingState.FAILED]
    if failed:
        more = f", and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
        return f"{len(failed)} of {len(found)} tests failed: {', '.join(failed[:_NAMED])}{more}"
    skipped = sum(each.state is FindingState.NOT_TRIED for each in found)
    return f"No test failed{f'; {skipped} of {len(found)} not done' if skipped else ''}"


_NAMED = 5
"""Failed tests that `summary` names."""


def clock_problem(theirs: datetime, ours: datetime, other: str, effect: str) -> str | None:
    """Describe clocks that differ by a minute or more; None if they agree.

    Args:
        theirs: the other side's time.
        ours: this machine's time at that moment.
        other: the name of the other side.
        effect: the damage by the difference.
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


def merged(found: Iterable[Finding]) -> list[Finding]:
    """Merge findings of several projects of a registry that were skipped for the same reason."""
    alike: dict[tuple[str, str, str], list[Finding]] = {}
    lines: list[Finding] = []
    for finding in found:
        if finding.state is not FindingState.NOT_TRIED:
            lines.append(finding)
            continue
        registry = finding.subject.partition("/")[0]
        alike.setdefault((finding.name, registry, finding.message), []).append(finding)
    for (name, registry, message), group in alike.items():
        if len(group) == 1:
            lines += group
            continue
        projects = [finding.subject.partition("/")[2] for finding in group]
        more = f" and {len(projects) - _MAX_NAMED} more" if len(projects) > _MAX_NAMED else ""
        named = f"{', '.join(projects[:_MAX_NAMED])}{more}"
        lines.append(Finding(name, registry, FindingState.NOT_TRIED, f"{message} (in {named})"))
    return lines


def redis_words(error: RedisError | OSError) -> str:
    """Explain an error of Redis or of the connection, and what to do about it."""
    said = str(error)[:MAX_QUOTED] or type(error).__name__
    if any(words in said for words in _LOGIN_WORDS):
        return "refuses the login: check user and password in REPLICATOR_REDIS_URL (percent-encode both)"
    if isinstance(error, NoPermissionError) or "ACL failure" in said:
        return f"the user lacks permissions: give it the ACL of docs/deployment.md ({said})"
    if isinstance(error, ReadOnlyError):
        return "is a read-only replica: set REPLICATOR_REDIS_URL to its master, or to its sentinels"
    if isinstance(error, OutOfMemoryError):
        return "its memory is full: raise maxmemory, or find the other program that fills it"
    if isinstance(error, BusyLoadingError):
        return "is still loading its data: try again"
    if hint := advice(error):
        return f"refuses: {hint} ({said})"
    if isinstance(error, ResponseError):
        return f"refuses: {said}"
    return f"does not answer: check REPLICATOR_REDIS_URL, and whether Redis is running and reachable from here ({said})"
