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
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.filesize import decimal

from replicator.console import iso, printable
from replicator.errors import ErrorClass, ErrorText
from replicator.queue.causes import VARIOUS
from replicator.queue.records import milliseconds
from replicator.replication.advice import close_to_anyone
from replicator.replication.job import GIVEN_UP
from replicator.server.page.copies import explain, links
from replicator.server.page.facts import (
    DEAD_LETTERS,
    FIELDS,
    HOURS,
    MAX_SEARCHED,
    activity,
    sheet,
)
from replicator.server.page.health import Health, awaited, health, paused, silence
from replicator.server.page.rates import rate_chart

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from replicator.queue import Cause, DeadLetter, LagSpan
    from replicator.rules import Rules
    from replicator.server.page.copies import CopyFacts
    from replicator.server.page.facts import PageData, View
    from replicator.server.page.language import Messages


HEIGHT = 126
"""Pixels of the whole SVG."""
_TOP, _BOTTOM = 12, 108
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


def chart(spans: Sequence[LagSpan], now: datetime, hours: int, t: Messages) -> Chart:
    """Lay out the chart.

    Args:
        spans: quarters of an hour; those outside of the chart are left out.
        now: the right edge.
        hours: the length of the time axis, a multiple of three.
        t: the words of its language.
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
    bars = [Bar(x(span.start), width, y(span.longest), y(span.mean), _tooltip(span, t)) for span in shown]
    levels = [Line(y(seconds), label) for seconds, label in _TICKS if seconds <= top]
    steps = range(hours, 0, -hours // 3)
    marks = [Line(round(100 * (1 - step / hours), 3), f"\N{MINUS SIGN}{step} h") for step in steps]
    return Chart(bars, levels, marks, _summary(shown, hours, t))


def _tooltip(span: LagSpan, t: Messages) -> str:
    mean, longest = t.duration(span.mean), t.duration(span.longest)
    return t("lag.bar", time=f"{span.start:%H:%M}", number=span.number, mean=mean, longest=longest)


def _summary(spans: Sequence[LagSpan], hours: int, t: Messages) -> str:
    number = sum(span.number for span in spans)
    if not number:
        return t("lag.none", hours=hours)
    mean = sum(span.mean * span.number for span in spans) / number
    longest = max(span.longest for span in spans)
    return t("lag.summary", number=number, hours=hours, mean=t.duration(mean), longest=t.duration(longest))


_FEW = 3
"""Rows of a list that are shown at once where the others are folded."""
_MAX_CAUSES = 20
_MAX_RUNNING = 50
_MAX_HEARD = 10
_MAX_WAITING = 25
_MAX_ACTIONS = 20
_MAX_PUBLIC = 25
_MAX_RULES = 200
_MAX_PROCESSES = 100
_DONE = ("retried", "dropped", "approved", "changed", "paused", "resumed", "cancelled", "absent")
_BEGUN = ("reconcile", "reconcile_again", "copying", "unmatched")
"""What the page can say about a form. The address only chooses one of these, so a link can't put words in our mouth."""
_ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><g fill="none" stroke="{}" stroke-width="2">\
<rect x="1.5" y="1.5" width="8" height="8" rx="1.5"/><path d="M12 6.5h1a1.5 1.5 0 0 1 1.5 1.5v5a1.5 1.5 0 0 1-1.5 \
1.5H8A1.5 1.5 0 0 1 6.5 13v-1"/></g></svg>"""
"""An image and its copy, which a browser draws in a tab, in the colour of the headline."""
_LEVELS = {"dead": "bad", "waiting": "warning", "paused": "warning", "unknown": "warning"}
"""How serious the state of a copy is; see `replicator.server.page.copies.CopyFacts.state`."""
_COLOURS = {"good": "#1a7f45", "warning": "#c27400", "bad": "#d93025"}


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
            "source_of": _source_of,
            "lines": lambda stored: ErrorText.parse(stored).lines,
            "size": decimal,
            "iso": iso,
            "clock": lambda moment: f"{moment:%Y-%m-%d %H:%M:%S} UTC",
            "number": lambda number: f"{number:,}",
            "milliseconds": milliseconds,
        }
        self._environment.globals |= {
            "style": style,
            "script": script,
            "given_up": GIVEN_UP,
            "few": _FEW,
            "searched": MAX_SEARCHED,
            "letters_a_page": DEAD_LETTERS,
            "hosts": lambda sources, destinations: (shared_host(sources), shared_host(destinations)),
        }
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

    def render(self, data: PageData, rules: Rules, view: View, form_token: str, t: Messages, *, fragment: bool) -> str:
        """Return the page.

        Args:
            data: the content to show.
            rules: the rules in use.
            view: the filters and pages chosen.
            form_token: goes into every form.
            t: the words of the page's language.
            fragment: only the parts that change, for a page that is already open.
        """
        facts, history = data.facts, data.facts.history
        now, keys = history.now, rules.keys
        return self._render(
            fragment=fragment,
            t=t,
            health=health(facts, t),
            view=view,
            done=_done(view, t),
            form_token=form_token,
            now=now,
            ago=lambda moment: t.age((now - moment).total_seconds()),
            paused=lambda pause: paused(pause, t),
            silence=lambda found: silence(found, t),
            status=facts.status,
            running=facts.status.running[:_MAX_RUNNING],
            waiting=facts.status.waiting[:_MAX_WAITING],
            awaited={each.key: awaited(each.key, t) for each in facts.status.silent},
            public=[(copy, close_to_anyone(copy.destination)) for copy in facts.status.public[:_MAX_PUBLIC]],
            short_clock=lambda moment: _short_clock(moment, now),
            causes=facts.causes[:_MAX_CAUSES],
            more_causes=max(0, len(facts.causes) - _MAX_CAUSES),
            cause_sentence=lambda cause: _cause_sentence(cause, t),
            cause_lines=_cause_lines,
            classes=_classes(data),
            grouped=sum(cause.count for cause in facts.causes),
            letters=data.letters,
            copies=sheet(view.chosen(history.ended), view.page),
            kept=len(history.ended),
            results=sorted({entry.result for entry in history.ended} | ({view.result} - {""})),
            chart=chart(history.lags, now, view.hours, t),
            rates=rate_chart(history.rates, now, view.hours, t),
            harbors=list({each.host: each for each in reversed(facts.heard)}.values())[::-1],
            heard=facts.heard[:_MAX_HEARD],
            projects=len(facts.heard),
            hours=HOURS,
            explained=explain(rules, view.image) if view.image and not fragment else None,
            rules=activity(keys[:_MAX_RULES], history.ended),
            more_rules=max(0, len(keys) - _MAX_RULES),
            keys=keys[:_MAX_RULES],
            reconciles=history.reconciles,
            pending=data.pending,
            fields=FIELDS,
            actions=history.actions[:_MAX_ACTIONS],
            processes=facts.processes[:_MAX_PROCESSES],
        )

    def render_copy(
        self, facts: CopyFacts, rules: Rules, view: View, form_token: str, t: Messages, *, fragment: bool
    ) -> str:
        """Return the page of one copy.

        Args:
            facts: the facts about it.
            rules: the rules in use.
            view: names the destination.
            form_token: goes into every form.
            t: the words of the page's language.
            fragment: only the parts that change, for a page that is already open.
        """
        return self._render(
            fragment=fragment,
            name="copy",
            t=t,
            health=_copy_health(facts, t),
            view=view,
            done=_done(view, t),
            form_token=form_token,
            facts=facts,
            job=facts.known.job,
            letter=facts.known.letter,
            ago=lambda moment: t.age((facts.now - moment).total_seconds()),
            short_clock=lambda moment: _short_clock(moment, facts.now),
            explained=explain(rules, facts.source) if facts.source else None,
            links=links(facts, rules),
        )

    def render_outage(self, reason: str, view: View, t: Messages, *, fragment: bool) -> str:
        """Return the page of an installation whose Redis does not answer."""
        headline = Health("bad", t("health.outage"))
        return self._render(fragment=fragment, t=t, health=headline, view=view, reason=reason, status=None)

    def _render(self, *, fragment: bool, health: Health, name: str = "", **values: Any) -> str:
        icon = "data:image/svg+xml," + quote(_ICON.format(_COLOURS[health.level]), safe=" =:/")
        whole, parts = (f"{name}.html", f"{name}_parts.html") if name else ("page.html", "parts.html")
        template = self._environment.get_template(parts if fragment else whole)
        return template.render(icon=icon, health=health, **values)


def _copy_health(facts: CopyFacts, t: Messages) -> Health:
    if facts.state != "ended":
        return Health(_LEVELS.get(facts.state, "good"), t(f"copy.{facts.state}"))
    last = facts.ended[0]
    level = "bad" if last.error_class is not None else "good"
    age = t.age((facts.now - last.at).total_seconds())
    return Health(level, t("copy.ended", age=age, result=t.word("result", last.result)))


def _done(view: View, t: Messages) -> str:
    return t(f"done.{view.done}") if view.done in (*_DONE, *_BEGUN) else ""


def shared_host(references: Iterable[str]) -> str:
    """Return the host that all references have in common; empty if they have several, or none is a reference."""
    hosts = {reference.partition("/")[0] if "/" in reference else "" for reference in references if reference}
    return hosts.pop() if len(hosts) == 1 else ""


def _source_of(letter: DeadLetter) -> str:
    return str((letter.payload or {}).get("source") or "")


def _short_clock(moment: datetime, now: datetime) -> str:
    """Return the hour of a time of today, with the date for another day: ``12:00 UTC``, ``12-31 12:00 UTC``."""
    return f"{moment:%H:%M} UTC" if moment.date() == now.date() else f"{moment:%m-%d %H:%M} UTC"


def _cause_sentence(cause: Cause, t: Messages) -> str:
    """Say how many copies failed, where and why."""
    where = cause.where or t("failures.several")
    if not cause.text.why and cause.text.what == VARIOUS:
        return t("failures.various", number=cause.count, where=where)
    return t("failures.cause", number=cause.count, where=where, why=cause.text.why or cause.text.what)


def _cause_lines(cause: Cause) -> list[str]:
    """Return the parts of a cause's text that its sentence lacks: what happened, and what to do."""
    said = cause.text.why or cause.text.what
    return [line for part, line in zip(_parts(cause.text), cause.text.lines, strict=True) if part != said]


def _parts(text: ErrorText) -> list[str]:
    return [part for part in (text.what, text.why, text.do) if part]


def _classes(data: PageData) -> list[ErrorClass]:
    """Return the classes of the errors that a page may show, in the order of the documentation."""
    facts = data.facts
    shown = {cause.error_class for cause in facts.causes}
    shown |= {str(job.error_class) for job in facts.status.waiting}
    shown |= {str(entry.error_class) for entry in facts.history.ended}
    return [each for each in ErrorClass if each in shown]


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
