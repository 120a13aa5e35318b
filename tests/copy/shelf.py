"""An in-memory registry that accepts any digest algorithm, unlike Debian's docker-registry."""

from __future__ import annotations

import itertools

from aiohttp import web

from replicator.registry.manifest import digest_of


class Shelf:
    """A handler that keeps blobs and manifests of one repository under the digests they were sent by.

    Attributes:
        blobs: bytes by digest.
        manifests: bytes and media type by digest and by tag.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str, str]] = {}
        self._sessions = itertools.count()

    def put(self, content: bytes, media_type: str, tag: str, like: str) -> str:
        """Keep a manifest under its digest by the algorithm of ``like``, and under a tag; return the digest."""
        digest = digest_of(content, like)
        self.manifests[digest] = self.manifests[tag] = (content, media_type, digest)
        return digest

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        kind, _, name = request.path.removeprefix("/v2/team/app/").partition("/")
        if request.method == "POST":
            return web.Response(status=202, headers={"Location": f"{request.path}{next(self._sessions)}"})
        if request.method == "PUT" and kind == "blobs":
            digest, content = request.query["digest"], await request.read()
            if digest_of(content, digest) != digest:
                return web.Response(status=400)
            self.blobs[digest] = content
            return web.Response(status=201)
        if request.method == "PUT":
            content, media_type = await request.read(), request.headers["Content-Type"]
            digest = self.put(content, media_type, name, name if ":" in name else "sha512:")
            return web.Response(status=201, headers={"Docker-Content-Digest": digest})
        if kind == "manifests" and name in self.manifests:
            content, media_type, digest = self.manifests[name]
            headers = {"Docker-Content-Digest": digest, "Content-Type": media_type}
            return web.Response(body=content, headers=headers)
        if kind == "blobs" and name in self.blobs:
            return web.Response(body=self.blobs[name])
        return web.Response(status=404)
