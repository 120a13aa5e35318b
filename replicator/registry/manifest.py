"""Manifests, descriptors and digests as values; the bytes of a manifest are kept unchanged.

Sources: OCI image specification 1.1, "Image Manifest", "Image Index", "Content Descriptors" and "Digests"; Docker's
"Image Manifest Version 2, Schema 2".
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from replicator.reference import Platform, is_digest
from replicator.registry.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})
"""Configs of container images; a manifest with another config is an artifact."""
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
IMAGE_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
MANIFEST_TYPES = INDEX_TYPES | IMAGE_TYPES
ACCEPT = ", ".join((OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST))
"""Accept header of every manifest request: a registry answers 404 for a type that is not in it."""

MAX_MANIFEST_BYTES = 4 * 1024 * 1024
"""The size that every registry must accept (distribution specification, "Pushing Manifests"); no more is read."""

ATTESTATION = "attestation-manifest"
"""Value of the annotation ``vnd.docker.reference.type`` of BuildKit's attestations."""
_REFERENCE_TYPE = "vnd.docker.reference.type"
_REFERENCE_DIGEST = "vnd.docker.reference.digest"
_FOREIGN = ("application/vnd.docker.image.rootfs.foreign.", "application/vnd.oci.image.layer.nondistributable.")
_BLOBS = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.", "application/vnd.buildkit.cache")
_FIELDS = ("mediaType", "config", "layers", "manifests", "subject", "artifactType", "annotations")
_DESCRIPTOR_FIELDS = ("mediaType", "digest", "size", "urls", "data", "platform", "artifactType", "annotations")
_MAX_ENTRIES = 4096
_SIZE_BITS = 63
"""Registries read a size as a signed number of 64 bits."""
_PLATFORM_PART = re.compile(r"[!-~]{0,64}\Z")
"""Printable and short: platforms are shown to people and sent through the queue."""


# Not frozen, although no code changes one: there is one for each tag, and a frozen one costs three times as much.
@dataclass(slots=True, unsafe_hash=True)
class Descriptor:
    """A content descriptor.

    Attributes:
        digest: ``algorithm:hex``.
        size: in bytes.
        platform: only from an index.
        artifact_type: empty if it is not given.
        data: its content as base64, where the manifest embeds it; see `embedded`.
        has_urls: whether it names other places to read it from.
    """

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict, compare=False)
    data: str | None = field(default=None, compare=False, repr=False)
    has_urls: bool = field(default=False, compare=False)

    @property
    def is_index(self) -> bool:
        """Whether it is an index, whose parts are manifests instead of blobs."""
        return self.media_type in INDEX_TYPES

    @property
    def is_blob(self) -> bool:
        """Whether its media type is known to be that of a config or a layer, so that it is no manifest."""
        return self.media_type in CONFIG_TYPES or self.media_type.startswith(_BLOBS)

    @property
    def is_attestation(self) -> bool:
        """Whether it is one of BuildKit's attestations."""
        return self.annotations.get(_REFERENCE_TYPE) == ATTESTATION

    @property
    def attested(self) -> str | None:
        """The digest of the image that an attestation belongs to."""
        return self.annotations.get(_REFERENCE_DIGEST)

    @property
    def is_foreign(self) -> bool:
        """Whether it is a non-distributable layer, which must not be pushed."""
        return self.media_type.startswith(_FOREIGN)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest's bytes and the parts that they name.

    Attributes:
        media_type: goes into the Content-Type of its PUT.
        digest: ``algorithm:hex`` of ``content``.
        content: the bytes, as read.
        manifests: the children of an index, in its order, each digest once; empty for an image.
        blobs: config and layers of an image, in its order, each digest once; empty for an index.
        subject: the manifest that it refers to, as a signature does.
        artifact_type: its own, else the media type of its config.
    """

    media_type: str
    digest: str
    content: bytes
    manifests: tuple[Descriptor, ...] = ()
    blobs: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def is_index(self) -> bool:
        """Whether it is an index, whose parts are manifests instead of blobs."""
        return self.media_type in INDEX_TYPES

    @property
    def config(self) -> Descriptor | None:
        """The config of an image or artifact; None for an index."""
        return self.blobs[0] if self.blobs else None


def parse_manifest(content: bytes, content_type: str, digest: str) -> Manifest:
    """Read a manifest whose digest has been verified.

    Args:
        content: its bytes.
        content_type: of the answer; if that is no type of a manifest, the document's ``mediaType`` counts.
        digest: of the bytes.

    Raises:
        ValueError: it is not a manifest, or of a type that is not copied; the message says which.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        # E.g. a number with more digits than Python reads.
        raise ValueError(f"the manifest {digest} can't be read as JSON ({one_line(str(error), 100)})") from error
    if not isinstance(document, dict):
        raise ValueError(f"the manifest {digest} is not a JSON object")
    _refuse_odd_case(document, _FIELDS)
    media_type = _media_type(document, content_type)
    if media_type in INDEX_TYPES:
        # The same ambiguity without a type (CVE-2021-41190): a client may take it for an image.
        if document.get("layers") is not None:
            raise ValueError(f"{digest} is an index with layers: ambiguous, refused")
        children = _unique(_descriptors(document, "manifests"))
        return Manifest(media_type, digest, content, children, **_common_fields(document, ""))
    if media_type not in IMAGE_TYPES:
        name = ascii(one_line(media_type, 100)) if media_type else "unknown"
        raise ValueError(f"manifests of type {name} can't be copied{_advice(document, media_type)}")
    if document.get("manifests") is not None:
        raise ValueError(f"{digest} is an image with manifests: ambiguous, refused")
    config = _descriptor(document.get("config"), "config")
    blobs = _unique((config, *_descriptors(document, "layers")))
    return Manifest(media_type, digest, content, blobs=blobs, **_common_fields(document, config.media_type))


