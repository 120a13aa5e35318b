"""Requests about one repository: their common base, its manifests, its tags, and the referrers of a manifest.

Sources: OCI distribution specification 1.1, "Pulling manifests", "Pushing Manifests", "Listing Tags" and "Listing
Referrers".
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from replicator.reference import is_digest, is_tag
from replicator.registry.connection import Request, packing
from replicator.registry.errors import (
    ConnectionFailed,
    Denied,
    DigestMismatch,
    ForeignAnswer,
    LoginRefused,
    NotFound,
    NotYet,
    ProtocolViolated,
    Refused,
    RegistryError,
    Unauthorized,
    UnsupportedManifest,
    one_line,
)
from replicator.registry.manifest import (
    ACCEPT,
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    Descriptor,
    Manifest,
    digest_of,
    parse_manifest,
    refuse_foreign_type,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from replicator.reference import Repository
    from replicator.registry.connection import Reply
    from replicator.registry.limits import Abilities, HostLimits, Timing
    from replicator.registry.transport import Transport


class Endpoint:
    """A repository, and the way there.

    Args:
        repository: its name and registry.
        transport: the way there.
        actions: ``pull`` or ``pull,push``; one token then serves all requests here.
        manifest_agent: ``User-Agent`` of each GET of a manifest; None for the usual one.
    """

    def __init__(
        self, repository: Repository, transport: Transport, actions: str, manifest_agent: str | None = None
    ) -> None:
        self.repository = repository
        self._transport = transport
        self._path = f"/v2/{repository.name}"
        self._scopes = frozenset({f"repository:{repository.name}:{actions}"})
        self._manifest_agent = manifest_agent

    @property
    def abilities(self) -> Abilities:
        """The registry's abilities, as far as they are known."""
        return self._transport.abilities

    @property
    def limits(self) -> HostLimits:
        """The limits of the registry's host."""
        return self._transport.limits

    @property
    def timing(self) -> Timing:
        """The deadlines and attempts of requests to the registry."""
        return self._transport.timing

    async def answers(self) -> bool:
        """Tell whether the registry itself answers, at ``/v2/`` (specification, "Determining Support")."""
        request = Request("GET", await self._transport.url("/v2/"), self._scopes)
        try:
            await self._transport.call(request, expect={200})
        except RegistryError as error:
            # With a challenge: without one it would be a `ForeignAnswer`, or come from the token endpoint.
            return isinstance(error, Denied | Unauthorized) and not isinstance(error, LoginRefused)
        return True

    async def pause(self) -> None:
        """Wait while the registry asks for a pause, or its rate is used up, so that the next request has no delay.

        The next request has to be sent as one that ``waited``; see `Transport.call`.
        """
        await self._transport.limits.ready()

    async def _request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Request:
        """Build a request to ``path`` below this repository."""
        url = await self._transport.url(f"{self._path}{path}")
        return Request(method, url, self._scopes, headers or {}, body)


_LINK = re.compile(r"<(?P<target>[^<>]*)>(?P<parameters>(?:\s*;\s*[^\s=;,]+\s*=\s*(?:\"[^\"]*\"|[^\s\";,]+))*)")
_NEXT = re.compile(r";\s*rel\s*=\s*(?:\"(?:[^\"]*\s)?next(?:\s[^\"]*)?\"|next(?=\s*(?:;|$)))", re.IGNORECASE)


def next_page(reply: Reply) -> str | None:
    """Return the target of the answer's ``rel="next"`` link (RFC 8288), as it is; None on the last page."""
    for header in reply.headers.getall("Link", []):
        for link in _LINK.finditer(header):
            if _NEXT.search(link["parameters"]):
                return link["target"]
    return None


_PAGE = 1000
"""Tags requested at once; a registry may answer with fewer."""
_ROUND = 100
"""Registries that give fewer tags at once give a multiple of this."""
_MAX_PAGE_BYTES = 8 * 1024 * 1024
_MAX_TAG_PAGES = 10_000
MAX_TAGS = 1_000_000
"""Tags of one repository that are listed: a rule that takes the newest of them needs them all in memory."""


class Tags(Endpoint):
    """Requests to ``/tags/``."""

    async def tags(
        self, more: Callable[[], bool] = lambda: True, *, patient: bool = False
    ) -> AsyncGenerator[str, None]:
        """List the repository's tags, page by page, in the registry's order.

        A tag that is pushed while the list is read may be missing or come twice.

        Args:
            more: tells, before each page but the first, whether to go on; the list ends there if not.
            patient: wait for a registry that does not answer, see `Transport.call`.

        Raises:
            NotFound: there is no such repository.
            ProtocolViolated: pages repeat or are not a list of tags, or there are more than ``MAX_TAGS``.
            RegistryError: any other answer, or none.
        """
        request = await self._request("GET", f"/tags/list?n={_PAGE}")
        with self._transport.context(request):
            seen_pages: set[str] = set()
            count, guessed = 0, False
            known: set[str] = set()
            while str(request.url) not in seen_pages and len(seen_pages) < _MAX_TAG_PAGES:
                seen_pages.add(str(request.url))
                try:
                    reply = await self._transport.call(request, expect={200}, max_body=_MAX_PAGE_BYTES, patient=patient)
                except NotFound:
                    if guessed:
                        return
                    raise
                listed = _read_tags(reply)
                tags = [tag for tag in listed if is_tag(tag) and tag not in known]
                count += len(tags)
                if count > MAX_TAGS:
                    raise ProtocolViolated(f"the repository has more than {MAX_TAGS} tags, which are not listed")
                for tag in tags:
                    yield tag
                following = next_page(reply)
                guessed = following is None and bool(tags) and _is_full(len(listed))
                if guessed:
                    # A proxy may drop the Link. A registry that ignores `last` brings the same page again.
                    known.update(tags)
                    following = f"{self._path}/tags/list?n={_PAGE}&last={quote(listed[-1], safe='')}"
                if following is None or not more():
                    return
                request = Request("GET", self._transport.follow(reply, following), self._scopes)
            raise ProtocolViolated("the pages of the tag list never end")


