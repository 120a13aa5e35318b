"""Selection of platforms and attestations: what arrives, under which digest, and that nothing is sent twice."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from replicator.copy import AttestationsFound, Result
from replicator.copy.options import VERBATIM, Attestations, CopyOptions
from replicator.errors import ErrorClass
from replicator.reference import Platform
from replicator.registry.errors import Denied
from replicator.registry.manifest import digest_of
from tests.copy.conftest import Pair, a_copier, a_registry
from tests.standins.faults import Answer, Fault
from tests.standins.images import (
    Image,
    Index,
    attestation,
    blobs_of,
    fetch_raw,
    image,
    index,
    multi_arch,
    referrer,
    verify_tree,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

AMD64 = image(1, architecture="amd64")
ARM64 = image(2, architecture="arm64", variant="v8")
REFERENCE = "vnd.docker.reference.digest"
ARM7 = image(3, architecture="arm", variant="v7")
S390X = image(4, architecture="s390x")
PLAIN, REFUSED = attestation(AMD64, 1), attestation(ARM64, 2, empty_config=True)


def only(*platforms: str, attestations: Attestations = Attestations.KEEP) -> CopyOptions:
    return CopyOptions(tuple(map(Platform.parse, platforms)), attestations)


STRIP = CopyOptions(attestations=Attestations.STRIP)
EMPTY_CONFIG = "application/vnd.oci.empty.v1+json"
STRIP_REFUSED = CopyOptions(attestations=Attestations.STRIP_REFUSED)
FAIL = CopyOptions(attestations=Attestations.FAIL)


async def children(pair: Pair, tag: str = "v1") -> list[str]:
    """Return the digests in the destination's index, after checking that it has all of them."""
    content, media_type = await fetch_raw(pair.destination.plain, "team/app", tag)
    digests = [entry["digest"] for entry in json.loads(content)["manifests"]]
    assert media_type.endswith(("index.v1+json", "list.v2+json"))
    for digest in digests:
        await fetch_raw(pair.destination.plain, "team/app", digest)
    return digests


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (VERBATIM, [AMD64, ARM64, ARM7, S390X, PLAIN, REFUSED]),
        (only("linux/amd64"), [AMD64, PLAIN]),
        (only("linux/amd64", "linux/arm64/v8"), [AMD64, ARM64, PLAIN, REFUSED]),
        (only("linux/arm64"), [ARM64, REFUSED]),
        (only("linux/arm"), [ARM7]),
        (only("linux/arm/v7", "linux/s390x"), [ARM7, S390X]),
        (only("*/s390x"), [S390X]),
        (only("linux/*", attestations=Attestations.STRIP), [AMD64, ARM64, ARM7, S390X]),
        (only("linux/arm64", attestations=Attestations.STRIP_REFUSED), [ARM64]),
        (only("linux/amd64", attestations=Attestations.STRIP_REFUSED), [AMD64, PLAIN]),
        (STRIP, [AMD64, ARM64, ARM7, S390X]),
        (STRIP_REFUSED, [AMD64, ARM64, ARM7, S390X, PLAIN]),
    ],
    ids=lambda value: str(value) if isinstance(value, CopyOptions) else "",
)
async def test_an_index_arrives_with_the_selected_children(pair: Pair, options: CopyOptions, kept: list[Image]) -> None:
    root = index([AMD64, ARM64, ARM7, S390X, PLAIN, REFUSED])
    await pair.source.push("v1", root)
    pair.copier.refused.note(pair.destination.host, "team", EMPTY_CONFIG)
    outcome = await pair.copy(options=options)
    assert await children(pair) == [one.digest for one in kept]
    # Only the rows left out are missing; the rest of the index is the same.
    content, _ = await fetch_raw(pair.destination.plain, "team/app", "v1")
    original, written = json.loads(root.content), json.loads(content)
    entries = {entry["digest"]: entry for entry in original["manifests"]}
    assert written == {**original, "manifests": [entries[one.digest] for one in kept]}
    for one in kept:
        await verify_tree(pair.destination.plain, "team/app", one.digest, one)
    assert outcome.digest == digest_of(content)
    assert (outcome.digest == root.digest) == (len(kept) == 6)
    assert bool(outcome.note) == (len(kept) < 6)
    # Nothing that was left out was read or sent.
    unwanted = {blob.digest for blob in blobs_of(root)} - {blob.digest for one in kept for blob in blobs_of(one)}
    assert not [entry for entry in pair.source.faults.log if entry.path.rpartition("/")[2] in unwanted]


