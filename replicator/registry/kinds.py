"""The kinds of artifacts: which one a manifest is of, by the media types that it names.

Sources: OCI image specification 1.1, "Guidelines for Artifact Usage"; the media types of Helm, CNAB, SOCI, BuildKit,
CNCF ModelPack, cosign and Notation.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from replicator.registry.errors import one_line
from replicator.registry.manifest import CONFIG_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from replicator.reference import Platform
    from replicator.registry.manifest import Descriptor, Manifest

IMAGE = "image"
"""The kind of a container image, and of an index of images; see `artifact_kind`."""
_KINDS = (
    ("soci", re.compile(r"^application/vnd\.amazon\.soci\.")),
    ("chart", re.compile(r"^application/vnd\.cncf\.helm\.")),
    ("cnab", re.compile(r"^application/vnd\.cnab\.")),
    ("wasm", re.compile(r"[./+]wasm\b")),
    ("cache", re.compile(r"^application/vnd\.buildkit\.cacheconfig\.")),
    ("model", re.compile(r"^application/vnd\.(cncf\.model|cnai|docker\.ai|ollama\.image|kitops\.modelkit)\.")),
    ("plugin", re.compile(r"^application/vnd\.docker\.plugin\.")),
    ("sbom", re.compile(r"sbom|spdx|cyclonedx|\bsyft\b")),
    ("attestation", re.compile(r"attestation|in-toto|dsse|provenance")),
    ("signature", re.compile(r"signature|sigstore|cosign|simplesigning|notary|\bsig\b")),
)
"""Kinds by a media type; the first that fits counts."""
KINDS = (IMAGE, *(name for name, _ in _KINDS))
"""All names of kinds; an artifact of another one goes by its own media type."""
LAYER_KINDS = frozenset({"wasm", "model", "signature", "attestation", "sbom"})
"""Kinds that layers tell, where the config is an image's or an unknown one; the others have a config of their own."""
_IMAGE_LAYERS = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")
_INDEX_KIND = "org.opencontainers.artifactType"
"""Annotation with the artifact type of an index in CNAB's form, which is older than the field."""
LONGEST_KIND = 100
"""Characters of a kind that has no name but its media type."""


def kind_of_type(media_type: str) -> str | None:
    """Return the kind for the media type of a config, a layer or an artifact; None if it is unknown."""
    if media_type in CONFIG_TYPES:
        return IMAGE
    return next((name for name, pattern in _KINDS if pattern.search(media_type.lower())), None)


def artifact_kind(manifest: Manifest) -> str:
    """Return the kind of a manifest: one of `KINDS`, else the media type of its artifact or its config.

    The artifact type tells it first, then the config's, then the layers'. What has the config of an image is one,
    unless none of its layers is an image's, as of cosign's old signatures. An index is an image, unless it says
    otherwise itself, or has no entry but artifacts.
    """
    if manifest.is_index:
        own = manifest.artifact_type or manifest.annotations.get(_INDEX_KIND, "")
        return _kind_of_types(own) if own else _kind_of_entries(manifest.manifests)
    config = manifest.config.media_type if manifest.config is not None else ""
    layers = [blob.media_type for blob in manifest.blobs[1:]]
    if config in CONFIG_TYPES:
        own = manifest.artifact_type if manifest.artifact_type != config else ""
        if any(layer.startswith(_IMAGE_LAYERS) for layer in layers):
            return IMAGE
        return kind_of_type(own) or _kind_of_layers(layers) or IMAGE
    return _kind_of_types(manifest.artifact_type, config, layers=layers)


def is_image(manifest: Manifest) -> bool:
    """Tell a container image from another artifact by its config, as registries do that accept only images."""
    return manifest.config is not None and manifest.config.media_type in CONFIG_TYPES


def is_plain_image(manifest: Manifest) -> bool:
    """Tell whether a manifest is one that every registry takes: of a container image, or an index of images."""
    return artifact_kind(manifest) == IMAGE and (manifest.is_index or is_image(manifest))


def kind_of(manifest: Manifest) -> str:
    """Return what tells a manifest from an image: its ``artifactType``, else the type of its config.

    For a manifest that calls itself an image, as cosign's old signatures do, the last layer decides.
    """
    if manifest.subject is None and is_image(manifest) and manifest.blobs:
        return manifest.blobs[-1].media_type
    return manifest.artifact_type


def deciding_type(manifest: Manifest) -> str:
    """Return the types by which a registry decides whether it takes a manifest: `kind_of`, and that of its config.

    An index has its own media type in place of a config's.
    """
    kind, other = kind_of(manifest), manifest.config.media_type if manifest.config is not None else manifest.media_type
    return kind if kind == other else f"{kind} {other}".strip()


def _kind_of_types(*types: str, layers: Sequence[str] = ()) -> str:
    named = next((kind for kind in map(kind_of_type, types) if kind not in (None, IMAGE)), None)
    return named or _kind_of_layers(layers) or one_line(next(filter(None, types), "unknown"), LONGEST_KIND)


def _kind_of_layers(types: Sequence[str]) -> str | None:
    return next((kind for kind in map(kind_of_type, types) if kind in LAYER_KINDS), None)


def _kind_of_entries(children: tuple[Descriptor, ...]) -> str:
    """Return the kind of an index that does not say it: BuildKit's old cache, a list of referrers, or of images."""
    if names_platform(child.platform for child in children):
        return IMAGE
    if any(kind_of_type(child.media_type) == "cache" for child in children):
        return "cache"
    others = [child.artifact_type for child in children if child.artifact_type not in ("", *CONFIG_TYPES)]
    return _kind_of_types(*others) if others and len(others) == len(children) else IMAGE


def names_platform(platforms: Iterable[Platform | None]) -> bool:
    """Tell whether one of an index's entries is for a platform, which makes it an index of images."""
    return any(platform is not None and platform.os != "unknown" for platform in platforms)
