"""All metrics of one process in the text format of Prometheus: its own counters, and gauges looked up in the queue."""

from __future__ import annotations

import asyncio
import math
import platform
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.openmetrics import exposition as open_metrics
from prometheus_client.registry import Collector

from replicator import __version__
from replicator.queue import (
    Differing,
    Findings,
    Lane,
    ReconcileState,
    list_pauses,
    list_public_copies,
    list_waits,
    processes,
)
from replicator.queue.destinations import PendingJobs, pending_by_host
from replicator.queue.leaders import SweepState
from replicator.queue.outbox import look_into
from replicator.queue.reconciles import RESULTS
from replicator.queue.state_directory import room
from replicator.reference import Reference
from replicator.replication.reconciler import overdue
from replicator.server.metrics import families
from replicator.server.metrics.counters import (
    OTHER,
    AttemptCounts,
    BoundedLabels,
    DeliveryCounts,
    RequestCounts,
    SendCounts,
)
from replicator.server.metrics.expiry import Expiries
from replicator.server.metrics.families import gauge
from replicator.timetable import UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from replicator.queue import Counts, KeySilence, LoadedConfig, Pause, Queue
    from replicator.queue.outbox import OutboxState
    from replicator.reference import Repository
    from replicator.rules import Rules
    from replicator.schedule import Schedule
    from replicator.server.metrics.families import Family
    from replicator.timetable import Timetable

log = structlog.get_logger("replicator.metrics")

_LOOKUP_SECONDS = 4.0
"""For all commands of one scrape; Prometheus's default timeout is ten seconds."""
_OPEN_METRICS = "application/openmetrics-text"


