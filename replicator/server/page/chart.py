"""The lag as a chart: places of bars and lines, for an SVG that is as wide as its page. No drawing here.

The height is logarithmic: seconds and hours are both told apart.
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
"""Of the drawing, in pixels."""
_TOP, _BOTTOM = 12, 132
_LEAST = 0.1
_TICKS = ((1, "1 s"), (10, "10 s"), (60, "1 min"), (600, "10 min"), (3600, "1 h"), (36_000, "10 h"))
_SPAN = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Bar:
    """A quarter of an hour: left side and width in percent, tops in pixels, and what it stands for."""

    left: float
    width: float
    longest: float
    mean: float
    words: str


@dataclass(frozen=True, slots=True)
class Line:
    """A mark on an axis: its place, in pixels from the top or percent from the left, and its words."""

    at: float
    words: str


@dataclass(frozen=True, slots=True)
class Chart:
    """All of it.

    Attributes:
        bars: from the oldest.
        levels: lines across.
        hours: marks below.
        summary: what it shows, for who does not see it.
        bottom: where bars stand, in pixels from the top.
        height: of the drawing, in pixels.
    """

    bars: Sequence[Bar]
    levels: Sequence[Line]
    hours: Sequence[Line]
    summary: str
    bottom: int = _BOTTOM
    height: int = HEIGHT


def duration(seconds: float) -> str:
    """Write a length of time for a person, with a digit more where it is short: ``0.3 s``, ``42 s``, ``5 min``."""
    return f"{seconds:.1f} s" if seconds < 10 else age(seconds)


def chart(spans: Sequence[LagSpan], now: datetime, hours: int) -> Chart:
    """Place everything.

    Args:
        spans: what is known, of whatever time.
        now: the right side.
        hours: how far the left side is from it.
    """
    length = timedelta(hours=hours)
    shown = [span for span in spans if now - length <= span.start <= now]
    top = max([10.0, *(span.longest for span in shown)])

    def height(seconds: float) -> float:
        share = math.log(max(seconds, _LEAST) / _LEAST) / math.log(top / _LEAST)
        return round(_BOTTOM - (_BOTTOM - _TOP) * share, 1)

    def left(moment: datetime) -> float:
        return round(100 * (1 - (now - moment) / length), 3)

    width = round(100 * (_SPAN / length) * 0.8, 3)
    bars = [Bar(left(span.start), width, height(span.longest), height(span.mean), _words(span)) for span in shown]
    levels = [Line(height(seconds), words) for seconds, words in _TICKS if seconds <= top]
    steps = range(hours, 0, -hours // 3) if hours % 3 == 0 else ()
    marks = [Line(round(100 * (1 - step / hours), 3), f"\N{MINUS SIGN}{step} h") for step in steps]
    return Chart(bars, levels, marks, _summary(shown, hours))


def _words(span: LagSpan) -> str:
    copies = f"{span.number} cop{'y' if span.number == 1 else 'ies'}"
    return f"{span.start:%H:%M} UTC: {copies}, {duration(span.mean)} on average, {duration(span.longest)} at most"


def _summary(spans: Sequence[LagSpan], hours: int) -> str:
    number = sum(span.number for span in spans)
    if not number:
        return f"No push arrived in the last {hours} hours."
    mean = sum(span.mean * span.number for span in spans) / number
    longest = max(span.longest for span in spans)
    copies = "1 push arrived" if number == 1 else f"{number} pushes arrived"
    return f"{copies} in the last {hours} hours: {duration(mean)} on average, {duration(longest)} at most."
