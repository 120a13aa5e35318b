"""What goes into the queue and what comes out of it, as values; and a job's form inside Redis.

A job is stored as arq stores it (``arq.jobs.serialize_job``), in JSON: whoever can write to Redis must not be able
to run code here, as they could with arq's default, pickle.

What can go wrong with the queue itself.

QueueError              the queue can't do what was asked; also the base of all below
├── QueueUnavailable    Redis is away, refuses the login or can't take writes: nothing was durably taken
└── LeaseLost           another worker runs this job now: stop, write nothing more

When a failed job is tried again: a pure function of its error's class and its history.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

from arq.jobs import DeserializationError, SerializationError, deserialize_job_raw, serialize_job

from replicator.errors import ErrorClass, ReplicatorError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
"""What JSON can express."""

FUNCTION = "handle"
"""The name under which arq finds the one function that every job calls."""

MAX_ID_BYTES = 1024
"""A destination reference has at most 255 + 1 + 128 characters and a host; longer ids are a mistake."""


class Lane(StrEnum):
    """One of the two queues: what someone waits for, and what may take its time."""

    EVENTS = "events"
    BACKFILL = "backfill"


@dataclass(frozen=True, slots=True)
class Job:
    """Work on one destination. All jobs with one id are one job: they are merged, and never run at the same time.

    Attributes:
        id: the destination reference, e.g. ``registry.cn-beijing.aliyuncs.com/ns/nginx:1.27``.
        payload: what the handler needs, serialisable as JSON; that of the newest enqueue is what runs.
        retries: how many times a transient or not-yet failure is tried again; None: as the worker's policy says.
        pushed: when the push was that asks for it, by the clock of who told of it; None where no push does, or its
            time is not known. Of jobs that are merged the oldest push counts that no try has served.
    """

    id: str
    payload: Mapping[str, JsonValue]
    retries: int | None = None
    pushed: datetime | None = None

    def __post_init__(self) -> None:
        if not self.id or len(self.id.encode()) > MAX_ID_BYTES:
            raise ValueError(f"a job's id has 1 to {MAX_ID_BYTES} bytes, not {len(self.id.encode())}")
        if self.retries is not None and self.retries < 0:
            raise ValueError(f"retries of {self.id} must be 0 or more, not {self.retries}")


@dataclass(frozen=True, slots=True)
class Finished:
    """How a job ended, told to the runs that enqueued it.

    Attributes:
        id: the job's.
        outcome: what the handler returned; None when it failed.
        error: what went wrong, for a person; None when it went well.
        error_class: the failure's class; None when it went well.
        tries: how many times it was tried, this one included.
        seconds: how long the last try took.
        retrying: it failed more often than this run's ``retries`` allow, but someone more patient enqueued it too,
            so it is still being tried.
    """

    id: str
    outcome: Mapping[str, Any] | None
    error: str | None
    error_class: ErrorClass | None
    tries: int
    seconds: float
    retrying: bool = False


def dump_json(value: Any) -> bytes:
    """Serialise ``value`` as JSON.

    Raises:
        TypeError: it holds something that JSON has no form for.
        ValueError: it holds NaN or an infinity, or text that is not Unicode.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode()


