"""The geometry of the replication lag chart, for an SVG that is as wide as its page; a template draws it.

The vertical axis is logarithmic, so that both seconds and hours can be read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from replicator.console import age

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from replicator.queue import LagSpan

HEIGHT = 150
"""Pixels of the whole SVG."""
_TOP, _BOTTOM = 12, 132
"""Pixels from the top between which bars are drawn; the axis labels need the rest."""
_LEAST = 0.1
"""Seconds at the bottom of the logarithmic axis."""
_TICKS = ((1, "1 s"), (10, "10 s"), (60, "1 min"), (600, "10 min"), (3600, "1 h"), (36_000, "10 h"))
_SPAN = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Bar:
    """A quarter of an hour: left side and width in percent, tops in pixels, and its tooltip."""

    left: float
    width: float
    longest: float
    mean: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A mark on an axis, in pixels from the top or percent from the left, and its label."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """The whole chart.

    Attributes:
        bars: the oldest first.
        levels: horizontal lines.
        hours: marks on the time axis.
        summary: the same in words, for screen readers too.
        bottom: pixels from the top to the bottom of the bars.
        height: pixels of the whole SVG.
    """

    bars: Sequence[Bar]
    levels: Sequence[Line]
    hours: Sequence[Line]
    summary: str
    bottom: int = _BOTTOM
    height: int = HEIGHT


def duration(seconds: float) -> str:
    """Format a duration for a person, with one decimal below ten seconds: ``0.3 s``, ``42 s``, ``5 min``."""
    return f"{seconds:.1f} s" if seconds < 10 else age(seconds)


def chart(spans: Sequence[LagSpan], now: datetime, hours: int) -> Chart:
    """Lay out the chart.

    Args:
        spans: quarters of an hour; those outside of the chart are left out.
        now: the right edge.
        hours: the length of the time axis, a multiple of three.
    """
    length = timedelta(hours=hours)
    shown = [span for span in spans if now - length <= span.start <= now]
    top = max([10.0, *(span.longest for span in shown)])

    def y(seconds: float) -> float:
        share = math.log(max(seconds, _LEAST) / _LEAST) / math.log(top / _LEAST)
        return round(_BOTTOM - (_BOTTOM - _TOP) * share, 1)

    def x(moment: datetime) -> float:
        return round(100 * (1 - (now - moment) / length), 3)

    # A fifth of each quarter of an hour is the gap to the next bar.
    width = round(100 * (_SPAN / length) * 0.8, 3)
    bars = [Bar(x(span.start), width, y(span.longest), y(span.mean), _tooltip(span)) for span in shown]
    levels = [Line(y(seconds), label) for seconds, label in _TICKS if seconds <= top]
    steps = range(hours, 0, -hours // 3)
    marks = [Line(round(100 * (1 - step / hours), 3), f"\N{MINUS SIGN}{step} h") for step in steps]
    return Chart(bars, levels, marks, _summary(shown, hours))


def _tooltip(span: LagSpan) -> str:
    copies = f"{span.number} cop{'y' if span.number == 1 else 'ies'}"
    return f"{span.start:%H:%M} UTC: {copies}, average {duration(span.mean)}, maximum {duration(span.longest)}"


def _summary(spans: Sequence[LagSpan], hours: int) -> str:
    number = sum(span.number for span in spans)
    if not number:
        return f"No push was replicated in the last {hours} hours."
    mean = sum(span.mean * span.number for span in spans) / number
    longest = max(span.longest for span in spans)
    pushes = "1 push" if number == 1 else f"{number:,} pushes"
    return f"{pushes} replicated in the last {hours} hours: average {duration(mean)}, maximum {duration(longest)}."
