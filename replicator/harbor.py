"""Harbor's REST API, ``/api/v2.0``: what the registry protocol can't tell, such as a project's repositories."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from yarl import URL

from replicator.reference import Repository, is_repository_name
from replicator.registry.errors import NotFound, ProtocolViolated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.registry.transport import Transport

_PAGE = 100
"""Rows a page; Harbor refuses more."""
_MAX_PAGE_BYTES = 8 * 1024 * 1024
_MAX_PAGES = 100_000


class HarborApi:
    """Questions to one Harbor.

    Args:
        registry: the Harbor's host, as the rules name it.
        transport: the way there, with a login that may list.
    """

    def __init__(self, registry: str, transport: Transport) -> None:
        self._registry = registry
        self._transport = transport

    async def projects(self) -> AsyncIterator[str]:
        """List the names of all projects the login sees (``GET /projects``).

        Raises:
            RegistryError: any other answer, or none; for a registry that is no Harbor too.
        """
        async for row in self._rows("/projects"):
            name = row.get("name")
            # It becomes a part of a path.
            if isinstance(name, str) and is_repository_name(name) and "/" not in name:
                yield name

    async def repositories(self, project: str) -> AsyncIterator[Repository]:
        """List the repositories of a project (``GET /projects/{project}/repositories``).

        Raises:
            NotFound: there is no such project, or the login does not see it.
            RegistryError: any other answer, or none; for a registry that is no Harbor too.
        """
        async for row in self._rows(f"/projects/{project}/repositories"):
            name = row.get("name")
            if isinstance(name, str) and is_repository_name(name):
                yield Repository(self._registry, name)

    async def _rows(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Read all rows of a list; sorted by id, so that what is added meanwhile shifts no page."""
        before: list[Any] = []
        for page in range(1, _MAX_PAGES):
            url = await self._transport.url(f"/api/v2.0{path}")
            url = URL(f"{url}?page={page}&page_size={_PAGE}&sort=id", encoded=True)
            request = f"GET {url.path}"
            try:
                reply = await self._transport.call(
                    "GET",
                    url,
                    scopes=frozenset(),
                    expect={200},
                    headers={"Accept": "application/json", "X-Is-Resource-Name": "true"},
                    max_body=_MAX_PAGE_BYTES,
                    basic=True,
                )
            except NotFound as error:
                error.add_note("a pattern of repositories needs a Harbor that lists them, and a login that may")
                raise
            try:
                rows = json.loads(reply.body)
            except (ValueError, RecursionError):
                rows = None
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise ProtocolViolated(self._registry, request, "the answer is not one of Harbor's lists")
            if rows and rows == before:
                raise ProtocolViolated(self._registry, request, f"page {page} is page {page - 1} again")
            before = rows
            for row in rows:
                yield row
            if len(rows) < _PAGE:
                return
