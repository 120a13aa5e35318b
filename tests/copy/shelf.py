"""An in-memory registry that accepts any digest algorithm and any content, unlike Debian's docker-registry."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

from aiohttp import web

from replicator.reference import Reference, Repository
from replicator.registry.manifest import OCI_CONFIG, OCI_MANIFEST, digest_of
from tests.standins.faults import FaultLayer

CONFIG = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
LAYER = b"a layer"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"


def part(content: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content), **more}


def document(media_type: str, **parts: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, **parts}).encode()


def an_image(**layer: Any) -> bytes:
    return document(OCI_MANIFEST, config=part(CONFIG, OCI_CONFIG), layers=[part(LAYER, LAYER_TYPE, **layer)])


def embedding(content: bytes) -> dict[str, str]:
    return {"data": base64.b64encode(content).decode()}


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


class Source(Shelf):
    """A registry that takes and serves anything.

    Attributes:
        host: its address.
        faults: and the log.
    """

    def __init__(self) -> None:
        super().__init__()
        self.host = ""
        self.faults = FaultLayer(self)

    def hold(self, content: bytes, media_type: str, *blobs: bytes, tag: str = "v1") -> Reference:
        """Keep a manifest and blobs; return the manifest's reference."""
        self.blobs |= {digest_of(blob): blob for blob in blobs}
        self.put(content, media_type, tag, "sha256:")
        return Reference(Repository(self.host, "team/app"), tag, None)

    def requested(self, content: bytes) -> int:
        """Return how often a blob or a manifest was asked for."""
        return self.faults.log.count(path=digest_of(content))
