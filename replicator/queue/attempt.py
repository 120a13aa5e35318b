"""An attempt at a job, as values: its start, its end, and the report to an observer."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import structlog

from replicator.errors import AGAIN, ErrorClass, ErrorText, ReplicatorError, class_word
from replicator.queue.dead_letters import DeadLetter
from replicator.queue.job import Finished, Lane, LeftToOthers, RunningRecord, describe_key, login_of
from replicator.queue.lease import LeaseObserver
from replicator.queue.records import Moment, decode, encode

if TYPE_CHECKING:
    from replicator.errors import Wait
    from replicator.queue.job import JsonValue
    from replicator.retry import RetryPolicy

log = structlog.get_logger("replicator.queue")

Answered: TypeAlias = Callable[[Mapping[str, Any], Mapping[str, Any]], Iterable[str]]
"""Takes the payload and the outcome of an attempt that went well; returns the keys that certainly answered to it."""

_REPORT = "this is a fault of this program: report it with the traceback in the log"
CONTENT_GONE = "its content is gone from Redis; push the tag again, and set maxmemory-policy noeviction"
"""Why a job is a dead letter that Redis has evicted, or lost with a restored file."""


class AttemptEnd(StrEnum):
    """The end of an attempt; one that is handed back to the queue has none."""

    DONE = "done"
    """It went well."""
    RETRIED = "retried"
    """It failed, and there will be another."""
    DEAD = "dead"
    """It failed, and the job is a dead letter now."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that has ended, as Redis took it.

    Attributes:
        id: the job's.
        lane: whose slot it took.
        payload: the job's; None where it could not be read.
        outcome: the result of the handler; None if it failed.
        error_class: class of the failure; None when it went well.
        seconds: how long it took.
        lag: seconds from the oldest push that it served (`Job.pushed`) to its end; None where that is unknown.
    """

    id: str
    lane: Lane
    end: AttemptEnd
    payload: Mapping[str, Any] | None
    outcome: Mapping[str, JsonValue] | None
    error_class: ErrorClass | None
    seconds: float
    lag: float | None


class AttemptObserver(LeaseObserver, Protocol):
    """Is called when an attempt ends or a lease is lost. It returns at once and raises nothing."""

    def attempt_ended(self, attempt: Attempt) -> None:
        """Note an attempt that ended. One that was handed back, or whose lease was lost, is not reported."""


@dataclass(frozen=True, slots=True)
class StartedJob:
    """A job whose lease was just taken, as the ``claim`` script gives it.

    Attributes:
        job: arq's form of it; None when Redis has lost it.
        generation: number of its newest enqueue: a later one asks for another attempt.
        failures: failed attempts in a row before this one.
        retries: bound on them; None without one.
        last: the last of them; None without one.
        record: the record of the running job in Redis.
        merged: see `Running.merged`.
        owned: the record of its destination's tag (`replicator.queue.records.TagRecord`); empty without one.
        asked: the configurations whose processes know nothing of it, by their digests.
    """

    id: str
    job: bytes | None
    generation: int
    failures: int
    retries: int | None
    last: LastFailure | None
    record: RunningRecord
    merged: bool
    asked: tuple[str, ...] = ()
    owned: str = ""

    @property
    def first_failure(self) -> datetime | None:
        """Time of the first failure in a row (UTC); None without one."""
        return self.last.first if self.last is not None else None

    def fails_as(self, error_class: ErrorClass) -> datetime | None:
        """Return since when all failures in a row have been of this class; None if the last one was of another."""
        if self.last is None or self.last.error_class != error_class:
            return None
        return self.last.class_since or self.last.first

    @classmethod
    def read(cls, reply: list[Any]) -> StartedJob:
        """Read one entry of the script's answer."""
        job_id, job, generation, failures, retries, waiting, record, merged, noted, owned = reply
        return cls(
            id=job_id.decode(),
            job=job,
            generation=generation,
            failures=failures,
            retries=None if retries is None else int(retries),
            last=_last_failure(waiting),
            record=decode(RunningRecord, record),
            merged=bool(merged),
            # The first is the one that it was left to.
            asked=tuple(noted.decode().split(" ")[1:]),
            owned=owned.decode(errors="replace"),
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """The last failure of a job that waits for its retry, as a record.

    Attributes:
        message: the error, as `replicator.errors.ErrorText.stored`.
        tries: failed attempts in a row.
        first: time of the first of them (UTC).
        last: time of the last of them (UTC).
        waits_for: the key that it waits for, if that is why it failed.
        class_since: time of the first failure in a row of this class (UTC); None if that is ``first``.
        costly: how many of the failures were `replicator.errors.ReplicatorError.costly`.
    """

    id: str
    error_class: ErrorClass
    message: str
    tries: int
    first: Moment
    last: Moment
    waits_for: str = ""
    class_since: Moment | None = None
    costly: int = 0


@dataclass(frozen=True, slots=True)
class LastFailure:
    """All that a start needs of a `Failure`: the rest may be of a newer version, which knows more classes of errors."""

    first: Moment
    error_class: str = ""
    class_since: Moment | None = None
    costly: int = 0


def _last_failure(waiting: bytes | None) -> LastFailure | None:
    with contextlib.suppress(ValueError):
        return decode(LastFailure, waiting) if waiting is not None else None
    return None


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of an attempt: the arguments of the ``finish`` script, and the report to observers.

    Attributes:
        how: the attempt went well, failed with a retry to come, waits for a key, failed for good, is handed back, or
            its job was cancelled.
        delay: seconds until the next attempt, or until a probe of the key.
        finished: JSON of a `Finished`, for the runs that wait for the job.
        failure: why it failed; None when it did not.
        payload: the job's, where it could be read.
        outcome: the result of the handler; None if it failed.
        lag: see `Attempt.lag`.
        wait: the reason why the attempt does not count.
        waited: the attempts that its waiting counts as, for runs whose retries are limited.
        left_to: see `LeftToOthers.note`.
    """

    how: Literal["done", "retry", "wait", "dead", "release", "cancel", "foreign"]
    delay: float = 0.0
    finished: bytes = b""
    failure: Failure | DeadLetter | None = None
    payload: Mapping[str, Any] | None = None
    outcome: Mapping[str, JsonValue] | None = None
    lag: float | None = None
    wait: Wait | None = None
    waited: int = 0
    left_to: str = ""

    @property
    def note(self) -> bytes:
        """JSON of the failure; empty without one."""
        if self.failure is None:
            return b""
        optional = ("waits_for", "login", "class_since", "costly")
        return encode(self.failure, without=[name for name in optional if not getattr(self.failure, name, "")])

    @property
    def why(self) -> str:
        """The failure in words; empty without one."""
        return "" if self.failure is None else self.failure.message

    def report(self, job: StartedJob, lane: Lane, ended: str, seconds: float) -> Attempt | None:
        """Return the report for an observer; None if the attempt was handed back or cancelled, or the job waits.

        Args:
            job: the attempted job.
            lane: whose slot it took.
            ended: what ``finish`` made of it.
            seconds: how long it took.
        """
        if self.how in ("release", "wait", "cancel", "foreign") or ended == "cancel":
            return None
        # A job that failed for good is still queued again if it was enqueued meanwhile.
        failed = AttemptEnd.DEAD if ended == "dead" else AttemptEnd.RETRIED
        end = AttemptEnd.DONE if self.how == "done" else failed
        error_class = None if self.failure is None else self.failure.error_class
        return Attempt(job.id, lane, end, self.payload, self.outcome, error_class, seconds, self.lag)


def succeeded(
    job: StartedJob, outcome: Mapping[str, JsonValue], payload: Mapping[str, Any], seconds: float, lag: float | None
) -> Ending:
    """Make the ending of an attempt that went well.

    Raises:
        TypeError: the outcome can't be expressed in JSON.
        ValueError: the same.
    """
    finished = Finished(job.id, dict(outcome), None, None, job.failures + 1, round(seconds, 3)).encode()
    return Ending("done", finished=finished, payload=payload, outcome=outcome, lag=lag)


def failed(  # the facts of one failure
    job: StartedJob,
    error: BaseException,
    *,
    policy: RetryPolicy,
    lane: Lane,
    payload: Mapping[str, Any] | None,
    seconds: float,
) -> Ending:
    """Decide by the error's class whether a failed attempt is followed by another."""
    if isinstance(error, LeftToOthers):
        return Ending("foreign", payload=payload, left_to=error.note)
    error_class, retry_after = ErrorClass.TRANSIENT, None
    text = ErrorText.of(error)
    if isinstance(error, ReplicatorError):
        error_class, retry_after = error.error_class, error.retry_after
    else:
        text = ErrorText(f"unexpected {type(error).__name__}", text.what, _REPORT)
        log.error("job raised unexpectedly", id=job.id, exc_info=error)
    # By Redis's clock, which all workers share.
    now = job.record.since + timedelta(seconds=seconds)
    if isinstance(error, ReplicatorError) and error.wait is not None and error_class is ErrorClass.TRANSIENT:
        return _waits(
            job, error.wait, text, now, login=error.login, policy=policy, lane=lane, payload=payload, seconds=seconds
        )
    first = job.first_failure or now
    failures = job.failures + 1
    spent = job.last.costly if job.last is not None else 0
    costly = isinstance(error, ReplicatorError) and error.costly
    spent += costly
    delay = policy.delay(
        error_class,
        failures=failures,
        elapsed=(now - first).total_seconds(),
        luck=random.random(),  # noqa: S311 - spreads retries, hides nothing
        retries=job.retries,
        retry_after=retry_after,
        expected=isinstance(error, ReplicatorError),
        costly=spent if costly else 0,
    )
    retrying = delay is not None
    finished = Finished(job.id, None, text.stored, error_class, failures, round(seconds, 3), retrying=retrying).encode()
    if delay is None:
        login = error.login if isinstance(error, ReplicatorError) else ""
        letter = DeadLetter(job.id, lane, payload, error_class, text.stored, failures, first, now, login)
        return Ending("dead", finished=finished, failure=letter, payload=payload)
    class_since = job.fails_as(error_class) or now
    failure = Failure(
        job.id,
        error_class,
        replace(text, do=text.do or AGAIN).stored,
        failures,
        first,
        now,
        class_since=None if class_since == first else class_since,
        costly=spent,
    )
    return Ending("retry", delay=delay, finished=finished, failure=failure, payload=payload)


def _waits(  # the facts of one failure
    job: StartedJob,
    wait: Wait,
    text: ErrorText,
    now: datetime,
    *,
    login: str,
    policy: RetryPolicy,
    lane: Lane,
    payload: Mapping[str, Any] | None,
    seconds: float,
) -> Ending:
    """Let a job wait without counting an attempt, as long as the policy allows."""
    # This process may have met the silence later than the one that reported it: the earlier time counts.
    silent = min(datetime.fromtimestamp(wait.since, UTC), job.record.waits_since or now, now)
    due = min(datetime.fromtimestamp(job.record.due / 1000, UTC), now)
    # The horizon counts from when both were so: the job was due, and the key was silent.
    first = min(job.first_failure or now, max(due, silent) if wait.key else now)
    elapsed = (now - first).total_seconds()
    waited = int((now - (silent if wait.key else first)).total_seconds() / wait.patience)
    go_on = policy.waits(elapsed, waited, job.retries)
    tries = max(1, job.failures + (not go_on))
    given_up = f"given up: {describe_key(wait.key)} since {silent:%Y-%m-%d %H:%M:%S} UTC"
    told = replace(text, why="; ".join(filter(None, (text.why, given_up)))).stored if wait.key else text.stored
    error_class = ErrorClass.TRANSIENT if login_of(wait.key) is None else ErrorClass.CREDENTIALS
    record = Finished(job.id, None, told, error_class, tries, round(seconds, 3), retrying=go_on)
    finished = record.encode()
    if not go_on:
        letter = DeadLetter(job.id, lane, payload, error_class, told, tries, first, now, login)
        return Ending("dead", finished=finished, failure=letter, payload=payload, wait=wait)
    # A refusal for load is shown as the attempt that it was, although it does not count towards a limit.
    shown = job.failures if wait.key else job.failures + 1
    spent = job.last.costly if job.last is not None else 0
    text = replace(text, do=text.do or AGAIN)
    failure = Failure(job.id, error_class, text.stored, shown, first, now, wait.key, costly=spent)
    if wait.key:
        how: Literal["wait", "retry"] = "wait"
        delay = wait.pause
    else:
        # Half as long again as it has waited: as patient as a back-off, which needs a count of attempts.
        how = "retry"
        spread = 1 - random.random() / 2  # noqa: S311 - spreads retries, hides nothing
        delay = max(min(wait.pause, policy.longest_wait), min(policy.cap, max(policy.first, elapsed / 2)) * spread)
    return Ending(how, delay=delay, finished=finished, failure=failure, payload=payload, wait=wait, waited=waited)


def log_end(job: StartedJob, lane: Lane, ending: Ending, ended: str, seconds: float, requests: int) -> None:
    """Log how an attempt ended.

    Args:
        job: the attempted job.
        lane: whose slot it took.
        ending: how it was to end.
        ended: what ``finish`` made of it.
        seconds: how long it took.
        requests: how often Redis was asked to take its end.
    """
    facts: dict[str, Any] = {"id": job.id, "lane": lane.value, "seconds": round(seconds, 3)}
    if ended == "lost":
        # After a repetition the first request may have been carried out, with only its answer lost.
        level = logging.WARNING if requests == 1 else logging.INFO
        log.log(level, "job result not taken", how=ending.how, attempts=requests, **facts)
    elif ended == "queued again":
        log.info("job queued again", how=ending.how, **facts)
    elif ended == "done":
        log.debug("job done", tries=job.failures + 1, **facts)
    elif ended in ("release", "cancel"):
        log.info("job handed back" if ended == "release" else "job cancelled", **facts)
    elif ended == "foreign":
        log.debug("job left to others", rules=ending.left_to.partition(" ")[0][:12], **facts)
    elif ended == "wait":
        log.info("job waits", waits_for=ending.wait.key if ending.wait else "", error=ending.why, **facts)
    elif (failure := ending.failure) is not None:
        facts |= {"error_class": class_word(failure.error_class), "error": failure.message, "tries": failure.tries}
        if ended == "dead":
            log.error("job dead", **facts)
        else:
            log.warning("job failed", retry_in_seconds=round(ending.delay, 1), **facts)


def encode_answered(answered: Answered | None, ending: Ending) -> tuple[str, ...]:
    """Return the argument of ``finish`` for the keys that answered; empty if none is known."""
    if answered is None or ending.how != "done":
        return ()
    try:
        return ("".join(f"{key} " for key in answered(ending.payload or {}, ending.outcome or {})),)
    except Exception:
        log.exception("keys that answered not known")
        return ("",)
