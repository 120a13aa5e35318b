"""Retries with back-off and ``Retry-After``, of steps and of jobs, and deadlines on standstill.

There is no limit on the duration of a transfer that moves. `Standstill` is the deadline of one direction of one body.
`ends_on_standstill` is that of a whole piece of work, such as a copy; its steps say `alive` when something moved, and
are `waiting` while it is not theirs to move anything.
"""

from __future__ import annotations

import asyncio
import math
import random
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

from replicator.errors import ErrorClass, ReplicatorError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

T = TypeVar("T")

MAX_PAUSE = 60.0
"""Seconds that `retrying` waits between two attempts at most.

An error that asks for more is raised at once: its ``retry_after`` hands the job back to the queue, which can wait for
hours without holding a slot, a lock or an open upload.
"""


def is_transient(error: Exception) -> bool:
    """Tell whether an error is a passing fault."""
    return isinstance(error, ReplicatorError) and error.error_class is ErrorClass.TRANSIENT


async def retrying(
    operation: Callable[[], Awaitable[T]],
    *,
    attempts: int | None,
    retryable: Callable[[Exception], bool] = is_transient,
    on_retry: Callable[[Exception, int, float], None] | None = None,
    base: float = 0.2,
    cap: float = 10.0,
    until: float | None = None,
    patient: bool = False,
) -> T:
    """Call ``operation`` until it succeeds, backing off after every failure.

    The pause is that of `backoff`, or the error's ``retry_after`` if that is longer. To end an attempt that is under
    way at a deadline use ``asyncio.timeout`` around the call.

    Args:
        operation: makes one attempt.
        attempts: how many there are in all; None for no limit.
        retryable: whether a failure is worth another attempt; asked after every one.
        on_retry: called before each pause with the error, the number of the failed attempt (from 1) and the pause in
            seconds, e.g. to log them.
        base: seconds after the first failure; doubled with each further one.
        cap: seconds that back-off reaches at most.
        until: when no further attempt begins, by the event loop's clock.
        patient: retry a failure that waits for something (`Wait.key`) too, after its pause: no queue takes the work
            back.

    Raises:
        Exception: the last failure: it is not retryable or not `ReplicatorError.repeatable`, it waits for something,
            there are no attempts left, or its pause would be longer than ``MAX_PAUSE`` or end after ``until``.
    """
    number = 0
    while True:
        number += 1
        try:
            return await operation()
        except Exception as error:
            pause = max(backoff(number, base=base, cap=cap), getattr(error, "retry_after", None) or 0.0)
            key_pause = _key_pause(error)
            if patient and key_pause is not None:
                pause = max(pause, min(key_pause, MAX_PAUSE))
            late = pause > MAX_PAUSE or (until is not None and asyncio.get_running_loop().time() + pause >= until)
            waits = key_pause is not None and not patient
            waits = waits or not getattr(error, "repeatable", True)
            if not retryable(error) or number == attempts or late or waits:
                raise
            if on_retry is not None:
                on_retry(error, number, pause)
        # Outside of the handler: a traceback held while waiting keeps the attempt's frames, and their buffers, alive.
        with waiting():
            await asyncio.sleep(pause)


def _key_pause(error: Exception) -> float | None:
    """Return the seconds until the next check of the key that a failure waits for; None if it waits for no key."""
    wait = error.wait if isinstance(error, ReplicatorError) else None
    return wait.pause if wait is not None and wait.key else None


def backoff(attempt: int, *, base: float = 0.2, cap: float = 10.0) -> float:
    """Return the seconds to wait after the failed ``attempt`` (from 1): exponential, half of it jitter."""
    ceiling = min(cap, base * 2.0 ** min(attempt - 1, 30))
    return ceiling / 2 + random.uniform(0, ceiling / 2)  # noqa: S311 - no secret


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Read a ``Retry-After`` (RFC 9110, section 10.2.3), which is a number of seconds or a date.

    Returns:
        Seconds, never negative; None if there is none or it can't be read.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


_WRITE_SECONDS = 20.0


