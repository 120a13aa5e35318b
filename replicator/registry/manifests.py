"""The manifests of one repository (OCI distribution specification 1.1, "Pulling manifests", "Pushing Manifests")."""

from __future__ import annotations

import asyncio

from replicator.reference import is_digest
from replicator.registry.connection import packing
from replicator.registry.errors import (
    ConnectionFailed,
    Denied,
    DigestMismatch,
    LoginRefused,
    NotFound,
    ProtocolViolated,
    Unauthorized,
    UnsupportedManifest,
)
from replicator.registry.manifest import (
    ACCEPT,
    MAX_MANIFEST_BYTES,
    Descriptor,
    Manifest,
    digest_of,
    parse_manifest,
    refuse_foreign_type,
)
from replicator.registry.requests import Endpoint

_NO_HEAD = frozenset({405, 501})
"""Answers of a registry that does not support HEAD."""


class Manifests(Endpoint):
    """Requests to ``/manifests/``."""

    async def head_manifest(self, identifier: str) -> Descriptor | None:
        """Resolve a tag or digest without reading the manifest; Harbor does not count this as a pull.

        If the registry does not support HEAD, or sends no digest, that is remembered, and the manifest is read instead.

        Returns:
            Its descriptor; None if there is no such manifest.

        Raises:
            UnsupportedManifest: it had to be read, and is of a type that is not copied.
            RegistryError: any other answer, or none.
        """
        abilities = self._transport.abilities
        try:
            if abilities.heads is not False:
                request = await self._request("HEAD", f"/manifests/{identifier}", {"Accept": ACCEPT})
                reply = await self._transport.call(request, expect={200, *_NO_HEAD})
                digest = reply.headers.get("Docker-Content-Digest", "")
                if reply.status == 200 and is_digest(digest):
                    # That of a packed answer is not the manifest's.
                    length = reply.headers.get("Content-Length", "0") if not packing(reply.headers) else "0"
                    size = int(length) if length.isascii() and length.isdigit() else 0
                    abilities.heads = True
                    return Descriptor(reply.headers.get("Content-Type", ""), digest, size)
            manifest = await self.get_manifest(identifier)
        except NotFound:
            return None
        # Keep HEAD enabled if it has ever worked here.
        abilities.heads = abilities.heads or False
        return Descriptor(manifest.media_type, manifest.digest, len(manifest.content))

    async def head_destination(self, tag: str) -> Descriptor | None:
        """Resolve a tag that is to be written; a refusal counts as absent, and is left to the push to explain.

        Some registries, ACR among them, answer "denied" for a repository that the first push will create.

        Raises:
            RegistryError: the login was refused, or there was no usable answer.
        """
        try:
            return await self.head_manifest(tag)
        except LoginRefused:
            raise
        except (Denied, Unauthorized, UnsupportedManifest):
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
        request = await self._request("PUT", f"/manifests/{identifier}", headers, manifest.content)
        with self._transport.context(request):
            try:
                async with asyncio.timeout(within):
                    once = within is not None
                    reply = await self._transport.call(
                        request, expect={200, 201, 202}, attempts=1 if once else None, waited=once
                    )
            except TimeoutError as error:
                late = ConnectionFailed(f"not answered in {within:g} s")
                raise self._transport.silent(late, within or 0.0) from error
            stored = reply.headers.get("Docker-Content-Digest")
            if stored is None:
                stored = (await self.get_manifest(identifier)).digest
            # A registry may announce a digest of another algorithm, which can't be compared.
            comparable = not is_digest(stored) or stored.partition(":")[0] == manifest.digest.partition(":")[0]
            if comparable and stored != manifest.digest:
                raise ProtocolViolated(f"sent {manifest.digest}, the registry stored {stored[:80]!a}")
            return "OCI-Subject" in reply.headers
