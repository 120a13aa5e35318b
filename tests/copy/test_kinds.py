"""Kinds of manifests: which are copied, and the errors for the others."""

from __future__ import annotations

import hashlib
import json

import pytest

from replicator.copy import Copier, Result
from replicator.copy import push as run
from replicator.errors import ErrorClass
from replicator.reference import Reference, Repository
from replicator.registry.errors import DigestMismatch, NotFound, Refused, UnsupportedManifest
from replicator.registry.manifest import OCI_INDEX
from tests.copy.conftest import Pair, a_copier, a_registry
from tests.copy.shelf import Shelf
from tests.standins.faults import Answer, Fault, FaultLayer
from tests.standins.images import Image, Index, blobs_of, fetch_raw, image, index, multi_arch
from tests.standins.server import serve

SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+json"
SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"
THING = "application/vnd.example.thing+json"
ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"


def _document(media_type: str) -> bytes:
    if media_type in (SCHEMA_1, SIGNED):
        document = {"schemaVersion": 1, "name": "team/app", "tag": "v1", "fsLayers": [], "signatures": []}
    else:
        document = {"mediaType": media_type, "blobs": []}
    return json.dumps(document).encode()


@pytest.mark.parametrize("media_type", [SCHEMA_1, SIGNED, THING, ARTIFACT, f"{SIGNED}; charset=utf-8"])
@pytest.mark.parametrize("part", ["root", "child"])
async def test_an_unsupported_kind_of_manifest_is_named_with_advice(pair: Pair, media_type: str, part: str) -> None:
    root = multi_arch(1)
    await pair.source.push("v1", root)
    plain = media_type.partition(";")[0]
    content = _document(plain)
    digest = root.digest if part == "root" else root.children[1].digest
    # The digest of a signed manifest is over its payload, never over its bytes.
    said = digest if plain == SIGNED else f"sha256:{hashlib.sha256(content).hexdigest()}"
    headers = {"Content-Type": media_type, "Docker-Content-Digest": said}
    pair.source.faults.add(Fault(Answer(200, headers=headers, body=content), "GET", digest, times=None))
    with pytest.raises(UnsupportedManifest) as caught:
        await pair.copy()
    assert caught.value.error_class is ErrorClass.PERMANENT
    assert caught.value.registry == pair.source.host
    assert plain in str(caught.value)
    assert digest in str(caught.value)
    assert ("current client" if "docker" in plain else "leave its tag out") in str(caught.value)
    assert pair.source.faults.log.count("GET", digest) == 1
    assert not await pair.destination.has_tag("v1")


@pytest.mark.parametrize("docker", [False, True])
async def test_a_foreign_layer_is_neither_read_nor_sent(pair: Pair, docker: bool) -> None:
    root = image(1, foreign=True, docker=docker)
    foreign = next(blob for blob in root.blobs if blob.foreign)
    await pair.source.push("v1", root)
    outcome = await pair.copy()
    assert outcome.blobs_copied == len(root.blobs) - 1
    for end in (pair.source, pair.destination):
        assert end.faults.log.count(path=foreign.digest) == 0
        assert end.faults.log.count(query=foreign.digest.partition(":")[2]) == 0
    await pair.destination.holds("v1", root)


async def test_a_blob_that_is_config_and_layer_is_sent_once(pair: Pair) -> None:
    made = image(1)
    document = json.loads(made.content)
    document["layers"] += [document["config"], document["layers"][0]]
    root = Image(made.media_type, json.dumps(document).encode(), made.blobs)
    await pair.source.push("v1", root)
    assert (await pair.copy()).blobs_copied == len(blobs_of(root))
    assert pair.source.faults.log.count("GET", "/blobs/") == len(blobs_of(root))
    await pair.destination.holds("v1", root)


async def test_an_empty_layer_beside_others_is_sent(pair: Pair) -> None:
    empty = hashlib.sha256(b"").hexdigest()
    made = image(1)
    document = json.loads(made.content)
    document["layers"].append({"mediaType": made.blobs[1].media_type, "digest": f"sha256:{empty}", "size": 0})
    content = json.dumps(document).encode()
    shelf, taking = Shelf(), Shelf()
    shelf.blobs = {blob.digest: blob.read() for blob in made.blobs} | {f"sha256:{empty}": b""}
    shelf.put(content, made.media_type, "v1", "sha256:")
    async with serve(shelf) as source, serve(taking) as destination, a_copier() as copier:
        await copier.copy(_at(source), _at(destination))
    assert taking.blobs == shelf.blobs
    assert taking.manifests["v1"][0] == content


async def test_an_index_may_hold_indexes_to_a_depth(pair: Pair) -> None:
    deepest = index([image(1)])
    for _ in range(3):
        deepest = index([deepest, image(2)])
    await pair.source.push("fits", deepest)
    await pair.copy("fits")
    await pair.destination.holds("fits", deepest)
    await pair.source.push("v1", index([deepest]))
    async with a_registry() as empty:
        with pytest.raises(UnsupportedManifest, match="nested more than"):
            await pair.copier.copy(pair.source.reference("v1"), empty.reference("v1"))
        assert not await empty.has_tag("v1")


