"""One repository of a registry: its manifests, blobs, uploads and tags (OCI distribution specification 1.1)."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING
from urllib.parse import quote

from yarl import URL

from replicator.reference import is_digest, is_tag
from replicator.registry.blobs import BlobStream
from replicator.registry.digests import digest_of
from replicator.registry.errors import (
    ConnectionFailed,
    Denied,
    DigestMismatch,
    LoginRefused,
    NotFound,
    ProtocolViolated,
    RegistryError,
    Unauthorized,
    UnsupportedManifest,
    UploadLost,
)
from replicator.registry.manifest import (
    ACCEPT,
    MAX_MANIFEST_BYTES,
    Descriptor,
    Manifest,
    parse_manifest,
    refuse_foreign_type,
)
from replicator.registry.pages import next_page
from replicator.registry.referrers import Referrers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from replicator.registry.reply import Reply

_PAGE = 1000
_MAX_TAGS_PAGE_BYTES = 8 * 1024 * 1024
_MAX_PAGES = 10_000
_NO_HEAD = frozenset({405, 501})
"""Answers of a registry that does not do HEAD."""
_SESSION_CODES = frozenset({"BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"})
"""What says that an upload's session, not its bytes, is at fault (specification, "Error Codes")."""


class RemoteRepository(Referrers):
    """Requests about one repository."""

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
                    return Descriptor(reply.headers.get("Content-Type", ""), digest, size)
            manifest = await self.get_manifest(identifier)
        except NotFound:
            return None
        abilities.heads = False
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
        reply = await self._transport.call(
            "GET", url, scopes=self._scopes, expect={200}, headers={"Accept": ACCEPT}, max_body=MAX_MANIFEST_BYTES
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

    async def pause(self) -> None:
        """Wait while the registry wants peace, so that what comes next is sent without delay."""
        await self._transport.pause()

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
                        yield chunk
                        # A refusal that came meanwhile must be read before a write meets the connection's end: the
                        # first turn of the loop finds it, the second comes after it was read.
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

    async def tags(self) -> AsyncIterator[str]:
        """List the repository's tags, page by page, in the registry's order.

        A tag that is pushed while the list is read may be missed or come twice.

        Raises:
            NotFound: there is no such repository.
            ProtocolViolated: pages that repeat themselves or are no list of tags.
            RegistryError: any other answer, or none.
        """
        url = await self._transport.url(f"{self._path}/tags/list?n={_PAGE}")
        seen_pages: set[str] = set()
        while str(url) not in seen_pages and len(seen_pages) < _MAX_PAGES:
            seen_pages.add(str(url))
            reply = await self._transport.call(
                "GET", url, scopes=self._scopes, expect={200}, max_body=_MAX_TAGS_PAGE_BYTES
            )
            for tag in _tags(reply, self._transport.registry, f"GET {url.path}"):
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
