"""Every metric of the program: its name, type, labels and help text.

Names follow Prometheus's conventions (https://prometheus.io/docs/practices/naming/): base units, and ``_total`` at the
end of counters. docs/metrics.md and the rules and dashboards in deploy/ are made from, or checked against, this list.
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
        name: as it is scraped; without the ``_bucket``, ``_sum`` and ``_count`` of a histogram.
        help: one sentence.
        buckets: upper bounds of a histogram, in its unit.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


BUILD = Family(
    "replicator_build_info",
    "gauge",
    "Always 1; the labels show the version, the Python version, and the role of the process: serve or worker.",
    ("version", "python", "role"),
)
EVENTS = Family(
    "replicator_events_total",
    "counter",
    "Webhook deliveries by result: queued, ignored, malformed, unauthorized, unavailable.",
    ("type", "result"),
)
COPIES = Family(
    "replicator_copies_total",
    "counter",
    "Finished attempts of copies: copied, in_place, skipped (or gone at the source), refused (skipped, because the "
    "destination refuses this kind of artifact), stale (skipped or gone, but the destination still holds an old "
    "image), retried, or failed.",
    ("outcome", "rule", "lane", "destination_host"),
)
COPY_LAG = Family(
    "replicator_copy_lag_seconds",
    "histogram",
    "Time from the push (Harbor's clock, in whole seconds) until the tag at the destination was up to date.",
    ("destination_host",),
    (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400),
)
COPY_DURATION = Family(
    "replicator_copy_duration_seconds",
    "histogram",
    "Duration of one attempt of a copy.",
    ("outcome",),
    (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600),
)
BLOBS = Family(
    "replicator_blobs_total",
    "counter",
    "Blobs of successful copies: copied, mounted from another repository, or already present.",
    ("how",),
)
REQUESTS = Family(
    "replicator_registry_requests_total",
    "counter",
    "Requests for a registry, by HTTP status; error if there was no answer.",
    ("host", "method", "status"),
)
REQUEST_DURATION = Family(
    "replicator_registry_request_duration_seconds",
    "histogram",
    "Time from the start of a request, including its body, to the headers of its answer.",
    ("host", "method"),
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
RECEIVED = Family("replicator_registry_received_bytes_total", "counter", "Bytes read from response bodies.", ("host",))
SENT = Family("replicator_registry_sent_bytes_total", "counter", "Bytes sent in request bodies.", ("host",))
THROTTLED = Family(
    "replicator_registry_throttled_total",
    "counter",
    "Answers of a rate limit: 429 or 503, or many of 502 and 504.",
    ("host",),
)
REFUSALS = Family(
    "replicator_registry_refusals_total",
    "counter",
    "Copies that a registry refused permanently, by result: denied (403, or 401 to a known login), immutable (tag).",
    ("host", "result"),
)
EVENT_REQUESTS = Family(
    "replicator_cloudevents_requests_total",
    "counter",
    "Requests to receivers of CloudEvents: taken (2xx), or failed (another answer, or none).",
    ("receiver", "result"),
)
EVENT_DELAY = Family(
    "replicator_cloudevents_delay_seconds",
    "histogram",
    "Time from the end of a copy or reconcile until a receiver accepted its event.",
    ("receiver",),
    (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300, 3600),
)
WAITING = Family(
    "replicator_registry_waiting",
    "gauge",
    "Requests and transfers that wait for a slot at a registry, or for more urgent ones.",
    ("host", "lane"),
)
UPLOAD_LIMIT = Family(
    "replicator_registry_upload_limit_bytes",
    "gauge",
    "Bytes per second that all processes together may upload now (REPLICATOR_BANDWIDTH); +Inf while there is no limit.",
    ("host",),
)
REQUESTS_LIMIT = Family(
    "replicator_registry_requests_limit",
    "gauge",
    "Requests per second that all processes together may send now (REPLICATOR_REQUESTS_PER_SECOND); +Inf while there "
    "is no limit.",
    ("host",),
)
RETRIES = Family(
    "replicator_copy_retries_total",
    "counter",
    "Failed attempts that are retried, by error class.",
    ("reason",),
)
LEASE_LOSSES = Family(
    "replicator_lease_losses_total", "counter", "Copies that another worker took over while they ran here."
)
QUEUE_UP = Family("replicator_queue_up", "gauge", "1 if the queue's Redis answered during this scrape, else 0.")
QUEUE_REPLICAS = Family(
    "replicator_queue_replicas_awaited",
    "gauge",
    "Number of Redis replicas that must hold an event before it is accepted; 0 if no replica is needed.",
)
QUEUE_JOBS = Family(
    "replicator_queue_jobs",
    "gauge",
    "Unfinished jobs: queued, running, waiting for a retry, or held by a pause of some jobs (paused).",
    ("lane", "state"),
)
QUEUE_OLDEST = Family(
    "replicator_queue_oldest_seconds",
    "gauge",
    "Seconds for which the oldest due job has waited for its start; 0 if there is none.",
    ("lane",),
)
QUEUE_PENDING = Family(
    "replicator_queue_pending_jobs",
    "gauge",
    "Unfinished jobs in all states, by the destination registry.",
    ("lane", "destination_host"),
)
QUEUE_OLDEST_WAIT = Family(
    "replicator_queue_oldest_wait_seconds",
    "gauge",
    "Seconds since the oldest push (Harbor's clock) whose image has not arrived; its copy may be due, running or "
    "waiting. A job without a push counts from the time when it was queued. 0 if there is none.",
    ("lane", "destination_host"),
)
QUEUE_PAUSES = Family(
    "replicator_queue_pauses",
    "gauge",
    "Current pauses (replicator queue pause); 0 if every copy may start.",
)
QUEUE_PAUSED = Family(
    "replicator_queue_lane_paused",
    "gauge",
    "1 if a whole lane is paused, else 0.",
    ("lane",),
)
DEAD_LETTERS = Family(
    "replicator_dead_letters", "gauge", "Dead letters: failed copies that are not retried automatically."
)
SILENT = Family(
    "replicator_registry_silent_seconds",
    "gauge",
    "Seconds since a registry stopped answering; 0 if it answers.",
    ("host",),
)
SILENT_COPIES = Family(
    "replicator_registry_waiting_copies",
    "gauge",
    "Copies that wait for a registry that does not answer.",
    ("host",),
)
RECONCILE_SUCCESS = Family(
    "replicator_reconcile_last_success_timestamp_seconds",
    "gauge",
    "Unix time of the end of the last complete reconcile; 0 before the first.",
)
RECONCILE_IMAGES = Family(
    "replicator_reconcile_images",
    "gauge",
    "Tags that the last reconcile listed, by result.",
    ("result",),
)
RECONCILE_UNLISTED = Family(
    "replicator_reconcile_unlisted_sources",
    "gauge",
    "Repositories, projects and patterns that the last reconcile could not list.",
)
RECONCILE_DRIFT = Family(
    "replicator_reconcile_drift_images",
    "gauge",
    "Images that the last reconcile found out of date without a webhook event.",
)
RECONCILE_STALE = Family(
    "replicator_reconcile_stale_images",
    "gauge",
    "Images that the last reconcile left out although their destination still holds an old image.",
)
RECONCILE_LOST = Family(
    "replicator_reconcile_lost_images",
    "gauge",
    "Images that the last reconcile found missing at their destination although they were in place before.",
)
SWEEP_ENDED = Family(
    "replicator_sweep_last_timestamp_seconds", "gauge", "Unix time of the end of the last sweep; 0 before the first."
)
SWEEP_REPLACED = Family(
    "replicator_sweep_replaced_copies",
    "gauge",
    "Copies that sweeps queued without an event, since the installation began. It rises while webhooks fail.",
)
WEBHOOKS = Family(
    "replicator_harbor_webhooks_enabled",
    "gauge",
    "1 if a Harbor's system settings switch webhooks on, 0 if they switch them off: then it sends no events. Sweeps "
    "read the setting; without sweeps, or with an anonymous login, the metric is missing.",
    ("host",),
)
SECRETS = Family(
    "replicator_harbor_secret_expiry_timestamp_seconds",
    "gauge",
    "Unix time of the first expiry of a robot account's secret for a Harbor. Sweeps read it if the account may list "
    "robot accounts; otherwise, and if the secret never expires, the metric is missing.",
    ("host",),
)
PUBLIC_COPIES = Family(
    "replicator_public_repositories",
    "gauge",
    "Repositories from which anyone can pull images that are private at their source. Each is checked once a day.",
)
RECONCILE_FAILED = Family("replicator_reconcile_failed", "gauge", "1 if the last reconcile failed completely, else 0.")
RECONCILE_OVERDUE = Family(
    "replicator_reconcile_overdue_seconds",
    "gauge",
    "Seconds since a reconcile was due but did not start; 0 if none is due.",
)
LOADED = Family(
    "replicator_rules_loaded_timestamp_seconds",
    "gauge",
    "Unix time at which this process loaded its current rules and logins.",
)
RELOAD_FAILED = Family(
    "replicator_rules_reload_failed",
    "gauge",
    "1 if the current files have errors, so earlier versions stay in use or a rules file is ignored, else 0.",
)
RULES_OUT = Family(
    "replicator_rules_files_out",
    "gauge",
    "Rules files with errors and without an earlier version: their images are not copied.",
)
EVENTS_WAITING = Family(
    "replicator_cloudevents_waiting",
    "gauge",
    "CloudEvents that a receiver has not accepted yet.",
    ("receiver",),
)
EVENTS_OLDEST = Family(
    "replicator_cloudevents_oldest_seconds", "gauge", "Age of the oldest waiting CloudEvent; 0 if none.", ("receiver",)
)
EVENTS_DROPPED = Family(
    "replicator_cloudevents_dropped",
    "gauge",
    "CloudEvents that were dropped since the installation began, because too many waited or one waited too long.",
    ("receiver",),
)
RULES_DIFFER = Family(
    "replicator_rules_differ_seconds",
    "gauge",
    "Seconds since processes on this queue have different rules; 0 if all have the same.",
)
CERTIFICATE = Family(
    "replicator_certificate_expiry_timestamp_seconds",
    "gauge",
    "Unix time at which a certificate expires: the last one of a server (server), the first one in the ca_file of a "
    "registry (ca_file), or the one of the webhook (webhook).",
    ("kind", "host"),
)
STATE_FREE = Family(
    "replicator_state_free_bytes",
    "gauge",
    "Free bytes on the disk of the embedded queue's directory (REPLICATOR_STATE_DIR).",
)
STATE_SIZE = Family(
    "replicator_state_size_bytes", "gauge", "Size of the disk of the embedded queue's directory, in bytes."
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
    REFUSALS,
    WAITING,
    EVENT_REQUESTS,
    EVENT_DELAY,
)
"""Counted by each process for its own work: sum them over processes."""

LOOKED_UP = (
    QUEUE_UP,
    QUEUE_REPLICAS,
    QUEUE_JOBS,
    QUEUE_OLDEST,
    QUEUE_PENDING,
    QUEUE_OLDEST_WAIT,
    QUEUE_PAUSES,
    QUEUE_PAUSED,
    DEAD_LETTERS,
    SILENT,
    SILENT_COPIES,
    PUBLIC_COPIES,
    RECONCILE_SUCCESS,
    RECONCILE_DRIFT,
    RECONCILE_STALE,
    RECONCILE_LOST,
    RECONCILE_IMAGES,
    RECONCILE_UNLISTED,
    RECONCILE_FAILED,
    RECONCILE_OVERDUE,
    SWEEP_ENDED,
    SWEEP_REPLACED,
    WEBHOOKS,
    EVENTS_WAITING,
    EVENTS_OLDEST,
    EVENTS_DROPPED,
    SECRETS,
    RULES_DIFFER,
)
"""Read from Redis at the scrape: the same in all processes of an installation, so take the maximum."""

FAMILIES = (
    BUILD,
    LOADED,
    RELOAD_FAILED,
    RULES_OUT,
    UPLOAD_LIMIT,
    REQUESTS_LIMIT,
    CERTIFICATE,
    STATE_FREE,
    STATE_SIZE,
    *COUNTED,
    *LOOKED_UP,
)


def counter(family: Family, registry: CollectorRegistry) -> Counter:
    """Register a counter; without labels it is 0 from the start."""
    return Counter(family.name, family.help, family.labels, registry=registry)


def histogram(family: Family, registry: CollectorRegistry) -> Histogram:
    """Register a histogram."""
    return Histogram(family.name, family.help, family.labels, registry=registry, buckets=family.buckets)


def gauge(family: Family, registry: CollectorRegistry) -> Gauge:
    """Register a gauge; without labels it is 0 from the start."""
    return Gauge(family.name, family.help, family.labels, registry=registry)
