"""What a worker tells of its tries to whoever counts them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.errors import ErrorClass
    from replicator.queue.job import JsonValue, Lane


class TryEnd(StrEnum):
    """How a try ended that was not handed back."""

    DONE = "done"
    """It went well."""
    RETRIED = "retried"
    """It failed, and there will be another."""
    DEAD = "dead"
    """It failed, and is a dead letter now."""


@dataclass(frozen=True, slots=True)
class Try:
    """One try of a job, after Redis took how it ended.

    Attributes:
        id: the job's.
        lane: whose slot it took.
        end: how it ended.
        payload: the job's; None where it could not be read.
        outcome: what the handler returned; None when it failed.
        error_class: of the failure; None when it went well.
        seconds: how long it took.
        lag: seconds from the oldest push that it had to do with until it ended (`Job.pushed`); None where that is
            not known.
    """

    id: str
    lane: Lane
    end: TryEnd
    payload: Mapping[str, Any] | None
    outcome: Mapping[str, JsonValue] | None
    error_class: ErrorClass | None
    seconds: float
    lag: float | None


class TryObserver(Protocol):
    """Is told of tries as they end. It returns at once, and raises nothing."""

    def tried(self, attempt: Try) -> None:
        """Hear of a try that ended. One that was handed back, or whose lease was lost, is none."""

    def lease_lost(self) -> None:
        """Hear of a job that became another worker's while it ran here."""


class Unobserved:
    """The `TryObserver` where nobody counts."""

    def tried(self, attempt: Try) -> None:
        """Pass over it."""

    def lease_lost(self) -> None:
        """Pass over it."""