class Metrics:
    """The metrics of this process.

    Attributes:
        deliveries: counts webhook deliveries.
        attempts: counts attempts of copies.
        requests: counts requests to registries.
        sends: counts requests to receivers of CloudEvents.
    """

    def __init__(self, rules: Rules, queue: Queue, schedule: Schedule | None) -> None:
        """Register all metrics.

        Args:
            rules: whose hosts and keys become labels, see `add_labels`.
            queue: looked at on every scrape.
            schedule: when a reconcile is due; None for never.
        """
        # A _created series for every counter would double the output, and hardly anyone reads them.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it without types
        self._registry = CollectorRegistry()
        self._build = gauge(families.BUILD, self._registry)
        self.deliveries = DeliveryCounts(self._registry)
        self.attempts = AttemptCounts(self._registry)
        self.requests = RequestCounts(self._registry)
        self.sends = SendCounts(self._registry)
        self._lookups = QueueLookups(queue, schedule)
        self._expiries = Expiries(self.requests.hosts)
        self.requests.observer = replace(self.requests.observer, certified=self._expiries.certified)
        self.add_labels(rules)
        self._registry.register(self._expiries)
        self._registry.register(self._lookups)
        self._limits = RateLimits(self.requests.hosts)
        self._registry.register(self._limits)
        self._loaded = gauge(families.LOADED, self._registry)
        self._reload_failed = gauge(families.RELOAD_FAILED, self._registry)
        self._rules_out = gauge(families.RULES_OUT, self._registry)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def add_labels(self, rules: Rules) -> None:
        """Give the hosts and keys of these rules series of their own; earlier ones keep theirs."""
        destinations = rules.destination_hosts()
        self.attempts.add_rules(destinations)
        self._expiries.use_ca_files(rules.ca_files())
        self.requests.add_hosts(sorted(rules.hosts))
        self._lookups.add_hosts(sorted(rules.hosts), sorted({host for ends in destinations.values() for host in ends}))

    def watch_process(self, role: str, loaded: Callable[[], LoadedConfig], certificate: Path | None = None) -> None:
        """Expose what this process is, when its configuration was loaded, and whether files were refused or left out.

        Args:
            role: ``serve`` or ``worker``.
            loaded: returns the configuration in force.
            certificate: the file with the webhook's own; None without one.
        """
        self._expiries.webhook = certificate
        self._build.labels(__version__, platform.python_version(), role).set(1)
        self._loaded.set_function(lambda: loaded().loaded)
        self._reload_failed.set_function(lambda: loaded().problem is not None)
        self._rules_out.set_function(lambda: len(loaded().out))

    def watch_outbox(self, hosts: Mapping[str, str]) -> None:
        """Expose what waits for receivers of CloudEvents: their hosts by their keys."""
        self.sends.add_receivers(hosts.values())
        self._lookups.receivers = hosts

    def watch_disk(self, directory: Path) -> None:
        """Expose the room on the disk of the embedded queue's directory."""
        gauge(families.STATE_FREE, self._registry).set_function(lambda: room(directory)[0])
        gauge(families.STATE_SIZE, self._registry).set_function(lambda: room(directory)[1])

    def watch_limits(self, timetable: Callable[[str, str], Timetable]) -> None:
        """Expose the limits in force of every host of the rules.

        Args:
            timetable: returns the limit of ``upload`` or ``requests`` of a host.
        """
        self._limits.timetable = timetable

    async def expose(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics and their content type, within a few seconds whether Redis answers or not.

        Args:
            accept: the request's ``Accept`` header; it may ask for OpenMetrics.
        """
        await self._lookups.refresh()
        # The library's own choice fails on an OpenMetrics version that it does not know.
        if _OPEN_METRICS in accept:
            text = open_metrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]  # it comes without types
            return text, open_metrics.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4


class RateLimits(Collector):
    """Gauges of the limits in force; a host that is never limited has none."""

    def __init__(self, hosts: BoundedLabels) -> None:
        self._hosts = hosts
        self.timetable: Callable[[str, str], Timetable] = lambda *_: UNLIMITED

    def describe(self) -> Iterable[Metric]:
        """Name the metrics, so that the library detects duplicates without collecting."""
        return [_gauge(families.UPLOAD_LIMIT), _gauge(families.REQUESTS_LIMIT)]

    def collect(self) -> Iterable[Metric]:
        """Yield the limits at this moment."""
        now = datetime.now(UTC)
        for kind, family in (("upload", families.UPLOAD_LIMIT), ("requests", families.REQUESTS_LIMIT)):
            limits = _gauge(family)
            for host, label in self._hosts.items():
                if not (timetable := self.timetable(kind, host)).is_unlimited:
                    rate = timetable.at(now).rate
                    limits.add_metric([label], math.inf if rate is None else rate)
            yield limits


@dataclass(frozen=True, slots=True)
class _QueueState:
    counts: Counts
    oldest: Mapping[Lane, float]
    totals: Mapping[Lane, int]
    pending: Mapping[Lane, Sequence[PendingJobs]]
    reconcile: ReconcileState
    sweep: SweepState
    silent: Sequence[KeySilence]
    differing: Differing | None
    pauses: Sequence[Pause]
    public: Collection[Repository]
    outboxes: Sequence[OutboxState]


class QueueLookups(Collector):
    """Gauges read from Redis, in a few commands whose number does not depend on the queue's length.

    The library collects synchronously, so `refresh` reads first and `collect` serves what it found. While Redis is
    down only `replicator_queue_up` is served: a stale number would look like a live one.
    """

    def __init__(self, queue: Queue, schedule: Schedule | None) -> None:
        self._queue = queue
        self._schedule = schedule
        self._lock = asyncio.Lock()
        self._began = float("-inf")
        self._state: _QueueState | None = None
        self._hosts, self._destinations = BoundedLabels(), BoundedLabels()
        self.receivers: Mapping[str, str] = {}

    def add_hosts(self, hosts: Iterable[str], destinations: Iterable[str]) -> None:
        """Give these registries series of their own from now on; ``destinations`` are those that are copied to."""
        self._hosts.add(hosts)
        self._destinations.add(destinations)

    async def refresh(self) -> None:
        """Read the queue, in bounded time; concurrent scrapes share one read. Raises nothing."""
        clock = asyncio.get_running_loop().time
        arrived = clock()
        async with self._lock:
            # A read that began after this scrape arrived is fresh enough for it.
            if self._began >= arrived:
                return
            self._began = clock()
            try:
                async with asyncio.timeout(_LOOKUP_SECONDS):
                    self._state = await self._read()
            except Exception as error:  # noqa: BLE001 - the rest of the scrape must be served after any error
                log.debug("queue not looked up", error=error)
                self._state = None

    async def _read(self) -> _QueueState:
        queue = self._queue
        counts, oldest = await queue.counts(), await queue.oldest()
        totals, pending = await pending_by_host(queue, [host for host, _ in self._destinations.items()])
        reconcile, sweep = await ReconcileState.read(queue), await SweepState.read(queue)
        silent, pauses = await list_waits(queue), await list_pauses(queue)
        differing = Differing.among(await processes(queue))
        public = {Reference.parse(copy.destination).repository for copy in await list_public_copies(queue)}
        outboxes = await look_into(queue, tuple(self.receivers)) if self.receivers else ()
        return _QueueState(
            counts, oldest, totals, pending, reconcile, sweep, silent, differing, pauses, public, outboxes
        )

    def describe(self) -> Iterable[Metric]:
        """Name the metrics, so that the library detects duplicates without collecting."""
        return [_gauge(family) for family in families.LOOKED_UP]

    def collect(self) -> Iterable[Metric]:
        """Yield the gauges of the last `refresh`."""
        yield _gauge(families.QUEUE_UP, self._state is not None)
        if self._state is None:
            return
        yield _gauge(families.QUEUE_REPLICAS, self._queue.replicas.awaited)
        counts, oldest = self._state.counts, self._state.oldest
        jobs, ages = _gauge(families.QUEUE_JOBS), _gauge(families.QUEUE_OLDEST)
        for lane, count in counts.lanes.items():
            for state in ("queued", "running", "waiting", "paused"):
                jobs.add_metric([lane.value, state], getattr(count, state))
            ages.add_metric([lane.value], oldest[lane])
        yield jobs
        yield ages
        yield from self._pending(self._state)
        yield from self._pauses(self._state.pauses)
        yield _gauge(families.DEAD_LETTERS, counts.dead)
        yield from self._silences(self._state.silent)
        yield _gauge(families.PUBLIC_COPIES, len(self._state.public))
        yield from self._reconcile(self._state.reconcile)
        yield from self._sweep(self._state.sweep)
        yield from self._outboxes(self._state.outboxes)
        differing = self._state.differing
        yield _gauge(families.RULES_DIFFER, 0 if differing is None else differing.seconds)

    def _pending(self, state: _QueueState) -> Iterable[Metric]:
        jobs, waits = _gauge(families.QUEUE_PENDING), _gauge(families.QUEUE_OLDEST_WAIT)
        for lane, hosts in state.pending.items():
            # Hosts that were added since the look are left to the next one.
            for (_, label), each in zip(self._destinations.items(), hosts, strict=False):
                jobs.add_metric([lane.value, label], each.jobs)
                waits.add_metric([lane.value, label], each.oldest)
            known = sum(each.jobs for each in hosts)
            jobs.add_metric([lane.value, OTHER], max(0, state.totals[lane] - known))
        yield jobs
        yield waits

    def _pauses(self, pauses: Sequence[Pause]) -> Iterable[Metric]:
        yield _gauge(families.QUEUE_PAUSES, len(pauses))
        lanes = _gauge(families.QUEUE_PAUSED)
        for lane in Lane:
            lanes.add_metric([lane.value], any(each.selection.covers(lane) for each in pauses))
        yield lanes

    def _sweep(self, state: SweepState) -> Iterable[Metric]:
        yield _gauge(families.SWEEP_ENDED, state.ended.timestamp() if state.ended is not None else 0)
        yield _gauge(families.SWEEP_REPLACED, state.replaced)
        # Of several Harbors that share a label, the one without webhooks counts.
        enabled: dict[str, bool] = {}
        for host, each in state.webhooks.items():
            label = self._hosts.label(host)
            enabled[label] = each and enabled.get(label, True)
        found = _gauge(families.WEBHOOKS)
        for label, each in enabled.items():
            found.add_metric([label], each)
        yield found
        ends: dict[str, float] = {}
        for host, end in state.secrets.items():
            label = self._hosts.label(host)
            ends[label] = min(end, ends.get(label, end))
        secrets = _gauge(families.SECRETS)
        for label, end in ends.items():
            secrets.add_metric([label], end)
        yield secrets

    def _outboxes(self, states: Sequence[OutboxState]) -> Iterable[Metric]:
        # Receivers on one host share a label.
        found: dict[str, tuple[int, float, int]] = {}
        for host, state in zip(self.receivers.values(), states, strict=False):
            waiting, oldest, dropped = found.get(host, (0, 0.0, 0))
            found[host] = (waiting + state.waiting, max(oldest, state.oldest), dropped + state.dropped)
        for number, family in enumerate((families.EVENTS_WAITING, families.EVENTS_OLDEST, families.EVENTS_DROPPED)):
            shown = _gauge(family)
            for host, values in found.items():
                shown.add_metric([host], values[number])
            yield shown

    def _silences(self, silent: Sequence[KeySilence]) -> Iterable[Metric]:
        seconds = dict.fromkeys(self._hosts.labels, 0.0)
        copies = dict.fromkeys(self._hosts.labels, 0)
        for each in silent:
            label = self._hosts.label(each.registry)
            seconds[label] = max(each.seconds, seconds.get(label, 0.0))
            copies[label] = copies.get(label, 0) + each.total
        for family, values in ((families.SILENT, seconds), (families.SILENT_COPIES, copies)):
            found = _gauge(family)
            for label, value in values.items():
                found.add_metric([label], value)
            yield found

    def _reconcile(self, state: ReconcileState) -> Iterable[Metric]:
        success = state.last_success
        findings = state.last.findings if state.last is not None else None
        found = findings or Findings()
        yield _gauge(families.RECONCILE_SUCCESS, success.timestamp() if success is not None else 0)
        yield _gauge(families.RECONCILE_DRIFT, found.drift)
        yield _gauge(families.RECONCILE_STALE, found.stale)
        yield _gauge(families.RECONCILE_LOST, found.lost)
        images = _gauge(families.RECONCILE_IMAGES)
        for name in RESULTS:
            images.add_metric([name], getattr(found, name))
        yield images
        yield _gauge(families.RECONCILE_UNLISTED, found.unlisted)
        yield _gauge(families.RECONCILE_FAILED, findings is not None and findings.error is not None)
        yield _gauge(families.RECONCILE_OVERDUE, overdue(self._schedule, state))


def _gauge(family: Family, value: float | None = None) -> GaugeMetricFamily:
    """Make a gauge: with ``value``, or with the family's labels and no sample yet."""
    number = None if value is None else float(value)
    return GaugeMetricFamily(family.name, family.help, value=number, labels=family.labels if value is None else None)
