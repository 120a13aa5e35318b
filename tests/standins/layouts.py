"""Images as files, for programs that push them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.standins.images import blobs_of, manifests_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.standins.images import Image, Index


def write_layout(directory: Path, root: Image | Index, tag: str = "latest") -> None:
    """Write an OCI layout, for ``skopeo copy --all oci:DIRECTORY:TAG``; layers of any size go straight to disk.

    Skopeo finds only OCI images in it; `write_directory` serves for all.
    """
    store = directory / "blobs" / "sha256"
    store.mkdir(parents=True, exist_ok=True)
    for blob in blobs_of(root):
        with (store / blob.digest.partition(":")[2]).open("wb") as file:
            for chunk in blob.chunks():
                file.write(chunk)
    for manifest in manifests_of(root):
        (store / manifest.digest.partition(":")[2]).write_bytes(manifest.content)
    (directory / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    entry = {
        "mediaType": root.media_type,
        "digest": root.digest,
        "size": len(root.content),
        "annotations": {"org.opencontainers.image.ref.name": tag},
    }
    (directory / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [entry]}))


def write_directory(directory: Path, root: Image | Index) -> None:
    """Write what ``skopeo copy --all dir:DIRECTORY`` takes, Docker's media types too."""
    for blob in blobs_of(root):
        with (directory / blob.digest.partition(":")[2]).open("wb") as file:
            for chunk in blob.chunks():
                file.write(chunk)
    for manifest in manifests_of(root):
        (directory / f"{manifest.digest.partition(':')[2]}.manifest.json").write_bytes(manifest.content)
    (directory / "manifest.json").write_bytes(root.content)
    (directory / "version").write_text("Directory Transport Version: 1.1\n")


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
