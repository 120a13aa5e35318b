"""Metrics as Prometheus reads them: scraped over HTTP, parsed by the client library."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open_metrics
from prometheus_client.parser import text_string_to_metric_families as read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prometheus_client.metrics_core import Metric

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
OWN = "replicator_"


@dataclass(frozen=True)
class Scrape:
    """What one scrape gave.

    Attributes:
        text: as it came.
        families: as the parser reads it.
    """

    text: str
    families: tuple[Metric, ...]

    def value(self, name: str, **labels: str) -> float:
        """The sum of a sample over all series that have these labels; 0 without any."""
        return sum(self.series(name, **labels).values())

    def series(self, name: str, **labels: str) -> Mapping[tuple[str, ...], float]:
        """A sample's values, by the values of all its labels in the order of their names."""
        return {
            tuple(value for _, value in sorted(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        }

    def counted(self, name: str) -> Mapping[tuple[str, ...], float]:
        """The series of a counter that have counted something."""
        return {labels: value for labels, value in self.series(name).items() if value}

    @property
    def names(self) -> set[str]:
        """Of all samples."""
        return {sample.name for family in self.families for sample in family.samples}


def parsed(text: str, content_type: str = "text/plain") -> Scrape:
    """Read an exposition; fail where a series is in it twice."""
    families = tuple((read_open_metrics if "openmetrics" in content_type else read_text)(text))
    series = Counter((sample.name, *sorted(sample.labels.items())) for family in families for sample in family.samples)
    assert [name for name, count in series.items() if count > 1] == []
    return Scrape(text, families)


async def scrape(url: str, accept: str = "text/plain") -> Scrape:
    """Ask ``url``, where something listens, for its metrics."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/metrics", headers={"Accept": accept}) as answer,
    ):
        assert answer.status == 200
        return parsed(await answer.text(), answer.headers["Content-Type"])


async def scraped_until(url: str, check: Callable[[Scrape], bool], timeout: float = 20) -> Scrape:
    """Scrape until ``check`` holds, as what a log line tells is counted a moment later; return the scrape after it.

    A scrape looks the queue up first, and then reads what was counted, perhaps meanwhile: in the next one both agree.
    """
    async with asyncio.timeout(timeout):
        while not check(await scrape(url)):
            await asyncio.sleep(0.05)
        return await scrape(url)
