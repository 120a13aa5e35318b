"""The page as HTML. Its only style and script stand in it, and its policy lets a browser use no others."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.filesize import decimal

from replicator.console import age, iso, printable
from replicator.server.page.chart import chart, duration
from replicator.server.page.facts import Health, activity, health
from replicator.server.page.view import HOURS, LETTERS, sheet

if TYPE_CHECKING:
    from datetime import datetime

    from replicator.queue import DeadLetterPage
    from replicator.rules import Rules
    from replicator.server.page.facts import Facts
    from replicator.server.page.view import View

_MOST_RUNNING = 50
_MOST_WAITING = 25
_MOST_RULES = 200
_MOST_PROCESSES = 100
_TOLD = {
    "retried": "Queued again.",
    "dropped": "Dropped. What is at its destination stays.",
    "absent": "Nothing was done: it is no failure any more, or its content is lost; then push its tag again.",
}
"""What the page may say was done. The address chooses among these, and can put in no words of its own."""


@dataclass(frozen=True, slots=True)
class PageData:
    """What was seen of the installation: its facts, and the chosen part of its dead letters."""

    facts: Facts
    letters: DeadLetterPage


class PageRenderer:
    """Renders the page."""

    def __init__(self) -> None:
        folder = files(__package__) / "templates"
        style, script = ((folder / name).read_text() for name in ("style.css", "script.js"))
        self._environment = Environment(
            loader=PackageLoader("replicator.server.page"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "plain": printable,
            "size": decimal,
            "duration": duration,
            "iso": iso,
            "clock": lambda moment: f"{moment:%Y-%m-%d %H:%M:%S} UTC",
        }
        self._environment.globals |= {"style": style, "script": script}
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

    def render(self, sight: PageData, rules: Rules, view: View, form_token: str, *, fragment: bool) -> str:
        """Return the page.

        Args:
            sight: what is shown.
            rules: those in force.
            view: what of it.
            form_token: what its forms bring back.
            fragment: only what changes, for a page that is open already.
        """
        facts = sight.facts
        now, chosen = facts.history.now, view.chosen(facts.history.ended)
        keys = rules.keys
        return self._render(
            fragment=fragment,
            health=health(facts),
            view=view,
            told=_TOLD.get(view.told, ""),
            form_token=form_token,
            now=now,
            ago=lambda moment: _ago(now, moment),
            status=facts.status,
            running=facts.status.running[:_MOST_RUNNING],
            waiting=facts.status.waiting[:_MOST_WAITING],
            total=sight.letters.total,
            following=sight.letters.following,
            letters=sheet(sight.letters.letters, view.letters, LETTERS),
            copies=sheet(chosen, view.page),
            kept=len(facts.history.ended),
            results=sorted({entry.result for entry in facts.history.ended} | ({view.result} - {""})),
            chart=chart(facts.history.lags, now, view.hours),
            hours=HOURS,
            rules=activity(keys[:_MOST_RULES], facts.history.ended),
            more_rules=max(0, len(keys) - _MOST_RULES),
            keys=keys[:_MOST_RULES],
            reconciles=facts.history.reconciles,
            processes=facts.processes[:_MOST_PROCESSES],
        )

    def render_outage(self, reason: str, *, fragment: bool) -> str:
        """Return the page of an installation whose queue does not answer.

        Args:
            reason: why.
            fragment: as for :meth:`render`.
        """
        return self._render(
            fragment=fragment, health=Health("bad", "The queue does not answer."), reason=reason, status=None
        )

    def _render(self, *, fragment: bool, **values: Any) -> str:
        return self._environment.get_template("parts.html.j2" if fragment else "page.html.j2").render(**values)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _ago(now: datetime, moment: datetime) -> str:
    return age((now - moment).total_seconds())
