"""Harbor's lists: their rows as values, and a reader of their pages that misses no row while others push and delete.

Pages are sorted by id, so a new row is on the last page and shifts nothing. A deleted row shifts all that follow it
towards the front: the first rows of the next page move to the page that was read already, and would be missed. Each
page comes with the total number of rows; if that has fallen, the reader steps back to a page with a row that it knows.
Equal numbers of rows deleted and added between two pages go unnoticed.

Older Harbors cut the list into pages before they drop accessories, so a short or empty page need not be the last. A
list ends when as many rows were read as there are.

Rows come from outside: names, tags and digests that are not valid ones are dropped, and reading a row raises nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from replicator.reference import Repository, is_digest, is_repository_name, is_tag
from replicator.registry.errors import one_line
from replicator.registry.kinds import IMAGE, LONGEST_KIND, kind_of_type, names_platform
from replicator.registry.manifest import INDEX_TYPES, platform_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping

ROWS_A_PAGE = 100
"""Harbor refuses a larger page."""
_MAX_NUMBER = 2**63 - 1
"""Harbor's integers have 64 bits."""
_MAX_REQUESTS = 100_000
_MAX_STALLS = 100
"""Requests in a row without a new row, after which a list counts as endless."""
_ENOUGH_EMPTY = 10
"""Empty pages in a row that end a list which has shrunk, so that its length is not known any more."""


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page.

    Attributes:
        total: the number of rows of all pages at that moment; None if Harbor did not say.
    """

    rows: list[dict[str, Any]]
    total: int | None


async def each_page(
    fetch: Callable[[int], Awaitable[ListPage]], wrong: Callable[[str], Exception], key: str = "id"
) -> AsyncGenerator[list[dict[str, Any]], None]:
    """Read all pages of a list that is sorted by its rows' ids.

    Args:
        fetch: reads a page by its number, from 1.
        wrong: makes the error for pages that can't be right, from a description.
        key: the id's key in a row. If ids are missing or out of order, rows are taken as they come.

    Yields:
        The new rows of a page, if there are any.

    Raises:
        Exception: an error of ``fetch``; one of ``wrong``, if pages repeat themselves or never end.
    """
    reading = _PageReader(key)
    while not reading.ended:
        if reading.requests >= _MAX_REQUESTS or reading.stalls > _MAX_STALLS:
            raise wrong("the pages of the list never end; it may have changed too often while it was read")
        page = await reading.next_page(fetch)
        if reading.misses_rows_before(page):
            reading.step_back(page)
            continue
        if reading.repeats(page):
            raise wrong(f"page {reading.number} is page {reading.number - 1} again")
        fresh = reading.take(page)
        if fresh:
            yield fresh


class _PageReader:
    """The position in a list.

    Attributes:
        number: of the next page.
        ended: whether everything was read.
        requests: pages that were fetched.
        stalls: steps back, and pages without a new row, since the last new row.
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
        # The page that showed that rows before it are missing, kept until the reader is there again; and whether the
        # reader is stepping back, so that the next page must have a known row.
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
        """Tell whether rows may be missing between the last row taken and ``page``.

        None are missing if the page begins with a known row. The kept page follows a page that was read later. In the
        meantime rows can only have moved to the front, so none are missing between these two.
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
        # At first one page, because the deleted rows may all be behind the last row taken. If that was not enough, as
        # many pages as the fallen total explains.
        pages = max(1, -(-self._fallen(page) // ROWS_A_PAGE)) if self._rejoining else 1
        self.number = max(1, self.number - pages)
        self._rejoining = True
        self._empty = 0
        self.stalls += 1

    def repeats(self, page: ListPage) -> bool:
        # After rows have moved to the front, the last ones may well be on two pages.
        moved = self._rejoining or (self._has_shrunk and self._ascending)
        return bool(page.rows) and page.rows == self._before and not moved

    def take(self, page: ListPage) -> list[dict[str, Any]]:
        """Take a page, and return its new rows."""
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
            # Rows that were taken may be deleted by now, so the total does not tell how many are left.
            return self._empty >= _ENOUGH_EMPTY
        return self._seen == page.total or (not page.rows and self._seen > page.total)

    @property
    def _is_ahead(self) -> bool:
        return self._ahead is not None and self._ahead[0] == self.number

    def _fallen(self, page: ListPage) -> int:
        return self._total - page.total if self._total is not None and page.total is not None else 0

    def _ids(self, rows: list[dict[str, Any]]) -> list[int]:
        return [row[self._key] for row in rows if type(row.get(self._key)) is int]


@dataclass(frozen=True, slots=True)
class ListedRepository:
    """A row of a project's repositories.

    Attributes:
        artifact_count: including artifacts without a tag; 0 if Harbor does not say.
        changed: when a tag was made, moved or deleted, or an artifact pulled, UTC; None if Harbor does not say.
    """

    repository: Repository
    artifact_count: int
    changed: datetime | None = None


@dataclass(frozen=True, slots=True)
class ArtifactTag:
    """A tag of an artifact.

    Attributes:
        pushed: when the tag was last set, UTC; None if Harbor does not say.
    """

    name: str
    pushed: datetime | None


@dataclass(frozen=True, slots=True)
class Accessory:
    """An artifact that is attached to another one, such as a signature.

    Attributes:
        digest: of its manifest.
        kind: Harbor's name for it, such as ``signature.cosign``; ``subject.accessory`` for what Harbor does not know.
    """

    digest: str
    kind: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """A row of a list of artifacts: an image, an index, or anything else with a manifest.

    Attributes:
        digest: of the manifest.
        size: bytes, with everything that the manifest names; None if Harbor does not say.
        tags: none if it was pushed by digest, or if its tag has moved to another artifact.
        accessories: signatures and the like that are attached to it.
        is_index: whether it has children, as an image for several platforms has.
        labels: names of its labels, global ones and those of the project; none if they were not asked for.
        kind: see `replicator.registry.kinds.artifact_kind`; None where the row leaves it open.
    """

    repository: Repository
    digest: str
    size: int | None
    tags: tuple[ArtifactTag, ...]
    accessories: tuple[Accessory, ...] = ()
    is_index: bool = False
    labels: frozenset[str] = frozenset()
    kind: str | None = None


def project_of(row: Mapping[str, Any]) -> str | None:
    """Return the name in a row of ``GET /projects``; None if it is not a valid one."""
    name = row.get("name")
    # Strict, because the name becomes part of a path.
    return name if isinstance(name, str) and is_repository_name(name) and "/" not in name else None


def repository_of(row: Mapping[str, Any], registry: str, project: str) -> ListedRepository | None:
    """Read a row of ``GET /projects/{project}/repositories``; None if it names no repository of this project."""
    repository = _repository(row.get("name"), registry, project)
    if repository is None:
        return None
    return ListedRepository(repository, _number(row.get("artifact_count")) or 0, _time(row.get("update_time")))


def artifact_of(
    row: Mapping[str, Any], registry: str, project: str, listed: Repository | None = None
) -> Artifact | None:
    """Read a row of a list of artifacts, of the repository ``listed`` or, if that is None, of a whole project.

    Returns:
        The artifact with its valid tags; None if it has no digest, or is not of what was listed.
    """
    # Before 2.12, a row does not name its repository.
    name = row.get("repository_name")
    repository = listed if name is None else _repository(name, registry, project)
    digest = row.get("digest")
    if repository is None or listed not in (None, repository) or not isinstance(digest, str) or not is_digest(digest):
        return None
    references = row.get("references")
    return Artifact(
        repository,
        digest,
        _number(row.get("size")),
        tuple(_tags(row.get("tags"))),
        tuple(_accessories(row.get("accessories"))),
        isinstance(references, list) and bool(references),
        frozenset(_labels(row.get("labels"))),
        _kind(row),
    )


def _repository(name: Any, registry: str, project: str) -> Repository | None:
    if not isinstance(name, str) or not name.startswith(f"{project}/") or not is_repository_name(name):
        return None
    return Repository(registry, name)


def _tags(rows: Any) -> Iterator[ArtifactTag]:
    for row in rows if isinstance(rows, list) else ():
        name = row.get("name") if isinstance(row, dict) else None
        if isinstance(name, str) and is_tag(name):
            yield ArtifactTag(name, _time(row.get("push_time")))


def _accessories(rows: Any) -> Iterator[Accessory]:
    for row in rows if isinstance(rows, list) else ():
        digest, kind = (row.get("digest"), row.get("type")) if isinstance(row, dict) else (None, None)
        if isinstance(digest, str) and is_digest(digest):
            yield Accessory(digest, kind if isinstance(kind, str) else "")


def _kind(row: Mapping[str, Any]) -> str | None:
    """Return the kind of an artifact, as far as its row tells it; the layers, which no row has, may tell another one.

    Harbor's own ``type`` is less exact: it is IMAGE for each index, and UNKNOWN for caches. A Harbor before 2.9 shows
    no artifact type, which may tell another kind than the config.
    """
    media_type, artifact_type = (_text(row.get(name)) for name in ("media_type", "artifact_type"))
    if references := row.get("references"):
        children = [each for each in references if isinstance(each, dict)] if isinstance(references, list) else []
        named = names_platform(platform_of(each.get("platform")) for each in children)
        # Of a child that is listed twice, the manifest counts the first entry; Harbor's rows have no order.
        once = len({_text(each.get("child_digest")) for each in children}) == len(children)
        return IMAGE if named and once and {media_type, artifact_type} <= {"", *INDEX_TYPES} else None
    kinds = [kind_of_type(artifact_type), kind_of_type(media_type)]
    # Harbor shows an image as a module of WebAssembly if its annotations say so.
    if not artifact_type or media_type in INDEX_TYPES or "wasm" in kinds:
        return None
    if IMAGE in kinds:
        return IMAGE if set(kinds) == {IMAGE} else None
    return next(filter(None, kinds), one_line(artifact_type, LONGEST_KIND))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _labels(rows: Any) -> Iterator[str]:
    for row in rows if isinstance(rows, list) else ():
        name = row.get("name") if isinstance(row, dict) else None
        if isinstance(name, str):
            yield name


def _number(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_NUMBER else None


def _time(value: Any) -> datetime | None:
    """Read RFC 3339; Go writes a time that was never set as one in the year 1."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return time if time.year > 1 else None


def logged_repository_of(row: Mapping[str, Any], registry: str, project: str) -> ListedRepository | None:
    """Read a row of ``GET /projects/{project}/logs``; None if nothing was made in a repository of this project."""
    repository = _repository(re.split("[:@]", str(row.get("resource", "")))[0], registry, project)
    if repository is None or row.get("operation") != "create":
        return None
    return ListedRepository(repository, 0, _time(row.get("op_time")))
