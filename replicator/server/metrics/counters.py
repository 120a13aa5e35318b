"""The counters of this process: attempts of copies, registry requests and webhook deliveries.

Each class is handed to the part that it counts, which knows nothing of Prometheus. A bug in counting must not break
the work that is counted, so no method raises.
"""

from __future__ import annotations

import time
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog

from replicator.copy import Result
from replicator.errors import ErrorClass
from replicator.harbor.events import PUSH, TYPES, Fate
from replicator.queue import AttemptEnd, Lane
from replicator.registry import RequestObserver
from replicator.registry.errors import Denied, TagImmutable
from replicator.server.metrics import families
from replicator.server.metrics.families import counter, gauge, histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from prometheus_client import CollectorRegistry

    from replicator.queue import Attempt

log = structlog.get_logger("replicator.metrics")

_QUIET_SECONDS = 60.0
OTHER = "other"
"""The label of every value that is not a known one."""
MOST_VALUES = 500
"""Values of one label (hosts, rules) with series of their own; later ones in the rules file count as `OTHER`."""
_MOST_CHARACTERS = 200


class SwallowErrors:
    """A context manager that suppresses every exception and logs at most one a minute."""

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


class BoundedLabels:
    """The known values of a label.

    Prometheus keeps a series for every value it ever saw, so anything that comes from outside (a queued job, a
    webhook, an old rules file) is `OTHER` unless it was added here.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._labels: dict[str, str] = {}
        self.add(values)

    def add(self, values: Iterable[str]) -> None:
        """Add values until there are `MOST_VALUES`. None is ever removed: its series exists already."""
        for value in values:
            if len(self._labels) >= MOST_VALUES:
                return
            self._labels.setdefault(value, _printable(value))

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all known values."""
        return tuple(self._labels.values())

    def items(self) -> tuple[tuple[str, str], ...]:
        """Return all known values with their labels."""
        return tuple(self._labels.items())

    def label(self, value: str | None) -> str:
        """Return the label of a value; `OTHER` for None and for an unknown one."""
        return OTHER if value is None else self._labels.get(value, OTHER)


def _printable(value: str) -> str:
    # A name in JSON may hold a lone surrogate, which would make every scrape fail to encode.
    return value[:_MOST_CHARACTERS].encode("utf-8", "replace").decode("utf-8")


_OUTCOMES = {
    Result.COPIED: "copied",
    Result.UP_TO_DATE: "in_place",
    Result.SKIPPED: "skipped",
    Result.SOURCE_GONE: "skipped",
}
_REFUSED, _STALE = "refused", "stale"
_FAILURES = {AttemptEnd.RETRIED: "retried", AttemptEnd.DEAD: "failed"}
_REASONS = {kind: kind.value.replace(" ", "_") for kind in ErrorClass}
_ARRIVED = frozenset({Result.COPIED, Result.UP_TO_DATE})
_BLOBS = {"copied": "blobs_copied", "mounted": "blobs_mounted", "present": "blobs_present"}


