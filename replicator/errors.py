"""The errors of this package, by what to do about them, and the exit codes of the program.

    ReplicatorError                               base: what happened, why, and what to do                  permanent
    ├── ConfigError                               rules, settings or command line are invalid               permanent
    ├── replicator.standstill.StoodStill          nothing moved in a copy for too long                      transient
    ├── replicator.queue.job.QueueError           the queue can't take or hand out work                     transient
    ├── replicator.registry.errors.RegistryError  a registry refused, failed or broke the protocol          permanent
    ├── replicator.copy.context.SourceNotFound    the source has no such tag or digest                      not yet
    ├── replicator.copy.context.AttestationsFound the image has attestations, and its rule allows none      permanent
    └── replicator.replication.transfer.CopyFailed  a copy failed                                           by cause

The class of an error decides whether, and how patiently, its work is retried.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class ErrorClass(StrEnum):
    """What a failure means for the next attempt."""

    TRANSIENT = "transient"
    """A passing fault (network, 5xx, 429): retry with exponential back-off."""
    NOT_YET = "not yet"
    """A gate that opens later (a scan that has not passed, a tag that does not resolve yet): retry slowly."""
    CREDENTIALS = "credentials"
    """The login is refused: no attempt succeeds until a person changes it."""
    PERMANENT = "permanent"
    """The request itself can't succeed, however often it is repeated."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The reason why failed work goes on later without the loss of an attempt.

    Attributes:
        key: what the work waits for, e.g. a host that does not answer; empty if only time has to pass.
        since: when the reason began, in seconds since 1970.
        pause: seconds until the next look at the key; 0 if there is no better guess than a back-off.
        patience: seconds of waiting that count as one attempt, for work whose attempts are limited.
    """

    key: str
    since: float
    pause: float = 0.0
    patience: float = 60.0


class ReplicatorError(Exception):
    """Base of every error this package raises on purpose.

    Attributes:
        what: what happened and where.
        why: the cause, as far as it is known, e.g. in the other side's own words; may be empty.
        do: advice for a person; may be empty.
        error_class: decides whether and how the work is retried.
        retry_after: seconds the other side asked to wait before the next attempt, if it did.
        wait: set if another attempt is of no use for now, and does not count as one.
        login: the fingerprint of the login that was refused (`replicator.registry.credentials.fingerprint`), if known.
        repeatable: whether the same request may succeed a moment later; if not, only the work as a whole is retried.
        costly: a body was sent in vain, over a line that may be paid for, so the work is retried a few times only.
    """

    error_class: ErrorClass = ErrorClass.PERMANENT
    retry_after: float | None = None
    wait: Wait | None = None
    login: str = ""
    repeatable: bool = True
    costly: bool = False

    def __init__(self, what: str = "", why: str = "", do: str = "") -> None:
        super().__init__(*filter(None, (what, why, do)))
        self.what = what
        self.why = why
        self.do = do

    def __str__(self) -> str:
        # Built when it is asked for: where an error happened, and what to do, may be filled in on its way up.
        message = ": ".join(filter(None, (self.what, self.why)))
        return "; ".join(filter(None, (message, self.do)))


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a configuration.

    Attributes:
        path: its place, as keys joined by a dot or in brackets, e.g. ``images["h/r"].tags.semver``; empty if it
            concerns the whole.
        message: what is wrong and what to do.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(ReplicatorError):
    """The rules file, the settings or the command line are invalid; nothing was started.

    Attributes:
        source: the file or place of the problems, e.g. ``rules.yaml``.
        problems: every problem found, in the order of the file.
    """

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"{source}: {len(self.problems)} problem(s)\n{lines}")


OK = 0
"""Exit code: everything is in place."""
FAILED = 1
"""Exit code: a copy failed."""
USAGE = 2
"""Exit code: the command line, the settings or the rules are invalid; nothing was started."""
INTERRUPTED = 130
"""Exit code: Ctrl-C or SIGTERM ended the command before it was done."""