def load_json(data: bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is none.
    """
    return json.loads(data)


def encode_job(job: Job) -> bytes:
    """Give the form in which arq keeps ``job``, stamped with the present time.

    Raises:
        ValueError: the payload can't be expressed in JSON.
    """
    keywords = {"payload": dict(job.payload)}
    try:
        return serialize_job(FUNCTION, (), keywords, None, int(time.time() * 1000), serializer=dump_json)
    except SerializationError as error:
        raise ValueError(f"the payload of {job.id} can't be expressed in JSON: {error.__cause__}") from error


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as it was read back: which function, with which payload, enqueued when (UTC)."""

    function: str
    payload: Mapping[str, Any]
    enqueued_at: datetime


def decode_job(data: bytes) -> StoredJob:
    """Read what :func:`encode_job` wrote.

    Raises:
        ValueError: it is not that; the message says what is wrong.
    """
    try:
        function, _, keywords, _, milliseconds = deserialize_job_raw(data, deserializer=load_json)
        payload = keywords["payload"]
        enqueued_at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (DeserializationError, TypeError, KeyError, OverflowError, OSError) as error:
        raise ValueError(f"the stored job can't be read: {error.__cause__ or error!r}") from error
    if not isinstance(function, str) or not isinstance(payload, dict):
        raise ValueError("the stored job has no function or no payload")
    return StoredJob(function, payload, enqueued_at)


def encode_finished(
    job_id: str,
    *,
    tries: int,
    seconds: float,
    outcome: Mapping[str, JsonValue] | None = None,
    error: str | None = None,
    error_class: ErrorClass | None = None,
    retrying: bool = False,
) -> bytes:
    """Give the JSON of a :class:`Finished`.

    Raises:
        TypeError: the outcome can't be expressed in JSON.
        ValueError: the same.
    """
    return dump_json(
        {
            "id": job_id,
            "outcome": None if outcome is None else dict(outcome),
            "error": error,
            "error_class": error_class,
            "tries": tries,
            "seconds": round(seconds, 3),
            "retrying": retrying,
        }
    )


def decode_finished(data: bytes) -> Finished:
    """Read what :func:`encode_finished` wrote."""
    fields = load_json(data)
    error_class = fields["error_class"]
    return Finished(
        id=fields["id"],
        outcome=fields["outcome"],
        error=fields["error"],
        error_class=None if error_class is None else ErrorClass(error_class),
        tries=fields["tries"],
        seconds=fields["seconds"],
        retrying=fields["retrying"],
    )


class QueueError(ReplicatorError):
    """The queue can't take or give work."""

    error_class = ErrorClass.TRANSIENT


class QueueUnavailable(QueueError):
    """Redis did not confirm within the deadline, or said that it can't: take nothing as queued."""


class LeaseLost(QueueError):
    """The lease of a running job belongs to another worker now, or the job is finished: write nothing more."""


_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient to be. All times in seconds.

    Attributes:
        first: the pause after a first transient failure; it doubles with every further one.
        cap: the longest pause after a transient failure.
        horizon: how long after its first failure a job is tried again; what fails still then is a dead letter.
        not_yet: the same pause for a gate that opens later: slower, and doubling up to ``not_yet_cap``.
        not_yet_cap: the longest pause for such a gate.
        not_yet_horizon: how long to wait for such a gate.
        unexpected_retries: how often an exception that no one planned for, so a bug, is tried again.
        longest_wait: the most that a ``Retry-After`` of the other side is obeyed.
    """

    first: float = 2.0
    cap: float = 300.0
    horizon: float = 24 * _HOUR
    not_yet: float = 15.0
    not_yet_cap: float = 600.0
    not_yet_horizon: float = 24 * _HOUR
    unexpected_retries: int = 3
    longest_wait: float = _HOUR

    def delay(
        self,
        error_class: ErrorClass,
        *,
        failures: int,
        elapsed: float,
        luck: float,
        retries: int | None = None,
        retry_after: float | None = None,
        expected: bool = True,
    ) -> float | None:
        """Tell how long to wait before the next try, or None when there is none.

        Args:
            error_class: of the failure.
            failures: in a row, this one included.
            elapsed: seconds since the first of them.
            luck: from 0 to 1, random: spreads the tries of many jobs that failed together over half a pause.
            retries: the job's own bound, if it has one.
            retry_after: seconds the other side asked for, if it did.
            expected: False for an exception that is not a ``ReplicatorError``.
        """
        if error_class in (ErrorClass.CREDENTIALS, ErrorClass.PERMANENT):
            return None
        bounds = [retries, None if expected else self.unexpected_retries]
        if any(bound is not None and failures > bound for bound in bounds):
            return None
        slow = error_class is ErrorClass.NOT_YET
        horizon = self.not_yet_horizon if slow else self.horizon
        if elapsed >= horizon:
            return None
        first, cap = (self.not_yet, self.not_yet_cap) if slow else (self.first, self.cap)
        pause = min(cap, first * 2.0 ** min(failures - 1, 64)) * (1 - luck / 2)
        if retry_after is not None and math.isfinite(retry_after):
            pause = max(pause, min(retry_after, self.longest_wait))
        # The last try comes at the horizon, not a pause before it.
        return min(pause, max(horizon - elapsed, first))
