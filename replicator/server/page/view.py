"""The page's address: filters, page numbers and the length of the chart, read from a query and written into links."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from replicator.queue import Ended

HOURS = (6, 24, 48)
"""Lengths of the chart to choose from."""
ROWS = 25
"""Copies on a page."""
DEAD_LETTERS = 10
"""Dead letters on a page."""
_MAX_CHARACTERS = 600
_CURSOR_LIMIT = 1 << 64
"""Redis's scan cursors are unsigned 64-bit numbers."""


@dataclass(frozen=True, slots=True)
class View:
    """What to show. An invalid value in an address counts as missing.

    Attributes:
        result: only copies with this result; empty for all.
        text: only copies with this in a name or a note, ignoring case; empty for all.
        rule: only copies by this rule; empty for all.
        page: of the copies, from 1.
        part: the scan cursor of the part of the dead letters; 0 for the first.
        letters: the page within that part, from 1.
        hours: the length of the chart.
        done: what a form has just done, to be shown once.
    """

    result: str = ""
    text: str = ""
    rule: str = ""
    page: int = 1
    part: int = 0
    letters: int = 1
    hours: int = 24
    done: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        """Read it from the query of an address."""
        hours = _number(query, "hours", 24)
        return cls(
            result=_text(query, "result"),
            text=_text(query, "text"),
            rule=_text(query, "rule"),
            page=max(1, _number(query, "page", 1)),
            part=_number(query, "part", 0),
            letters=max(1, _number(query, "letters", 1)),
            hours=hours if hours in HOURS else 24,
            done=_text(query, "done"),
        )

    def link(self, **changes: Any) -> str:
        """Return the address of this page with some values changed; only a query, so it works under any path."""
        other, default = replace(self, done="", **changes), View()
        values = {field.name: getattr(other, field.name) for field in fields(other)}
        return "?" + urlencode({name: value for name, value in values.items() if value != getattr(default, name)})

    def chosen(self, ended: Iterable[Ended]) -> list[Ended]:
        """Return the copies that match the filters, in their order."""
        text = self.text.casefold()
        return [
            entry
            for entry in ended
            if (not self.result or entry.result == self.result)
            and (not self.rule or entry.rule == self.rule)
            and (not text or any(text in part.casefold() for part in (entry.source, entry.id, entry.note)))
        ]


@dataclass(frozen=True, slots=True)
class Sheet:
    """One page of a list.

    Attributes:
        rows: on this page.
        number: of this page, from 1.
        pages: their number, at least 1.
        total: rows on all pages.
    """

    rows: Sequence[Any]
    number: int
    pages: int
    total: int


def sheet(rows: Sequence[Any], number: int, size: int = ROWS) -> Sheet:
    """Return page ``number`` (from 1) of ``rows``; the last one if there are fewer."""
    pages = max(1, -(-len(rows) // size))
    number = min(number, pages)
    return Sheet(rows[(number - 1) * size : number * size], number, pages, len(rows))


def _text(query: Mapping[str, str], name: str) -> str:
    return query.get(name, "").strip()[:_MAX_CHARACTERS]


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(_CURSOR_LIMIT))):
        return default
    return min(int(text), _CURSOR_LIMIT - 1)