@pytest.mark.parametrize("options", [only("linux/amd64"), STRIP, STRIP_REFUSED, only("linux/arm64")], ids=str)
async def test_a_second_run_sends_nothing(pair: Pair, options: CopyOptions) -> None:
    root = index([AMD64, ARM64, PLAIN, REFUSED])
    await pair.source.push("v1", root)
    first = await pair.copy(options=options)
    pair.clear()
    second = await pair.copy(options=options)
    assert (second.result, second.digest, second.note) == (Result.UP_TO_DATE, first.digest, first.note)
    assert pair.counts() == (1, 1)
    # Another process has to read the index once, and sends nothing either.
    pair.clear()
    async with a_copier() as other:
        third = await other.copy(pair.source.reference("v1"), pair.destination.reference("v1"), options=options)
    assert (third.result, third.digest, third.note) == (Result.UP_TO_DATE, first.digest, first.note)
    assert [entry.method for entry in pair.destination.faults.log] == ["HEAD"]
    assert not pair.source.faults.log.count("GET", "/blobs/")


async def test_the_digest_is_known_before_anything_is_sent(pair: Pair) -> None:
    root = index([AMD64, S390X])
    await pair.source.push("v1", root)
    async with a_copier() as copier:
        ends = pair.source.reference("v1"), pair.destination.reference("v1")
        found = await copier.compare(*ends, only("linux/amd64"))
        assert (found.result, found.announced) == (None, root.digest)
        assert not pair.destination.faults.log.count("PUT") + pair.destination.faults.log.count("POST")
        assert (await copier.copy(*ends, options=only("linux/amd64"))).digest == found.digest
        assert (await copier.compare(*ends, only("linux/amd64"))).result is Result.UP_TO_DATE
        assert (await copier.compare(*ends, only("linux/s390x"))).result is None


@pytest.mark.parametrize(
    ("options", "result"),
    [
        (only("linux/amd64"), Result.COPIED),
        (only("linux/amd64", "linux/arm64"), Result.COPIED),
        (only("linux/arm64"), Result.SKIPPED),
        (STRIP, Result.COPIED),
        (FAIL, Result.COPIED),
    ],
    ids=str,
)
async def test_an_image_for_one_platform_is_copied_or_skipped(pair: Pair, options: CopyOptions, result: Result) -> None:
    await pair.source.push("v1", AMD64)
    outcome = await pair.copy(options=options)
    assert outcome.result is result
    if result is Result.COPIED:
        await pair.destination.holds("v1", AMD64)
        return
    assert outcome.note == "its platform is linux/amd64, not linux/arm64"
    assert outcome.digest is None
    assert not await pair.destination.has_tag("v1")
    pair.clear()
    assert (await pair.copy(options=options)).note == outcome.note
    assert pair.counts() == (1, 1)


async def test_an_index_without_any_wanted_platform_is_skipped(pair: Pair) -> None:
    await pair.source.push("v1", index([AMD64, PLAIN, index([ARM64])]))
    outcome = await pair.copy(options=only("linux/s390x", "windows/amd64"))
    assert (outcome.result, outcome.note) == (Result.SKIPPED, "none of its images is for linux/s390x, windows/amd64")
    assert not await pair.destination.has_tag("v1")


