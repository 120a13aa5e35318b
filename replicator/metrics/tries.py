"""Counts tries of copies as the queue tells them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replicator.copy import Result
from replicator.errors import ErrorClass
from replicator.metrics import families
from replicator.metrics.guard import Guard
from replicator.metrics.labels import Known
from replicator.metrics.making import counter, histogram
from replicator.queue import Lane, TryEnd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import CollectorRegistry

    from replicator.queue import Try

_OUTCOMES = {
    Result.COPIED: "copied",
    Result.UP_TO_DATE: "in_place",
    Result.SKIPPED: "skipped",
    Result.SOURCE_GONE: "skipped",
}
_FAILURES = {TryEnd.RETRIED: "retried", TryEnd.DEAD: "failed"}
_REASONS = {kind: kind.value.replace(" ", "_") for kind in ErrorClass}
_RIGHT = frozenset({Result.COPIED, Result.UP_TO_DATE})
_BLOBS = {"copied": "blobs_copied", "mounted": "blobs_mounted", "present": "blobs_present"}


class TryCounts:
    """A `replicator.queue.TryObserver`.

    Args:
        registry: where the metrics are.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rules = Known()
        self._guard = Guard()
        self._copies = counter(families.COPIES, registry)
        self._lag = histogram(families.COPY_LAG, registry)
        self._duration = histogram(families.COPY_DURATION, registry)
        self._blobs = counter(families.BLOBS, registry)
        self._retries = counter(families.RETRIES, registry)
        self._lost = counter(families.LEASE_LOSSES, registry)
        # From 0 on, so that the first one is a change too.
        for how in _BLOBS:
            self._blobs.labels(how)
        for kind in (ErrorClass.TRANSIENT, ErrorClass.NOT_YET):
            self._retries.labels(_REASONS[kind])

    def know(self, rules: Iterable[str]) -> None:
        """Tell the rules of these keys apart too from now on."""
        self._rules.add(rules)

    def tried(self, attempt: Try) -> None:
        """Count a try by its outcome."""
        with self._guard:
            if attempt.end is TryEnd.DONE:
                outcome = self._went_well(attempt, attempt.outcome or {})
            else:
                outcome = _FAILURES[attempt.end]
            if attempt.end is TryEnd.RETRIED and attempt.error_class is not None:
                self._retries.labels(_REASONS[attempt.error_class]).inc()
            rule = (attempt.payload or {}).get("rule")
            known = self._rules.label(rule if isinstance(rule, str) else None)
            self._copies.labels(outcome, known, attempt.lane.value).inc()
            self._duration.labels(outcome).observe(attempt.seconds)

    def lease_lost(self) -> None:
        """Count a lost lease."""
        with self._guard:
            self._lost.inc()

    def _went_well(self, attempt: Try, outcome: Any) -> str:
        """Count the blobs and the lag of what went well; return how it is called."""
        result = Result(outcome["result"])
        for how, name in _BLOBS.items():
            if outcome[name]:
                self._blobs.labels(how).inc(outcome[name])
        if attempt.lag is not None and attempt.lane is Lane.EVENTS and result in _RIGHT:
            self._lag.observe(attempt.lag)
        return _OUTCOMES[result]
