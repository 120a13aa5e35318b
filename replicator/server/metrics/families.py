"""Every metric of the program's own: its name, labels and meaning, in one place.

Names follow Prometheus's conventions: base units, ``_total`` behind what only grows.

The library's objects for the families.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Attributes:
        name: as it is scraped; a histogram's without ``_bucket``, ``_sum`` and ``_count``.
        kind: Prometheus's type.
        help: what it tells.
        labels: by what it is split.
        buckets: upper bounds of a histogram, in its unit.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


BUILD = Family(
    "replicator_build_info", "gauge", "Always 1; which version runs, on which Python.", ("version", "python")
)
EVENTS = Family(
    "replicator_events_total",
    "counter",
    "Deliveries to the webhook, by what became of them: queued, ignored, malformed, unauthorized, unavailable.",
    ("type", "result"),
)
COPIES = Family(
    "replicator_copies_total",
    "counter",
    "Tries of copies that ended: copied, in_place, skipped (or gone at the source), retried, or failed for good.",
    ("outcome", "rule", "lane"),
)
COPY_LAG = Family(
    "replicator_copy_lag_seconds",
    "histogram",
    "From a push at Harbor, by Harbor's clock and its whole seconds, until the destination's tag was right.",
    buckets=(1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400),
)
COPY_DURATION = Family(
    "replicator_copy_duration_seconds",
    "histogram",
    "How long one try of one copy took.",
    ("outcome",),
    (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600),
)
BLOBS = Family(
    "replicator_blobs_total",
    "counter",
    "Blobs of copies that went well: copied, mounted from another repository, or present already.",
    ("how",),
)
REQUESTS = Family(
    "replicator_registry_requests_total",
    "counter",
    "Requests in a registry's service, by the HTTP status of the answer, or error without one.",
    ("host", "method", "status"),
)
REQUEST_DURATION = Family(
    "replicator_registry_request_duration_seconds",
    "histogram",
    "From the start of a request, its body included, to the head of its answer.",
    ("host", "method"),
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
RECEIVED = Family(
    "replicator_registry_received_bytes_total", "counter", "Bytes of answers' bodies that were read.", ("host",)
)
SENT = Family("replicator_registry_sent_bytes_total", "counter", "Bytes of requests' bodies that were sent.", ("host",))
THROTTLED = Family(
    "replicator_registry_throttled_total",
    "counter",
    "Answers that asked for fewer requests: 429, or 503 with a Retry-After.",
    ("host",),
)
RETRIES = Family(
    "replicator_copy_retries_total",
    "counter",
    "Failed tries that are followed by another, by the class of the error.",
    ("reason",),
)
LEASE_LOSSES = Family(
    "replicator_lease_losses_total", "counter", "Copies that became another worker's while they ran here."
)
QUEUE_UP = Family("replicator_queue_up", "gauge", "Whether the queue's Redis answered at this scrape: 1, else 0.")
QUEUE_JOBS = Family(
    "replicator_queue_jobs",
    "gauge",
    "Jobs that are not done: queued, running, or waiting for a retry.",
    ("lane", "state"),
)
QUEUE_OLDEST = Family(
    "replicator_queue_oldest_seconds",
    "gauge",
    "For how long the oldest job has been due and not begun; 0 without one.",
    ("lane",),
)
DEAD_LETTERS = Family("replicator_dead_letters", "gauge", "Copies that were given up and not yet looked after.")
RECONCILE_SUCCESS = Family(
    "replicator_reconcile_last_success_timestamp_seconds",
    "gauge",
    "When the last reconcile ended that came to its end, in seconds since 1970; 0 before any.",
)
RECONCILE_DRIFT = Family(
    "replicator_reconcile_drift_images", "gauge", "What the last reconcile found to differ and no event told of."
)
RECONCILE_FAILED = Family(
    "replicator_reconcile_failed", "gauge", "Whether the last reconcile failed as a whole: 1, else 0."
)
RECONCILE_OVERDUE = Family(
    "replicator_reconcile_overdue_seconds",
    "gauge",
    "For how long a reconcile has been due that nobody has begun; 0 when none is due.",
)
LOADED = Family(
    "replicator_rules_loaded_timestamp_seconds",
    "gauge",
    "When this process read the rules and logins that it works by, in seconds since 1970.",
)
RELOAD_FAILED = Family(
    "replicator_rules_reload_failed",
    "gauge",
    "Whether the files say something newer that can't be used: 1, else 0.",
)

COUNTED = (
    EVENTS,
    COPIES,
    COPY_LAG,
    COPY_DURATION,
    BLOBS,
    RETRIES,
    LEASE_LOSSES,
    REQUESTS,
    REQUEST_DURATION,
    RECEIVED,
    SENT,
    THROTTLED,
)
"""What this process counts of its own work."""

LOOKED_UP = (
    QUEUE_UP,
    QUEUE_JOBS,
    QUEUE_OLDEST,
    DEAD_LETTERS,
    RECONCILE_SUCCESS,
    RECONCILE_DRIFT,
    RECONCILE_FAILED,
    RECONCILE_OVERDUE,
)
"""What is read from the queue's Redis at the scrape: all processes of an installation tell the same."""

FAMILIES = (BUILD, LOADED, RELOAD_FAILED, *COUNTED, *LOOKED_UP)
"""All of them."""


def counter(family: Family, registry: CollectorRegistry) -> Counter:
    """Make a counter; without labels it is 0 from the start."""
    return Counter(family.name, family.help, family.labels, registry=registry)


def histogram(family: Family, registry: CollectorRegistry) -> Histogram:
    """Make a histogram."""
    return Histogram(family.name, family.help, family.labels, registry=registry, buckets=family.buckets)


def gauge(family: Family, registry: CollectorRegistry) -> Gauge:
    """Make a gauge; without labels it is 0 from the start."""
    return Gauge(family.name, family.help, family.labels, registry=registry)
