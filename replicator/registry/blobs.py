"""The blobs of one repository, and uploads (OCI distribution specification 1.1, "Pulling blobs", "Pushing Blobs")."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from yarl import URL

from replicator.registry.blob_stream import BlobStream
from replicator.registry.connection import Request
from replicator.registry.errors import (
    ConnectionFailed,
    Denied,
    DigestMismatch,
    LoginRefused,
    NotFound,
    ProtocolViolated,
    RegistryError,
    Unauthorized,
    UploadLost,
)
from replicator.registry.manifest import MAX_MANIFEST_BYTES, digest_of
from replicator.registry.requests import Endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from replicator.registry.manifest import Descriptor

_SESSION_CODES = frozenset({"BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"})
"""Error codes about the upload session, not about its bytes (specification, "Error Codes")."""


class Blobs(Endpoint):
    """Requests to ``/blobs/``."""

    async def has_blob(self, digest: str) -> bool:
        """Tell whether a blob is here; a refusal counts as no, and is left to the push to explain.

        Raises:
            RegistryError: the login was refused, or there was no usable answer.
        """
        try:
            await self._transport.call(await self._request("HEAD", f"/blobs/{digest}"), expect={200})
        except LoginRefused:
            raise
        except (NotFound, Denied, Unauthorized):
            return False
        return True

    async def read_blob(self, blob: Descriptor, limit: int = MAX_MANIFEST_BYTES) -> bytes:
        """Read a small blob, such as an image's config, and verify it.

        Args:
            blob: its digest and size.
            limit: in bytes.

        Raises:
            NotFound: there is no such blob.
            DigestMismatch: its bytes do not have its digest.
            RegistryError: any other answer, or none; ``ProtocolViolated`` if it is larger.
        """
        request = await self._request("GET", f"/blobs/{blob.digest}")
        with self._transport.context(request):
            reply = await self._transport.call(request, expect={200}, max_body=limit)
            digest = digest_of(reply.body, blob.digest)
            if digest != blob.digest:
                raise DigestMismatch(f"the blob served hashes to {digest}")
            return reply.body

    async def open_blob(self, blob: Descriptor, on_bytes: Callable[[int], None] | None = None) -> BlobStream:
        """Begin to read a blob.

        Args:
            blob: its digest and size.
            on_bytes: called with the number of bytes as they arrive.

        Raises:
            NotFound: there is no such blob.
            RegistryError: any other answer, or none.
        """
        request = await self._request("GET", f"/blobs/{blob.digest}")
        stream = BlobStream(self._transport, request, blob, on_bytes)
        try:
            await stream.open()
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def start_upload(
        self, mount: str | None = None, mount_from: str | None = None, *, may_mount_from: Iterable[str] = ()
    ) -> URL | None:
        """Open an upload session, or mount a blob from a repository of the same registry.

        Args:
            mount: the digest to mount, if it may be here or in ``mount_from`` already.
            mount_from: the repository to mount from.
            may_mount_from: repositories that further blobs are mounted from; one token then serves them all.

        Returns:
            The URL to send the bytes to; None if the blob was mounted and nothing needs to be sent.

        Raises:
            RegistryError: the registry refuses both.
        """
        request = await self._request("POST", "/blobs/uploads/", {"Content-Length": "0"})
        if mount is not None and mount_from is not None:
            request = replace(request, url=request.url.extend_query({"mount": mount, "from": mount_from}))
            if mount_from != self.repository.name:
                pulls = {f"repository:{name}:pull" for name in (mount_from, *may_mount_from)}
                request = replace(request, scopes=self._scopes | pulls)
        with self._transport.context(request):
            reply = await self._transport.call(request, expect={201, 202} if mount else {202})
            if reply.status == 201:
                return None
            location = reply.headers.get("Location")
            if location is None:
                raise ProtocolViolated("the answer opens an upload without a Location")
            return self._transport.follow(reply, location)

    async def finish_upload(self, location: URL, stream: BlobStream) -> None:
        """Send a whole blob into an upload session with one PUT.

        The deadline moves with the bytes: only a registry that stops taking them, or does not answer, exceeds it.

        Raises:
            UploadLost: the session is gone; a new one may succeed.
            RegistryError: the source's error if the stream failed, else the registry's.
        """
        blob = stream.blob
        # The Location is opaque: the digest is appended, and nothing is quoted again.
        separator = "&" if location.raw_query_string else "?"
        url = URL(f"{location}{separator}digest={quote(blob.digest, safe='')}", encoded=True)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
        request = Request("PUT", url, self._scopes, headers)
        await self._transport.limits.pause()
        with self._transport.context(request):
            try:
                async with asyncio.timeout(self._transport.timing.write) as deadline:
                    await self._put_blob(request, stream, deadline)
            except TimeoutError as error:
                raise ConnectionFailed("stopped taking bytes") from error
            except RegistryError as error:
                if stream.error is not None:
                    raise stream.error from error
                raise

    async def _put_blob(self, request: Request, stream: BlobStream, deadline: asyncio.Timeout) -> None:
        transport, timing, size = self._transport, self._transport.timing, stream.blob.size
        loop = asyncio.get_running_loop()
        sent = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal sent
            # No deadline while the source is read, which has its own: here only the sending counts.
            deadline.reschedule(None)
            async for chunk in stream:
                deadline.reschedule(loop.time() + timing.write)
                sent += len(chunk)
                transport.observer.sent(transport.registry, len(chunk))
                yield chunk
                if sent < size:
                    # A refusal that arrived meanwhile must be read before a write meets the closed connection: the
                    # first turn of the loop finds it, the second comes after it was read. After the last bytes there
                    # must be no turn: a body that ends later than its answer costs the connection.
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                deadline.reschedule(None)
            deadline.reschedule(loop.time() + timing.commit)

        async with transport.exchange(replace(request, body=body())) as response:
            if response.status not in (201, 204):
                error = await transport.failure(response)
                if response.status in (404, 416) or _SESSION_CODES.intersection(error.codes):
                    raise error.recast(UploadLost)
                raise error
            if sent < size:
                # The registry can't have verified the digest of bytes that it never got.
                raise ProtocolViolated(f"answered {response.status} before the blob was sent: {sent} bytes of {size}")

    async def cancel_upload(self, location: URL) -> None:
        """Cancel an upload session, so that the registry need not keep it; its answer does not matter."""
        try:
            request = Request("DELETE", location, self._scopes)
            await self._transport.call(request, expect={200, 202, 204}, attempts=1)
        except RegistryError:
            return
