"""When a failed job is tried again: a pure function of its error's class and its history."""

from __future__ import annotations

import math
from dataclasses import dataclass

from replicator.errors import ErrorClass

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
