"""Choosing platforms and attestations: what arrives, under which digest, and that nothing is sent twice."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.copy import AttestationsFound, Result
from replicator.copy.comparing import Forms
from replicator.copy.selection import Selection, select
from replicator.errors import ErrorClass
from replicator.options import VERBATIM, Attestations, CopyOptions, Platform
from replicator.registry.digests import digest_of
from replicator.registry.errors import Denied, UnsupportedManifest
from replicator.registry.manifest import OCI_INDEX, Manifest, parse_manifest
from tests.copy.conftest import Pair, a_copier, a_registry
from tests.standins.images import (
    Image,
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
STRIP_REFUSED = CopyOptions(attestations=Attestations.STRIP_REFUSED)
FAIL = CopyOptions(attestations=Attestations.FAIL)


async def children(pair: Pair, tag: str = "v1") -> list[str]:
    """Return the digests in the destination's index, after making sure that all it names is there."""
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
    ids=str,
)
async def test_an_index_arrives_with_what_is_wanted_of_it(pair: Pair, options: CopyOptions, kept: list[Image]) -> None:
    root = index([AMD64, ARM64, ARM7, S390X, PLAIN, REFUSED])
    await pair.source.push("v1", root)
    outcome = await pair.copy(options=options)
    assert await children(pair) == [one.digest for one in kept]
    # Only what was left out is missing; the rest of the index is word for word the same.
    content, _ = await fetch_raw(pair.destination.plain, "team/app", "v1")
    original, written = json.loads(root.content), json.loads(content)
    entries = {entry["digest"]: entry for entry in original["manifests"]}
    assert written == {**original, "manifests": [entries[one.digest] for one in kept]}
    for one in kept:
        await verify_tree(pair.destination.plain, "team/app", one.digest, one)
    assert outcome.digest == digest_of(content)
    assert (outcome.digest == root.digest) == (len(kept) == 6)
    assert bool(outcome.note) == (len(kept) < 6)
    # Nothing of what is not wanted was read or sent.
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
    # Another process has to look at the index once, and sends nothing either.
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
    assert outcome.note == "it is for linux/amd64, not for linux/arm64"
    assert outcome.digest is None
    assert not await pair.destination.has_tag("v1")
    pair.clear()
    assert (await pair.copy(options=options)).note == outcome.note
    assert pair.counts() == (1, 1)


async def test_an_index_without_any_wanted_platform_is_skipped(pair: Pair) -> None:
    await pair.source.push("v1", index([AMD64, PLAIN, index([ARM64])]))
    outcome = await pair.copy(options=only("linux/s390x", "windows/amd64"))
    assert (outcome.result, outcome.note) == (Result.SKIPPED, "nothing of it is for linux/s390x, windows/amd64")
    assert not await pair.destination.has_tag("v1")


async def test_an_index_in_an_index_is_written_anew_too(pair: Pair) -> None:
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


async def test_children_that_name_no_platform_are_looked_into(pair: Pair) -> None:
    nameless = [Image(one.media_type, one.content, one.blobs) for one in (AMD64, S390X)]
    artifact = referrer(AMD64)
    await pair.source.push("v1", index([*nameless, Image(artifact.media_type, artifact.content, artifact.blobs)]))
    await pair.copy(options=only("linux/s390x"))
    # An artifact runs nowhere: platforms are not about it.
    assert await children(pair) == [S390X.digest, artifact.digest]


async def test_a_docker_list_stays_one(pair: Pair) -> None:
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
    """A pair whose destination refuses whatever is no image, for good."""
    async with a_registry() as source, a_registry(images_only=True) as destination, a_copier() as copier:
        yield Pair(source, destination, copier)


async def test_what_the_registry_would_refuse_is_left_out_and_nothing_else(strict: Pair) -> None:
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


async def test_what_the_registry_took_whole_is_not_taken_away(pair: Pair) -> None:
    """Stripping is for what is refused; a destination that has all of it needs none."""
    await pair.source.push("v1", index([ARM64, REFUSED]))
    whole = await pair.copy()
    outcome = await pair.copy(options=STRIP_REFUSED)
    assert (outcome.result, outcome.digest) == (Result.UP_TO_DATE, whole.digest)
    # A choice of platforms, on the other hand, is a choice.
    assert (await pair.copy(options=only("linux/arm64", attestations=Attestations.STRIP))).result is Result.COPIED


async def test_an_index_of_attestations_alone_is_skipped(pair: Pair) -> None:
    await pair.source.push("v1", index([PLAIN]))
    outcome = await pair.copy(options=STRIP)
    assert (outcome.result, outcome.note) == (Result.SKIPPED, "it holds attestations alone")


class Unread:
    """A reader for indexes that say all there is to know."""

    async def child(self, digest: str, index: str) -> Manifest:
        raise AssertionError(digest)

    async def platform(self, image: Manifest) -> Platform | None:
        raise AssertionError(image)


ARCHITECTURES = ("amd64", "arm64", "s390x", "riscv64")
ENTRIES = st.lists(
    st.fixed_dictionaries(
        {
            "digest": st.integers(0, 5).map(lambda number: digest_of(str(number).encode())),
            "size": st.integers(0, 10**12),
            "mediaType": st.just("application/vnd.oci.image.manifest.v1+json"),
            "platform": st.fixed_dictionaries({"os": st.just("linux"), "architecture": st.sampled_from(ARCHITECTURES)}),
        },
        optional={
            "annotations": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
            "x": st.text() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.none(),
        },
    ),
    max_size=6,
)


def _index(document: dict[str, object], indent: int | None = None) -> Manifest:
    content = json.dumps(document, indent=indent).encode()
    return parse_manifest(content, OCI_INDEX, digest_of(content))


