"""Retries: exponential back-off with jitter, ``Retry-After``, and a bound on waiting."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

from replicator.errors import ErrorClass, ReplicatorError
from replicator.standstill import waiting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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
    """Return the seconds until the next look at the key for which a failure waits; None if it waits for none."""
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
