"""Odd but legal contents: copied to the byte, or refused with words before anything is sent."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from replicator.copy.context import SourceReader
from replicator.copy.options import Attestations, CopyOptions
from replicator.errors import ErrorClass
from replicator.reference import Platform, Reference, Repository
from replicator.registry import Access, Registries
from replicator.registry.errors import NotFound, UnsupportedManifest
from replicator.registry.manifest import (
    CONFIG_TYPES,
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    digest_of,
    parse_manifest,
)
from tests.copy.conftest import a_copier, is_copied
from tests.copy.shelf import CONFIG, LAYER, LAYER_TYPE, Shelf, an_image, document, embedding, part
from tests.standins.faults import Answer, Fault
from tests.standins.images import fetch_raw
from tests.standins.server import serve

if TYPE_CHECKING:
    from replicator.registry import Manifest
    from tests.copy.conftest import Registry
    from tests.copy.shelf import Source

AMD64 = CopyOptions((Platform("linux", "amd64"),))
STRIP = CopyOptions(attestations=Attestations.STRIP)
EMPTY = "application/vnd.oci.empty.v1+json"
CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"
ALL = (CopyOptions(), STRIP, AMD64)


@pytest.mark.parametrize("docker", [False, True])
async def test_an_image_without_layers_is_copied_to_the_byte(source: Source, taking: Registry, docker: bool) -> None:
    media_type, config_type = (DOCKER_MANIFEST, DOCKER_CONFIG) if docker else (OCI_MANIFEST, OCI_CONFIG)
    forms: list[dict[str, Any]] = [{"layers": None}, {}, {"layers": []}, {"layers": None, "manifests": None}]
    for number, form in enumerate(forms):
        content = document(media_type, config=part(CONFIG, config_type), **form)
        await is_copied(source.hold(content, media_type, CONFIG, tag=f"v{number}"), taking, content, *ALL)
    # A config without a platform is copied too, unless platforms are asked for.
    for number, config in enumerate((b"", b"{}")):
        content = document(media_type, config=part(config, config_type), layers=None)
        await is_copied(source.hold(content, media_type, config, tag=f"w{number}"), taking, content, *ALL[:2])


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
async def test_an_index_without_children_is_copied_to_the_byte(
    source: Source, taking: Registry, media_type: str
) -> None:
    forms: list[dict[str, Any]] = [{"manifests": None}, {}, {"manifests": []}]
    for number, form in enumerate(forms):
        content = document(media_type, **form)
        await is_copied(source.hold(content, media_type, tag=f"v{number}"), taking, content, *ALL)


async def test_odd_json_is_copied_to_the_byte(source: Source, taking: Registry) -> None:
    plain = an_image()
    made = [
        b"\r\n\t " + plain + b"\n\n",
        json.dumps(json.loads(plain), indent="\t").replace("\n", "\r\n").encode(),
        plain[:-1] + ', "annotations": {"名字": "🐳\u2028", "a": "\\ud800\\/"}}'.encode(),
        plain[:-1] + b', "schemaVersion": 2, "unknown": [{"a": null}, 1e999, 123456789012345678901234567890]}',
        plain[:-1] + b', "subject": null, "annotations": null, "artifactType": "application/x"}',
        plain.replace(b"v1.tar+gzip", b"v1.tar+zstd"),
        plain.replace(LAYER_TYPE.encode(), b"application/vnd.example.unheard-of"),
        json.dumps({key: value for key, value in json.loads(plain).items() if key != "mediaType"}).encode(),
        document("", config=part(CONFIG, OCI_CONFIG, platform=None, annotations=None), layers=[part(LAYER, "")]),
        document(OCI_MANIFEST, config=part(b"{}", EMPTY), layers=[part(b"{}", EMPTY)], artifactType="application/x"),
        document(OCI_MANIFEST, config=part(CONFIG, OCI_CONFIG), layers=[part(LAYER, LAYER_TYPE)] * 1000),
    ]
    for number, content in enumerate(made):
        await is_copied(source.hold(content, OCI_MANIFEST, CONFIG, LAYER, b"{}", tag=f"v{number}"), taking, content)


def _indexes_of_blobs() -> dict[str, bytes]:
    layer, image_row = part(LAYER, LAYER_TYPE), part(an_image(), OCI_MANIFEST)
    docker = part(LAYER, "application/vnd.docker.image.rootfs.diff.tar.gzip")
    return {
        "cache": document(OCI_INDEX, manifests=[layer, part(b"{}", CACHE_CONFIG)]),
        "docker-cache": document(DOCKER_LIST, manifests=[docker, part(b"{}", CACHE_CONFIG)]),
        "mixed": document(OCI_INDEX, manifests=[image_row, layer]),
        "unknown-type": document(OCI_INDEX, manifests=[image_row, part(LAYER, "application/vnd.example.blob")]),
        **{kind: document(OCI_INDEX, manifests=[image_row, part(CONFIG, kind)]) for kind in sorted(CONFIG_TYPES)},
    }


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("content", _indexes_of_blobs().values(), ids=_indexes_of_blobs())
async def test_an_index_of_blobs_is_refused_before_anything_is_sent(
    source: Source, content: bytes, nested: bool
) -> None:
    root, media_type = content, json.loads(content)["mediaType"]
    if nested:
        source.hold(content, media_type, tag="inner")
        root = document(media_type, manifests=[part(an_image(), OCI_MANIFEST), part(content, media_type)])
    source.hold(an_image(), OCI_MANIFEST, CONFIG, LAYER, b"{}", tag="image")
    # Distribution fails when it is asked for a blob as a manifest.
    source.faults.add(Fault(Answer(500), "GET", f"manifests/{digest_of(LAYER)}", times=None))
    reference, taken = source.hold(root, media_type), Shelf()
    async with serve(taken) as destination, a_copier() as copier:
        for options in (CopyOptions(), STRIP):
            with pytest.raises(UnsupportedManifest, match="lists blobs, not manifests") as caught:
                await copier.copy(
                    reference, Reference(Repository(destination, "team/app"), "v1", None), options=options
                )
            assert caught.value.error_class is ErrorClass.PERMANENT
            assert digest_of(content) in caught.value.why
            assert "image-manifest=true" in caught.value.do
    assert not taken.blobs
    assert not taken.manifests
    # Only what does not call itself a blob is asked for.
    asked = sum(source.faults.log.count(path=f"manifests/{digest_of(blob)}") for blob in (LAYER, CONFIG, b"{}"))
    assert (asked > 0) is (b"vnd.example.blob" in content)


async def test_indexes_that_share_their_children_are_looked_through_once(
    source: Source, taking: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    below: list[dict[str, Any]] = []
    for level in range(3):
        made = [document(OCI_INDEX, manifests=below, annotations={"n": f"{level} {number}"}) for number in range(12)]
        for content in made:
            source.hold(content, OCI_INDEX, tag="inner")
        below = [part(content, OCI_INDEX) for content in made]
    root, asked = document(OCI_INDEX, manifests=below), 0
    child = SourceReader.child

    async def counted(reader: SourceReader, *args: Any) -> Manifest:
        nonlocal asked
        asked += 1
        return await child(reader, *args)

    monkeypatch.setattr(SourceReader, "child", counted)
    await is_copied(source.hold(root, OCI_INDEX), taking, root)
    assert asked == 2 * 36


async def test_a_manifest_of_another_type_within_an_index_is_copied(source: Source, taking: Registry) -> None:
    source.hold(an_image(), OCI_MANIFEST, CONFIG, LAYER, tag="image")
    content = document(OCI_INDEX, manifests=[part(an_image(), "application/vnd.example.thing+json")])
    await is_copied(source.hold(content, OCI_INDEX), taking, content, CopyOptions(), STRIP)


async def test_embedded_content_stands_in_for_a_lost_one(source: Source, taking: Registry) -> None:
    large = b"0123456789abcdef" * 5000
    rows = [part(LAYER, LAYER_TYPE, **embedding(LAYER)), part(large, LAYER_TYPE, **embedding(large))]
    config = part(CONFIG, OCI_CONFIG, **embedding(CONFIG))
    child = document(OCI_MANIFEST, config=config, layers=rows)
    row = part(child, OCI_MANIFEST, **embedding(child))
    untyped = json.dumps({key: value for key, value in json.loads(child).items() if key != "mediaType"}).encode()
    root = document(OCI_INDEX, manifests=[row, part(untyped, OCI_MANIFEST, **embedding(untyped))])
    await is_copied(source.hold(root, OCI_INDEX), taking, root, *ALL)
    assert not any(map(source.requested, (CONFIG, LAYER, large, child, untyped)))
    for content in (CONFIG, LAYER, large):
        async with taking._upstream.request("GET", f"/v2/team/app/blobs/{digest_of(content)}") as answer:
            assert await answer.read() == content


async def test_an_upload_of_embedded_content_may_go_on_where_it_broke() -> None:
    content = b"0123456789abcdef" * 40_000
    manifest = document(OCI_MANIFEST, config=part(content, OCI_CONFIG, **embedding(content)))
    blob = parse_manifest(manifest, OCI_MANIFEST, digest_of(manifest)).blobs[0]
    async with Registries(lambda _: Access(endpoint="http://127.0.0.1:9")) as registries:
        stream = await registries.source(Repository("nowhere.example.com", "team/app")).open_blob(blob)
        for offset in (0, 100_000, len(content)):
            await stream.rewind(offset)
            assert b"".join([chunk async for chunk in stream]) == content[offset:]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("!!!", "is not base64"),
        (base64.b64encode(LAYER[::-1]).decode(), f"hashes to {digest_of(LAYER[::-1])}"),
        (base64.b64encode(b"a").decode(), "has 1 bytes, not 7"),
    ],
)
async def test_wrong_embedded_content_is_named_where_it_would_be_needed(
    source: Source, taking: Registry, data: str, words: str
) -> None:
    reference = source.hold(an_image(data=data), OCI_MANIFEST, CONFIG)
    async with a_copier() as copier:
        with pytest.raises(NotFound, match=words) as caught:
            await copier.copy(reference, taking.reference("v1"))
        assert caught.value.error_class is ErrorClass.PERMANENT
        assert digest_of(LAYER) in str(caught.value)
        root = document(OCI_INDEX, manifests=[part(LAYER, OCI_MANIFEST, data=data)])
        with pytest.raises(NotFound, match=words):
            await copier.copy(source.hold(root, OCI_INDEX, tag="v2"), taking.reference("v2"))
    # The manifest arrives as it is where the source has the blob.
    if words != "is not base64":
        source.hold(an_image(data=data), OCI_MANIFEST, LAYER)
        await is_copied(reference, taking, an_image(data=data))


async def test_a_rewritten_index_does_not_embed_the_original(source: Source, taking: Registry) -> None:
    plain, other = an_image(), document(OCI_MANIFEST, config=part(CONFIG, OCI_CONFIG))
    rows = [
        part(content, OCI_MANIFEST, platform={"os": "linux", "architecture": architecture}, **embedding(content))
        for content, architecture in ((plain, "amd64"), (other, "arm64"))
    ]
    inner = document(OCI_INDEX, manifests=rows)
    reference = source.hold(
        document(OCI_INDEX, manifests=[part(inner, OCI_INDEX, **embedding(inner))]), OCI_INDEX, CONFIG, LAYER
    )
    async with a_copier() as copier:
        await copier.copy(reference, taking.reference("v1"), options=AMD64)
    (row,) = json.loads((await fetch_raw(taking.plain, "team/app", "v1"))[0])["manifests"]
    assert "data" not in row
    (kept,) = json.loads((await fetch_raw(taking.plain, "team/app", row["digest"]))[0])["manifests"]
    assert kept == rows[0]
