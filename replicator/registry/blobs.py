"""The blobs of one repository, and uploads (OCI distribution specification 1.1, "Pulling blobs", "Pushing Blobs")."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import quote

from yarl import URL

from replicator.registry.blob_stream import BlobStream
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
"""What says that an upload's session, not its bytes, is at fault (specification, "Error Codes")."""


class Blobs(Endpoint):
    """What is asked about, read from and written to ``/blobs/``."""

    async def has_blob(self, digest: str) -> bool:
        """Tell whether a blob is here; a refusal counts as no, for the push to explain.

        Raises:
            RegistryError: the login was refused, or there was no usable answer.
        """
        url = await self._transport.url(f"{self._path}/blobs/{digest}")
        try:
            await self._transport.call("HEAD", url, scopes=self._scopes, expect={200})
        except LoginRefused:
            raise
        except (NotFound, Denied, Unauthorized):
            return False
        return True

    async def read_blob(self, blob: Descriptor, limit: int = MAX_MANIFEST_BYTES) -> bytes:
        """Read a small blob, such as an image's config, and verify it.

        Args:
            blob: its digest and size.
            limit: bytes that it may have.

        Raises:
            NotFound: it is not here.
            DigestMismatch: its bytes are not those of its digest.
            RegistryError: any other answer, or none; ``ProtocolViolated`` if it is larger.
        """
        url = await self._transport.url(f"{self._path}/blobs/{blob.digest}")
        reply = await self._transport.call("GET", url, scopes=self._scopes, expect={200}, max_body=limit)
        digest = digest_of(reply.body, blob.digest)
        if digest != blob.digest:
            request = f"GET {url.path}"
            raise DigestMismatch(self._transport.registry, request, f"the blob served hashes to {digest}")
        return reply.body

    async def open_blob(self, blob: Descriptor, on_bytes: Callable[[int], None] | None = None) -> BlobStream:
        """Begin to read a blob.

        Args:
            blob: its digest and size.
            on_bytes: told the number of bytes as they arrive.

        Raises:
            NotFound: it is not here.
            RegistryError: any other answer, or none.
        """
        url = await self._transport.url(f"{self._path}/blobs/{blob.digest}")
        stream = BlobStream(self._transport, url, self._scopes, blob, on_bytes)
        try:
            await stream.open()
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def start_upload(
        self, mount: str | None = None, mount_from: str | None = None, *, may_mount_from: Iterable[str] = ()
    ) -> URL | None:
        """Open an upload session, or have a blob mounted from a repository of the same registry.

        Args:
            mount: the digest to mount, if it may be here or in ``mount_from`` already.
            mount_from: the repository's name to mount from.
            may_mount_from: repositories that further blobs are to be mounted from; one token then serves them all.

        Returns:
            Where to send the bytes; None when the blob was mounted and nothing needs to be sent.

        Raises:
            RegistryError: the registry takes neither.
        """
        url = await self._transport.url(f"{self._path}/blobs/uploads/")
        scopes = self._scopes
        if mount is not None and mount_from is not None:
            url = url.extend_query({"mount": mount, "from": mount_from})
            if mount_from != self.repository.name:
                scopes |= {f"repository:{name}:pull" for name in (mount_from, *may_mount_from)}
        reply = await self._transport.call(
            "POST", url, scopes=scopes, expect={201, 202} if mount else {202}, headers={"Content-Length": "0"}
        )
        if reply.status == 201:
            return None
        location = reply.headers.get("Location")
        if location is None:
            raise ProtocolViolated(
                self._transport.registry, f"POST {url.path}", "an upload was begun without a Location"
            )
        return self._transport.follow(reply, location, f"POST {url.path}")

    async def finish_upload(self, location: URL, stream: BlobStream) -> None:
        """Send a whole blob into an upload session with one PUT.

        The deadline moves with the bytes: only a side that stops taking them, or does not answer, is given up.

        Raises:
            UploadLost: the session is gone; a new one may succeed.
            RegistryError: the source's error if the stream failed, else the registry's.
        """
        blob, timing = stream.blob, self._transport.timing
        # The Location is opaque: the digest is added and nothing is quoted anew.
        await self._transport.pause()
        separator = "&" if location.raw_query_string else "?"
        url = URL(f"{location}{separator}digest={quote(blob.digest, safe='')}", encoded=True)
        request = f"PUT {location.path}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
        loop = asyncio.get_running_loop()
        sent = 0
        try:
            async with asyncio.timeout(timing.write) as deadline:

                async def body() -> AsyncIterator[bytes]:
                    nonlocal sent
                    # While the source is being read its own deadlines hold; here only the sending counts.
                    deadline.reschedule(None)
                    async for chunk in stream:
                        deadline.reschedule(loop.time() + timing.write)
                        sent += len(chunk)
                        self._transport.observer.sent(self._transport.registry, len(chunk))
                        yield chunk
                        if sent < blob.size:
                            # A refusal that came meanwhile must be read before a write meets the connection's end: the
                            # first turn of the loop finds it, the second comes after it was read. After the last bytes
                            # there must be no turn: a body that ends later than its answer costs the connection.
                            await asyncio.sleep(0)
                            await asyncio.sleep(0)
                        deadline.reschedule(None)
                    deadline.reschedule(loop.time() + timing.commit)

                async with self._transport.exchange(
                    "PUT", url, scopes=self._scopes, headers=headers, data=body()
                ) as response:
                    if response.status not in (201, 204):
                        error = await self._transport.failure("PUT", response)
                        if response.status in (404, 416) or _SESSION_CODES.intersection(error.codes):
                            raise UploadLost(error.registry, error.request, error.detail, status=error.status)
                        raise error
                    if sent < blob.size:
                        # Nobody can have verified a digest of bytes that were not sent.
                        raise ProtocolViolated(
                            self._transport.registry,
                            request,
                            f"answered {response.status} before the blob was sent: {sent} bytes of {blob.size}",
                        )
        except TimeoutError as error:
            raise ConnectionFailed(self._transport.registry, request, "stopped taking bytes") from error
        except RegistryError as error:
            if stream.error is not None:
                raise stream.error from error
            raise

    async def cancel_upload(self, location: URL) -> None:
        """Give an upload session up, so that the registry need not keep it; what it answers does not matter."""
        try:
            await self._transport.call("DELETE", location, scopes=self._scopes, expect={200, 202, 204}, tries=1)
        except RegistryError:
            return