def _is_full(count: int) -> bool:
    """Tell whether a page of tags may not be the last although it has no Link; some registries give fewer at once."""
    return count > 0 and (count >= _PAGE or count % _ROUND == 0)


def _read_tags(reply: Reply) -> list[str]:
    try:
        # Registries answer null for a repository without tags.
        tags = json.loads(reply.body)["tags"] or []
        return [tag for tag in tags if isinstance(tag, str)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolViolated("the answer is not a list of tags") from error


MAX_REFERRERS = 1000
"""Referrers of one manifest that are read; no image has more signatures than that."""
_MAX_REFERRER_PAGES = 100
_UNKNOWN = frozenset({"NAME_UNKNOWN", "MANIFEST_UNKNOWN"})


def fallback_tag(digest: str) -> str:
    """Return the tag whose index lists a manifest's referrers where there is no API ("Referrers Tag Schema")."""
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm[:32]}-{encoded[:64]}"


class Referrers(Endpoint):
    """Requests to ``/referrers/``."""

    async def referrers(self, digest: str) -> tuple[Descriptor, ...] | None:
        """List the manifests that refer to a manifest, as signatures do; at most ``MAX_REFERRERS``.

        Returns:
            Their descriptors, each digest once; None if the registry has no referrers API, which is remembered, or
            does not answer for this repository.

        Raises:
            ProtocolViolated: the answer is not an index.
            RegistryError: any other answer, or none.
        """
        if self.abilities.referrers is False:
            return None
        request = await self._request("GET", f"/referrers/{digest}", {"Accept": OCI_INDEX})
        found: dict[str, Descriptor] = {}
        with self._transport.context(request):
            for _ in range(_MAX_REFERRER_PAGES):
                try:
                    reply = await self._transport.call(request, expect={200}, max_body=MAX_MANIFEST_BYTES)
                except (NotFound, Refused, Denied, Unauthorized, ForeignAnswer) as error:
                    # A server of Go's answers a path that it does not know with a text, others do with a page.
                    unknown = not isinstance(error, ForeignAnswer) or error.status == 404
                    if self.abilities.referrers or not unknown or isinstance(error, LoginRefused):
                        raise
                    if isinstance(error, ForeignAnswer) and error.is_page:
                        if await self.answers():
                            return None
                        raise
                    # An unknown repository, or one that is closed to this login, says nothing about the API.
                    if not isinstance(error, Denied | Unauthorized) and not _UNKNOWN.intersection(error.codes):
                        self.abilities.referrers = False
                    return None
                try:
                    page = parse_manifest(reply.body, OCI_INDEX, digest_of(reply.body))
                except ValueError as error:
                    raise ProtocolViolated(f"the answer is not a list of referrers: {error}") from error
                self.abilities.referrers = True
                found.update((descriptor.digest, descriptor) for descriptor in page.manifests)
                following = next_page(reply)
                if following is None or len(found) >= MAX_REFERRERS:
                    break
                url = self._transport.follow(reply, following)
                request = Request("GET", url, self._scopes, {"Accept": OCI_INDEX})
        return tuple(found.values())[:MAX_REFERRERS]


_NO_HEAD = frozenset({405, 501})
"""Answers of a registry that does not support HEAD."""
_GATED = 412
"""Harbor's answer for an image that a policy of its project withholds."""


