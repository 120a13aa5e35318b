"""Images made from a seed: the same bytes on every machine with the same zlib, and valid for skopeo."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from replicator.registry.manifest import ACCEPT, DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from tests.standins.blobs import Blob
from tests.standins.distribution import behind, storage_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.standins.storage import Storage

_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
_OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
_OCI_EMPTY = "application/vnd.oci.empty.v1+json"
_MIB = 1 << 20


@dataclass(frozen=True)
class Image:
    """An image manifest.

    Attributes:
        media_type: Docker's or OCI's.
        content: the manifest's bytes.
        blobs: config first, then the layers in order, foreign ones included.
        platform: for the index it goes into.
        annotations: for the index it goes into.
    """

    media_type: str
    content: bytes
    blobs: tuple[Blob, ...]
    platform: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return _sha256(self.content)


@dataclass(frozen=True)
class Index:
    """An OCI index or a Docker manifest list.

    Attributes:
        media_type: Docker's or OCI's.
        content: the manifest's bytes.
        children: in order; an index may hold another.
    """

    media_type: str
    content: bytes
    children: tuple[Image | Index, ...]

    @property
    def digest(self) -> str:
        return _sha256(self.content)


def layer(seed: int, size: int = 1000, *, docker: bool = False, foreign: str | None = None) -> Blob:
    """Make a layer with one file of ``size`` random bytes; ``foreign`` is the URL of one that is not distributed."""
    plain = _DOCKER_LAYER if docker else _OCI_LAYER
    elsewhere = _DOCKER_FOREIGN if docker else _OCI_FOREIGN
    return Blob(elsewhere if foreign else plain, seed=seed, file_size=size, foreign=foreign)


def image(
    seed: int = 1,
    sizes: Sequence[int] = (3000, 500),
    *,
    docker: bool = False,
    base: Sequence[Blob] = (),
    architecture: str = "amd64",
    variant: str = "",
    system: str = "linux",
    foreign: bool = False,
) -> Image:
    """Make an image.

    Args:
        seed: different ones share no blob.
        sizes: bytes of the file in each layer of its own.
        docker: Docker's media types instead of OCI's.
        base: layers that come first, shared with other images.
        architecture: of the platform.
        variant: of the architecture, if any.
        system: of the platform.
        foreign: add a layer that is not to be distributed.
    """
    layers = [*base, *(layer(seed * 1000 + place, size, docker=docker) for place, size in enumerate(sizes))]
    if foreign:
        layers.append(layer(seed * 1000 + 999, 700, docker=docker, foreign="https://layers.example.com/base"))
    platform = {"architecture": architecture, "os": system, **({"variant": variant} if variant else {})}
    config = {
        **platform,
        "created": "2026-01-01T00:00:00Z",
        "config": {"Labels": {"seed": str(seed)}},
        "rootfs": {"type": "layers", "diff_ids": [one.diff_id() for one in layers]},
    }
    blobs = (Blob(_DOCKER_CONFIG if docker else _OCI_CONFIG, _json(config)), *layers)
    return _image(DOCKER_MANIFEST if docker else OCI_MANIFEST, blobs, platform, {})


def artifact(config: str, seed: int = 1, sizes: Sequence[int] = (3000, 500)) -> Image:
    """Make a manifest whose config has this media type, as those of charts, caches and most artifacts do."""
    made = image(seed, sizes)
    content = made.content.replace(made.blobs[0].media_type.encode(), config.encode())
    return Image(made.media_type, content, (replace(made.blobs[0], media_type=config), *made.blobs[1:]))


def attestation(subject: Image, seed: int = 1, *, empty_config: bool = False) -> Image:
    """Make what BuildKit puts beside an image; ``empty_config`` as its newer artifact form does."""
    statement = Blob("application/vnd.in-toto+json", _json({"_type": "https://in-toto.io/Statement/v1", "seed": seed}))
    unknown = {"architecture": "unknown", "os": "unknown"}
    as_image = _json({**unknown, "rootfs": {"type": "layers", "diff_ids": [statement.digest]}})
    config = Blob(_OCI_EMPTY, b"{}") if empty_config else Blob(_OCI_CONFIG, as_image)
    annotations = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": subject.digest,
    }
    return _image(OCI_MANIFEST, (config, statement), unknown, annotations)


def referrer(
    subject: Image | Index, seed: int = 1, kind: str = "application/vnd.example.sbom.v1", *, as_image: bool = False
) -> Image:
    """Make what refers to ``subject`` as a signature or an SBOM does in OCI 1.1.

    Args:
        subject: what it is about.
        seed: different ones differ.
        kind: its ``artifactType``.
        as_image: with an image's config, as cosign makes its signatures; else with the empty one of artifacts.
    """
    content = Blob("application/vnd.example.content", _json({"of": subject.digest, "seed": seed}))
    refers = {
        "artifactType": kind,
        "subject": {"mediaType": subject.media_type, "digest": subject.digest, "size": len(subject.content)},
        "annotations": {"org.example.seed": str(seed)},
    }
    config = Blob(_OCI_CONFIG, _json({"rootfs": {}})) if as_image else Blob(_OCI_EMPTY, b"{}")
    return _image(OCI_MANIFEST, (config, content), {}, {}, refers)


def cosign_tag(subject: Image | Index, suffix: str = ".sig") -> str:
    """Return the tag under which cosign keeps a signature (``.att``, ``.sbom``) of ``subject``."""
    return subject.digest.replace(":", "-") + suffix


def index(children: Sequence[Image | Index], *, docker: bool = False) -> Index:
    """Make an index (OCI) or a manifest list (Docker) of ``children``."""
    media_type = DOCKER_LIST if docker else OCI_INDEX
    entries = []
    for child in children:
        entry: dict[str, Any] = {
            "mediaType": child.media_type,
            "digest": child.digest,
            "size": len(child.content),
        }
        if isinstance(child, Image):
            if child.platform:
                entry["platform"] = child.platform
            if child.annotations:
                entry["annotations"] = child.annotations
        entries.append(entry)
    content = _json({"schemaVersion": 2, "mediaType": media_type, "manifests": entries})
    return Index(media_type, content, tuple(children))


def multi_arch(seed: int = 1, *, docker: bool = False, attested: bool = False, size: int = 2000) -> Index:
    """Make an image for two architectures that share a base layer; ``attested`` adds BuildKit's children."""
    base = [layer(seed * 1000 + 900, size, docker=docker)]
    images = [
        image(seed * 10 + place, (size, 300), docker=docker, base=base, architecture=architecture)
        for place, architecture in enumerate(("amd64", "arm64"))
    ]
    attestations = [attestation(one, seed * 10 + place) for place, one in enumerate(images)] if attested else []
    return index([*images, *attestations], docker=docker)


