"""Artifacts that are no images: charts and other things with a config or an artifact type of their own."""

from __future__ import annotations

import json

from replicator.registry.manifest import OCI_MANIFEST
from tests.standins.blobs import Blob
from tests.standins.images import Image

HELM = "application/vnd.cncf.helm.config.v1+json"
HELM_LAYER = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
EMPTY = "application/vnd.oci.empty.v1+json"


def artifact(seed: int, config: str = EMPTY, layer: str = "application/octet-stream", artifact_type: str = "") -> Image:
    """Make an artifact of one layer; different seeds share no layer."""
    blobs = (Blob(config, b"{}" if config == EMPTY else b'{"name":"x"}'), Blob(layer, f"content {seed}".encode() * 50))
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": blobs[0].descriptor(),
        "layers": [blobs[1].descriptor()],
        **({"artifactType": artifact_type} if artifact_type else {}),
    }
    return Image(OCI_MANIFEST, json.dumps(document).encode(), blobs)


def chart(seed: int) -> Image:
    """Make a Helm chart as ``helm push`` does."""
    return artifact(seed, HELM, HELM_LAYER)
