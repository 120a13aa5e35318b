"""A try of a job from its start to its end, as values: what ``claim`` gives, and what ``finish`` takes.

What a worker tells of its tries to whoever counts them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from replicator.queue.job import Lane, load_json
from replicator.queue.snapshot import moment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from replicator.errors import ErrorClass
    from replicator.queue.job import JsonValue


class AttemptEnd(StrEnum):
    """How a try ended that was not handed back."""

    DONE = "done"
    """It went well."""
    RETRIED = "retried"
    """It failed, and there will be another."""
    DEAD = "dead"
    """It failed, and is a dead letter now."""


@dataclass(frozen=True, slots=True)
class Attempt:
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
    end: AttemptEnd
    payload: Mapping[str, Any] | None
    outcome: Mapping[str, JsonValue] | None
    error_class: ErrorClass | None
    seconds: float
    lag: float | None


class AttemptObserver(Protocol):
    """Is told of tries as they end. It returns at once, and raises nothing."""

    def attempt_ended(self, attempt: Attempt) -> None:
        """Hear of a try that ended. One that was handed back, or whose lease was lost, is none."""

    def lease_lost(self) -> None:
        """Hear of a job that became another worker's while it ran here."""


class Unobserved:
    """The `AttemptObserver` where nobody counts."""

    def attempt_ended(self, attempt: Attempt) -> None:
        """Pass over it."""

    def lease_lost(self) -> None:
        """Pass over it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that was started, as ``claim`` gives it."""

    id: str
    job: bytes | None
    generation: int
    failures: int
    retries: int | None
    first_failure: float | None
    record: dict[str, Any]
    merged: bool

    @classmethod
    def read(cls, reply: list[Any]) -> Claim:
        """Read one entry of the script's answer."""
        job_id, job, generation, failures, retries, waiting, record, merged = reply
        return cls(
            id=job_id.decode(),
            job=job,
            generation=generation,
            failures=failures,
            retries=None if retries is None else int(retries),
            first_failure=None if waiting is None else load_json(waiting)["first"],
            record=load_json(record),
            merged=bool(merged),
        )

    @property
    def pushed(self) -> datetime | None:
        """When the oldest push was that this try has to do with (UTC), where that is known."""
        pushed = self.record.get("pushed")
        return None if pushed is None else moment(pushed)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a try ended: the arguments of ``finish``, and what is told of it."""

    how: str
    delay: float = 0.0
    failures: int = 0
    record: bytes = b""
    note: bytes = b""
    payload: Mapping[str, Any] | None = None
    outcome: Mapping[str, JsonValue] | None = None
    error_class: ErrorClass | None = None
    lag: float | None = None

    def told(self, claim: Claim, lane: Lane, ended: str, seconds: float) -> Attempt | None:
        """Return what an observer is told.

        Args:
            claim: what was tried.
            lane: whose slot it took.
            ended: what ``finish`` made of it.
            seconds: how long it took.

        Returns:
            The try; None for one that was handed back.
        """
        if self.how == "release":
            return None
        # What would have been given up is tried again when more was asked for meanwhile.
        failed = AttemptEnd.DEAD if ended == "dead" else AttemptEnd.RETRIED
        end = AttemptEnd.DONE if self.how == "done" else failed
        return Attempt(claim.id, lane, end, self.payload, self.outcome, self.error_class, seconds, self.lag)
