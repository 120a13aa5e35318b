"""Counts requests to registries."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from replicator.metrics import families
from replicator.metrics.guard import Guard
from replicator.metrics.labels import OTHER, Known
from replicator.metrics.making import counter, histogram

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import CollectorRegistry

_STATUSES = frozenset(int(status) for status in HTTPStatus)
_NO_ANSWER = "error"


class RequestCounts:
    """A `replicator.registry.RequestObserver`.

    Args:
        registry: where the metrics are.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._hosts = Known()
        self._guard = Guard()
        self._requests = counter(families.REQUESTS, registry)
        self._duration = histogram(families.REQUEST_DURATION, registry)
        self._received = counter(families.RECEIVED, registry)
        self._sent = counter(families.SENT, registry)
        self._throttled = counter(families.THROTTLED, registry)

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
