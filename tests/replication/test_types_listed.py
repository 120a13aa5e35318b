"""Types of artifacts: what Harbor's list tells is never another verdict than the manifest's."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from replicator.copy.options import CopyOptions
from replicator.copy.selection import unwanted
from replicator.harbor.lists import artifact_of
from replicator.registry.kinds import KINDS
from replicator.registry.manifest import (
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    digest_of,
    parse_manifest,
)
from tests.standins.artifacts import EMPTY, HELM, HELM_LAYER
from tests.standins.harbor_content import COSIGN_LAYER, Artifact, Content, Stored
from tests.standins.harbor_projects import Project
from tests.standins.harbor_rows import shown_artifact

SOCI = "application/vnd.amazon.soci.index.v2+json"
CACHE = "application/vnd.buildkit.cacheconfig.v0"
CNAB = "application/vnd.cnab.manifest.v1"
WASM = "application/vnd.wasm.config.v1+json"
MODEL = "application/vnd.cncf.model.manifest.v1+json"
EXAMPLE = "application/vnd.example.config.v1+json"
CONFIGS = [OCI_CONFIG, DOCKER_CONFIG, HELM, EMPTY, CACHE, WASM, EXAMPLE, ""]
LAYERS = [
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    HELM_LAYER,
    "application/wasm",
    "application/vnd.ollama.image.model",
    "application/vnd.in-toto+json",
    COSIGN_LAYER,
    "text/plain",
]
ARTIFACT_TYPES = [HELM, SOCI, MODEL, CNAB, EXAMPLE, OCI_CONFIG, "application/spdx+json", "Application/Vnd.Example"]
PLATFORMS = [
    {"os": "linux", "architecture": "amd64"},
    {"os": "wasip1", "architecture": "wasm"},
    {"os": "unknown", "architecture": "unknown"},
    {"os": "linux", "architecture": ""},
]


def _descriptors(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    digests = st.integers(0, 3).map(lambda number: f"sha256:{number:064}")
    return st.fixed_dictionaries({"digest": digests, "size": st.just(7)}, optional=more)


OWN = {
    "artifactType": st.sampled_from(ARTIFACT_TYPES),
    "annotations": st.sampled_from(
        [{}, {"org.opencontainers.artifactType": CNAB}, {"module.wasm.image/variant": "compat"}]
    ),
}
MANIFESTS = st.fixed_dictionaries(
    {
        "mediaType": st.sampled_from([OCI_MANIFEST, DOCKER_MANIFEST]),
        "config": _descriptors(mediaType=st.sampled_from(CONFIGS)),
        "layers": st.lists(_descriptors(mediaType=st.sampled_from(LAYERS)), max_size=3),
    },
    optional=OWN,
)
ENTRIES = _descriptors(
    mediaType=st.sampled_from([OCI_MANIFEST, OCI_INDEX, CACHE, LAYERS[0]]),
    platform=st.sampled_from(PLATFORMS),
    artifactType=st.sampled_from(ARTIFACT_TYPES),
)
INDEXES = st.fixed_dictionaries(
    {"mediaType": st.sampled_from([OCI_INDEX, DOCKER_LIST]), "manifests": st.lists(ENTRIES, max_size=3)}, optional=OWN
)
TYPES = st.lists(st.sampled_from([*KINDS, HELM, EXAMPLE]), min_size=1, max_size=3, unique=True)


def _row(document: dict[str, Any], content: bytes) -> dict[str, Any]:
    stored = Stored(digest_of(content), document["mediaType"], len(content), document)
    nothing_behind: Any = None
    artifact = Artifact(7, "team/app", stored, ("v1",), 7, 7.0)
    return shown_artifact(Project(1, "team", public=True), artifact, Content(nothing_behind), with_tag=True)


def _config(media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{0:064}", "size": 7}


@given(MANIFESTS | INDEXES, TYPES)
@example({"mediaType": OCI_MANIFEST, "config": _config(OCI_CONFIG), "layers": [_config(COSIGN_LAYER)]}, ["signature"])
@example({"mediaType": OCI_MANIFEST, "config": _config(OCI_CONFIG), "layers": [_config(HELM_LAYER)]}, ["chart"])
@example({"mediaType": OCI_INDEX, "manifests": [{**_config(OCI_MANIFEST), "artifactType": SOCI}]}, ["soci"])
def test_the_verdict_of_a_list_is_that_of_the_manifest(document: dict[str, Any], types: list[str]) -> None:
    content = json.dumps(document).encode()
    row = _row(document, content)
    found = artifact_of(row, "harbor.example.com", "team")
    # As a Harbor before 2.9 shows it.
    older = artifact_of({**row, "artifact_type": ""}, "harbor.example.com", "team")
    assert found is not None
    assert older is not None
    options = CopyOptions(types=tuple(types))
    manifest = parse_manifest(content, document["mediaType"], digest_of(content))
    assert unwanted(manifest, options) or not options.unwanted_in_list(found.kind)
    if not manifest.is_index:
        assert older.kind is None