async def test_a_nested_index_is_rewritten_too(pair: Pair) -> None:
    inner, untouched = index([AMD64, S390X]), index([ARM64])
    root = index([inner, ARM7, untouched])
    await pair.source.push("v1", root)
    outcome = await pair.copy(options=only("linux/amd64", "linux/arm64"))
    top = await children(pair)
    assert top[1] == untouched.digest
    assert top[0] != inner.digest
    content, _ = await fetch_raw(pair.destination.plain, "team/app", top[0])
    assert [entry["digest"] for entry in json.loads(content)["manifests"]] == [AMD64.digest]
    row = json.loads((await fetch_raw(pair.destination.plain, "team/app", "v1"))[0])["manifests"][0]
    assert row["size"] == len(content)
    assert outcome.note == "2 of 4 images left out, as only linux/amd64, linux/arm64 is wanted"
    pair.clear()
    assert (await pair.copy(options=only("linux/amd64", "linux/arm64"))).result is Result.UP_TO_DATE


async def test_children_without_a_platform_are_inspected(pair: Pair) -> None:
    nameless = [Image(one.media_type, one.content, one.blobs) for one in (AMD64, S390X)]
    artifact = referrer(AMD64)
    await pair.source.push("v1", index([*nameless, Image(artifact.media_type, artifact.content, artifact.blobs)]))
    await pair.copy(options=only("linux/s390x"))
    # An artifact has no platform, so the selection does not apply.
    assert await children(pair) == [S390X.digest, artifact.digest]


async def test_a_docker_list_keeps_its_type(pair: Pair) -> None:
    await pair.source.push("v1", multi_arch(5, docker=True))
    await pair.copy(options=only("linux/arm64"))
    _, media_type = await fetch_raw(pair.destination.plain, "team/app", "v1")
    assert media_type == "application/vnd.docker.distribution.manifest.list.v2+json"
    assert len(await children(pair)) == 1


async def test_attestations_can_be_forbidden(pair: Pair) -> None:
    await pair.source.push("v1", multi_arch(1, attested=True))
    with pytest.raises(AttestationsFound, match="attestations: fail") as caught:
        await pair.copy(options=FAIL)
    assert caught.value.error_class is ErrorClass.PERMANENT
    assert not await pair.destination.has_tag("v1")
    assert not pair.destination.faults.log.count("PUT") + pair.destination.faults.log.count("POST")


@pytest.fixture
async def strict() -> AsyncIterator[Pair]:
    """A pair whose destination accepts only images."""
    async with a_registry() as source, a_registry(images_only=True) as destination, a_copier() as copier:
        yield Pair(source, destination, copier)


async def test_only_attestations_that_the_registry_refuses_are_left_out(strict: Pair) -> None:
    root = index([AMD64, ARM64, PLAIN, REFUSED])
    await strict.source.push("v1", root)
    with pytest.raises(Denied, match="unknown manifest class"):
        await strict.copy()
    outcome = await strict.copy(options=STRIP_REFUSED)
    assert await children(strict) == [AMD64.digest, ARM64.digest, PLAIN.digest]
    assert outcome.note == "1 attestation left out, which the registry refuses"
    plain = index([AMD64, PLAIN])
    await strict.source.push("v2", plain)
    assert (await strict.copy("v2", options=STRIP_REFUSED)).digest == plain.digest
    await strict.destination.holds("v2", plain)


async def test_attestations_that_the_registry_accepted_stay(pair: Pair) -> None:
    """Only refused attestations are stripped; a destination that has all of them refused none."""
    await pair.source.push("v1", index([ARM64, REFUSED]))
    whole = await pair.copy()
    outcome = await pair.copy(options=STRIP_REFUSED)
    assert (outcome.result, outcome.digest) == (Result.UP_TO_DATE, whole.digest)
    # A selection of platforms applies in any case.
    await pair.source.push("v2", index([AMD64, S390X]))
    await pair.copy("v2")
    for attestations in (Attestations.KEEP, Attestations.STRIP_REFUSED):
        outcome = await pair.copy("v2", options=only("linux/amd64", attestations=attestations))
        assert (outcome.result, await children(pair, "v2")) == (Result.COPIED, [AMD64.digest])
        await pair.copy("v2")
    assert (await pair.copy(options=only("linux/arm64", attestations=Attestations.STRIP))).result is Result.COPIED


