"""Counts tries of copies as the queue tells them.

A fault in counting must not become one of what is counted.

Values of labels, bounded: whatever names go by, there are never more series than an installation is made for.

Counts requests to registries.

Counts what comes to the webhook.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog

from replicator.copy import Result
from replicator.errors import ErrorClass
from replicator.harbor.events import TYPES
from replicator.queue import AttemptEnd, Lane
from replicator.registry import RequestObserver
from replicator.server.metrics import families
from replicator.server.metrics.families import counter, histogram

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from prometheus_client import CollectorRegistry

    from replicator.harbor.events import Fate
    from replicator.queue import Attempt

log = structlog.get_logger("replicator.metrics")

_QUIET_SECONDS = 60.0


class SwallowErrors:
    """A context that keeps every exception to itself, and logs one a minute."""

    def __init__(self) -> None:
        self._quiet_until = float("-inf")

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_SECONDS
            log.error("metrics broken", exc_info=error)
        return True


OTHER = "other"
"""What every value is that is not among the known ones."""

MOST_VALUES = 500
"""Values that one label tells apart, of hosts and of rules; what comes after them in the rules file is `OTHER`."""

_MOST_CHARACTERS = 200


class BoundedLabels:
    """The values that a label may have.

    Args:
        values: the values; those behind the first `MOST_VALUES` are left out.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._shown: dict[str, str] = {}
        self.add(values)

    def add(self, values: Iterable[str]) -> None:
        """Know these too, as long as there is room."""
        for value in values:
            if len(self._shown) >= MOST_VALUES:
                return
            self._shown.setdefault(value, _shown(value))

    @property
    def labels(self) -> tuple[str, ...]:
        """How the known values are written."""
        return tuple(self._shown.values())

    def label(self, value: str | None) -> str:
        """Return how a value is written as a label; `OTHER` for None and for what is not known."""
        return OTHER if value is None else self._shown.get(value, OTHER)


def _shown(value: str) -> str:
    """Short, and a text that can be encoded."""
    return value[:_MOST_CHARACTERS].encode("utf-8", "replace").decode("utf-8")


_OUTCOMES = {
    Result.COPIED: "copied",
    Result.UP_TO_DATE: "in_place",
    Result.SKIPPED: "skipped",
    Result.SOURCE_GONE: "skipped",
}
_FAILURES = {AttemptEnd.RETRIED: "retried", AttemptEnd.DEAD: "failed"}
_REASONS = {kind: kind.value.replace(" ", "_") for kind in ErrorClass}
_RIGHT = frozenset({Result.COPIED, Result.UP_TO_DATE})
_BLOBS = {"copied": "blobs_copied", "mounted": "blobs_mounted", "present": "blobs_present"}


class TryCounts:
    """A `replicator.queue.TryObserver`.

    Args:
        registry: where the metrics are.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rules = BoundedLabels()
        self._guard = SwallowErrors()
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

    def attempt_ended(self, attempt: Attempt) -> None:
        """Count a try by its outcome."""
        with self._guard:
            if attempt.end is AttemptEnd.DONE:
                outcome = self._went_well(attempt, attempt.outcome or {})
            else:
                outcome = _FAILURES[attempt.end]
            if attempt.end is AttemptEnd.RETRIED and attempt.error_class is not None:
                self._retries.labels(_REASONS[attempt.error_class]).inc()
            rule = (attempt.payload or {}).get("rule")
            known = self._rules.label(rule if isinstance(rule, str) else None)
            self._copies.labels(outcome, known, attempt.lane.value).inc()
            self._duration.labels(outcome).observe(attempt.seconds)

    def lease_lost(self) -> None:
        """Count a lost lease."""
        with self._guard:
            self._lost.inc()

    def _went_well(self, attempt: Attempt, outcome: Any) -> str:
        """Count the blobs and the lag of what went well; return how it is called."""
        result = Result(outcome["result"])
        for how, name in _BLOBS.items():
            if outcome[name]:
                self._blobs.labels(how).inc(outcome[name])
        if attempt.lag is not None and attempt.lane is Lane.EVENTS and result in _RIGHT:
            self._lag.observe(attempt.lag)
        return _OUTCOMES[result]


_STATUSES = frozenset(int(status) for status in HTTPStatus)
_NO_ANSWER = "error"


class RequestCounts:
    """Counts of requests; ``observer`` is how the registries report them.

    Args:
        registry: where the metrics are.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._hosts = BoundedLabels()
        self._guard = SwallowErrors()
        self._requests = counter(families.REQUESTS, registry)
        self._duration = histogram(families.REQUEST_DURATION, registry)
        self._received = counter(families.RECEIVED, registry)
        self._sent = counter(families.SENT, registry)
        self._throttled = counter(families.THROTTLED, registry)
        self.observer = RequestObserver(self.answered, self.received, self.sent, self.throttled)

    def know(self, hosts: Iterable[str]) -> None:
        """Tell these hosts apart too from now on."""
        self._hosts.add(hosts)
        for host in self._hosts.labels:
            # From 0 on, so that the first one is a change too.
            self._throttled.labels(host)

    def answered(self, registry: str, method: str, status: int | None, seconds: float) -> None:
        """Count a request; one without an answer has no duration."""
        with self._guard:
            host = self._hosts.label(registry)
            self._requests.labels(host, method, _status(status)).inc()
            if status is not None:
                self._duration.labels(host, method).observe(seconds)

    def received(self, registry: str, size: int) -> None:
        """Count bytes of an answer's body."""
        with self._guard:
            self._received.labels(self._hosts.label(registry)).inc(size)

    def sent(self, registry: str, size: int) -> None:
        """Count bytes of a request's body."""
        with self._guard:
            self._sent.labels(self._hosts.label(registry)).inc(size)

    def throttled(self, registry: str) -> None:
        """Count an answer that asks for fewer requests."""
        with self._guard:
            self._throttled.labels(self._hosts.label(registry)).inc()


def _status(status: int | None) -> str:
    """Write a status; whoever answers 799 makes no series of its own."""
    if status is None:
        return _NO_ANSWER
    return str(status) if status in _STATUSES else OTHER


class DeliveryCounts:
    """A `replicator.server.app.DeliveryObserver`.

    Args:
        registry: where the metrics are.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._types = BoundedLabels(TYPES)
        self._guard = SwallowErrors()
        self._events = counter(families.EVENTS, registry)

    def delivered(self, kind: str | None, fate: Fate) -> None:
        """Count a delivery; one whose type was not read is `other`."""
        with self._guard:
            self._events.labels(self._types.label(kind), fate.value).inc()