def manifests_of(root: Image | Index) -> list[Image | Index]:
    """Return every manifest of an image, children before parents, each once."""
    found: dict[str, Image | Index] = {}
    if isinstance(root, Index):
        for child in root.children:
            found.update({one.digest: one for one in manifests_of(child)})
    found[root.digest] = root
    return list(found.values())


def blobs_of(root: Image | Index) -> list[Blob]:
    """Return every blob of an image that a registry holds, each once; foreign layers are left out."""
    images = (one for one in manifests_of(root) if isinstance(one, Image))
    return list({blob.digest: blob for one in images for blob in one.blobs if blob.foreign is None}.values())


def write(storage: Storage, repository: str, images: Mapping[str, Image | Index]) -> None:
    """Put images into a repository, by tag; a tag that is there already names another image then."""
    for tag, root in images.items():
        for blob in blobs_of(root):
            storage.put_blob(repository, blob.digest, blob.read)
        for manifest in manifests_of(root):
            storage.put_manifest(repository, manifest.digest, manifest.content)
        storage.put_tag(repository, tag, root.digest)


async def push(host: str, repository: str, tag: str, root: Image | Index, auth: tuple[str, str] | None = None) -> None:
    """Push an image to a registry over plain HTTP, with HTTP Basic when ``auth`` is given.

    Where its storage is at hand the image is written there, which is the same to all who ask, at a tenth of the cost;
    with a Harbor before it the blobs are, and the manifests are pushed.
    """
    storage = storage_of(behind.get(host, host), to_write=True)
    if storage is not None and host not in behind:
        write(storage, repository, {tag: root})
        return
    async with _session(auth) as session:
        for blob in blobs_of(root):
            if storage is not None:
                storage.put_blob(repository, blob.digest, blob.read)
                continue
            async with session.head(f"http://{host}/v2/{repository}/blobs/{blob.digest}") as answer:
                if answer.status == 200:
                    continue
            async with session.post(f"http://{host}/v2/{repository}/blobs/uploads/") as answer:
                assert answer.status == 202, f"{answer.status} {await answer.text()}"
                location = URL(answer.headers["Location"], encoded=True)
            url = URL(
                f"{answer.url.join(location)}{'&' if location.query_string else '?'}digest={blob.digest}", encoded=True
            )
            headers = {"Content-Length": str(blob.size), "Content-Type": "application/octet-stream"}
            async with session.put(url, data=_stream(blob), headers=headers) as answer:
                assert answer.status == 201, f"{answer.status} {await answer.text()}"
        for manifest in manifests_of(root):
            name = tag if manifest.digest == root.digest else manifest.digest
            await _put(session, host, repository, name, manifest)


