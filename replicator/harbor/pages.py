"""Harbor's numbered pages, read so that no row is missed and none comes twice while others push and delete.

Sorted by id, what is pushed comes on the last page and shifts none. What is deleted shifts all that follows towards
the front: the rows between the page read before and the next one would be missed. Harbor says on each page how many
rows there are in all; when that falls, pages are read again from where the last row seen before must be by then.
What is deleted and pushed in equal numbers between two pages can't be noticed.

Older Harbors cut the list into pages first and leave out accessories then: a page with few rows, or none, need not be
the last. A list ends when as many rows came as there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

ROWS_A_PAGE = 100
"""Rows a page; Harbor refuses more."""
_MAX_REQUESTS = 100_000
_MAX_STALLS = 100
"""Requests that lead no further, in a row, before a list counts as one that never ends."""
_ENOUGH_EMPTY = 10
"""Pages without a row, one after the other, behind which nothing is looked for in a list that has shrunk."""


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page as it was answered.

    Attributes:
        rows: what stands on it.
        total: how many rows all pages have at that moment; None where Harbor did not say.
    """

    rows: list[dict[str, Any]]
    total: int | None


async def each_page(
    fetch: Callable[[int], Awaitable[ListPage]], wrong: Callable[[str], Exception], key: str = "id"
) -> AsyncGenerator[list[dict[str, Any]], None]:
    """Read all pages of a list that is sorted by its rows' ids.

    Args:
        fetch: reads the page of a number, from 1.
        wrong: makes the error for pages that can't be right, of what is wrong with them.
        key: where a row's id stands. Rows without one, or out of order, are taken as they come.

    Yields:
        The rows of a page that were not on an earlier one; no page without any.

    Raises:
        Exception: what ``fetch`` raises; what ``wrong`` makes when pages repeat themselves or never end.
    """
    reading = _Reading(key)
    while not reading.ended:
        if reading.requests >= _MAX_REQUESTS or reading.stalls > _MAX_STALLS:
            raise wrong("the pages of the list never end; it may have changed too much while it was read")
        page = await reading.next_page(fetch)
        if reading.misses_rows_before(page):
            reading.step_back(page)
            continue
        if reading.repeats(page):
            raise wrong(f"page {reading.number} is page {reading.number - 1} again")
        fresh = reading.take(page)
        if fresh:
            yield fresh


class _Reading:
    """How far a list has been read.

    Attributes:
        number: of the page that comes next.
        ended: whether all was read.
        requests: pages that were asked for.
        stalls: those of them, since there was a new row, that led back or no further.
    """

    def __init__(self, key: str) -> None:
        self.number = 1
        self.ended = False
        self.requests = 0
        self.stalls = 0
        self._key = key
        self._ascending = True
        self._last_id = -1
        self._total: int | None = None
        self._seen = 0
        self._has_shrunk = False
        self._empty = 0
        self._before: list[dict[str, Any]] = []
        # A page that was read before it was noticed that rows in front of it are missing; and whether the next page
        # is one that must hold a row that is known.
        self._ahead: tuple[int, ListPage] | None = None
        self._rejoining = False

    async def next_page(self, fetch: Callable[[int], Awaitable[ListPage]]) -> ListPage:
        if self._ahead is not None and self._ahead[0] == self.number:
            return self._ahead[1]
        page = await fetch(self.number)
        self.requests += 1
        ids = self._ids(page.rows)
        self._ascending = self._ascending and ids == sorted(set(ids)) and len(ids) == len(page.rows)
        return page

    def misses_rows_before(self, page: ListPage) -> bool:
        """Tell whether rows may be missing between what was taken and ``page``.

        There are none if it begins with a row that is known. A page kept ahead follows one that was read later, whose
        rows had moved to the front at the most: nothing is between the two.
        """
        self._has_shrunk = self._has_shrunk or (not self._is_ahead and self._fallen(page) > 0)
        if self.number == 1 or not self._ascending or self._is_ahead:
            return False
        if page.rows and self._ids(page.rows)[0] <= self._last_id:
            return False
        return self._rejoining or self._fallen(page) > 0

    def step_back(self, page: ListPage) -> None:
        if self._ahead is None:
            self._ahead = self.number, page
        # What was deleted may stand behind the last row that was taken: then one page is enough.
        pages = max(1, -(-self._fallen(page) // ROWS_A_PAGE)) if self._rejoining else 1
        self.number = max(1, self.number - pages)
        self._rejoining = True
        self._empty = 0
        self.stalls += 1

    def repeats(self, page: ListPage) -> bool:
        # Where rows moved to the front, the last of them may well be on two pages.
        moved = self._rejoining or (self._has_shrunk and self._ascending)
        return bool(page.rows) and page.rows == self._before and not moved

    def take(self, page: ListPage) -> list[dict[str, Any]]:
        """Take a page in; return its rows that are new."""
        fresh = page.rows
        if self._ascending:
            fresh = [row for row in page.rows if row[self._key] > self._last_id]
            self._last_id = max((row[self._key] for row in fresh), default=self._last_id)
        self._seen += len(fresh)
        if fresh:
            self.stalls = 0
        elif self._ahead is None:
            self.stalls += 1
        self._empty = 0 if page.rows else self._empty + 1
        self._before, self._total, self._rejoining = page.rows, page.total, False
        is_last = self._is_last(page)
        if self._is_ahead:
            self._ahead = None
        if not is_last:
            self.number += 1
        elif self._ahead is not None:
            self.number = self._ahead[0]
        else:
            self.ended = True
        return fresh

    def _is_last(self, page: ListPage) -> bool:
        if page.total is None:
            return len(page.rows) < ROWS_A_PAGE
        if self._has_shrunk:
            # What came may be gone by now, so how much is to come is not known.
            return self._empty >= _ENOUGH_EMPTY
        return self._seen == page.total or (not page.rows and self._seen > page.total)

    @property
    def _is_ahead(self) -> bool:
        return self._ahead is not None and self._ahead[0] == self.number

    def _fallen(self, page: ListPage) -> int:
        return self._total - page.total if self._total is not None and page.total is not None else 0

    def _ids(self, rows: list[dict[str, Any]]) -> list[int]:
        return [row[self._key] for row in rows if type(row.get(self._key)) is int]
