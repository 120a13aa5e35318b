"""Counts what comes to the webhook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.events import TYPES
from replicator.metrics import families
from replicator.metrics.guard import Guard
from replicator.metrics.labels import Known
from replicator.metrics.making import counter

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from replicator.events import Fate


class DeliveryCounts:
    """A `replicator.app.DeliveryObserver`.

    Args:
        registry: where the metrics are.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._types = Known(TYPES)
        self._guard = Guard()
        self._events = counter(families.EVENTS, registry)

    def delivered(self, kind: str | None, fate: Fate) -> None:
        """Count a delivery; one whose type was not read is `other`."""
        with self._guard:
            self._events.labels(self._types.label(kind), fate.value).inc()
