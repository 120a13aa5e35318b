"""All metrics of one process, and how they are written for Prometheus."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Protocol

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as open_metrics

from replicator import __version__
from replicator.metrics import families
from replicator.metrics.deliveries import DeliveryCounts
from replicator.metrics.lookups import QueueLookups
from replicator.metrics.making import gauge
from replicator.metrics.requests import RequestCounts
from replicator.metrics.tries import TryCounts

if TYPE_CHECKING:
    from replicator.queue import Queue
    from replicator.rules import Rules
    from replicator.schedule import Schedule

_OPEN_METRICS = "application/openmetrics-text"


class ConfigurationState(Protocol):
    """What is in force; `replicator.reloading.Reloader` is one."""

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