async def put_manifest(
    host: str, repository: str, tag: str, root: Image | Index, auth: tuple[str, str] | None = None
) -> None:
    """PUT the one manifest under a tag or digest; what it names must be there already."""
    async with _session(auth) as session:
        await _put(session, host, repository, tag, root)


async def _put(session: aiohttp.ClientSession, host: str, repository: str, name: str, manifest: Image | Index) -> None:
    url = f"http://{host}/v2/{repository}/manifests/{name}"
    async with session.put(url, data=manifest.content, headers={"Content-Type": manifest.media_type}) as answer:
        assert answer.status in (200, 201, 202), f"{answer.status} {await answer.text()}"


async def fetch_raw(
    host: str, repository: str, reference: str, auth: tuple[str, str] | None = None
) -> tuple[bytes, str]:
    """Return a manifest's bytes and media type.

    Raises:
        LookupError: there is none.
    """
    async with _session(auth) as session:
        url = f"http://{host}/v2/{repository}/manifests/{reference}"
        async with session.get(url, headers={"Accept": ACCEPT}) as answer:
            if answer.status == 404:
                raise LookupError(f"{repository} has no {reference}")
            assert answer.status == 200, f"{answer.status} {await answer.text()}"
            return await answer.read(), answer.headers["Content-Type"]


async def verify_tree(
    host: str, repository: str, reference: str, root: Image | Index, auth: tuple[str, str] | None = None
) -> None:
    """Assert that a registry holds every manifest and blob of an image, equal to the byte, under ``reference``."""
    content, media_type = await fetch_raw(host, repository, reference, auth)
    assert (content, media_type) == (root.content, root.media_type), f"{repository}:{reference} is not the image"
    if auth is None and (storage := storage_of(host)) is not None:
        # The registry was asked for the tag; that it has the rest is seen without it.
        for manifest in manifests_of(root):
            assert storage.manifest(repository, manifest.digest) == manifest.content, f"no {manifest.digest}"
        for blob in blobs_of(root):
            assert _sha256(storage.blob(repository, blob.digest) or b"") == blob.digest, f"blob {blob.digest}"
        return
    for manifest in manifests_of(root):
        assert await fetch_raw(host, repository, manifest.digest, auth) == (manifest.content, manifest.media_type)
    async with _session(auth) as session:
        for blob in blobs_of(root):
            hasher = hashlib.sha256()
            async with session.get(f"http://{host}/v2/{repository}/blobs/{blob.digest}") as answer:
                assert answer.status == 200, f"blob {blob.digest}: {answer.status}"
                async for chunk in answer.content.iter_chunked(_MIB):
                    hasher.update(chunk)
            assert f"sha256:{hasher.hexdigest()}" == blob.digest


def _image(
    media_type: str,
    blobs: tuple[Blob, ...],
    platform: dict[str, str],
    annotations: dict[str, str],
    more: dict[str, Any] | None = None,
) -> Image:
    content = _json(
        {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": blobs[0].descriptor(),
            "layers": [blob.descriptor() for blob in blobs[1:]],
            **(more or {}),
        }
    )
    return Image(media_type, content, blobs, platform, annotations)


async def _stream(blob: Blob) -> Any:
    for chunk in blob.chunks():
        if chunk:
            yield chunk


def _session(auth: tuple[str, str] | None) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers={"Authorization": aiohttp.encode_basic_auth(*auth)} if auth is not None else None,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        requote_redirect_url=False,
    )


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
