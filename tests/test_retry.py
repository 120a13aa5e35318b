"""Retries: back-off, ``Retry-After`` and the bounds on both."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ErrorClass, ReplicatorError
from replicator.retry import MAX_PAUSE, backoff, parse_retry_after, retrying

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Passing(ReplicatorError):
    """A transient fault."""

    error_class = ErrorClass.TRANSIENT

    def __init__(self, retry_after: float | None = None) -> None:
        super().__init__("passing")
        self.retry_after = retry_after


class Flaky:
    """An operation that fails with each of ``errors`` in turn, then returns the number of its calls."""

    def __init__(self, *errors: Exception) -> None:
        self.calls = 0
        self._errors = list(errors)

    async def __call__(self) -> int:
        self.calls += 1
        if self._errors:
            raise self._errors.pop(0)
        return self.calls


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds slept, without sleeping."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("replicator.retry.asyncio.sleep", sleep)
    return slept


async def test_a_transient_fault_is_retried(pauses: list[float]) -> None:
    assert await retrying(Flaky(Passing(), Passing()), attempts=3) == 3
    assert 0.1 <= pauses[0] <= 0.2 <= pauses[1] <= 0.4


async def test_attempts_are_bounded(pauses: list[float]) -> None:
    flaky = Flaky(*(Passing() for _ in range(9)))
    with pytest.raises(Passing):
        await retrying(flaky, attempts=3)
    assert flaky.calls == 3
    assert len(pauses) == 2


async def test_without_a_limit_attempts_go_on(pauses: list[float]) -> None:
    assert await retrying(Flaky(*(Passing() for _ in range(50))), attempts=None, base=0.05, cap=1.0) == 51
    assert max(pauses) <= 1.0


@pytest.mark.parametrize("error", [ReplicatorError("refused"), ValueError("a bug")])
async def test_other_errors_are_raised_at_once(error: Exception, pauses: list[float]) -> None:
    flaky = Flaky(error)
    with pytest.raises(type(error)):
        await retrying(flaky, attempts=5)
    assert flaky.calls == 1
    assert pauses == []


async def test_what_is_retryable_is_the_callers_choice(pauses: list[float]) -> None:
    def retryable(error: Exception) -> bool:
        return isinstance(error, OSError)

    assert await retrying(Flaky(OSError()), attempts=2, retryable=retryable) == 2
    with pytest.raises(Passing):
        await retrying(Flaky(Passing()), attempts=2, retryable=retryable)
    assert len(pauses) == 1


async def test_a_retry_after_is_waited_for(pauses: list[float]) -> None:
    assert await retrying(Flaky(Passing(MAX_PAUSE), Passing(0.0)), attempts=3) == 3
    assert pauses[0] == MAX_PAUSE
    assert 0.2 <= pauses[1] <= 0.4


async def test_a_longer_retry_after_is_left_to_the_queue(pauses: list[float]) -> None:
    flaky = Flaky(Passing(MAX_PAUSE + 1))
    with pytest.raises(Passing) as caught:
        await retrying(flaky, attempts=5)
    assert caught.value.retry_after == MAX_PAUSE + 1
    assert flaky.calls == 1
    assert pauses == []


async def test_no_attempt_begins_after_the_deadline(pauses: list[float]) -> None:
    now = asyncio.get_running_loop().time()
    flaky = Flaky(Passing(3.0), Passing(20.0))
    with pytest.raises(Passing) as caught:
        await retrying(flaky, attempts=None, until=now + 10)
    assert caught.value.retry_after == 20.0
    assert (flaky.calls, pauses) == (2, [3.0])


async def test_each_retry_is_reported_before_its_pause(pauses: list[float]) -> None:
    seen: list[tuple[str, int, float, int]] = []

    def on_retry(error: Exception, attempt: int, pause: float) -> None:
        seen.append((str(error), attempt, pause, len(pauses)))

    with pytest.raises(Passing):
        await retrying(Flaky(*(Passing(7.0) for _ in range(3))), attempts=3, on_retry=on_retry)
    assert seen == [("passing", 1, 7.0, 0), ("passing", 2, 7.0, 1)]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("9" * 400, 999_999_999.0),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 00:00:30 -0000", 30.0),
        ("Thursday, 01-Jan-26 00:00:30 GMT", 30.0),
        ("Wed, 31 Dec 2025 23:59:00 GMT", 0.0),
        ("-1", None),
        ("1.5", None),
        ("²", None),
        ("soon", None),
        ("", None),
        ("Thu, 01 Jan 2026 99999999999999999999:00:00 GMT", None),
        ("Thu, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        (None, None),
    ],
)
def test_retry_after_is_read(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


@given(st.text(max_size=60) | st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,9} Jan [0-9]{1,9} [0-9:]{1,30} [-+A-Z0-9]{1,9}"))
def test_no_retry_after_breaks_anything(value: str) -> None:
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or seconds >= 0


@given(st.integers(0, 10**6))
def test_a_date_says_the_same_as_seconds(seconds: int) -> None:
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert parse_retry_after(date, NOW) == parse_retry_after(str(seconds), NOW) == seconds


@given(st.integers(1, 10_000))
def test_waits_grow_to_a_bound(attempt: int) -> None:
    assert 0.1 <= backoff(attempt) <= 10.0