def entries(index: Manifest) -> tuple[Descriptor, ...]:
    """Return the children of an index, repeated digests included."""
    return _descriptors(json.loads(index.content), "manifests")


def descriptor_row(manifest: Manifest) -> dict[str, Any]:
    """Return a manifest's row in an index of referrers (specification, "Pushing Manifests with Subject")."""
    row: dict[str, Any] = {
        "mediaType": manifest.media_type,
        "digest": manifest.digest,
        "size": len(manifest.content),
    }
    row |= {"artifactType": manifest.artifact_type} if manifest.artifact_type else {}
    return row | ({"annotations": dict(manifest.annotations)} if manifest.annotations else {})


def _common_fields(document: dict[str, Any], config_type: str) -> dict[str, Any]:
    """Return the fields that every kind of manifest may have."""
    subject, artifact_type = document.get("subject"), document.get("artifactType")
    return {
        "subject": None if subject is None else _descriptor(subject, "subject"),
        "artifact_type": artifact_type if isinstance(artifact_type, str) and artifact_type else config_type,
        "annotations": _texts(document.get("annotations")),
    }


def _unique(descriptors: tuple[Descriptor, ...]) -> tuple[Descriptor, ...]:
    # Images do repeat layers, e.g. empty ones: each is copied once. The config stays what it is, if a layer repeats it.
    found: dict[str, Descriptor] = {}
    for descriptor in descriptors:
        found.setdefault(descriptor.digest, descriptor)
    return tuple(found.values())


def _media_type(document: dict[str, Any], content_type: str) -> str:
    declared = document.get("mediaType")
    announced = content_type.partition(";")[0].strip().lower()
    if announced in MANIFEST_TYPES:
        # A document of two types could mean one image here and another to the client that pulls it (CVE-2021-41190).
        if declared not in (None, "", announced):
            raise ValueError(
                f"the manifest is served as {announced} but calls itself {one_line(str(declared), 100)!a}: refused"
            )
        return announced
    return declared if isinstance(declared, str) else announced


def refuse_foreign_type(content_type: str) -> None:
    """Refuse a manifest of another type before its digest is verified.

    The digest of a signed Docker schema 1 manifest is not that of its bytes: without this check it would be reported
    as corrupt.

    Raises:
        ValueError: manifests of this Content-Type are not copied.
    """
    announced = content_type.partition(";")[0].strip().lower()
    if announced.startswith("application/vnd.") and announced not in MANIFEST_TYPES:
        raise ValueError(f"manifests of type {one_line(announced, 100)!a} can't be copied{_advice({}, announced)}")


def _advice(document: dict[str, Any], media_type: str) -> str:
    if document.get("schemaVersion") == 1 or (".v1+" in media_type and "docker" in media_type):
        return " (Docker schema 1: push the image again with a current client)"
    return " (push it as an OCI image manifest or index, or leave its tag out)"


