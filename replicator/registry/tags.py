"""The tags of one repository (OCI distribution specification 1.1, "Listing Tags")."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from replicator.reference import is_tag
from replicator.registry.endpoint import Endpoint
from replicator.registry.errors import ProtocolViolated
from replicator.registry.pages import next_page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.registry.reply import Reply

_PAGE = 1000
_MAX_PAGE_BYTES = 8 * 1024 * 1024
_MAX_PAGES = 10_000
MAX_TAGS = 1_000_000
"""Tags of one repository that are listed: they are in memory together where a rule takes the newest of them."""


class Tags(Endpoint):
    """What is asked of ``/tags/``."""

    async def tags(self) -> AsyncIterator[str]:
        """List the repository's tags, page by page, in the registry's order.

        A tag that is pushed while the list is read may be missed or come twice.

        Raises:
            NotFound: there is no such repository.
            ProtocolViolated: pages that repeat themselves or are no list of tags, or more than ``MAX_TAGS``.
            RegistryError: any other answer, or none.
        """
        url = await self._transport.url(f"{self._path}/tags/list?n={_PAGE}")
        seen_pages: set[str] = set()
        count = 0
        while str(url) not in seen_pages and len(seen_pages) < _MAX_PAGES:
            seen_pages.add(str(url))
            reply = await self._transport.call("GET", url, scopes=self._scopes, expect={200}, max_body=_MAX_PAGE_BYTES)
            tags = _tags(reply, self._transport.registry, f"GET {url.path}")
            count += len(tags)
            if count > MAX_TAGS:
                detail = f"the repository has more than {MAX_TAGS} tags, which are not listed"
                raise ProtocolViolated(self._transport.registry, f"GET {url.path}", detail)
            for tag in tags:
                yield tag
            following = next_page(reply)
            if following is None:
                return
            url = self._transport.follow(reply, following, f"GET {url.path}")
        raise ProtocolViolated(self._transport.registry, f"GET {url.path}", "the pages of the tag list never end")


def _tags(reply: Reply, registry: str, request: str) -> list[str]:
    try:
        tags = json.loads(reply.body)["tags"] or []
        return [tag for tag in tags if isinstance(tag, str) and is_tag(tag)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolViolated(registry, request, "the answer is not a list of tags") from error
