"""Questions to one Harbor, and its lists page by page.

The rows of Harbor's lists (``/api/v2.0``, "Repository" and "Artifact") as values.

Rows come from outside: what is no name, no tag or no digest is left out, and nothing here raises.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from replicator.errors import ErrorClass
from replicator.harbor.pages import ROWS_A_PAGE, ListPage, each_page
from replicator.reference import Repository, is_digest, is_repository_name, is_tag
from replicator.registry.connection import Request
from replicator.registry.errors import NotFound, ProtocolViolated, RegistryError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping

    from replicator.registry.transport import Transport

_MAX_NUMBER = 2**63 - 1
"""What Harbor counts with."""


@dataclass(frozen=True, slots=True)
class ListedRepository:
    """A row of a project's repositories.

    Attributes:
        repository: its name.
        artifact_count: how many artifacts it has, those without a tag too; 0 where Harbor does not say.
    """

    repository: Repository
    artifact_count: int


@dataclass(frozen=True, slots=True)
class ArtifactTag:
    """A tag of an artifact.

    Attributes:
        name: the tag.
        pushed: when it was last set to an artifact, UTC; None where Harbor does not say.
    """

    name: str
    pushed: datetime | None


@dataclass(frozen=True, slots=True)
class Artifact:
    """A row of a list of artifacts: an image, an index, or what else has a manifest.

    Attributes:
        repository: where it is.
        digest: of its manifest.
        size: bytes with all that it names; None where Harbor does not say.
        tags: its tags; none for one that was pushed by digest, or lost its tag to another.
        has_accessories: whether signatures or the like are attached to it.
    """

    repository: Repository
    digest: str
    size: int | None
    tags: tuple[ArtifactTag, ...]
    has_accessories: bool


def project_of(row: Mapping[str, Any]) -> str | None:
    """Return the name in a row of ``GET /projects``; None for what can't be one."""
    name = row.get("name")
    # It becomes a part of a path.
    return name if isinstance(name, str) and is_repository_name(name) and "/" not in name else None


def repository_of(row: Mapping[str, Any], registry: str, project: str) -> ListedRepository | None:
    """Read a row of ``GET /projects/{project}/repositories``.

    Args:
        row: the row.
        registry: the Harbor's host, as the rules name it.
        project: whose list it is.

    Returns:
        What it says; None if it names no repository of this project.
    """
    repository = _repository(row.get("name"), registry, project)
    if repository is None:
        return None
    return ListedRepository(repository, _number(row.get("artifact_count")) or 0)


def artifact_of(
    row: Mapping[str, Any], registry: str, project: str, asked: Repository | None = None
) -> Artifact | None:
    """Read a row of a list of artifacts.

    Args:
        row: the row.
        registry: the Harbor's host, as the rules name it.
        project: whose list it is.
        asked: the repository whose list it is; None for that of a whole project.

    Returns:
        What it says, without what is no tag; None if it has no digest, or is not of what was asked for.
    """
    # Before 2.12 a row does not name its repository.
    name = row.get("repository_name")
    repository = asked if name is None else _repository(name, registry, project)
    digest = row.get("digest")
    if repository is None or asked not in (None, repository) or not isinstance(digest, str) or not is_digest(digest):
        return None
    accessories = row.get("accessories")
    return Artifact(
        repository,
        digest,
        _number(row.get("size")),
        tuple(_tags(row.get("tags"))),
        isinstance(accessories, list) and bool(accessories),
    )


def _repository(name: Any, registry: str, project: str) -> Repository | None:
    if not isinstance(name, str) or not name.startswith(f"{project}/") or not is_repository_name(name):
        return None
    return Repository(registry, name)


def _tags(rows: Any) -> Iterator[ArtifactTag]:
    for row in rows if isinstance(rows, list) else ():
        name = row.get("name") if isinstance(row, dict) else None
        if isinstance(name, str) and is_tag(name):
            yield ArtifactTag(name, _moment(row.get("push_time")))


