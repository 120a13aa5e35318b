"""What can go wrong, by what to do about it.

    ReplicatorError                 everything this package raises on purpose
    ├── ConfigError                 rules, settings or command line are wrong; holds every problem at once
    ├── replicator.registry.errors.RegistryError      a registry refused, failed or lied
    └── replicator.queue.errors.QueueError            the queue can't take or give work

An error's class decides whether, and how patiently, its work is tried again.

What the program's exit codes mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class ErrorClass(StrEnum):
    """What a failure means for the next try."""

    TRANSIENT = "transient"
    """A fault of the moment (network, 5xx, 429): try again with exponential back-off."""
    NOT_YET = "not yet"
    """A gate that opens later (a scan that has not passed, a tag that does not resolve yet): try slowly."""
    CREDENTIALS = "credentials"
    """The login is refused: no try succeeds until a person changes it."""
    PERMANENT = "permanent"
    """The request itself can't succeed, however often it is repeated."""


class ReplicatorError(Exception):
    """Base of every error this package raises on purpose.

    Attributes:
        error_class: what the failure means for the next try.
        retry_after: seconds the other side asked to wait before the next try, if it did.
    """

    error_class: ErrorClass = ErrorClass.PERMANENT
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a configuration.

    Attributes:
        path: where it stands, as keys joined by a dot or in brackets, e.g. ``images["h/r"].tags.semver``;
            empty when it concerns the whole.
        message: what is wrong and what to do.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(ReplicatorError):
    """The rules file, the settings or the command line can't be used; nothing was started.

    Attributes:
        source: the file or place the problems are in, e.g. ``rules.yaml``.
        problems: every problem found, in the order of the file.
    """

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"{source}: {len(self.problems)} problem(s)\n{lines}")


OK = 0
"""Everything is in place."""
FAILED = 1
"""A copy failed."""
USAGE = 2
"""The command line, the settings or the rules can't be used; nothing was started."""
INTERRUPTED = 130
"""Ended by Ctrl-C or SIGTERM before it was done."""
