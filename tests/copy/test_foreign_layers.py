"""Foreign layers, which belong to Windows and are not sent, at registries that want them all the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from replicator.copy import Result
from replicator.copy.options import CopyOptions
from replicator.errors import ErrorClass
from replicator.reference import Platform, Reference, Repository
from replicator.registry.errors import ManifestIncomplete, Refused, UnsupportedManifest
from replicator.registry.manifest import OCI_CONFIG, OCI_MANIFEST, digest_of
from tests.copy.conftest import a_copier, is_copied
from tests.copy.shelf import CONFIG, LAYER, LAYER_TYPE, Shelf, document, embedding, part
from tests.standins.distribution import distribution
from tests.standins.faults import Answer, Fault, FaultLayer
from tests.standins.images import fetch_raw, image, index
from tests.standins.server import serve

if TYPE_CHECKING:
    from replicator.registry import RegistryError
    from tests.copy.conftest import Pair, Registry
    from tests.copy.shelf import Source


@pytest.mark.parametrize("docker", [False, True])
async def test_a_registry_that_refuses_foreign_layers_is_told_of_with_a_way_out(pair: Pair, docker: bool) -> None:
    windows = image(1, foreign=True, docker=docker, system="windows")
    foreign = next(blob for blob in windows.blobs if blob.foreign)
    await pair.source.push("v1", index([image(2, docker=docker), windows], docker=docker))
    async with distribution(foreign_layers=False) as host:
        source, destination = pair.source.reference("v1"), Reference(Repository(host, "team/app"), "v1", None)
        with pytest.raises(UnsupportedManifest, match="foreign layer") as caught:
            await pair.copier.copy(source, destination)
        with pytest.raises(LookupError):
            await fetch_raw(host, "team/app", "v1")
        outcome = await pair.copier.copy(source, destination, options=CopyOptions((Platform("linux", "*"),)))
        assert outcome.result is Result.COPIED
    assert caught.value.error_class is ErrorClass.PERMANENT
    assert caught.value.registry == host
    assert foreign.digest in caught.value.why
    assert "platforms: [linux/*]" in caught.value.do


class Wanting(Shelf):
    """A registry that takes a manifest only with every layer, foreign ones included."""

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "PUT" and "/manifests/" in request.path:
            layers = json.loads(await request.read()).get("layers", ())
            missing = [layer["digest"] for layer in layers if layer["digest"] not in self.blobs]
            if missing:
                errors = [{"code": "MANIFEST_BLOB_UNKNOWN", "message": "unknown", "detail": one} for one in missing]
                return web.json_response({"errors": errors}, status=400)
        return await super().__call__(request)


FOREIGN_TYPES = [
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
]


@pytest.mark.parametrize("media_type", FOREIGN_TYPES)
async def test_a_foreign_layer_is_copied_where_the_source_has_it_and_the_destination_wants_it(
    source: Source, media_type: str
) -> None:
    foreign = b"a foreign layer"
    rows = [part(foreign, media_type, urls=["https://layers.example.com/base"]), part(LAYER, LAYER_TYPE)]
    content = document(OCI_MANIFEST, config=part(CONFIG, OCI_CONFIG), layers=rows)
    reference, taken = source.hold(content, OCI_MANIFEST, CONFIG, LAYER), Wanting()
    faults = FaultLayer(taken)
    async with serve(faults) as host, a_copier() as copier:
        destination = Reference(Repository(host, "team/app"), "v1", None)
        with pytest.raises(UnsupportedManifest, match="foreign layer"):
            await copier.copy(reference, destination)
        assert faults.log.count("PUT", "/manifests/") == 2
        source.hold(content, OCI_MANIFEST, foreign)
        assert (await copier.copy(reference, destination)).result is Result.COPIED
        assert taken.blobs == source.blobs
        # Another part that is missing is no matter of the foreign layer.
        errors = [{"code": "MANIFEST_BLOB_UNKNOWN", "message": "", "detail": digest_of(LAYER)}]
        body = json.dumps({"errors": errors}).encode()
        faults.add(Fault(Answer(400, body=body), "PUT", "/manifests/", times=None))
        with pytest.raises(ManifestIncomplete):
            await copier.copy(reference, destination, force=True)


def _errors(code: str, message: str = "unknown") -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


async def test_a_missing_part_without_a_name_may_be_a_foreign_layer(source: Source) -> None:
    foreign = b"a foreign layer"
    rows = [part(foreign, FOREIGN_TYPES[0], urls=["https://layers.example.com/base"]), part(LAYER, LAYER_TYPE)]
    content = document(OCI_MANIFEST, config=part(CONFIG, OCI_CONFIG), layers=rows)
    reference, faults = source.hold(content, OCI_MANIFEST, CONFIG, LAYER), FaultLayer(Shelf())
    faults.add(Fault(Answer(400, body=_errors("MANIFEST_BLOB_UNKNOWN")), "PUT", "/manifests/", times=None))
    async with serve(faults) as host, a_copier() as copier:
        destination = Reference(Repository(host, "team/app"), "v1", None)
        with pytest.raises(UnsupportedManifest, match=digest_of(foreign)):
            await copier.copy(reference, destination)
        # Not before all else was sent a second time.
        assert faults.log.count("PUT", "/manifests/") == 3
        source.hold(content, OCI_MANIFEST, foreign)
        with pytest.raises(ManifestIncomplete):
            await copier.copy(reference, destination)


@pytest.mark.parametrize(
    ("said", "expected"),
    [("invalid URL on layer", UnsupportedManifest), ("Foreign layers", UnsupportedManifest), ("other", Refused)],
)
async def test_a_refusal_of_foreign_layers_is_known_by_its_words(
    source: Source, said: str, expected: type[RegistryError]
) -> None:
    rows = [part(b"a foreign layer", FOREIGN_TYPES[0], urls=["https://layers.example.com/base"])]
    content = document(OCI_MANIFEST, config=part(CONFIG, OCI_CONFIG), layers=rows)
    reference, faults = source.hold(content, OCI_MANIFEST, CONFIG), FaultLayer(Shelf())
    faults.add(Fault(Answer(400, body=_errors("MANIFEST_INVALID", said)), "PUT", "/manifests/", times=None))
    async with serve(faults) as host, a_copier() as copier:
        with pytest.raises(expected, match=said) as caught:
            await copier.copy(reference, Reference(Repository(host, "team/app"), "v1", None))
    assert type(caught.value) is expected


async def test_a_foreign_layer_without_urls_is_sent_if_the_source_has_it(source: Source, taking: Registry) -> None:
    """Nobody could read it anywhere else; the manifest may embed it."""
    foreign, embedded = b"a foreign layer", b"another one"
    content = document(
        OCI_MANIFEST,
        config=part(CONFIG, OCI_CONFIG),
        layers=[part(foreign, FOREIGN_TYPES[2]), part(embedded, FOREIGN_TYPES[2], **embedding(embedded))],
    )
    await is_copied(source.hold(content, OCI_MANIFEST, CONFIG, foreign), taking, content)
    assert taking.faults.log.count("PUT", "/manifests/") == 1
