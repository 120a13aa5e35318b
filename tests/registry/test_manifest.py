"""Manifests: their parts, and documents that are refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replicator.reference import Platform
from replicator.registry.kinds import artifact_kind
from replicator.registry.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    digest_of,
    embedded,
    entries,
    parse_manifest,
    platform_of,
)
from tests.standins.images import image, index, multi_arch

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
TYPES = [DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST]


def read(document: Any, content_type: str = "") -> Manifest:
    return parse_manifest(json.dumps(document).encode(), content_type, DIGEST)


def descriptor(digest: str = DIGEST, size: int = 3, media_type: str = "text/plain") -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


@pytest.mark.parametrize("docker", [True, False])
def test_an_image_names_its_config_and_layers_once_each(docker: bool) -> None:
    made = image(1, (10, 20), docker=docker)
    manifest = parse_manifest(made.content, made.media_type, made.digest)
    assert [blob.digest for blob in manifest.blobs] == [blob.digest for blob in made.blobs]
    assert [blob.size for blob in manifest.blobs] == [blob.size for blob in made.blobs]
    assert (manifest.media_type, manifest.content, manifest.is_index) == (made.media_type, made.content, False)
    same = read({"config": descriptor(), "layers": [descriptor(OTHER), descriptor(OTHER)]}, OCI_MANIFEST)
    assert [blob.digest for blob in same.blobs] == [DIGEST, OTHER]


@pytest.mark.parametrize("docker", [True, False])
def test_an_index_names_its_children_once_each(docker: bool) -> None:
    made = multi_arch(1, docker=docker)
    manifest = parse_manifest(made.content, made.media_type, made.digest)
    assert [child.digest for child in manifest.manifests] == [child.digest for child in made.children]
    assert manifest.is_index
    twice = index([made.children[0], made.children[0]])
    assert len(parse_manifest(twice.content, twice.media_type, twice.digest).manifests) == 1


@pytest.mark.parametrize("rest", [{}, {"layers": None}, {"layers": []}, {"manifests": None}])
def test_an_image_may_have_no_layers(rest: dict[str, Any]) -> None:
    for media_type in (OCI_MANIFEST, DOCKER_MANIFEST):
        assert [blob.digest for blob in read({"config": descriptor(), **rest}, media_type).blobs] == [DIGEST]


@pytest.mark.parametrize("rest", [{}, {"manifests": None}, {"manifests": []}, {"layers": None}])
def test_an_index_may_have_no_children(rest: dict[str, Any]) -> None:
    for media_type in (OCI_INDEX, DOCKER_LIST):
        manifest = read(rest, media_type)
        assert manifest.is_index
        assert manifest.manifests == entries(manifest) == ()


@pytest.mark.parametrize("like", ["sha256:", "sha512:"])
def test_embedded_content_counts_only_with_the_right_size_and_digest(like: str) -> None:
    content, digest = b"content", digest_of(b"content", like)

    def part(**more: Any) -> Descriptor:
        return read({"config": {**descriptor(digest, 7), **more}}, OCI_MANIFEST).blobs[0]

    assert embedded(part(data=base64.b64encode(content).decode())) == (content, "")
    for absent in ({}, {"data": None}):
        assert embedded(part(**absent)) == (None, "")
    wrong: dict[str, tuple[Any, ...]] = {
        "not base64": ("!!!", "Y29udGVudA", "Y29u dGVudA==", "ä", "Y29udGVudA==" * 2),
        "hashes to": (base64.b64encode(b"another").decode(),),
        "bytes, not 7": (base64.b64encode(content * 2).decode(), "", 5, [], False),
    }
    for words, values in wrong.items():
        for value in values:
            found, reason = embedded(part(data=value))
            assert found is None
            assert words in reason
            assert digest in reason


def test_foreign_layers_are_known_as_such() -> None:
    for docker in (True, False):
        made = image(1, foreign=True, docker=docker)
        blobs = parse_manifest(made.content, made.media_type, made.digest).blobs
        assert [blob.is_foreign for blob in blobs] == [False, False, False, True]
        assert [blob.has_urls for blob in blobs] == [False, False, False, True]


def test_the_document_names_its_type_where_the_header_does_not() -> None:
    document = {"mediaType": OCI_INDEX, "manifests": []}
    assert read(document, "application/json").is_index
    assert read(document, f"{OCI_INDEX}; charset=utf-8").is_index
    assert read({"manifests": []}, OCI_INDEX.upper()).media_type == OCI_INDEX


@pytest.mark.parametrize(
    ("document", "content_type", "words"),
    [
        ({"mediaType": OCI_INDEX, "config": descriptor(), "layers": []}, OCI_MANIFEST, "calls itself"),
        ({"manifests": [], "layers": []}, OCI_INDEX, "ambiguous"),
        ({"config": descriptor(), "layers": [], "manifests": []}, OCI_MANIFEST, "ambiguous"),
        ({"schemaVersion": 1}, "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
        ({}, "application/json", "application/json"),
        ({"mediaType": "a\x1b[2J" + "b" * 10_000}, "", "can't be copied"),
        ({"mediaType": "a\x1b[2J" + "b" * 10_000}, OCI_INDEX, "calls itself"),
        ({}, "", "unknown"),
        ([], OCI_INDEX, "not a JSON object"),
        ({"layers": []}, OCI_MANIFEST, "config"),
        ({"manifests": 0}, OCI_INDEX, "manifests"),
        ({"config": None}, OCI_MANIFEST, "config"),
        ({"config": descriptor(), "Layers": [descriptor(OTHER)]}, OCI_MANIFEST, "another case"),
        ({"config": descriptor(), "layer\u017f": [descriptor(OTHER)]}, OCI_MANIFEST, "another case"),
        ({"config": descriptor(), "layers": {}}, OCI_MANIFEST, "layers"),
        ({"config": {**descriptor(), "Digest": OTHER}}, OCI_MANIFEST, "another case"),
        ({"manifests": [{**descriptor(), "SIZE": 1}]}, OCI_INDEX, "another case"),
        ({"config": descriptor("md5:abc"), "layers": []}, OCI_MANIFEST, "digest"),
        ({"config": descriptor("sha256:../../etc"), "layers": []}, OCI_MANIFEST, "digest"),
        ({"config": descriptor(size=-1), "layers": []}, OCI_MANIFEST, "size"),
        ({"config": {**descriptor(), "size": True}, "layers": []}, OCI_MANIFEST, "size"),
        ({"config": {**descriptor(), "size": 1.5}, "layers": []}, OCI_MANIFEST, "size"),
        ({"config": {**descriptor(), "size": 1e3}, "layers": []}, OCI_MANIFEST, "size"),
        ({"config": {**descriptor(), "size": None}, "layers": []}, OCI_MANIFEST, "size"),
        ({"config": descriptor(size=2**63)}, OCI_MANIFEST, "size"),
        ({"config": {"digest": DIGEST}}, OCI_MANIFEST, "size"),
        ({"config": descriptor(), "layers": [None]}, OCI_MANIFEST, "not a descriptor"),
        ({"manifests": [descriptor()] * 5000}, OCI_INDEX, "more than"),
        ({"manifests": [None]}, OCI_INDEX, "descriptor"),
    ],
)
def test_what_is_no_manifest_is_refused_with_a_reason(document: Any, content_type: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        read(document, content_type)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


KEYS = st.sampled_from(
    ("mediaType", "schemaVersion", "config", "layers", "manifests", "digest", "size", "urls", "platform", "x", "data")
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from([DIGEST, *TYPES, "\ud800"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=20,
)


@given(
    st.dictionaries(KEYS, JSON, max_size=8) | JSON, st.sampled_from([*TYPES, "", "text/html"]) | st.text(max_size=40)
)
def test_any_json_is_a_manifest_or_a_value_error(document: Any, content_type: str) -> None:
    _manifest_or_value_error(json.dumps(document).encode(), content_type)


PARTS = st.fixed_dictionaries(
    {"digest": st.just(DIGEST), "size": st.integers(0, 10)},
    optional={"data": SCALARS, "mediaType": SCALARS, "urls": st.lists(SCALARS), "platform": SCALARS},
)
LISTS = st.none() | st.lists(PARTS, max_size=4)


@given(
    st.fixed_dictionaries({}, optional={"config": PARTS, "layers": LISTS, "manifests": LISTS, "subject": PARTS}),
    st.sampled_from(TYPES),
)
def test_any_parts_are_a_manifest_or_a_value_error(document: Any, media_type: str) -> None:
    _manifest_or_value_error(json.dumps(document).encode(), media_type)


@given(st.binary(max_size=200), st.sampled_from(TYPES))
@example(b"[" * 100_000, OCI_INDEX)
@example(b'{"a":' * 100_000, OCI_INDEX)
@example(b'{"config": {"size": ' + b"9" * 10_000 + b"}}", OCI_MANIFEST)
@example(b"\xff\xfe{\x00}\x00", OCI_INDEX)
@example(b'{"mediaType": "\\ud800"}', OCI_INDEX)
def test_any_bytes_are_a_manifest_or_a_value_error(content: bytes, content_type: str) -> None:
    _manifest_or_value_error(content, content_type)


def _manifest_or_value_error(content: bytes, content_type: str) -> None:
    try:
        manifest = parse_manifest(content, content_type, DIGEST)
    except ValueError as error:
        words = str(error)
    else:
        words = ""
        assert manifest.content == content
        assert manifest.media_type in TYPES
        assert not (manifest.blobs and manifest.manifests)
        assert {child.digest for child in manifest.manifests} == {child.digest for child in entries(manifest)}
        for part in (*manifest.blobs, *manifest.manifests):
            found, reason = embedded(part)
            assert found is None or digest_of(found, part.digest) == part.digest
            assert reason.isprintable()
    assert len(words.encode()) < 500


@pytest.mark.parametrize(
    "said",
    [None, [], {"os": "linux"}, {"os": 1, "architecture": "a"}, {"os": "", "architecture": "a"}]
    + [{"os": "linux", "architecture": odd} for odd in ("x" * 65, "a\x1b[2J", "a b", "ä", "a\n")]
    + [{"os": "linux", "architecture": "a", "variant": ["v8"]}],
)
def test_an_invalid_platform_is_none(said: Any) -> None:
    assert platform_of(said) is None
    assert platform_of({"os": "linux", "architecture": "arm", "variant": "v7"}) == Platform("linux", "arm", "v7")
    assert platform_of({"os": "linux", "architecture": "amd64", "variant": None}) == Platform("linux", "amd64")


OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@pytest.mark.parametrize(
    ("config", "layers", "artifact_type", "kind"),
    [
        (OCI_CONFIG, [LAYER], "", "image"),
        (OCI_CONFIG, [], "", "image"),
        (OCI_CONFIG, [LAYER], "application/vnd.example.v1", "image"),
        (OCI_CONFIG, ["application/vnd.oci.image.layer.nydus.blob.v1", LAYER], "", "image"),
        (OCI_CONFIG, ["text/plain"], "", "image"),
        (
            "application/vnd.cncf.helm.config.v1+json",
            ["application/vnd.cncf.helm.chart.content.v1.tar+gzip"],
            "",
            "chart",
        ),
        ("application/vnd.buildkit.cacheconfig.v0", [LAYER], "", "cache"),
        ("application/vnd.wasm.config.v0+json", ["application/wasm"], "", "wasm"),
        ("application/vnd.cncf.model.config.v1+json", [], "application/vnd.cncf.model.manifest.v1+json", "model"),
        ("application/vnd.docker.ai.model.config.v0.1+json", ["application/vnd.docker.ai.gguf.v3"], "", "model"),
        (OCI_CONFIG, ["application/vnd.ollama.image.model"], "", "model"),
        (EMPTY, ["application/octet-stream"], "application/vnd.amazon.soci.index.v2+json", "soci"),
        (OCI_CONFIG, ["application/vnd.dev.cosign.simplesigning.v1+json"], "", "signature"),
        (EMPTY, ["application/json"], "application/vnd.dev.sigstore.bundle.v0.3+json", "signature"),
        ("application/vnd.cncf.notary.signature", ["application/jose+json"], "", "signature"),
        (OCI_CONFIG, ["application/vnd.in-toto+json"], "", "attestation"),
        (OCI_CONFIG, ["application/vnd.dsse.envelope.v1+json"], "", "attestation"),
        (EMPTY, ["application/vnd.in-toto+json"], "application/vnd.docker.attestation.manifest.v1+json", "attestation"),
        (EMPTY, ["application/spdx+json"], "", "sbom"),
        ("application/vnd.docker.plugin.v1+json", [], "", "plugin"),
        (EMPTY, ["text/plain"], "application/vnd.example+type", "application/vnd.example+type"),
        ("application/vnd.example.config.v1+json", [LAYER], "", "application/vnd.example.config.v1+json"),
        ("application/vnd.example.config.v1+json", [LAYER], OCI_CONFIG, OCI_CONFIG),
    ],
)
def test_an_artifact_s_kind_is_told_by_its_types(config: str, layers: list[str], artifact_type: str, kind: str) -> None:
    document = {
        "config": descriptor(media_type=config),
        "layers": [descriptor(f"sha256:{number:064}", media_type=layer) for number, layer in enumerate(layers)],
        "artifactType": artifact_type,
    }
    assert artifact_kind(read(document, OCI_MANIFEST)) == kind


@pytest.mark.parametrize(
    ("more", "entries", "kind"),
    [
        ({}, [], "image"),
        ({}, [{}, {"artifactType": "application/vnd.amazon.soci.index.v2+json"}], "image"),
        ({}, [{"artifactType": EMPTY}], EMPTY),
        ({}, [{"artifactType": "application/vnd.dev.sigstore.bundle.v0.3+json"}], "signature"),
        ({}, [{"mediaType": LAYER}, {"mediaType": "application/vnd.buildkit.cacheconfig.v0"}], "cache"),
        ({"artifactType": "application/vnd.cnab.bundle.v1"}, [{}], "cnab"),
        ({"annotations": {"org.opencontainers.artifactType": "application/vnd.cnab.manifest.v1"}}, [{}], "cnab"),
    ],
)
def test_an_index_s_kind_is_an_image_unless_it_or_all_entries_say_otherwise(
    more: dict[str, Any], entries: list[dict[str, Any]], kind: str
) -> None:
    rows = [
        {**descriptor(f"sha256:{number:064}", media_type=OCI_MANIFEST), **entry} for number, entry in enumerate(entries)
    ]
    assert artifact_kind(read({"manifests": rows, **more}, OCI_INDEX)) == kind