async def test_an_index_of_attestations_alone_is_skipped(pair: Pair) -> None:
    await pair.source.push("v1", index([PLAIN]))
    outcome = await pair.copy(options=STRIP)
    assert (outcome.result, outcome.note) == (Result.SKIPPED, "it has only attestations")


async def test_an_attestation_stays_with_an_image_in_a_nested_index_beside_it(pair: Pair) -> None:
    nested = index([AMD64, S390X])
    about_nested = attestation(AMD64, 5)
    for_whole = replace(about_nested, annotations={**about_nested.annotations, REFERENCE: nested.digest})
    about_left_out = attestation(S390X, 6)
    root = index([nested, about_nested, about_left_out])
    await pair.source.push("v1", root)
    await pair.copy(options=only("linux/amd64"))
    assert (await children(pair))[1:] == [about_nested.digest]
    # An attestation of an index does not apply to the rewritten one.
    await pair.source.push("v2", index([nested, for_whole]))
    await pair.copy("v2", options=only("linux/amd64"))
    assert len(await children(pair, "v2")) == 1
    await pair.copy("v2", to="v3", options=only("linux/*", attestations=Attestations.STRIP_REFUSED))
    assert len(await children(pair, "v3")) == 2


async def test_an_artifact_is_copied_whatever_platforms_are_chosen(pair: Pair) -> None:
    """Its config says that it has no platform: under its own tag, or in an index that names no platform for it."""
    artifact = replace(referrer(AMD64), platform={})
    await pair.source.push("v1", artifact)
    assert (await pair.copy(options=only("linux/amd64"))).result is Result.COPIED
    await pair.source.push("v2", index([AMD64, S390X, artifact]))
    await pair.copy("v2", options=only("linux/amd64"))
    assert await children(pair, "v2") == [AMD64.digest, artifact.digest]


async def test_an_attestation_of_another_image_is_left_out_only_by_a_selection_of_platforms(pair: Pair) -> None:
    of_nothing = replace(attestation(AMD64, 7), annotations={"vnd.docker.reference.type": "attestation-manifest"})
    of_another = attestation(ARM7, 8)
    root = index([AMD64, of_nothing, of_another])
    await pair.source.push("v1", root)
    assert (await pair.copy(options=STRIP_REFUSED)).digest == root.digest
    await pair.copy(to="v2", options=only("linux/amd64"))
    assert await children(pair, "v2") == [AMD64.digest, of_nothing.digest]


async def test_an_index_that_is_an_attestation_is_treated_as_one(pair: Pair) -> None:
    attesting = index([S390X])
    entry = json.loads(index([attesting]).content)["manifests"][0]
    entry["annotations"] = PLAIN.annotations
    document = json.loads(index([AMD64]).content)
    document["manifests"].append(entry)
    await pair.source.push("v1", Index(document["mediaType"], json.dumps(document).encode(), (AMD64, attesting)))
    outcome = await pair.copy(options=STRIP)
    assert await children(pair) == [AMD64.digest]
    assert outcome.note == "1 attestation left out"


async def test_an_image_that_is_unchanged_after_all_is_left_alone(pair: Pair) -> None:
    """The tag moved, and moved back between two requests."""
    root = index([ARM64, REFUSED])
    await pair.source.push("v1", root)
    await pair.copy()
    pair.source.faults.add(Fault(Answer(404), "HEAD", "/manifests/v1"))
    outcome = await pair.copy(options=STRIP_REFUSED, announced=AMD64.digest)
    assert (outcome.result, outcome.digest) == (Result.UP_TO_DATE, root.digest)
