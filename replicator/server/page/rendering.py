"""The status page as HTML, and the geometry of its lag chart.

Style and script are inline; their hashes are the only ones that the page's policy allows.
"""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import dataclass
from datetime import timedelta
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.filesize import decimal

from replicator.console import age, iso, printable
from replicator.errors import ErrorText
from replicator.queue.records import milliseconds
from replicator.replication.advice import close_to_anyone
from replicator.replication.job import GIVEN_UP
from replicator.server.page.facts import (
    DEAD_LETTERS,
    FIELDS,
    HOURS,
    Health,
    activity,
    health,
    replacements,
    sheet,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from replicator.queue import LagSpan
    from replicator.rules import Rules
    from replicator.server.page.facts import PageData, View


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


_MAX_RUNNING = 50
_MAX_WAITING = 25
_MAX_ACTIONS = 20
_MAX_PUBLIC = 25
_MAX_RULES = 200
_MAX_PROCESSES = 100
_DONE = {
    "retried": "Queued again.",
    "dropped": "Dropped. The image at the destination stays as it is.",
    "approved": "Approved. The next reconcile begins within seconds, and may replace as many images as shown.",
    "changed": "Nothing was done: another reconcile has ended since. Look at its numbers.",
    "paused": "Paused. Pushes are still accepted and kept.",
    "resumed": "Resumed.",
    "cancelled": "Cancelled. Images at the destinations stay as they are.",
    "absent": "Nothing was done: this item no longer exists. If a copy is still missing, push the tag again.",
}
"""What the page can say about a form. The address only chooses one of these, so a link can't put words in our mouth."""


class PageRenderer:
    """Renders the page from its templates."""

    def __init__(self) -> None:
        folder = files(__package__) / "templates"
        style, script = ((folder / name).read_text() for name in ("style.css", "script.js"))
        self._environment = Environment(
            loader=PackageLoader("replicator.server.page"),
            autoescape=True,
            # A misspelled name is an error in the tests, not an empty cell on the page.
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "plain": printable,
            "lines": lambda stored: ErrorText.parse(stored).lines,
            "result": lambda result: "failed" if result == GIVEN_UP else printable(result),
            "size": decimal,
            "duration": duration,
            "iso": iso,
            "clock": lambda moment: f"{moment:%Y-%m-%d %H:%M:%S} UTC",
            "number": lambda number: f"{number:,}",
            "milliseconds": milliseconds,
            "replacements": replacements,
        }
        self._environment.globals |= {"style": style, "script": script, "given_up": GIVEN_UP}
        self.policy = "; ".join(
            (
                "default-src 'none'",
                f"style-src '{_hash(style)}'",
                f"script-src '{_hash(script)}'",
                "connect-src 'self'",
                "img-src data:",
                "form-action 'self'",
                "base-uri 'none'",
                "frame-ancestors 'none'",
            )
        )

    def render(self, data: PageData, rules: Rules, view: View, form_token: str, *, fragment: bool) -> str:
        """Return the page.

        Args:
            data: what is shown.
            rules: the rules in use.
            view: the filters and pages chosen.
            form_token: goes into every form.
            fragment: only the parts that change, for a page that is already open.
        """
        facts, history = data.facts, data.facts.history
        now, keys = history.now, rules.keys
        return self._render(
            fragment=fragment,
            health=health(facts),
            view=view,
            done=_DONE.get(view.done, ""),
            form_token=form_token,
            now=now,
            ago=lambda moment: _ago(now, moment),
            status=facts.status,
            running=facts.status.running[:_MAX_RUNNING],
            waiting=facts.status.waiting[:_MAX_WAITING],
            public=[(copy, close_to_anyone(copy.destination)) for copy in facts.status.public[:_MAX_PUBLIC]],
            dead_letters=sheet(data.dead_letters.letters, view.letters, DEAD_LETTERS),
            total=data.dead_letters.total,
            following=data.dead_letters.following,
            copies=sheet(view.chosen(history.ended), view.page),
            kept=len(history.ended),
            results=sorted({entry.result for entry in history.ended} | ({view.result} - {""})),
            chart=chart(history.lags, now, view.hours),
            hours=HOURS,
            rules=activity(keys[:_MAX_RULES], history.ended),
            more_rules=max(0, len(keys) - _MAX_RULES),
            keys=keys[:_MAX_RULES],
            reconciles=history.reconciles,
            pending=data.pending,
            fields=FIELDS,
            actions=history.actions[:_MAX_ACTIONS],
            processes=facts.processes[:_MAX_PROCESSES],
        )

    def render_outage(self, reason: str, *, fragment: bool) -> str:
        """Return the page of an installation whose Redis does not answer."""
        headline = Health("bad", "The queue does not respond.")
        return self._render(fragment=fragment, health=headline, reason=reason, status=None)

    def _render(self, *, fragment: bool, **values: Any) -> str:
        return self._environment.get_template("parts.html.j2" if fragment else "page.html.j2").render(**values)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _ago(now: datetime, moment: datetime) -> str:
    return age((now - moment).total_seconds())