def write_limit(lease: float) -> float:
    """Return the seconds that a write behind the fence may take: it must end before another worker can have the lease.

    Args:
        lease: seconds of a lease.
    """
    return min(_WRITE_SECONDS, lease * 2 / 3)


PROGRESS = 64 * 1024
"""Bytes of a body that count as progress."""


class StoodStill(ReplicatorError):
    """Nothing moved in a piece of work for as long as it may stand still."""

    error_class = ErrorClass.TRANSIENT


class Standstill:
    """Deadline of one direction of a body: less than `PROGRESS` bytes within so many seconds is a standstill.

    Only the time spent waiting for the other side counts. While the bytes wait for us, the other side has nothing to
    answer for. The last bytes of a body, fewer than `PROGRESS`, have the same time.
    """

    def __init__(self) -> None:
        self._waited = 0.0
        self._moved = 0

    def left(self, seconds: float) -> float:
        """Return the seconds of waiting that are left until it is a standstill, of so many for each `PROGRESS`."""
        return max(0.0, seconds - self._waited)

    def moved(self, size: int, seconds: float) -> bool:
        """Note that ``size`` bytes moved after ``seconds`` of waiting; tell whether that completes a progress."""
        self._moved += size
        self._waited += seconds
        if self._moved < PROGRESS:
            return False
        self.restart()
        return True

    def restart(self) -> None:
        """Give the other side its whole time again."""
        self._moved, self._waited = 0, 0.0


def standstill_words(moving: str, seconds: float) -> tuple[str, str]:
    """Say that the other side stood still, and what to do.

    Args:
        moving: the stopped direction: ``sending`` or ``taking``.
        seconds: its time.
    """
    return f"stopped {moving} bytes: less than 64 KiB in {seconds:g} s", NEEDS_LONGER


NEEDS_LONGER = "if it is only slow, raise REPLICATOR_READ_TIMEOUT"
"""Advice about a registry that stood still, or did not begin to answer."""


def how_far(done: int, whole: int, times: int = 1) -> str:
    """Say how far a body came until it broke, in bytes, and that it broke there so many times."""
    where = f"{_amount(done)} of {_amount(whole)}"
    return f"after {where}" if times < 2 else f"each time at about {where} ({times} times)"


def _amount(size: int) -> str:
    """Write a number of bytes as people do, e.g. ``12.4 MB``."""
    for unit, length in (("GB", 10**9), ("MB", 10**6), ("kB", 1000)):
        if size >= length:
            return f"{size / length:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size} bytes"


class _Watch:
    """What is known of a piece of work: when it last moved, and how many of its steps are waiting."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting = 0
        self.moved_at = self._loop.time()

    def alive(self) -> None:
        self.moved_at = self._loop.time()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            self.alive()

    def due(self, seconds: float) -> float:
        """Return when it will have stood still for ``seconds`` if nothing moves, by the event loop's clock."""
        # A step that waits may hold up all the others, so that none of them counts meanwhile. They have the deadlines
        # of their bodies and requests.
        return (self._loop.time() if self._waiting else self.moved_at) + seconds


_watch: ContextVar[_Watch | None] = ContextVar("watch", default=None)
"""The work that this task is a step of."""


def alive() -> None:
    """Note that the work of this task moved: bytes of a body, or an answer. Cheap."""
    if (watch := _watch.get()) is not None:
        watch.alive()


@contextmanager
def waiting() -> Iterator[None]:
    """Count the time in this block as no standstill: the work waits for a place, a lock, or by its own choice."""
    if (watch := _watch.get()) is None:
        yield
        return
    with watch.waiting():
        yield


@asynccontextmanager
async def ends_on_standstill(seconds: float | None) -> AsyncIterator[None]:
    """Cancel the work in this block once nothing has moved for so long, `waiting` not counted.

    Args:
        seconds: the limit; None for none.

    Raises:
        StoodStill: nothing moved; never without a limit.
    """
    if seconds is None:
        yield
        return
    loop, watch = asyncio.get_running_loop(), _Watch()

    timer: asyncio.TimerHandle | None = None

    def look() -> None:
        nonlocal timer
        due = watch.due(seconds)
        if due <= loop.time():
            limit.reschedule(due)
        else:
            timer = loop.call_at(due, look)

    before = _watch.set(watch)
    try:
        async with asyncio.timeout(None) as limit:
            look()
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise StoodStill(
            "the copy stood still",
            f"nothing moved for {seconds:g} s, no byte and no answer (REPLICATOR_COPY_TIMEOUT)",
            "check that both registries answer; replicator check tests them",
        ) from None
    finally:
        if timer is not None:
            timer.cancel()
        _watch.reset(before)


