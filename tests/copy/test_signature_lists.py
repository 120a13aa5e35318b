"""Lists of referrers: wrong ones, those of other clients, and their limits."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from replicator.copy import Copier, Result, signatures
from replicator.copy.context import Tally
from replicator.copy.options import Attestations, CopyOptions
from replicator.reference import Platform
from replicator.registry import Registries
from replicator.registry.manifest import OCI_INDEX, Manifest, descriptor_row
from tests.copy.conftest import RecordingLocks
from tests.copy.ends import NAME, ROOT, Ends, some_ends
from tests.standins.faults import Answer, Fault
from tests.standins.images import Image, Index, attestation, cosign_tag, image, index, put_manifest, referrer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def plain() -> AsyncIterator[Ends]:
    async with some_ends("plain-plain") as ends:
        yield ends


@pytest.fixture
async def strict() -> AsyncIterator[Ends]:
    """The destination accepts only images, as ACR does."""
    async with some_ends("plain-strict") as ends:
        yield ends


async def test_an_image_present_unchanged_keeps_its_signatures_with_strip_refused(plain: Ends) -> None:
    root = index([image(1), attestation(image(1), empty_config=True)])
    await plain.source.push("v1", root)
    await plain.copy(options=CopyOptions())
    await plain.source.push(cosign_tag(root), image(50))
    outcome = await plain.copy(options=CopyOptions(attestations=Attestations.STRIP_REFUSED, signatures=True))
    assert (outcome.result, outcome.signatures, outcome.warnings) == (Result.UP_TO_DATE, 1, ())
    await plain.destination.holds(cosign_tag(root), image(50))


async def test_a_list_of_manifests_that_do_not_refer_to_the_image_is_not_trusted(plain: Ends) -> None:
    """The image itself, a referrer of another image, and a manifest without a subject."""
    other, true = image(9), referrer(ROOT, 1)
    foreign = referrer(other, 2)
    await plain.source.push("v1", ROOT)
    for one in (other, foreign, true, ROOT):
        await plain.source.push(one.digest, one)
    content = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [json.loads(index([one]).content)["manifests"][0] for one in (ROOT, other, foreign, true)],
        }
    ).encode()
    lie = Index(OCI_INDEX, content, (other, foreign, true))
    await put_manifest(plain.source.host, NAME, cosign_tag(ROOT, ""), lie)
    outcome = await plain.copy()
    assert outcome.signatures == 1
    assert len(outcome.warnings) == 3
    assert [row["digest"] for row in await plain.destination.listed(ROOT)] == [true.digest]
    assert not await plain.destination.has(foreign.digest)


async def test_a_referrer_listed_only_in_the_fallback_tag_is_found() -> None:
    """As after an upgrade: the registry has the API now, with an empty list."""
    one = referrer(ROOT, 1)
    async with some_ends("plain-plain") as ends:
        await ends.source.push("v1", ROOT)
        await ends.source.attach((one, ROOT))
        empty = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}

        async def with_api(request: web.BaseRequest) -> web.StreamResponse:
            if "/referrers/" in request.path:
                return web.json_response(empty, content_type=OCI_INDEX)
            return await handler(request)

        handler, ends.source.faults._handler = ends.source.faults._handler, with_api
        assert (await ends.copy()).signatures == 1
        assert {row["digest"] for row in await ends.destination.listed(ROOT)} == {one.digest}


async def test_an_image_under_the_fallback_tag_is_left_alone(plain: Ends) -> None:
    theirs = image(77)
    await plain.source.push("v1", ROOT)
    await plain.source.attach((referrer(ROOT, 1), ROOT))
    await plain.destination.push(cosign_tag(ROOT, ""), theirs)
    outcome = await plain.copy()
    assert "names an image" in outcome.warnings[-1]
    await plain.destination.holds(cosign_tag(ROOT, ""), theirs)


async def test_a_full_list_is_a_warning_and_left_alone(plain: Ends) -> None:
    row = json.loads(index([referrer(ROOT, 1)]).content)["manifests"][0]
    full = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [row] * 4096}
    await plain.source.push("v1", ROOT)
    await plain.source.attach((referrer(ROOT, 2), ROOT))

    async def is_full(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET" and request.path.endswith(f"/manifests/{cosign_tag(ROOT, '')}"):
            return web.json_response(full, content_type=OCI_INDEX)
        return await handler(request)

    handler, plain.destination.faults._handler = plain.destination.faults._handler, is_full
    outcome = await plain.copy()
    assert outcome.result is Result.COPIED
    assert "4097" in outcome.warnings[-1]


async def test_some_referrers_are_copied_and_the_rest_is_a_warning(strict: Ends) -> None:
    await strict.source.push("v1", ROOT)
    await strict.copy(options=CopyOptions())
    taken, refused = signature_like(ROOT, 1), referrer(ROOT, 2)
    await strict.source.attach((taken, ROOT), (refused, ROOT))
    outcome = await strict.copy_signature(cosign_tag(ROOT, ""))
    assert (outcome.result, outcome.signatures, len(outcome.warnings)) == (Result.COPIED, 1, 1)


def signature_like(subject: Image | Index, seed: int) -> Image:
    """A referrer that is an image, as pushed by older clients: a registry of images accepts it."""
    made = image(seed)
    named = {"mediaType": subject.media_type, "digest": subject.digest, "size": len(subject.content)}
    return replace(made, content=json.dumps({**json.loads(made.content), "subject": named}).encode())


async def test_a_denied_or_unknown_repository_does_not_rule_out_the_referrers_api() -> None:
    one = referrer(ROOT, 1)
    for answer in (Answer(403, "DENIED"), Answer(404, "NAME_UNKNOWN")):
        async with some_ends("harbor-plain") as ends:
            await ends.source.push("v1", ROOT)
            await ends.source.attach((one, ROOT))
            ends.source.faults.add(Fault(answer, "GET", "/referrers/", times=None))
            assert (await ends.copy()).signatures == 0
            ends.source.faults.faults.clear()
            assert (await ends.copy()).signatures == 1


async def test_a_destination_that_denies_its_list_of_referrers_with_401_takes_the_image_and_its_signature(
    plain: Ends,
) -> None:
    one = referrer(ROOT, 1)
    await plain.source.push("v1", ROOT)
    await plain.source.attach((one, ROOT))
    plain.destination.faults.add(Fault(Answer(401, "DENIED"), "GET", "/referrers/", times=None))
    outcome = await plain.copy()
    assert (outcome.result, outcome.signatures, outcome.warnings) == (Result.COPIED, 1, ())
    assert (await plain.copy()).result is Result.UP_TO_DATE


async def test_a_permanent_error_while_looking_for_signatures_is_a_warning(plain: Ends) -> None:
    await plain.source.push("v1", index([image(1), image(2, architecture="arm64")]))
    plain.source.faults.add(Fault(Answer(418), path=r"\.sig$", times=None))
    outcome = await plain.copy(options=CopyOptions((Platform("linux", "amd64"),), signatures=True))
    assert outcome.result is Result.COPIED
    assert len(outcome.warnings) == 2


async def test_circular_lists_are_read_once(plain: Ends) -> None:
    """By digest two manifests can't refer to each other, but lists can say so."""
    one = referrer(ROOT, 1)
    await plain.source.push("v1", ROOT)
    await plain.source.attach((one, ROOT))
    rows = [*await plain.source.listed(ROOT), *json.loads(index([ROOT]).content)["manifests"]]
    content = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows}).encode()
    for subject in (one, ROOT):
        await put_manifest(plain.source.host, NAME, cosign_tag(subject, ""), Index(OCI_INDEX, content, ()))
    assert (await plain.copy()).signatures == 1
    # Also where the destination's lists say the same.
    for subject in (one, ROOT):
        await put_manifest(plain.destination.host, NAME, cosign_tag(subject, ""), Index(OCI_INDEX, content, ()))
    plain.source.faults.log.clear()
    assert (await plain.copy()).signatures == 0
    for subject in (ROOT, one):
        assert plain.source.faults.log.count("GET", f"/manifests/{cosign_tag(subject, '')}") == 1


