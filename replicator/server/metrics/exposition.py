"""All metrics of one process, and how they are written for Prometheus.

What is read from the queue's Redis at a scrape, in a few commands whose number no backlog changes.
"""

from __future__ import annotations

import asyncio
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

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
from replicator.queue import ReconcileState
from replicator.replication.reconciler import overdue
from replicator.server.metrics import families
from replicator.server.metrics.counters import DeliveryCounts, RequestCounts, TryCounts
from replicator.server.metrics.families import gauge

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.metrics_core import Metric

    from replicator.queue import Counts, Lane, Queue
    from replicator.rules import Rules
    from replicator.schedule import Schedule
    from replicator.server.metrics.families import Family

log = structlog.get_logger("replicator.metrics")

_SECONDS = 4.0
"""For all of it; Prometheus waits ten by default."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """The queue at one moment."""

    counts: Counts
    oldest: Mapping[Lane, float]
    reconcile: ReconcileState


class QueueLookups(Collector):
    """Gauges of the queue, as they were at the last `refresh`; of a Redis that was away only that it was.

    Args:
        queue: what is looked at.
        schedule: when a reconcile is due; None for never.
    """

    def __init__(self, queue: Queue, schedule: Schedule | None) -> None:
        self._queue = queue
        self._schedule = schedule
        self._turn = asyncio.Lock()
        self._began = float("-inf")
        self._seen: _Seen | None = None

    async def refresh(self) -> None:
        """Look at the queue. It takes bounded time, raises nothing, and serves all who came before it began."""
        clock = asyncio.get_running_loop().time
        arrived = clock()
        async with self._turn:
            if self._began >= arrived:
                return
            self._began = clock()
            try:
                async with asyncio.timeout(_SECONDS):
                    self._seen = await self._look()
            except Exception as error:  # noqa: BLE001 - whatever it is, the rest of the scrape must be told
                log.debug("queue not looked up", error=str(error) or type(error).__name__)
                self._seen = None

    async def _look(self) -> _Seen:
        return _Seen(await self._queue.counts(), await self._queue.oldest(), await ReconcileState.read(self._queue))

    def describe(self) -> Iterable[Metric]:
        """Name the metrics, so that the library finds clashes."""
        return [_gauge(family) for family in families.LOOKED_UP]

    def collect(self) -> Iterable[Metric]:
        """Give what the last look found."""
        yield _gauge(families.QUEUE_UP, self._seen is not None)
        if self._seen is None:
            return
        counts, oldest = self._seen.counts, self._seen.oldest
        jobs, ages = _gauge(families.QUEUE_JOBS), _gauge(families.QUEUE_OLDEST)
        for lane, count in counts.lanes.items():
            for state in ("queued", "running", "waiting"):
                jobs.add_metric([lane.value, state], getattr(count, state))
            ages.add_metric([lane.value], oldest[lane])
        yield jobs
        yield ages
        yield _gauge(families.DEAD_LETTERS, counts.dead)
        yield from self._reconcile(self._seen.reconcile)

    def _reconcile(self, state: ReconcileState) -> Iterable[Metric]:
        success = state.last_success
        found = state.last.findings if state.last is not None else None
        yield _gauge(families.RECONCILE_SUCCESS, success.timestamp() if success is not None else 0)
        yield _gauge(families.RECONCILE_DRIFT, found.drift if found is not None else 0)
        yield _gauge(families.RECONCILE_FAILED, found is not None and found.error is not None)
        yield _gauge(families.RECONCILE_OVERDUE, overdue(self._schedule, state))


def _gauge(family: Family, value: float | None = None) -> GaugeMetricFamily:
    """Make a gauge; with a value if it has no labels."""
    number = None if value is None else float(value)
    return GaugeMetricFamily(family.name, family.help, value=number, labels=family.labels if value is None else None)


_OPEN_METRICS = "application/openmetrics-text"


class ConfigurationState(Protocol):
    """What is in force; `replicator.server.reload.Reloader` is one."""

    @property
    def loaded(self) -> float:
        """When it was read, in seconds since the epoch."""

    @property
    def problem(self) -> str | None:
        """Why what the files say now is not in force; None when it is."""


class Metrics:
    """What is counted in this process, and looked up in its queue.

    Args:
        rules: see `know`.
        queue: what is looked at when it is scraped.
        schedule: when a reconcile is due; None for never.

    Attributes:
        requests: told of requests to registries.
        tries: told of copies.
        deliveries: told of what comes to the webhook.
    """

    def __init__(self, rules: Rules, queue: Queue, schedule: Schedule | None) -> None:
        # When a series began is of use to few, and doubles their number in the text format.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it without types
        self._registry = CollectorRegistry()
        gauge(families.BUILD, self._registry).labels(__version__, platform.python_version()).set(1)
        self.deliveries = DeliveryCounts(self._registry)
        self.tries = TryCounts(self._registry)
        self.requests = RequestCounts(self._registry)
        self.know(rules)
        self._lookups = QueueLookups(queue, schedule)
        self._registry.register(self._lookups)
        self._loaded = gauge(families.LOADED, self._registry)
        self._refused = gauge(families.RELOAD_FAILED, self._registry)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def know(self, rules: Rules) -> None:
        """Tell the hosts and keys of these rules apart from now on; what was told apart stays so."""
        self.tries.know(rules.keys)
        self.requests.know(sorted(rules.hosts))

    def follow(self, configuration: ConfigurationState) -> None:
        """Show, at each scrape, since when the configuration is in force and whether a newer one was refused."""
        self._loaded.set_function(lambda: configuration.loaded)
        self._refused.set_function(lambda: configuration.problem is not None)

    async def expose(self, accept: str) -> tuple[bytes, str]:
        """Write all metrics, with what the queue tells now. It takes bounded time, whether Redis is there or not.

        Args:
            accept: the request's ``Accept`` header: who asks for OpenMetrics gets that.

        Returns:
            The text and its content type.
        """
        await self._lookups.refresh()
        # Not the library's own choice: a strange version in the header makes it fail.
        if _OPEN_METRICS in accept:
            text = open_metrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]  # it comes without types
            return text, open_metrics.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4
