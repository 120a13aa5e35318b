"""Signatures that a list of the source has shown: only what is missing is read, and a refusal is no error."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from replicator.copy import Accessories, Result
from replicator.copy.context import is_signature_kind
from replicator.copy.ledger import REFUSED_SECONDS, RefusedKinds
from replicator.copy.options import CopyOptions
from replicator.errors import ReplicatorError
from tests.copy.ends import NAME, ROOT, Ends, some_ends
from tests.standins.cosign import cosign_signature
from tests.standins.faults import Answer, Fault
from tests.standins.images import cosign_tag, image, push, referrer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from replicator.copy import Outcome

SINGLE = image(1)
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNATURE, BUNDLE = cosign_signature(SINGLE), referrer(SINGLE, 1, BUNDLE_TYPE)
SBOM = referrer(SINGLE, 2)
LISTED = Accessories(SINGLE.digest, (SIGNATURE.digest, BUNDLE.digest, SBOM.digest))


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    async with some_ends("harbor-plain") as ends:
        yield ends


@pytest.fixture
async def strict() -> AsyncIterator[Ends]:
    """The destination accepts only images, as ACR does."""
    async with some_ends("harbor-strict") as ends:
        yield ends


async def signed(ends: Ends, tag: str = "v1") -> None:
    await ends.source.push(tag, SINGLE)
    await ends.source.push(cosign_tag(SINGLE), SIGNATURE)
    await ends.source.attach((BUNDLE, SINGLE), (SBOM, SINGLE))
    ends.source.faults.log.clear()
    ends.destination.faults.log.clear()


async def copied(
    ends: Ends, accessories: Accessories | None = LISTED, options: CopyOptions | None = None, tag: str = "v1"
) -> Outcome:
    source, destination = ends.source.reference(tag), ends.destination.reference(tag)
    options = options or CopyOptions()
    return await ends.copier.copy(source, destination, options=options, accessories=accessories)


def read(ends: Ends) -> Sequence[str]:
    """The manifests that were read of the source, each a pull that Harbor counts."""
    log = ends.source.faults.log
    return [entry.path.rpartition("/")[2] for entry in log if entry.method == "GET" and "/manifests/" in entry.path]


async def test_signatures_and_attestations_come_and_sboms_do_not(ends: Ends) -> None:
    await signed(ends)
    outcome = await copied(ends)
    assert (outcome.result, outcome.signatures, outcome.note, outcome.settled) == (Result.COPIED, 2, "", True)
    await ends.destination.holds(cosign_tag(SINGLE), SIGNATURE)
    await ends.destination.holds(BUNDLE.digest, BUNDLE)
    assert [row["digest"] for row in await ends.destination.listed(SINGLE)] == [BUNDLE.digest]
    assert not await ends.destination.has(SBOM.digest)
    # Nothing is looked for that the list does not show.
    assert not [entry for entry in ends.source.faults.log if "/referrers/" in entry.path or ".att" in entry.path]


async def test_what_is_there_is_not_read_again(ends: Ends) -> None:
    await signed(ends)
    known = replace(LISTED, digests=(SIGNATURE.digest, BUNDLE.digest))
    assert not await ends.copier.holds(ends.destination.reference("v1").repository, known)
    await copied(ends, known)
    assert await ends.copier.holds(ends.destination.reference("v1").repository, known)
    ends.source.faults.log.clear()
    assert (await copied(ends, known)).result is Result.UP_TO_DATE
    assert read(ends) == []


async def test_an_image_without_any_costs_no_request_more(ends: Ends) -> None:
    await ends.source.push("v1", ROOT)
    requests: list[tuple[int, int]] = []
    for accessories in (None, Accessories(ROOT.digest, is_index=True)):
        for signatures in (False, None):
            ends.source.faults.log.clear()
            ends.destination.faults.log.clear()
            await copied(ends, accessories, CopyOptions(signatures=signatures))
            if not requests:
                # The first one copies.
                ends.source.faults.log.clear()
                ends.destination.faults.log.clear()
                await copied(ends, accessories, CopyOptions(signatures=signatures))
            requests.append((len(ends.source.faults.log), len(ends.destination.faults.log)))
    assert set(requests) == {(1, 1)}


async def test_attestations_of_cosign_s_old_form_come_along_by_their_tag(ends: Ends) -> None:
    await signed(ends)
    attestation, tag = image(50), cosign_tag(SINGLE, ".att")
    await ends.source.push(tag, attestation)
    assert (await copied(ends, Accessories(SINGLE.digest, tags=(tag,)))).signatures == 1
    await ends.destination.holds(tag, attestation)


async def test_the_list_of_another_image_does_not_count(ends: Ends) -> None:
    """The tag has moved since it was listed."""
    await signed(ends)
    assert (await copied(ends, Accessories(image(2).digest, LISTED.digests))).signatures == 0


async def test_an_old_signature_whose_tag_has_moved_on_is_no_error(ends: Ends) -> None:
    """Harbor goes on listing it, and it names no subject."""
    await signed(ends)
    newer = cosign_signature(SINGLE, 2)
    await ends.source.push(cosign_tag(SINGLE), newer)
    both = Accessories(SINGLE.digest, (SIGNATURE.digest, newer.digest))
    for options in (CopyOptions(), CopyOptions(signatures=True)):
        outcome = await copied(ends, both, options)
        assert (outcome.warnings, outcome.note, outcome.settled) == ((), "", True)
    await ends.destination.holds(cosign_tag(SINGLE), newer)


async def test_harbor_s_list_of_cosign_s_old_signatures_is_no_warning() -> None:
    async with some_ends("harbor-harbor") as ends:
        await signed(ends)
        outcome = await copied(ends, None, CopyOptions(signatures=True))
        assert (outcome.signatures, outcome.warnings) == (3, ())
        assert SIGNATURE.digest in {row["digest"] for row in await ends.source.listed(SINGLE)}


async def test_the_children_of_an_index_bring_theirs(ends: Ends) -> None:
    child = ROOT.children[0]
    of_root, of_child = referrer(ROOT, 1, BUNDLE_TYPE), cosign_signature(child)
    await ends.source.push("v1", ROOT)
    await ends.source.attach((of_root, ROOT))
    await ends.source.push(cosign_tag(child), of_child)
    outcome = await copied(ends, Accessories(ROOT.digest, (of_root.digest,), is_index=True))
    assert outcome.signatures == 2
    await ends.destination.holds(cosign_tag(child), of_child)


async def test_what_a_destination_refuses_is_a_note_once_and_not_sent_again(strict: Ends) -> None:
    await signed(strict)
    outcome = await copied(strict)
    assert (outcome.result, outcome.signatures, outcome.warnings) == (Result.COPIED, 1, ())
    assert f"not copied: {BUNDLE_TYPE}: " in outcome.note
    assert "unknown manifest class" in outcome.note
    assert outcome.settled
    await strict.destination.holds(cosign_tag(SINGLE), SIGNATURE)
    host, namespace = strict.destination.host, NAME.partition("/")[0]
    assert await strict.copier.refused.verdict(host, namespace, f"{BUNDLE_TYPE} application/vnd.oci.empty.v1+json")
    strict.destination.faults.log.clear()
    other = image(7)
    bundle = referrer(other, 1, BUNDLE_TYPE)
    await strict.source.push("v2", other)
    await strict.source.attach((bundle, other))
    again = await copied(strict, Accessories(other.digest, (bundle.digest,)), tag="v2")
    assert (again.result, again.note, again.settled) == (Result.COPIED, "", True)
    assert strict.destination.faults.log.count("PUT", f"/manifests/{bundle.digest}") == 0
    # Where all are asked for, it is a note; only where everything is wanted it is tried each time, and a warning.
    wanted = Accessories(other.digest, (bundle.digest,))
    asked = await copied(strict, wanted, CopyOptions(signatures=True), "v2")
    assert (asked.warnings, asked.settled) == ((), True)
    assert f"not copied: {host} has refused the kind {BUNDLE_TYPE!r} within the last week" in asked.note
    assert strict.destination.faults.log.count("PUT", f"/manifests/{bundle.digest}") == 0
    for _ in range(2):
        insisted = await copied(strict, wanted, CopyOptions(signatures=True, refused="fail"), "v2")
        assert (len(insisted.warnings), insisted.settled) == (1, False)


@pytest.mark.parametrize(
    "answer", [Answer(403, "DENIED", "will exceed the configured upper limit"), Answer(404, "NAME_UNKNOWN")]
)
async def test_a_refusal_for_another_reason_is_tried_again(ends: Ends, answer: Answer) -> None:
    await signed(ends)
    ends.destination.faults.add(Fault(answer, "PUT", f"/manifests/{BUNDLE.digest}", times=1))
    outcome = await copied(ends)
    assert (outcome.settled, outcome.warnings) == (False, ())
    assert BUNDLE.digest in outcome.note
    assert (await copied(ends)).signatures == 1


async def test_a_signature_refused_without_a_word_of_its_kind_says_nothing_of_other_artifacts(ends: Ends) -> None:
    await signed(ends)
    invalid = Answer(400, "MANIFEST_INVALID", "manifest invalid")
    refused = ends.destination.faults.add(Fault(invalid, "PUT", f"/manifests/{BUNDLE.digest}", times=None))
    assert f"not copied: {BUNDLE_TYPE}" in (await copied(ends)).note
    hits = refused.hits
    assert (await copied(ends)).signatures == 0
    assert refused.hits == hits, "it is not sent again for a week"
    host, namespace = ends.destination.host, NAME.partition("/")[0]
    kind = f"{BUNDLE_TYPE} application/vnd.oci.empty.v1+json"
    assert not await ends.copier.refused.verdict(host, namespace, kind)


async def test_a_fault_that_a_retry_mends_fails_the_copy(ends: Ends) -> None:
    await signed(ends)
    ends.destination.faults.add(Fault(Answer(503), "PUT", f"/manifests/{BUNDLE.digest}", times=None))
    with pytest.raises(ReplicatorError):
        await copied(ends)
    await ends.destination.holds("v1", SINGLE)


async def test_one_alone_is_left_out_if_its_kind_is_refused(strict: Ends) -> None:
    await signed(strict)
    await copied(strict, None)
    attestation = referrer(SINGLE, 5, "application/vnd.in-toto+json")
    await push(strict.source.host, NAME, cosign_tag(SINGLE, ".att"), attestation, strict.source.auth)
    source, destination = (end.reference(cosign_tag(SINGLE, ".att")) for end in (strict.source, strict.destination))
    strict.destination.faults.log.clear()
    for words in ("unknown manifest class", "has refused the kind 'application/vnd.in-toto+json' within the last week"):
        outcome = await strict.copier.copy_signature(source, destination, options=CopyOptions())
        assert (outcome.result, outcome.warnings) == (Result.SKIPPED, ())
        assert words in outcome.note
    assert strict.destination.faults.log.count("PUT", "/manifests/") == 1, "it is asked for once"
    assert strict.destination.faults.log.count("POST", "/blobs/uploads/") == 0


@pytest.mark.parametrize(
    ("kind", "is_signature"),
    [
        ("application/vnd.dev.cosign.simplesigning.v1+json", True),
        ("application/vnd.dev.cosign.artifact.sig.v1+json", True),
        ("application/vnd.dev.sigstore.bundle.v0.3+json", True),
        ("application/vnd.cncf.notary.signature", True),
        ("application/vnd.in-toto+json", True),
        ("application/vnd.dsse.envelope.v1+json", True),
        ("application/vnd.dev.cosign.artifact.sbom.v1+json", False),
        ("application/spdx+json", False),
        ("application/vnd.cyclonedx+json", False),
        ("application/vnd.goharbor.harbor.sbom.v1", False),
        ("application/vnd.oci.image.config.v1+json", False),
        ("application/vnd.amazon.soci.index.v1+json", False),
        ("", False),
    ],
)
def test_signatures_are_told_from_everything_else(kind: str, is_signature: bool) -> None:
    assert is_signature_kind(kind) is is_signature


class Shared(dict[str, str]):
    """A store of several processes."""

    async def recall(self, names: Sequence[str]) -> list[str | None]:
        return [self.get(name) for name in names]

    def note(self, name: str, text: str) -> None:
        self[name] = text


@pytest.mark.parametrize("shared", [False, True])
async def test_a_refused_kind_is_remembered_for_a_week_by_host_and_namespace(shared: bool) -> None:
    now = 1_000_000.0
    store = Shared() if shared else None
    mine = RefusedKinds(store, lambda: now)
    theirs = RefusedKinds(store, lambda: now) if shared else mine
    mine.note("a.example", "one", "kind")
    others = ("a.example", "two", "kind"), ("b.example", "one", "kind"), ("a.example", "one", "other")
    for host, namespace, kind in others:
        assert not await theirs.verdict(host, namespace, kind)
    assert await theirs.verdict("a.example", "one", "kind")
    now += REFUSED_SECONDS - 1
    assert await theirs.verdict("a.example", "one", "kind")
    now += 2
    assert not await theirs.verdict("a.example", "one", "kind")


async def test_what_another_process_has_found_out_is_known_here_minutes_later() -> None:
    now, store = 1_000_000.0, Shared()
    mine, theirs = RefusedKinds(store, lambda: now), RefusedKinds(store, lambda: now)
    mine.note("a.example", "one", "kind")
    # As after a copy with --force, once the registry takes the kind.
    theirs.note("a.example", "one", "kind", refused=False)
    now += 301
    assert await mine.verdict("a.example", "one", "kind") is False
    # What is skipped for a kind is remembered no longer than its refusal.
    theirs.note("a.example", "one", "kind")
    now += REFUSED_SECONDS - 1
    await theirs.skip("a.example", "one", "kind", "artifact", "chart")
    now += 2
    assert not await mine.skipped("a.example", "one", "artifact")
