"""The chart of results: how many copies were made and how many failed, by the hour."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from replicator.queue.traffic import RATE_SPAN
from replicator.replication.job import GIVEN_UP

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from replicator.queue import RateSpan
    from replicator.server.page.language import Messages

_RATES_HEIGHT, _RATES_GROUND, _COPIED_PIXELS, _FAILED_PIXELS = 84, 54, 48, 26
"""Pixels of the chart of results: of all, from the top to its axis, of the longest bars above and below that."""


@dataclass(frozen=True, slots=True)
class RateBar:
    """An hour: left side and width in percent, lengths in pixels of what was copied and what failed, its tooltip."""

    left: float
    width: float
    copied: float
    failed: float
    text: str


@dataclass(frozen=True, slots=True)
class RateChart:
    """Copied and failed by the hour; both lengths are logarithmic, so that one failure beside thousands is seen."""

    bars: Sequence[RateBar]
    summary: str
    ground: int = _RATES_GROUND
    height: int = _RATES_HEIGHT


def rate_chart(spans: Sequence[RateSpan], now: datetime, hours: int, t: Messages) -> RateChart:
    """Lay out the chart of results; the arguments are those of `replicator.server.page.rendering.chart`."""
    begin, length = now - timedelta(hours=hours), timedelta(hours=hours)
    shown = [span for span in spans if begin < span.start + RATE_SPAN and span.start <= now]
    numbers = [(span.results.get("copied", 0), span.results.get(GIVEN_UP, 0)) for span in shown]
    most = [max([1, *each]) for each in zip(*numbers, strict=True)] or [1, 1]

    def pixels(number: int, longest: int, of: int) -> float:
        return round(of * math.log1p(number) / math.log1p(longest), 1)

    bars = []
    for span, (copied, failed) in zip(shown, numbers, strict=True):
        left = max(span.start, begin)
        text = t("rates.bar", time=f"{span.start:%H:%M}", copied=copied, failed=failed)
        width = 100 * ((min(span.start + RATE_SPAN, now) - left) / length)
        bars.append(
            RateBar(
                round(100 * ((left - begin) / length), 3),
                round(0.8 * width, 3),
                pixels(copied, most[0], _COPIED_PIXELS),
                pixels(failed, most[1], _FAILED_PIXELS),
                text,
            )
        )
    copied, failed = (sum(each) for each in zip(*numbers, strict=True)) if numbers else (0, 0)
    key = "rates.summary" if copied or failed else "rates.none"
    return RateChart(bars, t(key, copied=copied, failed=failed, hours=hours))
