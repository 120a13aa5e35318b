"""Questions to one Harbor, and its lists page by page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from replicator.errors import ErrorClass
from replicator.harbor.pages import ROWS_A_PAGE, Page, each_page
from replicator.harbor.rows import artifact_of, project_of, repository_of
from replicator.registry.errors import NotFound, ProtocolViolated, RegistryError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from replicator.harbor.rows import Artifact, ListedRepository
    from replicator.reference import Repository
    from replicator.registry.transport import Transport

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
            reply = await self._transport.call(
                "GET", url, scopes=frozenset(), expect={200}, max_body=_MAX_PONG_BYTES, basic=True
            )
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
            return ProtocolViolated(self._registry, f"GET /api/v2.0{path}", what)

        async def fetch(number: int) -> Page:
            url = await self._transport.url(f"/api/v2.0{path}?page={number}&page_size={ROWS_A_PAGE}&sort={sort}{query}")
            reply = await self._transport.call(
                "GET",
                url,
                scopes=frozenset(),
                expect={200},
                headers={"Accept": "application/json", "X-Is-Resource-Name": "true"},
                max_body=_MAX_PAGE_BYTES,
                basic=True,
            )
            try:
                rows = json.loads(reply.body)
            except (ValueError, RecursionError):
                rows = None
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise wrong("the answer is not one of Harbor's lists")
            total = reply.headers.get("X-Total-Count", "")
            return Page(rows, int(total) if total.isascii() and total.isdigit() and len(total) < 20 else None)

        return each_page(fetch, wrong, key)
