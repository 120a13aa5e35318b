"""Signatures in the form that cosign gave them before OCI 1.1: an image under a tag made of the signed digest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from replicator.registry.manifest import OCI_MANIFEST
from tests.standins.blobs import Blob
from tests.standins.harbor_content import COSIGN_LAYER
from tests.standins.images import Image

if TYPE_CHECKING:
    from tests.standins.images import Index


def cosign_signature(subject: Image | Index, seed: int = 1) -> Image:
    """Make a signature; `tests.standins.images.cosign_tag` returns its tag.

    The type of its layer is what makes it a signature to Harbor.
    """
    layer = Blob(COSIGN_LAYER, _json({"critical": {"image": {"docker-manifest-digest": subject.digest}}, "seed": seed}))
    described = {"architecture": "", "os": "", "rootfs": {"type": "layers", "diff_ids": [layer.digest]}}
    config = Blob("application/vnd.oci.image.config.v1+json", _json(described))
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor(),
        "layers": [layer.descriptor() | {"annotations": {"dev.cosignproject.cosign/signature": "c2lnbmF0dXJl"}}],
    }
    return Image(OCI_MANIFEST, _json(document), (config, layer))


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
