"""What of the page is asked for, as its address says: filters, pages, hours. Plain values."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from replicator.queue import Ended

HOURS = (6, 24, 48)
"""Lengths of the chart."""
ROWS = 25
"""Copies on a page."""
LETTERS = 10
"""Dead letters on a page."""
_MOST_CHARACTERS = 600
_LARGEST = 1 << 64


@dataclass(frozen=True, slots=True)
class View:
    """A choice of what to show; every mistake in an address counts as not said.

    Attributes:
        result: only copies that ended so; empty for all.
        text: only copies with this in a name or a note, in whatever case; empty for all.
        rule: only copies by this rule; empty for all.
        page: of the copies, from 1.
        part: the cursor of the part of the dead letters; 0 for the first.
        letters: the page of that part, from 1.
        hours: the length of the chart.
        told: what was just done, to be said.
    """

    result: str = ""
    text: str = ""
    rule: str = ""
    page: int = 1
    part: int = 0
    letters: int = 1
    hours: int = 24
    told: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        """Read it from the parameters of an address."""
        hours = _number(query, "hours", 24)
        return cls(
            result=_text(query, "result"),
            text=_text(query, "text"),
            rule=_text(query, "rule"),
            page=max(1, _number(query, "page", 1)),
            part=_number(query, "part", 0),
            letters=max(1, _number(query, "letters", 1)),
            hours=hours if hours in HOURS else 24,
            told=_text(query, "told"),
        )

    def link(self, **changes: Any) -> str:
        """Return a relative address of this page with other choices: it holds under any path."""
        other, default = replace(self, told="", **changes), View()
        said = {field.name: getattr(other, field.name) for field in fields(other)}
        return "?" + urlencode({name: value for name, value in said.items() if value != getattr(default, name)})

    def chosen(self, ended: Iterable[Ended]) -> list[Ended]:
        """Return the copies that pass the filters, in their order."""
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
    """One page of many rows.

    Attributes:
        rows: of this page.
        number: which page it is, from 1.
        pages: how many there are, 1 at the least.
        total: how many rows there are on all.
    """

    rows: Sequence[Any]
    number: int
    pages: int
    total: int


def sheet(rows: Sequence[Any], number: int, size: int = ROWS) -> Sheet:
    """Cut out a page; the last one where there are fewer.

    Args:
        rows: all of them.
        number: which page, from 1.
        size: rows on a page.
    """
    pages = max(1, -(-len(rows) // size))
    number = min(number, pages)
    return Sheet(rows[(number - 1) * size : number * size], number, pages, len(rows))


def _text(query: Mapping[str, str], name: str) -> str:
    return query.get(name, "").strip()[:_MOST_CHARACTERS]


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(_LARGEST))):
        return default
    return min(int(text), _LARGEST - 1)