async def _select(root: Manifest, options: CopyOptions) -> Selection:
    return await select(root, options, Unread(), "h.example.com")  # type: ignore[arg-type]  # all that is used of it


@given(
    ENTRIES, st.lists(st.sampled_from(ARCHITECTURES), min_size=1, unique=True), st.text(), st.sampled_from([None, 3])
)
async def test_choosing_is_a_pure_function_that_only_leaves_out(
    entries: list[dict[str, object]], wanted: list[str], word: str, indent: int | None
) -> None:
    document = {"schemaVersion": 2, "annotations": {"word": word}, "manifests": entries}
    root = _index(document, indent)
    options = only(*(f"linux/{one}" for one in wanted))
    first, second = await _select(root, options), await _select(root, options)
    assert first == second
    kept = [entry for entry in entries if entry["platform"]["architecture"] in wanted]  # type: ignore[index]  # as made
    if not kept and entries:
        assert first.manifest is None
        return
    assert first.manifest is not None
    assert json.loads(first.manifest.content) == {**document, "manifests": kept}
    assert (first.manifest is root) == (len(kept) == len(entries))
    # What is chosen is left alone by the same choice.
    again = await _select(first.manifest, options)
    assert again.manifest is first.manifest


async def test_an_index_with_numbers_that_are_none_is_not_written_anew() -> None:
    content = json.dumps(
        {
            "x": float("nan"),
            "manifests": [
                {"digest": digest_of(b""), "size": 1, "platform": {"os": "linux", "architecture": one}}
                for one in ("amd64", "arm64")
            ],
        }
    ).encode()
    root = parse_manifest(content, OCI_INDEX, digest_of(content))
    with pytest.raises(UnsupportedManifest, match="can't be written anew"):
        await _select(root, only("linux/amd64"))


def test_what_is_remembered_of_images_is_bounded() -> None:
    forms = Forms(entries=10)
    for number in range(100):
        forms.note(f"sha256:{number}", STRIP, Selection(None, note="nothing"))
    assert len(forms._known) == 10
    assert forms.satisfied(None, "sha256:99", STRIP) is not None
    assert forms.satisfied(None, "sha256:1", STRIP) is None


async def test_an_attestation_stays_with_an_image_that_stands_in_an_index_beside_it(pair: Pair) -> None:
    nested = index([AMD64, S390X])
    about_nested = attestation(AMD64, 5)
    for_whole = replace(about_nested, annotations={**about_nested.annotations, REFERENCE: nested.digest})
    about_left_out = attestation(S390X, 6)
    root = index([nested, about_nested, about_left_out])
    await pair.source.push("v1", root)
    await pair.copy(options=only("linux/amd64"))
    assert (await children(pair))[1:] == [about_nested.digest]
    # What is said of an index does not hold for the one that is written anew.
    await pair.source.push("v2", index([nested, for_whole]))
    await pair.copy("v2", options=only("linux/amd64"))
    assert len(await children(pair, "v2")) == 1
    await pair.copy("v2", to="v3", options=only("linux/*", attestations=Attestations.STRIP_REFUSED))
    assert len(await children(pair, "v3")) == 2


class Shelf:
    """A reader of manifests that are made up; it counts how often each is read, and how many are held."""

    def __init__(self, *manifests: Manifest) -> None:
        self.read: list[str] = []
        self.held = self.most = 0
        self._manifests = {one.digest: one for one in manifests}

    async def child(self, digest: str, index: str) -> Manifest:
        self.read.append(digest)
        self.held += 1
        self.most = max(self.most, self.held)
        return self._manifests[digest]

    async def platform(self, image: Manifest) -> Platform | None:
        await asyncio.sleep(0)
        self.held -= 1
        return Platform("linux", "amd64")


def _nested(*children: Manifest, times: int = 1, word: str = "") -> Manifest:
    rows = [{"mediaType": one.media_type, "digest": one.digest, "size": len(one.content)} for one in children]
    return _index({"schemaVersion": 2, "manifests": rows * times, "word": word})


async def test_an_index_that_stands_a_thousand_times_in_each_of_others_is_looked_at_once() -> None:
    """Else four of them in each other would be looked at 10^12 times."""
    inner = levels = _index({"schemaVersion": 2, "manifests": []})
    shelf = [inner]
    for _ in range(3):
        levels = _nested(levels, times=1000)
        shelf.append(levels)
    reader = Shelf(*shelf)
    chosen = await select(_nested(levels), only("linux/amd64"), reader, "h")  # type: ignore[arg-type]  # all that is used
    assert chosen.manifest is not None
    assert sorted(reader.read) == sorted(one.digest for one in shelf)


async def test_indexes_in_an_index_are_bounded() -> None:
    large = [_index({"schemaVersion": 2, "manifests": [], "word": f"{number}" * 3_000_000}) for number in range(6)]
    with pytest.raises(UnsupportedManifest, match="indexes within it"):
        await select(_nested(*large), only("linux/amd64"), Shelf(*large), "h")  # type: ignore[arg-type]  # as above
    await select(_nested(*large[:5]), only("linux/amd64"), Shelf(*large), "h")  # type: ignore[arg-type]  # as above


async def test_few_children_are_held_at_once_while_their_configs_are_read() -> None:
    made = [parse_manifest(one.content, one.media_type, one.digest) for one in (image(seed) for seed in range(50))]
    reader = Shelf(*made)
    await select(_nested(*made), only("linux/amd64"), reader, "h")  # type: ignore[arg-type]  # as above
    assert len(reader.read) == 50
    assert reader.most <= 8
