"""The status page as HTML, with inline style and script whose hashes are the only ones its policy allows."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.filesize import decimal

from replicator.console import age, iso, printable
from replicator.replication.job import GIVEN_UP
from replicator.server.page.chart import chart, duration
from replicator.server.page.facts import Health, activity, health
from replicator.server.page.view import DEAD_LETTERS, HOURS, sheet

if TYPE_CHECKING:
    from datetime import datetime

    from replicator.rules import Rules
    from replicator.server.page.facts import PageData
    from replicator.server.page.view import View

_MAX_RUNNING = 50
_MAX_WAITING = 25
_MAX_RULES = 200
_MAX_PROCESSES = 100
_DONE = {
    "retried": "Queued again.",
    "dropped": "Dropped. The image at the destination stays as it is.",
    "absent": "Nothing was done: it is no longer a dead letter, or its job was lost. If so, push the tag again.",
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
            "result": lambda result: "failed" if result == GIVEN_UP else printable(result),
            "size": decimal,
            "duration": duration,
            "iso": iso,
            "clock": lambda moment: f"{moment:%Y-%m-%d %H:%M:%S} UTC",
            "number": lambda number: f"{number:,}",
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
