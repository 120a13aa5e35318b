"""The content that Harbor's API shows, read from the real registry behind it."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.standins.distribution import storage_of

if TYPE_CHECKING:
    from tests.standins.proxy import Upstream

ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_SHOWN_TYPES = {
    "application/vnd.docker.container.image.v1+json": "IMAGE",
    "application/vnd.oci.image.config.v1+json": "IMAGE",
    "application/vnd.cncf.helm.config.v1+json": "CHART",
}
"""Harbor's ``type`` by the artifact type, which is that of the config unless the manifest has one of its own."""
_SIGNATURE_TAG = re.compile(r"sha256-([0-9a-f]{64})\.sig\Z")
"""Cosign's old tags; those of attestations and SBOMs (``.att``, ``.sbom``) are ordinary ones to Harbor."""
COSIGN_LAYER = "application/vnd.dev.cosign.simplesigning.v1+json"
"""The media type of a layer that makes a manifest under such a tag a signature."""
_ACCESSORY_TYPES = {
    "application/vnd.dev.cosign.artifact.sig.v1+json": "signature.cosign",
    "application/vnd.dev.sigstore.bundle.v0.3+json": "signature.cosign",
    "application/vnd.cncf.notary.signature": "signature.notation",
    "application/vnd.goharbor.harbor.sbom.v1": "sbom.harbor",
}
"""Types of accessories by ``artifactType``; any other manifest with a subject is a ``subject.accessory``."""
_AT_ONCE = 16
NEVER = "0001-01-01T00:00:00.000Z"
"""How the API writes a time that was never set."""


def moment(seconds: float) -> str:
    """Return seconds since 1970 as the API writes times."""
    return time.strftime(f"%Y-%m-%dT%H:%M:%S.{int(seconds * 1000) % 1000:03}Z", time.gmtime(seconds))


@dataclass(frozen=True, slots=True)
class Stored:
    """A manifest in the registry.

    Attributes:
        digest: of its bytes.
        media_type: as it was pushed.
        size: bytes of the manifest alone.
        document: its JSON.
    """

    digest: str
    media_type: str
    size: int
    document: dict[str, Any]

    @property
    def children(self) -> list[str]:
        """Digests of an index's manifests."""
        return [child["digest"] for child in self.document.get("manifests", ())]

    @property
    def subject(self) -> str | None:
        """The digest it is attached to, if it is a referrer."""
        return (self.document.get("subject") or {}).get("digest")

    @property
    def is_cosign_signature(self) -> bool:
        """Whether it is one in the old form, which its tag attaches to an image."""
        return any(layer.get("mediaType") == COSIGN_LAYER for layer in self.document.get("layers", ()))

    @property
    def accessory_type(self) -> str:
        """What the API calls it if it has a subject."""
        return _ACCESSORY_TYPES.get(self.artifact_type, "subject.accessory")

    @property
    def artifact_type(self) -> str:
        """What the referrers API filters by: ``artifactType``, else the config's media type."""
        config = self.document.get("config") or {}
        return str(self.document.get("artifactType") or config.get("mediaType") or "")

    @property
    def shown_type(self) -> tuple[str, str]:
        """``type`` and ``media_type`` as the API shows them: of an image its config's, unless annotations say more."""
        annotations = self.document.get("annotations") or {}
        if "manifests" in self.document:
            return "IMAGE", annotations.get("org.opencontainers.artifactType") or self.media_type
        if annotations.get("module.wasm.image/variant") == "compat":
            return "WASM", "application/vnd.wasm.config.v1+json"
        config = str((self.document.get("config") or {}).get("mediaType", ""))
        return _SHOWN_TYPES.get(self.artifact_type, "UNKNOWN"), config


@dataclass(frozen=True, slots=True)
class Artifact:
    """A row of the artifact list.

    Attributes:
        id: grows with each digest first seen.
        repository: its full name.
        stored: the manifest.
        tags: its tags, sorted; none if another push took them.
        size: bytes with all that it names.
        pushed: seconds since 1970; never moved by a tag.
        accessories: what is attached to it, by number, each with its type.
    """

    id: int
    repository: str
    stored: Stored
    tags: tuple[str, ...]
    size: int
    pushed: float
    accessories: tuple[tuple[int, Stored, str], ...] = ()


