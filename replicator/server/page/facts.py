"""The content of the status page: its address with filters and page numbers, and one reading of the queue."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

from replicator.queue import (
    HeardProject,
    History,
    Lane,
    ProcessInfo,
    QueueUnavailable,
    Selection,
    Status,
    list_heard,
    processes,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from replicator.queue import DeadLetterPage, Ended, PendingJob, Queue

_FRESH_SECONDS = 1.0
_DEADLINE = 5.0


@dataclass(frozen=True, slots=True)
class Facts:
    """The installation at one moment.

    Attributes:
        status: the queue as ``replicator status`` shows it.
        history: what ended lately.
        processes: those that are alive.
        heard: the projects that have sent events, the last one first.
    """

    status: Status
    history: History
    processes: Sequence[ProcessInfo]
    heard: Sequence[HeardProject] = ()

    @classmethod
    async def read(cls, queue: Queue) -> Facts:
        """Read the queue.

        Raises:
            QueueUnavailable: Redis does not answer within a few seconds.
        """
        try:
            async with asyncio.timeout(_DEADLINE):
                status, history = await Status.read(queue), await History.read(queue)
                return cls(status, history, await processes(queue), await list_heard(queue))
        except TimeoutError:
            raise QueueUnavailable(f"{queue.where} did not answer everything within {_DEADLINE:g} s") from None


@dataclass(frozen=True, slots=True)
class PendingCopies:
    """A selection of pending copies, the first of them, and how many there are."""

    selection: Selection
    jobs: Sequence[PendingJob]
    total: int


@dataclass(frozen=True, slots=True)
class PageData:
    """What one page is rendered from: the facts, the requested dead letters, and pending copies if requested."""

    facts: Facts
    dead_letters: DeadLetterPage
    pending: PendingCopies | None = None


class PageCache:
    """Reads the queue at most once a second, so that many open pages cost Redis as much as one."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._lock = asyncio.Lock()
        self._cached: Facts | QueueUnavailable | None = None
        self._expires = 0.0

    async def read(self) -> Facts:
        """Return facts that are at most a second old.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        clock = asyncio.get_running_loop().time
        async with self._lock:
            if self._cached is None or clock() >= self._expires:
                try:
                    self._cached = await Facts.read(self._queue)
                except QueueUnavailable as error:
                    # The failure is cached too: while Redis is down, each page would wait for its own timeout.
                    self._cached = error
                self._expires = clock() + _FRESH_SECONDS
            cached = self._cached
        if isinstance(cached, QueueUnavailable):
            raise QueueUnavailable(str(cached))
        return cached

    def invalidate(self) -> None:
        """Read again next time: something has changed."""
        self._cached = None


@dataclass(frozen=True, slots=True)
class RuleActivity:
    """A rule's key, the results of its recent copies with their numbers, and when the last one ended (UTC)."""

    key: str
    results: Mapping[str, int]
    last: datetime | None


def activity(keys: Iterable[str], ended: Sequence[Ended]) -> list[RuleActivity]:
    """Count the recent copies of each rule, in the order of ``keys``.

    Args:
        keys: the keys of the rules.
        ended: recent copies, the newest first.
    """
    counts: dict[str, Counter[str]] = {}
    last: dict[str, datetime] = {}
    for entry in ended:
        counts.setdefault(entry.rule, Counter())[entry.result] += 1
        last.setdefault(entry.rule, entry.at)
    return [RuleActivity(key, counts.get(key, Counter()), last.get(key)) for key in keys]


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
        by: what pending copies are looked up by: ``all`` or a field of a `Selection`; empty to look up none.
        what: the pattern for that.
        done: what a form has just done, to be shown once.
        lang: the language to change to; the browser keeps it, so no other link has it.
    """

    result: str = ""
    text: str = ""
    rule: str = ""
    page: int = 1
    part: int = 0
    letters: int = 1
    hours: int = 24
    by: str = ""
    what: str = ""
    done: str = ""
    image: str = ""
    copy: str = ""
    lang: str = ""

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
            by=_text(query, "by"),
            what=_text(query, "what"),
            done=_text(query, "done"),
            image=_text(query, "image"),
            copy=_text(query, "copy"),
        )

    @property
    def selection(self) -> Selection | None:
        """The pending copies to look up; None for none."""
        try:
            return selection_of(self.by, self.what)
        except ValueError:
            return None

    @property
    def pattern_problem(self) -> str:
        """Why the pattern that was filled in selects no copies; empty if it does, or if there is none."""
        try:
            if self.what:
                selection_of(self.by, self.what)
        except ValueError as error:
            return str(error)
        return ""

    def link(self, **changes: Any) -> str:
        """Return the address of this page with some values changed; only a query, so it works under any path."""
        other, default = replace(self, done="", **{"lang": "", **changes}), View()
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
            and (
                not text
                or any(text in part.casefold() for part in (entry.source, entry.id, entry.note, entry.replaced))
            )
        ]


FIELDS = ("rule", "source", "destination", "host", "lane")
"""What pending copies can be looked up by, beside ``all``."""
PENDING = 10
"""Pending copies on a page."""


def selection_of(by: str, what: str) -> Selection:
    """Return the pending copies that a form means.

    Raises:
        ValueError: it means none, or its pattern can't be used.
    """
    if by == "all" and not what:
        return Selection()
    if by not in FIELDS or not what:
        raise ValueError("the form selects no copies: choose a field, and enter a pattern")
    if by == "lane" and what not in list(Lane):
        raise ValueError(f"{what[:60]!r} is no lane: choose {' or '.join(Lane)}")
    return Selection(lane=Lane(what)) if by == "lane" else Selection(**{by: what})  # type: ignore[arg-type]  # by name


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