async def test_a_missing_child_leaves_no_tag(pair: Pair) -> None:
    inner = multi_arch(1)
    root = index([inner, image(2)])
    await pair.source.push("v1", root)
    await pair.source.delete(f"manifests/{inner.children[0].digest}")
    with pytest.raises(NotFound, match="the child " + inner.children[0].digest) as caught:
        await pair.copy()
    assert caught.value.error_class is ErrorClass.PERMANENT
    assert not await pair.destination.has_tag("v1")
    for parent in (inner, root):
        with pytest.raises(LookupError):
            await fetch_raw(pair.destination.plain, "team/app", parent.digest)


async def test_an_index_that_names_itself_is_refused() -> None:
    """Only an unverified digest can close the circle."""
    shelf = Shelf()
    name = "sha256:" + "a" * 64
    entry = {"mediaType": OCI_INDEX, "digest": name, "size": 1}
    content = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    shelf.put(content, OCI_INDEX, "v1", "sha256:")
    shelf.manifests[name] = (content, OCI_INDEX, name)
    async with serve(shelf) as source, serve(Shelf()) as destination, a_copier() as copier:
        with pytest.raises(DigestMismatch, match=name):
            await copier.copy(_at(source), _at(destination))


def _at(host: str) -> Reference:
    return Reference(Repository(host, "team/app"), "v1", None)


def _sha512(content: bytes) -> str:
    return f"sha512:{hashlib.sha512(content).hexdigest()}"


def _renamed(made: Image) -> tuple[bytes, dict[str, bytes]]:
    """Name the parts of an image by sha512."""
    blobs = {_sha512(blob.read()): blob.read() for blob in made.blobs}
    document = json.loads(made.content)
    for descriptor, digest in zip([document["config"], *document["layers"]], blobs, strict=True):
        descriptor["digest"] = digest
    return json.dumps(document).encode(), blobs


async def test_an_image_named_by_sha512_is_copied_where_it_is_taken() -> None:
    content, blobs = _renamed(image(1, (300_000,)))
    shelf, taking = Shelf(), Shelf()
    shelf.blobs = blobs
    child = shelf.put(content, image(1).media_type, "child", "sha512:")
    entry = {"mediaType": image(1).media_type, "digest": child, "size": len(content)}
    root = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    digest = shelf.put(root, OCI_INDEX, "v1", "sha512:")
    faults = FaultLayer(taking)
    async with serve(shelf) as source, serve(faults) as destination, a_copier() as copier:
        outcome = await copier.copy(_at(source), _at(destination))
        assert (outcome.result, outcome.digest) == (Result.COPIED, digest)
        again = await copier.copy(_at(source), _at(destination))
        assert again.result is Result.UP_TO_DATE
        # Wrong bytes are detected with this algorithm too.
        shelf.blobs = dict.fromkeys(blobs, b"")
        taking.manifests.clear()
        with pytest.raises(DigestMismatch):
            await Copier(copier.registries).copy(_at(source), _at(destination))
    assert taking.blobs == blobs
    assert faults.log.count("PUT", f"/manifests/{child}") == 1


async def test_docker_registry_takes_an_image_that_names_its_blobs_by_sha512_and_keeps_it() -> None:
    """Version 2.8 loses such a blob when it is mounted in place."""
    content, blobs = _renamed(image(1, (300_000,)))
    shelf = Shelf()
    shelf.blobs = blobs
    shelf.put(content, image(1).media_type, "v1", "sha512:")
    async with serve(shelf) as source, a_registry() as destination:
        for tag in ("v1", "v2"):
            # Neither copier knows what the other copied.
            async with a_copier() as copier:
                await copier.copy(_at(source), destination.reference(tag))
            assert (await fetch_raw(destination.plain, "team/app", tag))[0] == content
            for digest, expected in blobs.items():
                async with destination._upstream.request("GET", f"/v2/team/app/blobs/{digest}") as answer:
                    assert (answer.status, await answer.read()) == (200, expected)
        # No blob was lost, or the manifest would have been written again.
        assert destination.faults.log.count("PUT", "/manifests/") == 2
        assert destination.faults.log.count("POST", query="mount=sha512") == 0


async def test_docker_registry_takes_no_child_that_is_named_by_sha512() -> None:
    content, blobs = _renamed(image(1))
    shelf = Shelf()
    shelf.blobs = blobs
    child = shelf.put(content, image(1).media_type, "child", "sha512:")
    entry = {"mediaType": image(1).media_type, "digest": child, "size": len(content)}
    root = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    shelf.put(root, OCI_INDEX, "v1", "sha256:")
    async with serve(shelf) as source, a_registry() as destination, a_copier() as copier:
        with pytest.raises(Refused, match="DIGEST_INVALID") as caught:
            await copier.copy(_at(source), destination.reference("v1"))
        assert caught.value.error_class is ErrorClass.PERMANENT
        assert destination.faults.log.count("PUT", "/manifests/") == 1
        assert not await destination.has_tag("v1")


async def test_nested_indexes_in_memory_are_bounded(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "MAX_NESTED_BYTES", 100_000)
    large = []
    for number in range(6):
        content = json.dumps({**json.loads(index([]).content), "annotations": {"word": f"{number}" * 18_000}}).encode()
        large.append(Index(OCI_INDEX, content, ()))
    await pair.source.push("v1", index(large[:5]))
    await pair.copy()
    await pair.source.push("v2", index(large))
    async with a_copier() as copier:
        with pytest.raises(UnsupportedManifest, match="nested indexes are larger"):
            await copier.copy(pair.source.reference("v2"), pair.destination.reference("v2"))
    assert not await pair.destination.has_tag("v2")