_HOUR = 3600.0
COSTLY_PAUSES = (60.0, 600.0, _HOUR, 4 * _HOUR)
"""Seconds after each attempt that sent a body in vain, over a line that may be paid for."""
COSTLY_ATTEMPTS = len(COSTLY_PAUSES) + 1


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off by class of error: a pure function of the class and the job's history. Times in seconds.

    Attributes:
        first: pause after a first transient failure; it doubles with every further one.
        cap: longest pause after a transient failure.
        horizon: how long after its first failure a job is retried; a failure after that makes it a dead letter.
        not_yet: first pause for a gate that opens later (``ErrorClass.NOT_YET``); it doubles up to ``not_yet_cap``.
        not_yet_cap: longest pause for such a gate.
        not_yet_horizon: how long to wait for such a gate.
        unexpected_retries: how often an exception that is not a ``ReplicatorError``, so a bug, is retried.
        longest_wait: cap on a ``Retry-After`` of the registry.
    """

    first: float = 2.0
    cap: float = 300.0
    horizon: float = 24 * _HOUR
    not_yet: float = 15.0
    not_yet_cap: float = 600.0
    not_yet_horizon: float = 24 * _HOUR
    unexpected_retries: int = 3
    longest_wait: float = _HOUR

    def delay(  # the facts of one failure; all but its class are keywords
        self,
        error_class: ErrorClass,
        *,
        failures: int,
        elapsed: float,
        luck: float,
        retries: int | None = None,
        retry_after: float | None = None,
        expected: bool = True,
        costly: int = 0,
    ) -> float | None:
        """Return the pause before the next attempt, or None when there is none.

        Args:
            error_class: class of the failure.
            failures: number of failures in a row, this one included.
            elapsed: seconds since the first of them.
            luck: random, from 0 to 1: spreads the retries of jobs that failed together over half a pause.
            retries: the job's own bound, if it has one.
            retry_after: seconds that the registry asked for, if it did.
            expected: False for an exception that is not a ``ReplicatorError``.
            costly: number of costly failures, this one included; 0 if it is none. Where a person waits, and so sets
                ``retries``, the first is the last.
        """
        if error_class in (ErrorClass.CREDENTIALS, ErrorClass.PERMANENT):
            return None
        bounds = [retries, None if expected else self.unexpected_retries]
        if any(bound is not None and failures > bound for bound in bounds):
            return None
        if costly and (retries is not None or costly >= COSTLY_ATTEMPTS):
            return None
        slow = error_class is ErrorClass.NOT_YET
        horizon = self.not_yet_horizon if slow else self.horizon
        if elapsed >= horizon:
            return None
        first, cap = (self.not_yet, self.not_yet_cap) if slow else (self.first, self.cap)
        # The exponent is capped because a float overflows at 2 ** 1024.
        pause = min(cap, first * 2.0 ** min(failures - 1, 64)) * (1 - luck / 2)
        if costly:
            first, pause = COSTLY_PAUSES[0], max(COSTLY_PAUSES[0], COSTLY_PAUSES[costly - 1] * (1 - luck / 4))
        if retry_after is not None and math.isfinite(retry_after):
            pause = max(pause, min(retry_after, self.longest_wait))
        # The last attempt comes at the horizon, not a pause before it.
        return min(pause, max(horizon - elapsed, first))

    def waits(self, elapsed: float, attempts: int, retries: int | None) -> bool:
        """Tell whether a job keeps waiting without an attempt.

        Args:
            elapsed: seconds that it has waited.
            attempts: the number of attempts that they count as, for a job whose retries are limited.
            retries: that limit.
        """
        return elapsed < self.horizon and (retries is None or attempts <= retries)