class AttemptCounts:
    """Counts attempts of copies. A `replicator.queue.AttemptObserver`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rules = BoundedLabels()
        self._destinations = BoundedLabels()
        self._swallow_errors = SwallowErrors()
        self._copies = counter(families.COPIES, registry)
        self._lag = histogram(families.COPY_LAG, registry)
        self._duration = histogram(families.COPY_DURATION, registry)
        self._blobs = counter(families.BLOBS, registry)
        self._retries = counter(families.RETRIES, registry)
        self._lost = counter(families.LEASE_LOSSES, registry)
        # Start at 0: increase() doesn't see the first event of a series that begins at 1.
        for how in _BLOBS:
            self._blobs.labels(how)
        for kind in (ErrorClass.TRANSIENT, ErrorClass.NOT_YET):
            self._retries.labels(_REASONS[kind])
        for outcome in {*_OUTCOMES.values(), *_FAILURES.values(), _REFUSED, _STALE}:
            self._duration.labels(outcome)

    def add_rules(self, destinations: Mapping[str, Iterable[str]]) -> None:
        """Give these rules, and the hosts that they copy to, series of their own from now on.

        Args:
            destinations: the hosts of each rule, by its key.
        """
        self._rules.add(destinations)
        self._destinations.add(sorted({host for hosts in destinations.values() for host in hosts}))
        # Start at 0, as above. Rules beyond the known ones share a series.
        failed = {
            (self._rules.label(key), self._destinations.label(host))
            for key, hosts in destinations.items()
            for host in hosts
        }
        for rule, host in sorted({*failed, (OTHER, OTHER)}):
            for lane in Lane:
                self._copies.labels(_FAILURES[AttemptEnd.DEAD], rule, lane.value, host)
        for host in (*self._destinations.labels, OTHER):
            self._lag.labels(host)

    def attempt_ended(self, attempt: Attempt) -> None:
        """Count an attempt by its outcome."""
        with self._swallow_errors:
            if attempt.end is AttemptEnd.DONE:
                outcome = self._succeeded(attempt, attempt.outcome or {})
            else:
                outcome = _FAILURES[attempt.end]
            if attempt.end is AttemptEnd.RETRIED and attempt.error_class is not None:
                self._retries.labels(_REASONS[attempt.error_class]).inc()
            rule = (attempt.payload or {}).get("rule")
            label = self._rules.label(rule if isinstance(rule, str) else None)
            self._copies.labels(outcome, label, attempt.lane.value, self._host(attempt)).inc()
            self._duration.labels(outcome).observe(attempt.seconds)

    def lease_lost(self) -> None:
        """Count a lost lease."""
        with self._swallow_errors:
            self._lost.inc()

    def _host(self, attempt: Attempt) -> str:
        # The id of a job is its destination.
        return self._destinations.label(attempt.id.partition("/")[0])

    def _succeeded(self, attempt: Attempt, outcome: Any) -> str:
        """Count the blobs and the lag of a successful attempt; return the label of its outcome."""
        result = Result(outcome["result"])
        for how, name in _BLOBS.items():
            if outcome[name]:
                self._blobs.labels(how).inc(outcome[name])
        # No push waits for a backfill's copies, so their age says nothing about lag.
        if attempt.lag is not None and attempt.lane is Lane.EVENTS and result in _ARRIVED:
            self._lag.labels(self._host(attempt)).observe(attempt.lag)
        if outcome.get("still_holds"):
            return _STALE
        return _REFUSED if outcome.get("refused") else _OUTCOMES[result]


_STATUSES = frozenset(int(status) for status in HTTPStatus)
_NO_ANSWER = "error"
_METHODS = ("GET", "HEAD", "PATCH", "POST", "PUT")
_REFUSALS = (Denied.reason, TagImmutable.reason)


class RequestCounts:
    """Counts requests to registries. A `replicator.registry.RequestObserver`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.hosts = BoundedLabels()
        self._swallow_errors = SwallowErrors()
        self._requests = counter(families.REQUESTS, registry)
        self._duration = histogram(families.REQUEST_DURATION, registry)
        self._received = counter(families.RECEIVED, registry)
        self._sent = counter(families.SENT, registry)
        self._throttled = counter(families.THROTTLED, registry)
        self._refusals = counter(families.REFUSALS, registry)
        self._waiting = gauge(families.WAITING, registry)
        self._count_waiting: Callable[[str, Lane], int] = lambda *_: 0
        self.observer = RequestObserver(self.answered, self.received, self.sent, self.throttled, refused=self.refused)

    def add_hosts(self, hosts: Iterable[str]) -> None:
        """Give these hosts series of their own from now on."""
        self.hosts.add(hosts)
        for host in (*self.hosts.labels, OTHER):
            # Start at 0, as above.
            self._throttled.labels(host)
            for reason in _REFUSALS:
                self._refusals.labels(host, reason)
            for method in _METHODS:
                self._requests.labels(host, method, str(HTTPStatus.FORBIDDEN.value))
        self._follow_waiting()

    def watch_waiting(self, count: Callable[[str, Lane], int]) -> None:
        """Expose the number of requests and bodies that wait for places.

        Args:
            count: returns the number for a host and a lane.
        """
        self._count_waiting = count
        self._follow_waiting()

    def _follow_waiting(self) -> None:
        for host in self.hosts.labels:
            for lane in Lane:
                self._waiting.labels(host, lane.value).set_function(partial(self._count_waiting, host, lane))

    def answered(self, registry: str, method: str, status: int | None, seconds: float) -> None:
        """Count a request, and its duration if there was an answer."""
        with self._swallow_errors:
            host = self.hosts.label(registry)
            self._requests.labels(host, method, _status_label(status)).inc()
            if status is not None:
                self._duration.labels(host, method).observe(seconds)

    def received(self, registry: str, size: int) -> None:
        """Count bytes of response bodies."""
        with self._swallow_errors:
            self._received.labels(self.hosts.label(registry)).inc(size)

    def sent(self, registry: str, size: int) -> None:
        """Count bytes of request bodies."""
        with self._swallow_errors:
            self._sent.labels(self.hosts.label(registry)).inc(size)

    def throttled(self, registry: str) -> None:
        """Count an answer that asks to slow down."""
        with self._swallow_errors:
            self._throttled.labels(self.hosts.label(registry)).inc()

    def refused(self, registry: str, reason: str) -> None:
        """Count a copy that a registry refused for good."""
        with self._swallow_errors:
            self._refusals.labels(self.hosts.label(registry), reason).inc()


def _status_label(status: int | None) -> str:
    """Return a status as a label; made-up codes share one, so that a server can't create series."""
    if status is None:
        return _NO_ANSWER
    return str(status) if status in _STATUSES else OTHER


class DeliveryCounts:
    """Counts webhook deliveries."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._types = BoundedLabels(TYPES)
        self._swallow_errors = SwallowErrors()
        self._events = counter(families.EVENTS, registry)
        # Start at 0, as above: refused deliveries come in bursts, the first within one scrape.
        for kind in (PUSH, OTHER):
            for fate in Fate:
                self._events.labels(kind, fate.value)

    def delivered(self, kind: str | None, fate: Fate) -> None:
        """Count a delivery.

        Args:
            kind: the event's type; None where the body was not read, which counts as `OTHER`.
            fate: how the delivery ended.
        """
        with self._swallow_errors:
            self._events.labels(self._types.label(kind), fate.value).inc()


class SendCounts:
    """Counts requests to receivers of CloudEvents."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._swallow_errors = SwallowErrors()
        self._requests = counter(families.EVENT_REQUESTS, registry)
        self._delay = histogram(families.EVENT_DELAY, registry)

    def add_receivers(self, hosts: Iterable[str]) -> None:
        """Give these receivers series of their own."""
        for host in hosts:
            # Start at 0, as above.
            self._delay.labels(host)
            for result in ("taken", "failed"):
                self._requests.labels(host, result)

    def sent(self, host: str, taken: bool, age: float) -> None:
        """Count a request.

        Args:
            host: of the receiver.
            taken: whether it took the event.
            age: of the event, in seconds.
        """
        with self._swallow_errors:
            self._requests.labels(host, "taken" if taken else "failed").inc()
            if taken:
                self._delay.labels(host).observe(max(0.0, age))
