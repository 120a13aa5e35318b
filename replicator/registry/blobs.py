"""The blobs of one repository, and uploads (OCI distribution specification 1.1, "Pulling blobs", "Pushing Blobs")."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from replicator.registry.blob_stream import BlobStream
from replicator.registry.connection import Request, resolve
from replicator.registry.connection_errors import foreign_answer
from replicator.registry.errors import (
    ConnectionFailed,
    Cut,
    Denied,
    ForeignAnswer,
    LoginRefused,
    NotFound,
    ProtocolViolated,
    Refused,
    RegistryError,
    StorageRefused,
    Unauthorized,
    UploadLost,
)
from replicator.registry.flow import Flow, Line
from replicator.registry.small_blobs import SmallBlobs, closing_url, is_out_of_session, is_out_of_step
from replicator.registry.transport import REDIRECTS
from replicator.registry.upload_body import UploadBody
from replicator.retry import PROGRESS, how_far, is_transient, retrying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from yarl import URL

    from replicator.registry.connection import Reply
    from replicator.registry.manifest import Descriptor

_log = structlog.get_logger("replicator.registry")

_UPLOAD_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})\Z")
_MAX_STALLS = 5
"""Breaks of an upload in a row, without 64 KiB of progress, after which its session is given up."""


@dataclass(slots=True)
class _Upload:
    """An upload in progress.

    Attributes:
        location: of its session, the newest.
        stream: its bytes.
        flow: says when they may go.
        offset: bytes that the registry had when the request under way began.
        sent: bytes sent so far, those included.
        broken: the error that broke it; None while it continues.
        is_lost: its session is gone.
        stalls: breaks since it last progressed.
        standing: why and what to do, if it ended by a standstill now.
    """

    location: URL
    stream: BlobStream
    flow: Flow
    offset: int = 0
    sent: int = 0
    broken: RegistryError | None = None
    is_lost: bool = False
    stalls: int = 0
    standing: tuple[str, str] = ("", "")


_LOGIN_PAGE = re.compile(r"/(log-?in|sign-?in|sso|saml2?|oauth2?|oidc|cas|authorize)(/|$)", re.IGNORECASE)
"""Segments of a path that names a login page; the address that was asked for may follow them."""
_BLOB_PATH = re.compile(r"/v2/.+/blobs/")
"""The path of a blob at a registry (distribution specification, "Endpoints")."""


class Blobs(SmallBlobs):
    """Requests to ``/blobs/``."""

    async def has_blob(self, digest: str, *, distrust: bool = False) -> bool:
        """Tell whether a blob is here; a refusal counts as no, and is left to the push to explain.

        A redirect to storage counts as yes, and storage that this machine can't reach does no harm: distribution, and
        so Harbor, looks the blob up before it redirects (``registry/storage/blobserver.go``).

        Args:
            digest: of the blob.
            distrust: look into the storage, because the registry reported the blob missing.

        Raises:
            RegistryError: the login was refused, or there was no usable answer of the registry's own.
        """
        request = await self._request("HEAD", f"/blobs/{digest}")
        try:
            reply = await self._transport.call(replace(request, follows=False), expect={200, *REDIRECTS})
            if reply.status == 200:
                _refuse_page(reply)
                return True
            if not distrust and self.abilities.redirects is not False and _is_in_storage(reply, digest):
                self.abilities.redirects = True
                return True
        except LoginRefused:
            raise
        except (NotFound, Denied, Refused, Unauthorized):
            return False
        try:
            reply = await self._transport.call(request, expect={200}, attempts=1)
        except LoginRefused:
            raise
        except RegistryError:
            # Not known to be here. To send it again is right even if it is.
            return False
        # A proxy that wants a login, say, redirects every path to its page.
        return not reply.headers.get("Content-Type", "").startswith("text/html")

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
            mount_from: the repository to mount from; None to let the registry look for one, as some do.
            may_mount_from: repositories that further blobs are mounted from; one token then serves them all.

        Returns:
            The URL to send the bytes to; None if the blob was mounted and nothing needs to be sent.

        Raises:
            RegistryError: the registry refuses both.
        """
        request = await self._request("POST", "/blobs/uploads/", {"Content-Length": "0"})
        if mount is not None:
            query = {"mount": mount} if mount_from is None else {"mount": mount, "from": mount_from}
            request = replace(request, url=request.url.extend_query(query))
            if mount_from is not None and mount_from != self.repository.name:
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

    async def finish_upload(self, location: URL, stream: BlobStream, flow: Flow | None = None) -> None:
        """Send a whole blob into an upload session with one PUT, or with more where the registry keeps a broken one.

        How long it takes has no limit: the deadlines are on standstill and on the answer. If the upload breaks and its
        session is still there, the rest is sent from where the registry has it (specification, "Pushing a blob in
        chunks"), as often as bytes arrive in between.

        Args:
            location: the session's.
            stream: the blob.
            flow: says when bytes may go; None to send them as fast as they are taken.

        Raises:
            UploadLost: the session is gone; a new one may succeed.
            RegistryError: the source's error if the stream failed, else the registry's; its ``cut`` says how far the
                upload came.
        """
        upload = _Upload(location, stream, flow or Flow(Line(), Line(), stream.blob.size, bulk=False))
        began = asyncio.get_running_loop().time()

        async def attempt() -> None:
            if upload.broken is not None:
                await self._find_rest(upload, upload.broken)
            await self._transport.limits.ready()
            await self._send_rest(upload)

        try:
            await retrying(attempt, attempts=None, retryable=self._goes_on(upload), base=0.5, cap=15.0)
        except RegistryError as error:
            if stream.error is not None:
                raise stream.error from error
            # The break itself says more than that the registry could not be asked about it afterwards.
            cause = upload.broken or error
            if not upload.sent or not is_transient(cause):
                raise
            told = cause.again(f", {how_far(upload.sent, stream.blob.size)}")
            told.cut = Cut(upload.sent, asyncio.get_running_loop().time() - began)
            raise told from error

    def _goes_on(self, upload: _Upload) -> Callable[[Exception], bool]:
        """Return whether a failed upload may continue in its session."""

        def goes_on(error: Exception) -> bool:
            if upload.stream.error is not None or not is_transient(error) or isinstance(error, StorageRefused):
                return False
            if not isinstance(error, RegistryError) or upload.sent < PROGRESS or upload.is_lost:
                return False
            upload.broken = upload.broken or error
            upload.stalls += 1
            return self.abilities.resumes is not False and upload.stalls <= _MAX_STALLS

        return goes_on

    async def _find_rest(self, upload: _Upload, broken: RegistryError) -> None:
        """Ask the registry how much it has of an interrupted upload, and continue the stream from there.

        Raises:
            RegistryError: ``broken`` if there is nothing to resume from; or the registry can't be reached.
        """
        upload.is_lost = True
        try:
            reply = await self._transport.call(Request("GET", upload.location, self._scopes), expect={204}, attempts=1)
        except RegistryError as error:
            if is_transient(error):
                upload.is_lost = False
                raise
            raise broken from error
        # In distribution "0-0" says that there is nothing: too little is not worth the doubt.
        kept = _UPLOAD_RANGE.match(reply.headers.get("Range", ""))
        offset = int(kept[1]) + 1 if kept else 0
        if not PROGRESS <= offset <= upload.stream.given:
            raise broken
        if (location := reply.headers.get("Location")) is not None:
            upload.location = self._transport.follow(reply, location)
        if offset >= upload.offset + PROGRESS:
            upload.stalls = 0
        upload.offset = upload.sent = offset
        await upload.stream.rewind(offset)
        upload.is_lost, upload.broken = False, None
        _log.info(
            "upload goes on",
            registry=self.repository.registry,
            digest=upload.stream.blob.digest,
            bytes=offset,
            size=upload.stream.blob.size,
            error=broken,
        )

    async def _send_rest(self, upload: _Upload) -> None:
        """Send the rest of an upload; the registry verifies the whole."""
        blob, location = upload.stream.blob, upload.location
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size - upload.offset)}
        if 0 < upload.offset < blob.size:
            headers["Content-Range"] = f"{upload.offset}-{blob.size - 1}"
        request = Request("PUT", closing_url(location, blob.digest), self._scopes, headers)
        with self._transport.context(request):
            try:
                # No deadline before the body begins: waiting for the rate is no standstill, and login and connection
                # have limits of their own.
                async with asyncio.timeout(None) as deadline:
                    await self._put_blob(request, upload, deadline)
            except TimeoutError as error:
                stopped = ConnectionFailed(*upload.standing)
                raise self._transport.silent(stopped, self._transport.timing.write) from error

    async def _put_blob(self, request: Request, upload: _Upload, deadline: asyncio.Timeout) -> None:
        transport, size = self._transport, upload.stream.blob.size
        async with (
            UploadBody(transport, upload, deadline) as body,
            transport.exchange(replace(request, body=body)) as response,
        ):
            if response.status not in (201, 204):
                error = await transport.failure(response)
                if isinstance(error, ForeignAnswer):
                    raise error
                if is_out_of_session(error):
                    # The rest of an upload may be out of step because bytes of the broken request still came in.
                    upload.is_lost = not (upload.offset and is_out_of_step(error))
                    raise error.recast(UploadLost)
                if upload.offset and not is_transient(error):
                    # Most likely it took the rest for the whole. A new upload does without.
                    self.abilities.resumes = False
                    raise error.recast(UploadLost)
                raise error
            if upload.sent < size:
                # The registry can't have verified the digest of bytes that it never got.
                early = f"answered {response.status} before the blob was sent"
                raise ProtocolViolated(f"{early}, {how_far(upload.sent, size)}")

    async def cancel_upload(self, location: URL) -> None:
        """Cancel an upload session, so that the registry need not keep it; its answer does not matter."""
        try:
            request = Request("DELETE", location, self._scopes)
            await self._transport.call(request, expect={200, 202, 204}, attempts=1)
        except RegistryError:
            return


def _refuse_page(reply: Reply) -> None:
    """Refuse a 200 to a HEAD that is a page's."""
    if reply.headers.get("Content-Type", "").startswith("text/html") and "Docker-Content-Digest" not in reply.headers:
        raise foreign_answer(reply.status, b"<html>")


def _is_in_storage(reply: Reply, digest: str) -> bool:
    """Tell whether a redirect leads to a blob in storage: another host, with the digest in its path.

    A login page gets the address that was asked for in its query, and another registry, or another address of this
    one, was redirected to before anybody looked for the blob; both are followed instead.
    """
    if reply.status not in (302, 303, 307):
        return False
    try:
        target = resolve(reply.url, reply.headers.get("Location", ""))
    except ProtocolViolated:
        return False
    encoded = digest.partition(":")[2]
    elsewhere = target.origin() != reply.url.origin() and not _BLOB_PATH.match(target.path)
    return elsewhere and encoded in target.path and not _LOGIN_PAGE.search(target.path)
