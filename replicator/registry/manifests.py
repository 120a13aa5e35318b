"""The manifests of one repository (OCI distribution specification 1.1, "Pulling manifests", "Pushing Manifests")."""

from __future__ import annotations

import asyncio

from replicator.reference import is_digest
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
"""Answers of a registry that does not do HEAD."""


class Manifests(Endpoint):
    """What is asked about, read from and written to ``/manifests/``."""

    async def head_manifest(self, identifier: str) -> Descriptor | None:
        """Ask what a tag or digest stands for, without reading it; at Harbor this does not count as a pull.

        A registry that takes no HEAD, or says no digest, is remembered, and the manifest is read instead.

        Returns:
            Its descriptor; None when it is not there.

        Raises:
            UnsupportedManifest: it had to be read, and is of a type that is not copied.
            RegistryError: any other answer, or none.
        """
        abilities = self._transport.abilities
        try:
            if abilities.heads is not False:
                url = await self._transport.url(f"{self._path}/manifests/{identifier}")
                reply = await self._transport.call(
                    "HEAD", url, scopes=self._scopes, expect={200, *_NO_HEAD}, headers={"Accept": ACCEPT}
                )
                digest = reply.headers.get("Docker-Content-Digest", "")
                if reply.status == 200 and is_digest(digest):
                    length = reply.headers.get("Content-Length", "0")
                    size = int(length) if length.isascii() and length.isdigit() else 0
                    abilities.heads = True
                    return Descriptor(reply.headers.get("Content-Type", ""), digest, size)
            manifest = await self.get_manifest(identifier)
        except NotFound:
            return None
        # Of one that did answer before, this was a slip.
        abilities.heads = abilities.heads or False
        return Descriptor(manifest.media_type, manifest.digest, len(manifest.content))

    async def head_destination(self, tag: str) -> Descriptor | None:
        """Ask what a tag to be written stands for now; a refusal counts as absent, for the push to explain.

        Some registries, ACR among them, answer "denied" about a repository that the first push will create.

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
            identifier: tag or digest.

        Raises:
            NotFound: there is none.
            DigestMismatch: its bytes are not those of the digest asked for or announced.
            UnsupportedManifest: it is of a type that is not copied.
            RegistryError: any other answer, or none.
        """
        url = await self._transport.url(f"{self._path}/manifests/{identifier}")
        request = f"GET {url.path}"
        headers = {"Accept": ACCEPT}
        if self._manifest_agent is not None:
            headers["User-Agent"] = self._manifest_agent
        reply = await self._transport.call(
            "GET", url, scopes=self._scopes, expect={200}, headers=headers, max_body=MAX_MANIFEST_BYTES
        )
        content_type = reply.headers.get("Content-Type", "")
        try:
            refuse_foreign_type(content_type)
        except ValueError as error:
            raise UnsupportedManifest(self._transport.registry, request, str(error)) from error
        announced = reply.headers.get("Docker-Content-Digest")
        expected = identifier if is_digest(identifier) else announced
        digest = digest_of(reply.body, expected if expected is not None and is_digest(expected) else "sha256:")
        if expected is not None and digest != expected:
            raise DigestMismatch(
                self._transport.registry, request, f"the manifest served hashes to {digest}, not to {expected}"
            )
        try:
            return parse_manifest(reply.body, content_type, digest)
        except ValueError as error:
            raise UnsupportedManifest(self._transport.registry, request, str(error)) from error

    async def put_manifest(self, manifest: Manifest, identifier: str, *, within: float | None = None) -> bool:
        """Write a manifest's bytes as they are, and compare the digest the registry made of them.

        Args:
            manifest: what to write.
            identifier: the tag, or the manifest's own digest.
            within: seconds after which nothing more is sent; then it is tried once only, for the caller to repeat.

        Returns:
            Whether the registry lists it among the referrers of its subject from now on (``OCI-Subject``); if it has
            a subject and this is False, the client must (specification, "Pushing Manifests with Subject").

        Raises:
            ManifestIncomplete: something it names is missing here.
            ProtocolViolated: the registry stored something else.
            RegistryError: any other answer, or none.
        """
        url = await self._transport.url(f"{self._path}/manifests/{identifier}")
        try:
            async with asyncio.timeout(within):
                reply = await self._transport.call(
                    "PUT",
                    url,
                    scopes=self._scopes,
                    expect={200, 201, 202},
                    headers={"Content-Type": manifest.media_type},
                    data=manifest.content,
                    tries=None if within is None else 1,
                )
        except TimeoutError as error:
            raise ConnectionFailed(
                self._transport.registry, f"PUT {url.path}", f"not answered in {within:g} s"
            ) from error
        stored = reply.headers.get("Docker-Content-Digest")
        if stored is None:
            stored = (await self.get_manifest(identifier)).digest
        # A registry may name it by another algorithm; only one it shares with us can be compared.
        comparable = not is_digest(stored) or stored.partition(":")[0] == manifest.digest.partition(":")[0]
        if comparable and stored != manifest.digest:
            raise ProtocolViolated(
                self._transport.registry,
                f"PUT {url.path}",
                f"sent {manifest.digest}, the registry stored {stored[:80]!a}",
            )
        return "OCI-Subject" in reply.headers