class Manifests(Endpoint):
    """Requests to ``/manifests/``."""

    async def head_manifest(self, identifier: str, *, explain: bool = True) -> Descriptor | None:
        """Resolve a tag or digest without reading the manifest; Harbor does not count this as a pull.

        If the registry does not support HEAD, or sends no digest, that is remembered, and the manifest is read instead.
        An image that is withheld is asked for with GET too: only that answer has a body, which names the policy.

        Args:
            identifier: a tag or digest.
            explain: read the manifest after a refusal too: an answer to HEAD has no words, so it may be a firewall's.

        Returns:
            Its descriptor; None if there is no such manifest.

        Raises:
            NotYet: a policy withholds it; the error has the registry's reason.
            UnsupportedManifest: it had to be read, and is of a type that is not copied.
            RegistryError: any other answer, or none.
        """
        abilities, remember = self._transport.abilities, True
        try:
            if abilities.heads is not False:
                request = await self._request("HEAD", f"/manifests/{identifier}", {"Accept": ACCEPT})
                reply = await self._transport.call(request, expect={200, _GATED, *_NO_HEAD})
                digest = reply.headers.get("Docker-Content-Digest", "")
                if reply.status == 200 and is_digest(digest):
                    # That of a packed answer is not the manifest's.
                    length = reply.headers.get("Content-Length", "0") if not packing(reply.headers) else "0"
                    size = int(length) if length.isascii() and length.isdigit() else 0
                    abilities.heads = True
                    return Descriptor(reply.headers.get("Content-Type", ""), digest, size)
                remember = reply.status != _GATED
        except NotFound:
            return None
        except (Denied, Refused, Unauthorized) as error:
            if not explain or (isinstance(error, Unauthorized) and error.challenged):
                raise
            remember = False
        try:
            manifest = await self.get_manifest(identifier)
        except NotFound:
            return None
        if remember:
            # Keep HEAD enabled if it has ever worked here.
            abilities.heads = abilities.heads or False
        return Descriptor(manifest.media_type, manifest.digest, len(manifest.content))

    async def head_destination(self, tag: str, *, withheld: bool = True) -> Descriptor | None:
        """Resolve a tag that is to be written; a refusal counts as absent, and is left to the push to explain.

        Some registries, ACR among them, answer "denied" for a repository that the first push will create. What a
        policy withholds (412) can't be compared, so it counts as absent, or ``withheld`` is False: it may not be lost.

        Raises:
            RegistryError: the login was refused, or there was no usable answer.
        """
        try:
            return await self.head_manifest(tag, explain=False)
        except NotYet as error:
            if not withheld:
                raise error.recast(Refused, ": can't tell which image the tag points to") from error
            return None
        except LoginRefused:
            raise
        except (Denied, Refused, Unauthorized, UnsupportedManifest):
            return None

    async def get_manifest(self, identifier: str) -> Manifest:
        """Read a manifest and verify it.

        Args:
            identifier: a tag, or the digest that its bytes must have.

        Raises:
            NotFound: there is no such manifest.
            DigestMismatch: its bytes do not have the digest that was requested, or that the registry announced.
            UnsupportedManifest: it is not an image or index.
            RegistryError: any other answer, or none.
        """
        agent = {"User-Agent": self._manifest_agent} if self._manifest_agent is not None else {}
        request = await self._request("GET", f"/manifests/{identifier}", {"Accept": ACCEPT, **agent})
        with self._transport.context(request):
            reply = await self._transport.call(request, expect={200}, max_body=MAX_MANIFEST_BYTES)
            content_type = reply.headers.get("Content-Type", "")
            try:
                # Before the digest: that of a signed Docker schema 1 manifest is not the digest of its bytes.
                refuse_foreign_type(content_type)
                announced = reply.headers.get("Docker-Content-Digest")
                expected = identifier if is_digest(identifier) else announced
                digest = digest_of(reply.body, expected if expected is not None and is_digest(expected) else "sha256:")
                if expected is not None and digest != expected:
                    raise DigestMismatch(f"the manifest served hashes to {digest}, not to {expected}")
                return parse_manifest(reply.body, content_type, digest)
            except ValueError as error:
                raise UnsupportedManifest(str(error)) from error

    async def put_manifest(self, manifest: Manifest, identifier: str, *, within: float | None = None) -> bool:
        """Write a manifest's bytes as they are, and compare the digest under which the registry stored them.

        Args:
            manifest: the manifest.
            identifier: the tag, or the manifest's own digest.
            within: seconds after which nothing more is sent; there is one attempt then, for the caller to repeat after
                another `pause`.

        Returns:
            Whether the registry lists it among the referrers of its subject from now on (``OCI-Subject``); if it has
            a subject and this is False, the client must (specification, "Pushing Manifests with Subject").

        Raises:
            ManifestIncomplete: the repository lacks a part of it.
            ProtocolViolated: the registry stored something else.
            RegistryError: any other answer, or none.
        """
        headers = {"Content-Type": manifest.media_type}
        request, once = await self._request("PUT", f"/manifests/{identifier}", headers, manifest.content), bool(within)
        request, attempts = replace(request, once=once), 1 if once else None
        with self._transport.context(request):
            try:
                async with asyncio.timeout(within):
                    reply = await self._transport.call(request, expect={200, 201, 202}, attempts=attempts, waited=once)
            except TimeoutError as error:
                late = ConnectionFailed(f"no answer within {within:g} s; the registry may still carry it out")
                raise self._transport.silent(late, within or 0.0) from error
            stored = reply.headers.get("Docker-Content-Digest")
            if stored is None:
                stored = (await self.get_manifest(identifier)).digest
            # A registry may announce a digest of another algorithm, which can't be compared.
            comparable = not is_digest(stored) or stored.partition(":")[0] == manifest.digest.partition(":")[0]
            if comparable and stored != manifest.digest:
                raise ProtocolViolated(f"sent {manifest.digest}, the registry stored {one_line(stored, 80)!a}")
            return "OCI-Subject" in reply.headers
