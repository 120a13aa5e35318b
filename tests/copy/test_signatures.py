"""Signatures, SBOMs and other referrers are copied with their image, wherever they are kept."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from replicator.copy import Result, SourceNotFound
from replicator.copy.options import CopyOptions
from replicator.reference import Platform
from replicator.registry.errors import ServerFailed
from tests.copy.ends import NAME, ROOT, Ends, some_ends
from tests.standins.faults import Answer, Fault
from tests.standins.images import attestation, cosign_tag, fetch_raw, image, index, push, referrer
from tests.standins.proxy import Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(params=["plain-plain", "harbor-plain", "plain-harbor", "harbor-harbor"])
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[Ends]:
    async with some_ends(request.param) as ends:
        yield ends


@pytest.fixture
async def plain() -> AsyncIterator[Ends]:
    async with some_ends("plain-plain") as ends:
        yield ends


@pytest.fixture
async def strict() -> AsyncIterator[Ends]:
    """The destination accepts only images, as ACR does."""
    async with some_ends("plain-strict") as ends:
        yield ends


async def test_everything_that_refers_to_an_image_or_its_children_is_copied(ends: Ends) -> None:
    child = ROOT.children[0]
    sbom, other, of_child = referrer(ROOT, 1), referrer(ROOT, 2, "application/vnd.example.other"), referrer(child, 3)
    of_sbom = referrer(sbom, 4)
    signature, attestation = image(50), image(51)
    await ends.source.push("v1", ROOT)
    await ends.source.attach((sbom, ROOT), (other, ROOT), (of_child, child), (of_sbom, sbom))
    await ends.source.push(cosign_tag(ROOT), signature)
    await ends.source.push(cosign_tag(child, ".att"), attestation)
    outcome = await ends.copy()
    assert (outcome.result, outcome.warnings, outcome.signatures) == (Result.COPIED, (), 6)
    await ends.destination.holds("v1", ROOT)
    for one in (sbom, other, of_child, of_sbom):
        await ends.destination.holds(one.digest, one)
    await ends.destination.holds(cosign_tag(ROOT), signature)
    await ends.destination.holds(cosign_tag(child, ".att"), attestation)
    listed = {row["digest"]: row["artifactType"] for row in await ends.destination.listed(ROOT)}
    assert listed == {sbom.digest: "application/vnd.example.sbom.v1", other.digest: "application/vnd.example.other"}
    assert [row["digest"] for row in await ends.destination.listed(child)] == [of_child.digest]
    assert [row["digest"] for row in await ends.destination.listed(sbom)] == [of_sbom.digest]
    ends.destination.faults.log.clear()
    again = await ends.copy()
    assert (again.result, again.signatures, ends.writes()) == (Result.UP_TO_DATE, 0, [])


async def test_a_signature_pushed_after_its_image_is_copied_by_the_next_copy(ends: Ends) -> None:
    await ends.source.push("v1", ROOT)
    assert (await ends.copy()).signatures == 0
    first, second = referrer(ROOT, 1), referrer(ROOT, 2)
    for number, one in enumerate((first, second), 1):
        await ends.source.attach((one, ROOT))
        outcome = await ends.copy()
        assert (outcome.result, outcome.signatures) == (Result.UP_TO_DATE, 1)
        assert len(await ends.destination.listed(ROOT)) == number
    await ends.destination.holds(first.digest, first)


async def test_a_signature_is_copied_by_itself_when_its_image_is_there(ends: Ends) -> None:
    sbom, signature = referrer(ROOT, 1), image(50)
    await ends.source.push("v1", ROOT)
    await ends.source.attach((sbom, ROOT))
    await ends.source.push(cosign_tag(ROOT), signature)
    for identifier in (sbom.digest, cosign_tag(ROOT)):
        outcome = await ends.copy_signature(identifier)
        assert outcome.result is Result.SKIPPED
        assert outcome.note == f"its subject {ROOT.digest} is not at the destination"
    assert ends.writes() == []
    await ends.copy(options=CopyOptions())
    for identifier, one in ((sbom.digest, sbom), (cosign_tag(ROOT), signature)):
        outcome = await ends.copy_signature(identifier)
        assert (outcome.result, outcome.digest, outcome.signatures) == (Result.COPIED, one.digest, 1)
        await ends.destination.holds(identifier, one)
        assert (await ends.copy_signature(identifier)).result is Result.UP_TO_DATE
    assert [row["digest"] for row in await ends.destination.listed(ROOT)] == [sbom.digest]


async def test_a_referrer_that_no_list_names_yet_is_copied(plain: Ends) -> None:
    """Its event may arrive before its client has written the fallback tag."""
    await plain.source.push("v1", ROOT)
    await plain.copy(options=CopyOptions())
    sbom = referrer(ROOT)
    await push(plain.source.host, NAME, sbom.digest, sbom)
    assert (await plain.copy_signature(sbom.digest)).result is Result.COPIED
    assert [row["digest"] for row in await plain.destination.listed(ROOT)] == [sbom.digest]


async def test_the_event_of_the_fallback_tag_copies_what_it_lists(plain: Ends) -> None:
    sbom = referrer(ROOT)
    await plain.source.push("v1", ROOT)
    await plain.copy(options=CopyOptions())
    await plain.source.attach((sbom, ROOT))
    assert (await plain.copy_signature(cosign_tag(ROOT, ""))).result is Result.COPIED
    assert [row["digest"] for row in await plain.destination.listed(ROOT)] == [sbom.digest]


async def test_a_push_that_is_not_a_signature_is_skipped(plain: Ends) -> None:
    await plain.source.push("v1", ROOT)
    outcome = await plain.copy_signature(ROOT.children[0].digest)
    assert (outcome.result, outcome.note) == (Result.SKIPPED, "it refers to no image")
    outcome = await plain.copy_signature("v1")
    assert (outcome.result, outcome.note) == (Result.SKIPPED, "its tag is not a signature's")
    await plain.copy(options=CopyOptions())
    for absent in (referrer(ROOT).digest, cosign_tag(ROOT)):
        with pytest.raises(SourceNotFound):
            await plain.copy_signature(absent)


async def test_an_unsupported_manifest_is_skipped(plain: Ends) -> None:
    """No rule names a push by digest alone, so it must not become a dead letter."""
    thing = Answer(200, body=b"{}", headers={"Content-Type": "application/vnd.example.thing+json"})
    plain.source.faults.add(Fault(thing, "GET", "/manifests/sha256:"))
    outcome = await plain.copy_signature(ROOT.digest)
    assert outcome.result is Result.SKIPPED
    assert "application/vnd.example.thing+json" in outcome.note


async def test_what_the_registry_refuses_is_a_warning_and_the_rest_arrives(strict: Ends) -> None:
    sbom, signature = referrer(ROOT), image(50)
    await strict.source.push("v1", ROOT)
    await strict.source.attach((sbom, ROOT))
    await strict.source.push(cosign_tag(ROOT), signature)
    outcome = await strict.copy()
    assert (outcome.result, outcome.signatures) == (Result.COPIED, 1)
    (warning,) = outcome.warnings
    assert warning.startswith(f"not copied: {sbom.digest}: ")
    assert "unknown manifest class" in warning
    await strict.destination.holds("v1", ROOT)
    await strict.destination.holds(cosign_tag(ROOT), signature)
    assert not await strict.destination.has(cosign_tag(ROOT, ""))
    alone = await strict.copy_signature(sbom.digest)
    assert alone.result is Result.SKIPPED
    # Once a week is enough.
    assert "has refused the kind 'application/vnd.example.sbom.v1' within the last week" in alone.note


async def test_a_transient_fault_is_not_a_warning(plain: Ends) -> None:
    await plain.source.push("v1", ROOT)
    await plain.source.push(cosign_tag(ROOT), image(50))
    plain.destination.faults.add(Fault(Answer(503), "PUT", f"/manifests/{cosign_tag(ROOT)}", times=None))
    with pytest.raises(ServerFailed):
        await plain.copy()
    await plain.destination.holds("v1", ROOT)
    plain.destination.faults.faults.clear()
    assert (await plain.copy()).signatures == 1


async def test_lost_signatures_of_a_rewritten_index_are_one_warning(plain: Ends) -> None:
    kept, left_out = image(1), image(2, architecture="arm64")
    root = index([kept, left_out])
    await plain.source.push("v1", root)
    for subject, seed in ((root, 50), (kept, 51), (left_out, 52)):
        await plain.source.push(cosign_tag(subject), image(seed))
        await plain.source.attach((referrer(subject, seed), subject))
    options = CopyOptions((Platform("linux", "amd64"),), signatures=True)
    outcome = await plain.copy(options=options)
    (warning,) = outcome.warnings
    assert warning.startswith(f"the signatures of {root.digest} are not copied")
    assert outcome.signatures == 2
    await plain.destination.holds(cosign_tag(kept), image(51))
    for subject in (root, left_out):
        assert not await plain.destination.has(cosign_tag(subject))
        assert not await plain.destination.has(cosign_tag(subject, ""))


async def test_an_image_without_signatures_causes_no_warning(plain: Ends) -> None:
    await plain.source.push("v1", ROOT)
    options = CopyOptions((Platform("linux", "amd64"),), signatures=True)
    assert (await plain.copy(options=options)).warnings == ()


async def test_without_the_option_no_signature_is_looked_up(plain: Ends) -> None:
    await plain.source.push("v1", ROOT)
    await plain.source.push(cosign_tag(ROOT), image(50))
    plain.source.faults.log.clear()
    await plain.copy(options=CopyOptions())
    assert not [entry for entry in plain.source.faults.log if "sha256-" in entry.path or "referrers" in entry.path]


async def test_many_signatures_at_once_are_all_listed(plain: Ends) -> None:
    """The fallback tag is read, changed and written: no update may be lost."""
    await plain.source.push("v1", ROOT)
    await plain.copy(options=CopyOptions())
    all_of_them = [referrer(ROOT, seed) for seed in range(8)]
    for one in all_of_them:
        await push(plain.source.host, NAME, one.digest, one)
    await asyncio.gather(*(plain.copy_signature(one.digest) for one in all_of_them))
    assert {row["digest"] for row in await plain.destination.listed(ROOT)} == {one.digest for one in all_of_them}


async def test_a_list_that_names_a_deleted_referrer_is_repaired(plain: Ends) -> None:
    old, new = referrer(ROOT, 1), referrer(ROOT, 2)
    await plain.source.push("v1", ROOT)
    await plain.source.attach((old, ROOT))
    await plain.copy()
    async with Upstream(plain.destination.host) as direct:
        async with direct.request("DELETE", f"/v2/{NAME}/manifests/{old.digest}") as answer:
            assert answer.status == 202
        async with direct.request("DELETE", f"/v2/{NAME}/blobs/{old.blobs[1].digest}") as answer:
            assert answer.status == 202
    await plain.source.attach((new, ROOT))
    await plain.copy()
    assert new.digest in {row["digest"] for row in await plain.destination.listed(ROOT)}
    await plain.destination.holds(new.digest, new)


async def test_a_registry_without_the_referrers_api_is_asked_for_it_once(plain: Ends) -> None:
    await plain.source.push("v1", ROOT)
    await plain.copy()
    asked = plain.source.faults.log.count("GET", "/referrers/")
    assert asked <= 3  # one per manifest that was looked up meanwhile
    plain.source.faults.log.clear()
    await plain.copy()
    assert plain.source.faults.log.count("GET", "/referrers/") == 0


async def test_no_signature_is_looked_up_for_attestations_and_rewritten_indexes(plain: Ends) -> None:
    kept, nested = image(1), index([image(1), image(2, architecture="arm64")])
    attesting = attestation(kept)
    await plain.source.push("v1", index([nested, attesting]))
    options = CopyOptions((Platform("linux", "amd64"),), signatures=True)
    await plain.copy(options=options)
    content, _ = await fetch_raw(plain.destination.host, NAME, "v1")
    anew = json.loads(content)["manifests"][0]["digest"]
    assert anew != nested.digest
    asked = [entry.path for entry in plain.source.faults.log if "sha256-" in entry.path]
    assert any(kept.digest[7:] in path for path in asked)
    assert not [path for path in asked if anew[7:] in path or attesting.digest[7:] in path]
