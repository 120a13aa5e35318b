"""Blobs that fit into memory: one request reads such a blob, and one sends it (specification, "Pushing Blobs")."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from yarl import URL

from replicator.registry.connection import Request
from replicator.registry.errors import DigestMismatch, ForeignAnswer, RegistryError, Unauthorized, UploadLost
from replicator.registry.manifest import MAX_MANIFEST_BYTES, digest_of
from replicator.registry.manifests import Endpoint

if TYPE_CHECKING:
    from replicator.registry.manifest import Descriptor

_SESSION_CODES = frozenset({"BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"})
"""Error codes about the upload session, not about its bytes (specification, "Error Codes")."""


class SmallBlobs(Endpoint):
    """Requests to ``/blobs/`` with bodies that are held in memory."""

    async def read_blob(
        self, blob: Descriptor, limit: int = MAX_MANIFEST_BYTES, *, attempts: int | None = None
    ) -> bytes:
        """Read a small blob, such as an image's config, and verify it.

        Args:
            blob: its digest and size.
            limit: in bytes.
            attempts: how many there are in all; None for the usual number.

        Raises:
            NotFound: there is no such blob.
            DigestMismatch: its bytes do not have its digest.
            RegistryError: any other answer, or none; ``ProtocolViolated`` if it is larger.
        """
        request = await self._request("GET", f"/blobs/{blob.digest}")
        with self._transport.context(request):
            reply = await self._transport.call(request, expect={200}, max_body=limit, attempts=attempts)
            digest = digest_of(reply.body, blob.digest)
            if digest != blob.digest:
                raise DigestMismatch(f"the blob served hashes to {digest}")
            return reply.body

    async def put_blob(self, location: URL, digest: str, content: bytes) -> None:
        """Send a small blob into an upload session, in one attempt.

        Args:
            location: the session's.
            digest: of the content; the registry verifies it.
            content: all of the blob.

        Raises:
            UploadLost: the session is gone; a new one may succeed.
            RegistryError: any other answer, or none.
        """
        headers = {"Content-Type": "application/octet-stream"}
        request = Request("PUT", closing_url(location, digest), self._scopes, headers, content)
        with self._transport.context(request):
            try:
                await self._transport.call(request, expect={201, 204}, attempts=1)
            except ForeignAnswer:
                raise
            except RegistryError as error:
                # A 401 without a challenge is no answer to a login, so it may be one of a moment.
                silent = isinstance(error, Unauthorized) and not error.challenged
                if silent or is_out_of_session(error):
                    raise error.recast(UploadLost) from error
                raise


def closing_url(location: URL, digest: str) -> URL:
    """Return the URL of the request that ends an upload: the Location is opaque, and nothing of it is quoted again."""
    separator = "&" if location.raw_query_string else "?"
    return URL(f"{location}{separator}digest={quote(digest, safe='')}", encoded=True)


def is_out_of_step(error: RegistryError) -> bool:
    """Tell whether a registry refuses bytes because they do not fit to the state of their upload session."""
    return error.status == 416 or bool(_SESSION_CODES.intersection(error.codes))


def is_out_of_session(error: RegistryError) -> bool:
    """Tell whether a registry refuses bytes because their upload session is gone, or has another state."""
    return error.status == 404 or is_out_of_step(error)