def test_a_row_without_an_artifact_type_has_none() -> None:
    one = Manifest(OCI_INDEX, "sha256:0", b"{}")
    assert descriptor_row(one) == {"mediaType": OCI_INDEX, "digest": "sha256:0", "size": 2}


def test_warnings_are_bounded() -> None:
    tally = Tally()
    for number in range(1000):
        tally.warn(f"warning {number}")
    assert (len(tally.warnings), tally.warnings[0], tally.warnings[-1]) == (21, "warning 0", "and 980 more")


async def test_many_referrers_are_listed_in_batches(plain: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "_LIST_BATCH_BYTES", 1)
    all_of_them = [referrer(ROOT, seed) for seed in range(3)]
    await plain.source.push("v1", ROOT)
    await plain.source.attach(*((one, ROOT) for one in all_of_them))
    assert (await plain.copy()).signatures == 3
    rows = await plain.destination.listed(ROOT)
    assert {row["digest"] for row in rows} == {one.digest for one in all_of_them}
    assert plain.destination.faults.log.count("PUT", f"/manifests/{cosign_tag(ROOT, '')}") == 3
    # The rows repeat the referrers' annotations ("Pushing Manifests with Subject").
    assert {row["annotations"]["org.example.seed"] for row in rows} == {"0", "1", "2"}


async def test_a_list_is_no_larger_than_a_registry_must_take(plain: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "MAX_MANIFEST_BYTES", 300)
    await plain.source.push("v1", ROOT)
    await plain.source.attach((referrer(ROOT, 1), ROOT))
    outcome = await plain.copy()
    assert "larger than 300 bytes" in outcome.warnings[-1]
    assert not await plain.destination.has(cosign_tag(ROOT, ""))


async def test_a_list_that_is_never_found_complete_is_a_warning(plain: Ends) -> None:
    await plain.source.push("v1", ROOT)
    await plain.source.attach((referrer(ROOT, 1), ROOT))
    fault = Fault(Answer(400, "MANIFEST_BLOB_UNKNOWN"), "PUT", f"/manifests/{cosign_tag(ROOT, '')}$", times=None)
    plain.destination.faults.add(fault)
    outcome = await plain.copy()
    assert outcome.result is Result.COPIED
    assert "can't be listed" in outcome.warnings[-1]
    assert plain.destination.faults.log.count("PUT", f"/manifests/{cosign_tag(ROOT, '')}") == 2


async def test_a_list_and_a_tag_are_changed_under_a_lock_of_all_processes(plain: Ends) -> None:
    await plain.source.push("v1", ROOT)
    await plain.source.attach((referrer(ROOT, 1), ROOT))
    await plain.source.push(cosign_tag(ROOT), image(50))
    locks = RecordingLocks()
    access = {end.host: end.access for end in (plain.source, plain.destination)}
    async with Registries(lambda repository: access[repository.registry]) as registries:
        ends = Ends(plain.source, plain.destination, Copier(registries, blob_locks=locks))
        assert (await ends.copy()).signatures == 2
    assert {f"{NAME}:{cosign_tag(ROOT)}", f"{NAME}:{cosign_tag(ROOT, '')}"} <= set(locks.held)
