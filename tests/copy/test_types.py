"""Types of artifacts: what is not of a wanted type is told by its manifest, before a blob is read or sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from replicator.copy import Result
from replicator.copy.options import VERBATIM, Attestations, CopyOptions
from replicator.reference import Platform
from tests.standins.artifacts import EMPTY, HELM, artifact, chart
from tests.standins.images import Image, Index, image, index, multi_arch

if TYPE_CHECKING:
    from tests.copy.conftest import Pair

BUNDLE = artifact(7, EMPTY, artifact_type="application/vnd.example.Bundle+json")


def only(*types: str, **more: Any) -> CopyOptions:
    return CopyOptions(types=types, **more)


@pytest.mark.parametrize(
    ("root", "types", "kind"),
    [
        (chart(1), ["image"], "chart"),
        (image(1), ["chart", "model"], "image"),
        (image(1, docker=True), ["chart"], "image"),
        (multi_arch(1), ["chart"], "image"),
        (index([chart(1), image(1)]), ["chart"], "image"),
        (BUNDLE, ["image"], "application/vnd.example.Bundle+json"),
    ],
)
async def test_what_is_of_another_type_is_skipped_before_a_blob_is_read(
    pair: Pair, root: Image | Index, types: list[str], kind: str
) -> None:
    await pair.source.push("v1", root)
    outcome = await pair.copy(options=only(*types))
    note = f"its type is {kind}, and the rule copies only {', '.join(types)}"
    assert (outcome.result, outcome.note, outcome.bytes) == (Result.SKIPPED, note, 0)
    assert pair.source.faults.log.count("GET", "/blobs/") == 0
    assert pair.destination.faults.log.count("PUT") == pair.destination.faults.log.count("POST") == 0


@pytest.mark.parametrize(
    ("root", "types"),
    [
        (chart(1), ["chart"]),
        (chart(1), [HELM, "image"]),
        (image(1), ["image"]),
        (multi_arch(1), ["image", "chart"]),
        (BUNDLE, ["application/vnd.example.bundle+json"]),
    ],
)
async def test_what_is_of_a_wanted_type_arrives_as_it_is(pair: Pair, root: Image | Index, types: list[str]) -> None:
    await pair.source.push("v1", root)
    options = only(*types)
    outcome = await pair.copy(options=options)
    assert (outcome.result, outcome.digest) == (Result.COPIED, root.digest)
    await pair.destination.holds("v1", root)
    assert (await pair.copy(options=options)).result is Result.UP_TO_DATE


async def test_types_go_with_other_parts_of_the_selection(pair: Pair) -> None:
    root = multi_arch(1, attested=True)
    await pair.source.push("v1", root)
    options = only("image", platforms=(Platform("linux", "amd64"),), attestations=Attestations.STRIP)
    outcome = await pair.copy(options=options)
    assert outcome.result is Result.COPIED
    assert outcome.digest != root.digest


async def test_the_former_image_under_a_tag_that_is_a_chart_now_is_named(pair: Pair) -> None:
    await pair.source.push("v1", chart(1))
    await pair.destination.push("v1", image(1))
    outcome = await pair.copy(options=only("image"))
    assert (outcome.result, outcome.still_holds) == (Result.SKIPPED, image(1).digest)
    assert outcome.warnings == (f"the destination still holds {image(1).digest}",)


async def test_what_is_there_already_is_up_to_date_whatever_its_type(pair: Pair) -> None:
    for registry in (pair.source, pair.destination):
        await registry.push("v1", chart(1))
    outcome = await pair.copy(options=only("image"))
    assert (outcome.result, outcome.warnings) == (Result.UP_TO_DATE, ())


async def test_a_type_is_looked_up_once(pair: Pair) -> None:
    await pair.source.push("v1", chart(1))
    for _ in range(2):
        assert (await pair.copy(options=only("image"))).result is Result.SKIPPED
    assert pair.source.faults.log.count("GET", "/manifests/") == 1
    source, destination = pair.source.reference("v1"), pair.destination.reference("v1")
    found = await pair.copier.compare(source, destination, only("image"), announced=chart(1).digest)
    assert found.result is Result.SKIPPED
    assert pair.source.faults.log.count("GET", "/manifests/") == 1


@pytest.mark.parametrize(
    ("kind", "types", "skipped"),
    [
        (None, ["image"], False),
        ("chart", ["image"], True),
        ("chart", ["image", "chart"], False),
        ("chart", [], False),
        ("chart", ["application/vnd.cncf.helm.config.v1+json"], False),
        ("image", ["chart", "cache"], True),
        ("image", ["chart", "model"], False),
        ("application/vnd.example+json", ["image"], True),
        ("application/vnd.example+json", ["sbom"], False),
    ],
)
def test_a_list_decides_only_where_the_manifest_would_say_the_same(
    *, kind: str | None, types: list[str], skipped: bool
) -> None:
    assert bool(only(*types).unwanted_in_list(kind)) is skipped
    assert only(*types).is_verbatim is not bool(types)
    assert VERBATIM.unwanted("chart") == ""
