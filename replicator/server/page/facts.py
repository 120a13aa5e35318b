"""The content of the status page: its address with filters and page numbers, and one reading of the queue."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

from replicator.queue import (
    CauseReader,
    HeardProject,
    History,
    Lane,
    ProcessInfo,
    QueueUnavailable,
    Selection,
    Status,
    letters_of,
    list_heard,
    processes,
)
from replicator.queue.client import BATCH

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from replicator.queue import Cause, DeadLetter, Ended, PendingJob, Queue

_FRESH_SECONDS = 1.0
_DEADLINE = 5.0
_GROUPING_SECONDS = 0.5
"""For which one reading of the queue groups dead letters; the next one goes on."""
MAX_SEARCHED = 5000
"""Dead letters among which those of one cause are looked for, the oldest first; to group them takes 0.3 s."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The installation at one moment: the queue as ``replicator status`` shows it, its history, processes and failures.

    The causes are those of the dead letters; of very many, those that are grouped so far. The projects that have sent
    events come with the last one first.
    """

    status: Status
    history: History
    processes: Sequence[ProcessInfo]
    heard: Sequence[HeardProject] = ()
    causes: Sequence[Cause] = ()

    @classmethod
    async def read(cls, queue: Queue, causes: CauseReader) -> Facts:
        """Read the queue.

        Raises:
            QueueUnavailable: Redis does not answer within a few seconds.
        """
        try:
            async with asyncio.timeout(_DEADLINE):
                status, history, alive = await Status.read(queue), await History.read(queue), await processes(queue)
                heard = await list_heard(queue)
                return cls(status, history, alive, heard, await causes.read(_GROUPING_SECONDS))
        except TimeoutError:
            raise QueueUnavailable(f"{queue.where} did not answer everything within {_DEADLINE:g} s") from None


@dataclass(frozen=True, slots=True)
class PendingCopies:
    """A selection of pending copies, the first of them, and how many there are."""

    selection: Selection
    jobs: Sequence[PendingJob]
    total: int


@dataclass(frozen=True, slots=True)
class CauseLetters:
    """A page of the dead letters of one cause.

    Attributes:
        letters: the oldest first.
        whole: whether all dead letters that there are were searched, so that none is missing on the last page.
    """

    letters: Sequence[DeadLetter]
    whole: bool

    @classmethod
    async def read(cls, queue: Queue, cause: str, page: int) -> Self:
        """Look for the dead letters of a cause, among the first `MAX_SEARCHED` ones.

        Args:
            queue: whose.
            cause: the cause's id.
            page: which page, from 1.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        found: list[DeadLetter] = []
        end, steps = page * DEAD_LETTERS, 0
        async for letters in letters_of(queue, cause):
            found += letters
            steps += 1
            if len(found) >= end or steps * BATCH >= MAX_SEARCHED:
                return cls(found[end - DEAD_LETTERS : end], len(found) >= end)
        return cls(found[end - DEAD_LETTERS : end], True)


@dataclass(frozen=True, slots=True)
class PageData:
    """What one page is rendered from: the facts, and the dead letters of a cause and pending copies if requested."""

    facts: Facts
    letters: CauseLetters | None = None
    pending: PendingCopies | None = None


class PageCache:
    """Reads the queue at most once a second, so that many open pages cost Redis as much as one."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._causes = CauseReader(queue)
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
                    self._cached = await Facts.read(self._queue, self._causes)
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
ROWS = 10
"""Copies on a page."""
DEAD_LETTERS = 10
"""Dead letters on a page."""
_MAX_CHARACTERS = 600
_MAX_DIGITS = 9


@dataclass(frozen=True, slots=True)
class View:
    """The choice of content. An invalid value in an address counts as missing.

    Attributes:
        result: only copies with this result; empty for all.
        text: only copies with this in a name or a note, ignoring case; empty for all.
        rule: only copies by this rule; empty for all.
        page: of the copies, from 1.
        cause: the cause whose dead letters are shown; empty for none.
        letters: the page of these, from 1.
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
    cause: str = ""
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
            cause=_text(query, "cause"),
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
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS):
        return default
    return int(text)
