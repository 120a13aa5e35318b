"""What is read from the queue's Redis at a scrape, in a few commands whose number no backlog changes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from replicator.metrics import families
from replicator.queue import ReconcileState
from replicator.reconciling import overdue

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.metrics_core import Metric

    from replicator.metrics.families import Family
    from replicator.queue import Counts, Lane, Queue
    from replicator.schedule import Schedule

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