def _number(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_NUMBER else None


def _moment(value: Any) -> datetime | None:
    """Read RFC 3339; the year 1 is how Go writes that a time was never set."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if moment.year > 1 else None


_MAX_PAGE_BYTES = 8 * 1024 * 1024
_MAX_PONG_BYTES = 1024
_ARTIFACTS = "&with_tag=true&with_accessory=true"


class HarborApi:
    """Questions to one Harbor.

    Args:
        registry: the Harbor's host, as the rules name it.
        transport: the way there, with a login that may list.
    """

    def __init__(self, registry: str, transport: Transport) -> None:
        self._registry = registry
        self._transport = transport

    async def is_harbor(self) -> bool:
        """Tell whether this host is a Harbor: ``GET /ping`` answers ``Pong``, whoever asks.

        Raises:
            RegistryError: a fault of the moment; what any other registry answers is no error.
        """
        try:
            url = await self._transport.url("/api/v2.0/ping")
            request = Request("GET", url, basic=True)
            reply = await self._transport.call(request, expect={200}, max_body=_MAX_PONG_BYTES)
        except RegistryError as error:
            if error.error_class is ErrorClass.TRANSIENT:
                raise
            return False
        at_home = (reply.url.host, reply.url.path) == (url.host, url.path)
        return at_home and reply.body.strip(b'"\r\n ') == b"Pong"

    async def projects(self) -> AsyncGenerator[str, None]:
        """List the names of all projects the login sees (``GET /projects``).

        Raises:
            RegistryError: any other answer, or none; for a registry that is no Harbor too.
        """
        async for page in self._named_pages("/projects", sort="project_id", key="project_id"):
            for row in page:
                name = project_of(row)
                if name is not None:
                    yield name

    async def repositories(self, project: str) -> AsyncGenerator[ListedRepository, None]:
        """List the repositories of a project (``GET /projects/{project}/repositories``).

        Raises:
            NotFound: there is no such project, or the login does not see it.
            RegistryError: any other answer, or none; for a registry that is no Harbor too.
        """
        async for page in self._named_pages(f"/projects/{project}/repositories", sort="repository_id", key="id"):
            for row in page:
                repository = repository_of(row, self._registry, project)
                if repository is not None:
                    yield repository

    async def artifacts_of_project(self, project: str) -> AsyncGenerator[list[Artifact], None]:
        """List the artifacts of all repositories of a project, page by page (``GET /projects/{project}/artifacts``).

        Raises:
            NotFound: Harbor is older than 2.12, which brought this list; or there is no such project.
            RegistryError: any other answer, or none.
        """
        async for page in self.pages(f"/projects/{project}/artifacts", _ARTIFACTS):
            found = (artifact_of(row, self._registry, project) for row in page)
            yield [artifact for artifact in found if artifact is not None]

    async def artifacts(self, repository: Repository) -> AsyncGenerator[list[Artifact], None]:
        """List a repository's artifacts, page by page (``GET /projects/{project}/repositories/{name}/artifacts``).

        Args:
            repository: one in a project.

        Raises:
            NotFound: there is no such repository.
            RegistryError: any other answer, or none.
        """
        project, _, name = repository.name.partition("/")
        # Harbor decodes the path before it splits it: a slash in a name is encoded twice.
        path = f"/projects/{project}/repositories/{name.replace('/', '%252F')}/artifacts"
        async for page in self.pages(path, _ARTIFACTS):
            found = (artifact_of(row, self._registry, project, repository) for row in page)
            yield [artifact for artifact in found if artifact is not None]

    async def _named_pages(self, path: str, *, sort: str, key: str) -> AsyncGenerator[list[dict[str, Any]], None]:
        try:
            async for page in self.pages(path, sort=sort, key=key):
                yield page
        except NotFound as error:
            error.add_note("a pattern of repositories needs a Harbor that lists them, and a login that may")
            raise

    def pages(
        self, path: str, query: str = "", *, sort: str = "id", key: str = "id"
    ) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Read all pages of one of Harbor's lists, in the order its rows were made.

        Harbor passes over a ``sort`` by what is not a column of that list's table, so that has its own name for each.

        Args:
            path: below ``/api/v2.0``, percent-encoded.
            query: further parameters, each behind an ``&``; may be empty.
            sort: the column of the rows' ids.
            key: where a row's id stands.

        Raises:
            RegistryError: any other answer than such a list, or none.
        """

        def wrong(what: str) -> ProtocolViolated:
            return ProtocolViolated(what).at(self._registry, f"GET /api/v2.0{path}")

        async def fetch(number: int) -> ListPage:
            url = await self._transport.url(f"/api/v2.0{path}?page={number}&page_size={ROWS_A_PAGE}&sort={sort}{query}")
            headers = {"Accept": "application/json", "X-Is-Resource-Name": "true"}
            request = Request("GET", url, headers=headers, basic=True)
            reply = await self._transport.call(request, expect={200}, max_body=_MAX_PAGE_BYTES)
            try:
                rows = json.loads(reply.body)
            except (ValueError, RecursionError):
                rows = None
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise wrong("the answer is not one of Harbor's lists")
            total = reply.headers.get("X-Total-Count", "")
            return ListPage(rows, int(total) if total.isascii() and total.isdigit() and len(total) < 20 else None)

        return each_page(fetch, wrong, key)