def _refuse_odd_case(document: dict[str, Any], fields: tuple[str, ...]) -> None:
    """Refuse a field's name in another case: programs in Go read it as that field, so it would mean two things."""
    folded = {name.casefold() for name in fields}
    if odd := next((name for name in document if name not in fields and name.casefold() in folded), None):
        raise ValueError(f"the manifest has a field {one_line(odd, 30)!a}, a known name in another case: refused")


def _descriptors(document: dict[str, Any], key: str) -> tuple[Descriptor, ...]:
    # Go writes an empty list as null or not at all, so images and indexes without parts exist in all three forms.
    entries = document.get(key)
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise ValueError(f"{key!r} of the manifest is not a list")
    if len(entries) > _MAX_ENTRIES:
        raise ValueError(f"the manifest names {len(entries)} {key}: more than {_MAX_ENTRIES} are not copied")
    return tuple(_descriptor(entry, key) for entry in entries)


def _descriptor(entry: object, where: str) -> Descriptor:
    if not isinstance(entry, dict):
        raise ValueError(f"{where!r} of the manifest is not a descriptor")
    _refuse_odd_case(entry, _DESCRIPTOR_FIELDS)
    digest, size, media_type = entry.get("digest"), entry.get("size"), entry.get("mediaType", "")
    if not isinstance(digest, str) or not is_digest(digest):
        raise ValueError(f"{where!r} of the manifest has no digest that can be verified")
    # JSON's true is an int in Python.
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << _SIZE_BITS:
        raise ValueError(f"{where!r} of the manifest has no valid size")
    artifact_type, data = entry.get("artifactType"), entry.get("data")
    return Descriptor(
        media_type if isinstance(media_type, str) else "",
        digest,
        size,
        platform_of(entry.get("platform")),
        artifact_type if isinstance(artifact_type, str) else "",
        _texts(entry.get("annotations")),
        data if isinstance(data, str) else None if data is None else "",
        bool(entry.get("urls")),
    )


def embedded(blob: Descriptor) -> tuple[bytes | None, str]:
    """Return the content that a descriptor embeds as ``data``, verified (image specification, "Content Descriptors").

    It is a part of the manifest, so it has at most three quarters of `MAX_MANIFEST_BYTES`.

    Returns:
        The content, or None if there is none with the descriptor's size and digest; and the reason why not, to go
        behind another error's words, empty if there is none.
    """
    if blob.data is None:
        return None, ""
    try:
        content = base64.b64decode(blob.data, validate=True)
    except ValueError:
        fault = "is not base64"
    else:
        digest = digest_of(content, blob.digest)
        if len(content) == blob.size and digest == blob.digest:
            return content, ""
        fault = f"hashes to {digest}" if len(content) == blob.size else f"has {len(content)} bytes, not {blob.size}"
    return None, f"; the content that the manifest embeds as data of {blob.digest} {fault}"


def platform_of(value: object) -> Platform | None:
    """Read a platform from an index's entry or from an image's config; None if there is no valid one."""
    if not isinstance(value, dict):
        return None
    os, architecture, variant = value.get("os"), value.get("architecture"), value.get("variant") or ""
    parts = [part for part in (os, architecture, variant) if isinstance(part, str)]
    if len(parts) < 3 or not (os and architecture) or not all(_PLATFORM_PART.match(part) for part in parts):
        return None
    return Platform(*parts)


def _texts(mapping: object) -> Mapping[str, str]:
    if not isinstance(mapping, dict):
        return {}
    return {key: value for key, value in mapping.items() if isinstance(key, str) and isinstance(value, str)}


class Hasher(Protocol):
    """A hash object of hashlib."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Hash more bytes; releases the interpreter's lock for large ones."""

    def hexdigest(self) -> str:
        """Return the hash of all bytes as lower-case hex."""

    def digest(self) -> bytes:
        """Return the hash of all bytes."""

    def copy(self) -> Hasher:
        """Return an independent hasher that continues from here."""


def hasher_for(digest: str) -> Hasher:
    """Return a fresh hasher of a digest's algorithm, ``sha256`` or ``sha512``."""
    return hashlib.new(digest.partition(":")[0], usedforsecurity=True)


def digest_of(content: bytes, like: str = "sha256:") -> str:
    """Return the digest of ``content`` in the algorithm of ``like``."""
    hasher = hasher_for(like)
    hasher.update(content)
    return f"{like.partition(':')[0]}:{hasher.hexdigest()}"
