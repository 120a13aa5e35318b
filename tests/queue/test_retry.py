"""The retry policy, for all inputs."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ErrorClass
from replicator.queue import RetryPolicy

POLICY = RetryPolicy()
TRYABLE = st.sampled_from([ErrorClass.TRANSIENT, ErrorClass.NOT_YET])
LUCK = st.floats(0, 1)
FAILURES = st.integers(1, 10_000)
SECONDS = st.floats(0, 10 * 24 * 3600)


@given(st.sampled_from([ErrorClass.PERMANENT, ErrorClass.CREDENTIALS]), FAILURES, SECONDS, LUCK)
def test_what_cannot_succeed_is_never_retried(kind: ErrorClass, failures: int, elapsed: float, luck: float) -> None:
    assert POLICY.delay(kind, failures=failures, elapsed=elapsed, luck=luck, retry_after=1) is None


@given(TRYABLE, FAILURES, SECONDS, LUCK, st.none() | st.floats())
def test_a_pause_is_positive_and_bounded(
    kind: ErrorClass, failures: int, elapsed: float, luck: float, retry_after: float | None
) -> None:
    delay = POLICY.delay(kind, failures=failures, elapsed=elapsed, luck=luck, retry_after=retry_after)
    if delay is not None:
        assert 0 < delay <= max(POLICY.cap, POLICY.not_yet_cap, POLICY.longest_wait)


@given(TRYABLE, FAILURES, SECONDS, LUCK)
def test_the_last_attempt_is_exactly_when_the_horizon_has_passed(
    kind: ErrorClass, failures: int, elapsed: float, luck: float
) -> None:
    horizon = POLICY.not_yet_horizon if kind is ErrorClass.NOT_YET else POLICY.horizon
    delay = POLICY.delay(kind, failures=failures, elapsed=elapsed, luck=luck)
    assert (delay is None) == (elapsed >= horizon)


@given(TRYABLE, st.integers(0, 100), FAILURES, LUCK)
def test_a_jobs_own_bound_is_the_number_of_its_retries(
    kind: ErrorClass, retries: int, failures: int, luck: float
) -> None:
    delay = POLICY.delay(kind, failures=failures, elapsed=0, luck=luck, retries=retries)
    assert (delay is None) == (failures > retries)


@given(TRYABLE, st.integers(1, 9999), LUCK)
def test_pauses_grow_with_the_failures(kind: ErrorClass, failures: int, luck: float) -> None:
    now = POLICY.delay(kind, failures=failures, elapsed=0, luck=luck)
    then = POLICY.delay(kind, failures=failures + 1, elapsed=0, luck=luck)
    assert now is not None
    assert then is not None
    assert then >= now


@given(st.floats(0, POLICY.longest_wait), FAILURES, LUCK)
def test_retry_after_is_waited_for(retry_after: float, failures: int, luck: float) -> None:
    delay = POLICY.delay(ErrorClass.TRANSIENT, failures=failures, elapsed=0, luck=luck, retry_after=retry_after)
    assert delay is not None
    assert delay >= retry_after


def test_luck_spreads_the_pauses_over_half_their_length() -> None:
    delays = [POLICY.delay(ErrorClass.TRANSIENT, failures=5, elapsed=0, luck=luck / 100) or 0 for luck in range(101)]
    assert math.isclose(max(delays), 2 * min(delays))
    assert len(set(delays)) == 101


def test_a_gate_is_waited_for_more_slowly_than_a_fault() -> None:
    fault = POLICY.delay(ErrorClass.TRANSIENT, failures=1, elapsed=0, luck=0)
    gate = POLICY.delay(ErrorClass.NOT_YET, failures=1, elapsed=0, luck=0)
    assert fault is not None
    assert gate is not None
    assert gate > 5 * fault


def test_a_nights_outage_is_outlasted_and_its_end_noticed_within_minutes() -> None:
    elapsed, failures = 0.0, 1
    while elapsed < 14 * 3600:
        delay = POLICY.delay(ErrorClass.TRANSIENT, failures=failures, elapsed=elapsed, luck=0)
        assert delay is not None
        assert delay <= 300
        elapsed, failures = elapsed + delay, failures + 1


def test_an_unexpected_exception_has_a_few_retries() -> None:
    delays = [
        POLICY.delay(ErrorClass.TRANSIENT, failures=failures, elapsed=0, luck=0, expected=False)
        for failures in range(1, 6)
    ]
    assert [delay is not None for delay in delays] == [True, True, True, False, False]