class Content:
    """The registry behind, as the API sees it; only numbers and times are kept here, and digests without a tag.

    Args:
        upstream: the way to the registry.
        kept: keep lists until `forget` invalidates them, for a large registry; direct pushes to it are not seen.
    """

    def __init__(self, upstream: Upstream, *, kept: bool = False) -> None:
        self._upstream = upstream
        self._keeps = kept
        self._kept_names: list[str] | None = None
        self._kept_artifacts: dict[str, list[Artifact]] = {}
        self._changes = 0
        self._seen: dict[str, dict[str, tuple[int, float]]] = {}
        self._repositories: dict[str, tuple[int, float]] = {}
        self._tagged: dict[tuple[str, str], tuple[str, float]] = {}
        self._manifests: dict[str, Stored] = {}
        self._changed: dict[str, tuple[dict[str, str], float]] = {}
        self._last_id = 0
        self._tag_numbers: dict[tuple[str, str], int] = {}
        self._deleted_tags: set[tuple[str, str]] = set()
        self._stale: dict[tuple[str, str], tuple[str | None, float]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self.labels: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def repository(self, name: str) -> tuple[int, float]:
        """Return a repository's number and when it was first seen, in seconds since 1970."""
        return self._repositories.setdefault(name, (len(self._repositories) + 1, time.time()))

    def pushed(self, repository: str, digest: str) -> tuple[int, float]:
        """Note a digest, and return its number and when it was first seen."""
        self.repository(repository)
        seen = self._seen.setdefault(repository, {})
        if digest not in seen:
            self._last_id += 1
            seen[digest] = (self._last_id, time.time())
        return seen[digest]

    def tagged(self, repository: str, tag: str, digest: str) -> float:
        """Note what a tag names, and return when that was first seen: the tag's own time, which moves with it."""
        known = self._tagged.get((repository, tag))
        if known is None or known[0] != digest:
            known = self._tagged[repository, tag] = digest, time.time()
        return known[1]

    async def changed(self, repository: str) -> float:
        """Return when a tag of a repository was last made, moved or deleted, or one of its manifests pulled."""
        digests = {name: await self.digest(repository, name) for name in await self.tags(repository) or []}
        tags = {name: digest for name, digest in digests.items() if digest is not None}
        for name, digest in tags.items():
            self.tagged(repository, name, digest)
        before, moment = self._changed.get(repository, ({}, 0.0))
        if tags != before or not moment:
            self._changed[repository] = tags, time.time()
        return self._changed[repository][1]

    def pulled(self, repository: str) -> None:
        """Note that a manifest was pulled."""
        tags, _ = self._changed.get(repository, ({}, 0.0))
        self._changed[repository] = tags, time.time()

    def log(self, project: str) -> list[tuple[str, float]]:
        """Return the tags of a project that were seen to be made or moved, each ``NAME:TAG``, and when."""
        return [
            (f"{name}:{tag}", moment)
            for (name, tag), (_, moment) in self._tagged.items()
            if name.startswith(f"{project}/")
        ]

    def forget(self, repository: str) -> None:
        """Read a repository again at the next request, and the names of all: something was pushed or deleted."""
        self._changes += 1
        self._kept_names = None
        self._kept_artifacts.pop(repository, None)

    async def repositories(self) -> list[str]:
        """List all repositories, sorted."""
        if self._kept_names is not None:
            return self._kept_names
        changes = self._changes
        names = await self._read_repositories()
        if self._keeps and changes == self._changes:
            self._kept_names = names
        return names

    async def _read_repositories(self) -> list[str]:
        names: list[str] = []
        while True:
            last = f"&last={quote(names[-1], safe='')}" if names else ""
            _, _, body = await self._upstream.get(f"/v2/_catalog?n=1000{last}")
            page = json.loads(body).get("repositories") or []
            names += page
            if len(page) < 1000:
                return sorted(names)

    def resolved(self, repository: str, reference: str) -> str | None:
        """Return what to ask the registry for instead of a tag or digest; None if it is not shown at all."""
        if (repository, reference) in self._deleted_tags:
            return None
        old, until = self._stale.get((repository, reference), (reference, 0.0))
        return old if time.monotonic() < until else reference

    def tag_number(self, repository: str, tag: str) -> int:
        """Return a tag's number, which stays."""
        return self._tag_numbers.setdefault((repository, tag), len(self._tag_numbers) + 1)

    async def set_tag(self, repository: str, digest: str, tag: str) -> None:
        """Have a tag name what is there."""
        found = await self.raw(repository, digest)
        assert found is not None, f"there is no {repository}@{digest}"
        body, media_type = found
        path = f"/v2/{repository}/manifests/{tag}"
        async with self._upstream.request("PUT", path, headers={"Content-Type": media_type}, body=body) as response:
            assert response.status == 201, await response.text()
        self.restore_tag(repository, tag)
        self.forget(repository)

    def restore_tag(self, repository: str, tag: str) -> None:
        """Note that a tag was made again."""
        self._deleted_tags.discard((repository, tag))

    def delete_tag(self, repository: str, tag: str) -> None:
        """Show a tag no more; the registry behind can't delete one alone."""
        self._deleted_tags.add((repository, tag))
        self.forget(repository)

    def lag(self, repository: str, tag: str, old: str | None, seconds: float) -> None:
        """Go on showing a tag that moves as it was, as a database replica does that lags behind."""
        self._stale[repository, tag] = old, time.monotonic() + seconds

    def catch_up(self) -> None:
        """Show all tags as they are."""
        self._stale.clear()

    async def tags(self, repository: str) -> list[str] | None:
        """List a repository's tags, sorted; None if there is no such repository."""
        if (storage := storage_of(self._upstream.host)) is not None:
            tags = storage.tags(repository)
        else:
            status, _, body = await self._upstream.get(f"/v2/{repository}/tags/list")
            tags = sorted(json.loads(body).get("tags") or []) if status == 200 else None
        return None if tags is None else [tag for tag in tags if self.resolved(repository, tag) is not None]

    async def digest(self, repository: str, reference: str) -> str | None:
        """Return the digest of a tag or digest that is there."""
        shown = self.resolved(repository, reference)
        if shown is None:
            return None
        if (storage := storage_of(self._upstream.host)) is not None:
            return storage.digest(repository, shown)
        path = f"/v2/{repository}/manifests/{shown}"
        async with self._slots, self._upstream.request("HEAD", path, headers={"Accept": ACCEPT}) as response:
            return response.headers["Docker-Content-Digest"] if response.status == 200 else None

    async def raw(self, repository: str, reference: str) -> tuple[bytes, str] | None:
        """Return a manifest's bytes and media type."""
        path = f"/v2/{repository}/manifests/{reference}"
        status, headers, body = await self._upstream.get(path, headers={"Accept": ACCEPT})
        return (body, headers["Content-Type"]) if status == 200 else None

    async def manifest(self, repository: str, digest: str) -> Stored | None:
        """Return a manifest that is there."""
        if digest not in self._manifests:
            found = await self.raw(repository, digest)
            if found is None:
                return None
            body, media_type = found
            self._manifests[digest] = Stored(digest, media_type, len(body), json.loads(body))
        return self._manifests[digest]

    async def names(self, repository: str, digest: str) -> list[str]:
        """List the tags of a digest."""
        tags = await self.tags(repository) or []
        digests = await asyncio.gather(*(self.digest(repository, tag) for tag in tags))
        return [tag for tag, found in zip(tags, digests, strict=True) if found == digest]

    async def missing(self, repository: str, reference: str) -> str:
        """Return what Harbor says of a manifest that is not there."""
        if await self.tags(repository) is None:
            return f"repository {repository} not found"
        return f"artifact {repository}{'@' if ':' in reference else ':'}{reference} not found"

    async def accessories(self, repository: str, digest: str) -> list[tuple[int, Stored, str]]:
        """List what is attached to a digest, with numbers and types."""
        _, signatures = await self._tagged_digests(repository, await self.tags(repository) or [])
        return self._attached(repository, await self._present(repository), signatures).get(digest, [])

    async def artifacts(self, repository: str) -> list[Artifact] | None:
        """List a repository's artifacts: no accessories, and no untagged children of an index.

        Returns:
            By number; None if there is no such repository.
        """
        if repository in self._kept_artifacts:
            return self._kept_artifacts[repository]
        changes = self._changes
        artifacts = await self._read_artifacts(repository)
        if self._keeps and artifacts is not None and changes == self._changes:
            self._kept_artifacts[repository] = artifacts
        return artifacts

    async def _read_artifacts(self, repository: str) -> list[Artifact] | None:
        tags = await self.tags(repository)
        if tags is None:
            return None
        tagged, signatures = await self._tagged_digests(repository, tags)
        present = await self._present(repository)
        children = {child for stored in present for child in stored.children}
        attached = self._attached(repository, present, signatures)
        return [
            await self._artifact(repository, stored, tagged.get(stored.digest, []), attached.get(stored.digest, []))
            for stored in present
            if stored.subject is None
            and stored.digest not in signatures
            and (stored.digest in tagged or stored.digest not in children)
        ]

    async def _tagged_digests(self, repository: str, tags: list[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
        """Return the tags of each digest, and the image of each signature of cosign's that a tag attaches to one."""
        digests = await asyncio.gather(*(self.digest(repository, tag) for tag in tags))
        tagged: dict[str, list[str]] = {}
        signatures: dict[str, str] = {}
        for tag, digest in zip(tags, digests, strict=True):
            if digest is None:
                continue
            self.pushed(repository, digest)
            match = _SIGNATURE_TAG.match(tag)
            stored = await self.manifest(repository, digest) if match else None
            if match and stored is not None and stored.is_cosign_signature:
                signatures[digest] = f"sha256:{match[1]}"
            else:
                self.tagged(repository, tag, digest)
                tagged.setdefault(digest, []).append(tag)
        return tagged, signatures

    def _attached(
        self, repository: str, present: list[Stored], signatures: dict[str, str]
    ) -> dict[str, list[tuple[int, Stored, str]]]:
        """Return the accessories of each digest."""
        attached: dict[str, list[tuple[int, Stored, str]]] = {}
        for stored in present:
            if (subject := stored.subject or signatures.get(stored.digest)) is not None:
                kind = "signature.cosign" if stored.digest in signatures else stored.accessory_type
                number, _ = self.pushed(repository, stored.digest)
                attached.setdefault(subject, []).append((number, stored, kind))
        return attached

    async def _present(self, repository: str) -> list[Stored]:
        """Return what has been seen and is still there, by number."""
        seen = list(self._seen.get(repository, {}))
        digests = await asyncio.gather(*(self.digest(repository, digest) for digest in seen))
        found = [await self.manifest(repository, digest) for digest in digests if digest is not None]
        return [stored for stored in found if stored is not None]

    async def _artifact(
        self, repository: str, stored: Stored, tags: list[str], accessories: list[tuple[int, Stored, str]]
    ) -> Artifact:
        number, pushed = self.pushed(repository, stored.digest)
        size = await self._size(repository, stored)
        return Artifact(number, repository, stored, tuple(tags), size, pushed, tuple(accessories))

    async def _size(self, repository: str, stored: Stored) -> int:
        document = stored.document
        blobs = [*filter(None, [document.get("config")]), *document.get("layers", ())]
        size = stored.size + sum(int(blob["size"]) for blob in blobs)
        for child in stored.children:
            below = await self.manifest(repository, child)
            size += await self._size(repository, below) if below is not None else 0
        return size
