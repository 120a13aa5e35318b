"""A registry that keeps the session of an upload that broke, as the specification allows and olareg does.

It stands in front of a real registry, which gets each blob once it is complete, and answers all other requests.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import uuid4

from aiohttp import web

from tests.standins.faults import end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.standins.faults import How
    from tests.standins.proxy import Upstream

_CHUNK = 64 * 1024


@dataclass(frozen=True)
class Break:
    """End a request that sends bytes.

    Attributes:
        after: how many of its bytes are taken first.
        how: what becomes of the connection.
        lost: how many of them are lost again.
    """

    after: int
    how: How = "close"
    lost: int = 0


@dataclass
class KeptUploads:
    """The registry; its requests are those of a `Handler`.

    Attributes:
        upstream: the real registry behind.
        breaks: what happens to the next requests that send more bytes than the break takes.
        refuses: it takes no rest of an upload: one that begins amid a blob is refused as a wrong digest.
        trusts: it takes an upload for what its digest says.
        taken: bytes of blobs that came in, over all requests.
    """

    upstream: Upstream
    breaks: deque[Break] = field(default_factory=deque)
    refuses: bool = False
    trusts: bool = False
    taken: int = 0
    _sessions: dict[str, bytearray] = field(default_factory=dict)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, session = request.path.rpartition("/blobs/uploads/")
        if not path:
            return await self.upstream.forward(request)
        if request.method == "POST":
            session = uuid4().hex
            self._sessions[session] = bytearray()
            return web.Response(status=202, headers=self._place(request, path, session))
        content = self._sessions.get(session)
        if content is None:
            return web.json_response({"errors": [{"code": "BLOB_UPLOAD_UNKNOWN"}]}, status=404)
        if request.method == "GET":
            return web.Response(status=204, headers=self._place(request, path, session))
        if request.method == "DELETE":
            del self._sessions[session]
            return web.Response(status=204)
        return await self._put(request, path, session, content)

    def _place(self, request: web.BaseRequest, path: str, session: str) -> dict[str, str]:
        # The state in the query is that of now: an older Location does not fit any more.
        size = len(self._sessions[session])
        location = f"http://{request.host}{path}/blobs/uploads/{session}?state={size}"
        return {"Location": location, "Range": f"0-{max(0, size - 1)}"}

    async def _put(self, request: web.BaseRequest, path: str, session: str, content: bytearray) -> web.StreamResponse:
        start = int(request.headers.get("Content-Range", "0").partition("-")[0])
        if not request.content_length:
            start = len(content)
        if start != len(content) or request.query["state"] != str(len(content)):
            return web.Response(status=416, headers=self._place(request, path, session))
        breaks = self.breaks.popleft() if self.breaks and (request.content_length or 0) > self.breaks[0].after else None
        left = breaks.after if breaks is not None else request.content_length or 0
        while left and (chunk := await request.content.read(min(left, _CHUNK))):
            content += chunk
            left -= len(chunk)
            self.taken += len(chunk)
        if breaks is not None:
            del content[len(content) - breaks.lost :]
            await end(request, breaks.how)
        digest = request.query["digest"]
        del self._sessions[session]
        right = f"sha256:{hashlib.sha256(content).hexdigest()}" == digest and not (self.refuses and start)
        if not right and not self.trusts:
            return web.json_response({"errors": [{"code": "DIGEST_INVALID"}]}, status=400)
        if right:
            await self._store(path, bytes(content), digest)
        return web.Response(status=201)

    async def _store(self, path: str, content: bytes, digest: str) -> None:
        async with self.upstream.request("POST", f"{path}/blobs/uploads/", body=b"") as answer:
            location = answer.headers["Location"].removeprefix(f"http://{self.upstream.host}")
        async with self.upstream.request("PUT", f"{location}&digest={digest}", body=_chunks(content)) as answer:
            assert answer.status == 201, answer.status


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _CHUNK):
        yield content[start : start + _CHUNK]
