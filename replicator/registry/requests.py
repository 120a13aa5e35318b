"""One repository of a registry: where it is, and what its requests have in common.

``Link`` headers (RFC 8288) as registries page with them (distribution specification, "Listing Tags").

The tags of one repository (OCI distribution specification 1.1, "Listing Tags").

What refers to a manifest, such as a signature does (OCI distribution specification 1.1, "Listing Referrers").
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from replicator.reference import is_tag
from replicator.registry.errors import Denied, NotFound, ProtocolViolated, Refused
from replicator.registry.manifest import MAX_MANIFEST_BYTES, OCI_INDEX, Descriptor, digest_of, parse_manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.reference import Repository
    from replicator.registry.connection import Reply
    from replicator.registry.limits import Abilities, HostLimits, Timing
    from replicator.registry.transport import Transport


class Endpoint:
    """A repository, and the way there.

    Args:
        repository: its name and registry.
        transport: the way there.
        actions: what tokens are asked for, ``pull`` or ``pull,push``; one token then serves all requests here.
        manifest_agent: what is sent as ``User-Agent`` with each GET of a manifest; None for the usual one.
    """

    def __init__(
        self, repository: Repository, transport: Transport, actions: str, manifest_agent: str | None = None
    ) -> None:
        self.repository = repository
        self._transport = transport
        self._path = f"/v2/{repository.name}"
        self._scope = f"repository:{repository.name}:{actions}"
        self._scopes = frozenset({self._scope})
        self._manifest_agent = manifest_agent

    @property
    def abilities(self) -> Abilities:
        """What the registry was seen to do."""
        return self._transport.abilities

    @property
    def limits(self) -> HostLimits:
        """What may be in flight at the registry's host."""
        return self._transport.limits

    @property
    def timing(self) -> Timing:
        """The deadlines and tries that hold here."""
        return self._transport.timing

    async def pause(self) -> None:
        """Wait while the registry wants peace, so that what comes next is sent without delay."""
        await self._transport.pause()


_LINK = re.compile(r"<(?P<target>[^<>]*)>(?P<parameters>(?:\s*;\s*[^\s=;,]+\s*=\s*(?:\"[^\"]*\"|[^\s\";,]+))*)")
_NEXT = re.compile(r";\s*rel\s*=\s*(?:\"(?:[^\"]*\s)?next(?:\s[^\"]*)?\"|next(?=\s*(?:;|$)))", re.IGNORECASE)


def next_page(reply: Reply) -> str | None:
    """Return the target of the answer's ``rel="next"`` link, as it stands there; None on the last page."""
    for header in reply.headers.getall("Link", []):
        for link in _LINK.finditer(header):
            if _NEXT.search(link["parameters"]):
                return link["target"]
    return None


_PAGE = 1000
_MAX_PAGE_BYTES = 8 * 1024 * 1024
_MAX_TAG_PAGES = 10_000
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
        while str(url) not in seen_pages and len(seen_pages) < _MAX_TAG_PAGES:
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


MAX_REFERRERS = 1000
"""Referrers of one manifest that are read; more is no image anyone signs."""
_MAX_REFERRER_PAGES = 100
_UNKNOWN = frozenset({"NAME_UNKNOWN", "MANIFEST_UNKNOWN"})


def fallback_tag(digest: str) -> str:
    """Return the tag whose index lists a manifest's referrers where there is no API for it ("Referrers Tag Schema")."""
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm[:32]}-{encoded[:64]}"


class Referrers(Endpoint):
    """The referrers API of one repository."""

    async def referrers(self, digest: str) -> tuple[Descriptor, ...] | None:
        """List what refers to a manifest, ``MAX_REFERRERS`` at the most.

        Returns:
            Their descriptors, each digest once; None when the registry has no referrers API, which is remembered, or
            does not answer for this repository.

        Raises:
            ProtocolViolated: the answer is no index.
            RegistryError: any other answer, or none.
        """
        if self.abilities.referrers is False:
            return None
        url = await self._transport.url(f"{self._path}/referrers/{digest}")
        found: dict[str, Descriptor] = {}
        for _ in range(_MAX_REFERRER_PAGES):
            request = f"GET {url.path}"
            try:
                reply = await self._transport.call(
                    "GET",
                    url,
                    scopes=self._scopes,
                    expect={200},
                    headers={"Accept": OCI_INDEX},
                    max_body=MAX_MANIFEST_BYTES,
                )
            except (NotFound, Refused, Denied) as error:
                if self.abilities.referrers:
                    raise
                # That one repository is unknown, or closed to this login, says nothing of the registry.
                if not isinstance(error, Denied) and not _UNKNOWN.intersection(error.codes):
                    self.abilities.referrers = False
                return None
            try:
                page = parse_manifest(reply.body, OCI_INDEX, digest_of(reply.body))
            except ValueError as error:
                raise ProtocolViolated(
                    self._transport.registry, request, f"the answer is no list of referrers: {error}"
                ) from error
            self.abilities.referrers = True
            found.update((descriptor.digest, descriptor) for descriptor in page.manifests)
            following = next_page(reply)
            if following is None or len(found) >= MAX_REFERRERS:
                break
            url = self._transport.follow(reply, following, request)
        return tuple(found.values())[:MAX_REFERRERS]
