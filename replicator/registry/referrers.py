"""What refers to a manifest, such as a signature does (OCI distribution specification 1.1, "Listing Referrers")."""

from __future__ import annotations

from replicator.registry.digests import digest_of
from replicator.registry.endpoint import Endpoint
from replicator.registry.errors import Denied, NotFound, ProtocolViolated, Refused
from replicator.registry.manifest import MAX_MANIFEST_BYTES, OCI_INDEX, Descriptor, parse_manifest
from replicator.registry.pages import next_page

MAX_REFERRERS = 1000
"""Referrers of one manifest that are read; more is no image anyone signs."""
_MAX_PAGES = 100
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
        for _ in range(_MAX_PAGES):
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
