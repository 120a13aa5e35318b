"""The library's objects for the families."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from replicator.metrics.families import Family


def counter(family: Family, registry: CollectorRegistry) -> Counter:
    """Make a counter; without labels it is 0 from the start."""
    return Counter(family.name, family.help, family.labels, registry=registry)


def histogram(family: Family, registry: CollectorRegistry) -> Histogram:
    """Make a histogram."""
    return Histogram(family.name, family.help, family.labels, registry=registry, buckets=family.buckets)


def gauge(family: Family, registry: CollectorRegistry) -> Gauge:
    """Make a gauge; without labels it is 0 from the start."""
    return Gauge(family.name, family.help, family.labels, registry=registry)
