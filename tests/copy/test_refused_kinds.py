"""Kinds of artifacts that a destination refuses: they are asked for once, skipped, and left out of indexes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from replicator.copy import Result
from replicator.copy.ledger import REFUSED_SECONDS, RefusedKinds
from replicator.copy.options import EVERYTHING, VERBATIM, Attestations, CopyOptions
from replicator.copy.selection import SelectionCache
from replicator.reference import Platform
from replicator.registry.errors import Denied, Refused, RegistryError, Unauthorized, refuses_kind
from tests.copy.conftest import Pair, Registry, a_copier, a_registry
from tests.standins.faults import Answer, Fault
from tests.standins.images import Image, Index, artifact, attestation, blobs_of, fetch_raw, image, index

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

CHART, CACHE = "application/vnd.cncf.helm.config.v1+json", "application/vnd.buildkit.cacheconfig.v0"
SOCI = "application/vnd.amazon.soci.index.v2+json"
AMD64, ARM64 = image(1), image(2, architecture="arm64")
AUTO = CopyOptions(attestations=Attestations.STRIP_REFUSED)
STRIP = CopyOptions(attestations=Attestations.STRIP)
ONLY_AMD64 = CopyOptions((Platform("linux", "amd64"),), Attestations.STRIP_REFUSED)
BOTH = CopyOptions((Platform("linux", "amd64"),), Attestations.STRIP)


@pytest.fixture
async def strict() -> AsyncIterator[Pair]:
    """A pair whose destination is a real registry that takes only images."""
    async with a_registry() as source, a_registry(images_only=True) as destination, a_copier() as copier:
        yield Pair(source, destination, copier)


def writes(registry: Registry) -> list[str]:
    return [
        f"{entry.method} {entry.path.removeprefix('/v2/').partition('/manifests/')[2] or 'blob'}"
        for entry in registry.faults.log
        if entry.method in ("PUT", "POST", "PATCH")
    ]


def mixed(rows: Sequence[tuple[Image, Mapping[str, Any]]]) -> Index:
    """Make an index whose entries have further fields."""
    made = index([one for one, _ in rows])
    document = json.loads(made.content)
    document["manifests"] = [entry | more for entry, (_, more) in zip(document["manifests"], rows, strict=True)]
    return Index(made.media_type, json.dumps(document).encode(), made.children)


async def held(pair: Pair, tag: str = "v1") -> list[str]:
    content, _ = await fetch_raw(pair.destination.plain, "team/app", tag)
    return [entry["digest"] for entry in json.loads(content)["manifests"]]


async def test_what_a_destination_refuses_is_skipped_and_nothing_of_it_is_sent(strict: Pair) -> None:
    chart = artifact(CHART)
    await strict.source.push("v1", chart)
    outcome = await strict.copy()
    assert (outcome.result, outcome.refused, outcome.bytes, outcome.warnings) == (Result.SKIPPED, "chart", 0, ())
    assert (
        f"refuses the kind 'chart': 403, the registry says: DENIED: unknown manifest class for {CHART}" in outcome.note
    )
    assert writes(strict.destination) == [f"PUT {chart.digest}"]
    assert not strict.source.faults.log.count("GET", "/blobs/")
    assert not await strict.destination.has_tag("v1")
    # What one tag has shown holds for all others of the namespace, and for no other kind or namespace.
    strict.clear()
    await strict.source.push("v2", artifact(CHART, 2))
    again = await strict.copy("v2")
    assert (again.result, again.refused) == (Result.SKIPPED, "chart")
    assert "has refused the kind 'chart' within the last week" in again.note
    assert writes(strict.destination) == []
    cache = artifact(CACHE, 3)
    await strict.source.push("v3", cache)
    assert (await strict.copy("v3")).refused == "cache"
    await strict.copy("v2", name="other/app")
    assert writes(strict.destination) == [f"PUT {cache.digest}", f"PUT {artifact(CHART, 2).digest}"]


async def test_what_a_destination_takes_is_asked_for_once_and_arrives_whole(pair: Pair) -> None:
    charts = [artifact(CHART, seed) for seed in (1, 2)]
    for tag, chart in zip(("v1", "v2"), charts, strict=True):
        await pair.source.push(tag, chart)
        pair.expect(tag, chart)
        assert (await pair.copy(tag)).result is Result.COPIED
        await pair.destination.holds(tag, chart)
    found = [write for write in writes(pair.destination) if "blob" not in write]
    assert found == [f"PUT {charts[0].digest}", "PUT v1", "PUT v2"]
    assert writes(pair.destination)[0] == found[0], "it is asked for before any blob is sent"


async def test_a_registry_that_takes_a_manifest_without_its_blobs_gets_them_all_the_same(pair: Pair) -> None:
    chart = artifact(CHART)
    await pair.source.push("v1", chart)
    pair.expect("v1", chart)
    taken = Answer(201, headers={"Docker-Content-Digest": chart.digest})
    pair.destination.faults.add(Fault(taken, "PUT", f"/manifests/{chart.digest}", times=1))
    outcome = await pair.copy()
    assert (outcome.result, outcome.blobs_copied) == (Result.COPIED, len(blobs_of(chart)))
    await pair.destination.holds("v1", chart)


async def test_a_copy_that_ends_after_the_question_leaves_no_tag_and_is_made_whole_by_the_next(pair: Pair) -> None:
    chart = artifact(CHART)
    await pair.source.push("v1", chart)
    taken = Answer(201, headers={"Docker-Content-Digest": chart.digest})
    pair.destination.faults.add(Fault(taken, "PUT", f"/manifests/{chart.digest}", times=1))
    no_blobs = Fault(Answer(403, "DENIED"), "POST", "/blobs/uploads/", times=None)
    pair.destination.faults.add(no_blobs)
    with pytest.raises(Denied):
        await pair.copy()
    assert not await pair.destination.has_tag("v1")
    pair.destination.faults.faults.remove(no_blobs)
    await pair.copy()
    await pair.destination.holds("v1", chart)


@pytest.mark.parametrize("answer", [Answer(400, "MANIFEST_INVALID"), Answer(404, "NAME_UNKNOWN"), Answer(405)])
async def test_an_answer_that_says_nothing_of_the_kind_decides_nothing(pair: Pair, answer: Answer) -> None:
    chart = artifact(CHART)
    await pair.source.push("v1", chart)
    pair.destination.faults.add(Fault(answer, "PUT", f"/manifests/{chart.digest}", times=1))
    assert (await pair.copy()).result is Result.COPIED
    await pair.destination.holds("v1", chart)
    # The whole copy has shown that the kind is taken.
    pair.clear()
    await pair.source.push("v2", artifact(CHART, 2))
    assert (await pair.copy("v2")).result is Result.COPIED
    assert f"PUT {artifact(CHART, 2).digest}" not in writes(pair.destination)


async def test_what_is_refused_only_at_the_end_is_skipped_and_remembered_too(pair: Pair) -> None:
    """A copy by digest is not asked for beforehand: its manifest would be seen before its blobs are there."""
    chart = artifact(CHART)
    await pair.source.push("v1", chart)
    refusal = Answer(403, "DENIED", f"unknown manifest class for {CHART}")
    pair.destination.faults.add(Fault(refusal, "PUT", f"/manifests/{chart.digest}", times=None))
    for sent in (True, False):
        pair.clear()
        outcome = await pair.copy(to=chart.digest)
        assert (outcome.result, outcome.refused) == (Result.SKIPPED, "chart")
        assert bool(writes(pair.destination)) is sent
    assert writes(pair.destination) == []


async def test_who_wants_all_kinds_gets_the_refusal_and_nothing_is_sent(strict: Pair) -> None:
    chart = artifact(CHART)
    await strict.source.push("v1", chart)
    await strict.copy()
    for _ in range(2):
        strict.clear()
        with pytest.raises(Denied, match="unknown manifest class") as caught:
            await strict.copy(options=CopyOptions(refused="fail"))
        assert (caught.value.kind, writes(strict.destination)) == ("chart", [f"PUT {chart.digest}"])


ENTRIES: dict[str, tuple[Image, dict[str, Any]]] = {
    "soci": (artifact(SOCI, 7), {"artifactType": SOCI, "platform": None}),
    "soci for a platform": (artifact(SOCI, 7), {"artifactType": SOCI, "platform": AMD64.platform}),
    "chart": (artifact(CHART, 8), {"artifactType": CHART, "platform": None}),
    "chart without a type": (artifact(CHART, 8), {"platform": None}),
    "chart that looks like an image": (artifact(CHART, 8), {"platform": AMD64.platform}),
    "cache": (artifact(CACHE, 9), {"platform": {"architecture": "unknown", "os": "unknown"}}),
}


@pytest.mark.parametrize(
    ("entry", "options"),
    [(entry, AUTO) for entry in ENTRIES]
    + [("soci for a platform", options) for options in (STRIP, ONLY_AMD64, BOTH)]
    + [("chart", ONLY_AMD64), ("cache", BOTH)],
)
async def test_what_is_refused_in_an_index_is_left_out_of_it_alone(
    strict: Pair, entry: str, options: CopyOptions
) -> None:
    refused, more = ENTRIES[entry]
    if "unknown" in str(more) and options.platforms:
        more = {"platform": None}
    about = attestation(AMD64, 3, empty_config=True)
    root = mixed([(AMD64, {}), (about, {}), (replace(refused, platform={}), more), (ARM64, {})])
    await strict.source.push("v1", root)
    outcome = await strict.copy(options=options)
    wanted = [AMD64.digest] if options.platforms else [AMD64.digest, ARM64.digest]
    assert (outcome.result, await held(strict), outcome.warnings) == (Result.COPIED, wanted, ())
    kind = entry.partition(" ")[0]
    assert f"1 {kind}" in outcome.note
    assert "left out, which the registry refuses" in outcome.note
    layers = {blob.digest for blob in refused.blobs}
    assert not [entry for entry in strict.source.faults.log if entry.path.rpartition("/")[2] in layers], "nothing sent"
    # The second run is up to date, and in a process that remembers nothing it is too.
    strict.clear()
    again = await strict.copy(options=options)
    assert (again.result, again.digest, again.note) == (Result.UP_TO_DATE, outcome.digest, outcome.note)
    assert strict.counts() == (1, 1)
    async with a_copier() as other:
        ends = strict.source.reference("v1"), strict.destination.reference("v1")
        third = await other.copy(*ends, options=options)
        assert (third.result, third.digest) == (Result.UP_TO_DATE, outcome.digest)


async def test_an_index_that_was_written_without_what_is_refused_compares_as_up_to_date(strict: Pair) -> None:
    refused, more = ENTRIES["soci"]
    root = mixed([(AMD64, {}), (refused, more)])
    await strict.source.push("v1", root)
    outcome = await strict.copy(options=AUTO)
    strict.clear()
    async with a_copier() as other:
        ends = strict.source.reference("v1"), strict.destination.reference("v1")
        found = await other.compare(*ends, AUTO, announced=root.digest)
    assert (found.result, found.digest) == (Result.UP_TO_DATE, outcome.digest)
    assert writes(strict.destination) == []


@pytest.mark.parametrize("options", [VERBATIM, CopyOptions(attestations=Attestations.STRIP_REFUSED, refused="fail")])
async def test_an_index_of_which_all_is_wanted_is_never_written_without_a_child(
    strict: Pair, options: CopyOptions
) -> None:
    await strict.source.push("v1", mixed([(AMD64, {}), ENTRIES["chart"]]))
    for _ in range(2):
        with pytest.raises(Denied, match="unknown manifest class") as caught:
            await strict.copy(options=options)
        assert caught.value.kind == "chart"
    assert not await strict.destination.has_tag("v1")


async def test_what_is_refused_within_a_nested_index_is_left_out_there(strict: Pair) -> None:
    inner = mixed([(ARM64, {}), ENTRIES["soci"], ENTRIES["chart that looks like an image"]])
    await strict.source.push("v1", index([AMD64, inner]))
    outcome = await strict.copy(options=AUTO)
    first, nested = await held(strict)
    assert (first, await held(strict, nested)) == (AMD64.digest, [ARM64.digest])
    assert outcome.note == "1 chart, 1 soci left out, which the registry refuses"


async def test_a_nested_index_of_a_refused_kind_is_left_out_like_any_other_child(pair: Pair) -> None:
    kind = "application/vnd.example.bundle.v1"
    plain = index([ARM64])
    inner = Index(plain.media_type, json.dumps({**json.loads(plain.content), "artifactType": kind}).encode(), (ARM64,))
    await pair.source.push("v1", index([AMD64, inner]))
    refusal = Answer(403, "DENIED", f"unknown manifest class for {kind}")
    pair.destination.faults.add(Fault(refusal, "PUT", f"/manifests/{inner.digest}", times=None))
    outcome = await pair.copy(options=AUTO)
    assert (await held(pair), outcome.note) == ([AMD64.digest], f"1 {kind} left out, which the registry refuses")
    pair.clear()
    assert (await pair.copy(options=AUTO)).result is Result.UP_TO_DATE
    assert writes(pair.destination) == []


async def test_an_index_of_nothing_else_is_skipped_with_its_kinds(strict: Pair) -> None:
    await strict.source.push("v1", mixed([ENTRIES["chart"]]))
    outcome = await strict.copy(options=AUTO)
    assert outcome.result is Result.SKIPPED
    assert not await strict.destination.has_tag("v1")


async def test_a_destination_that_takes_everything_gets_everything(pair: Pair) -> None:
    root = mixed([(AMD64, {}), *ENTRIES.values()][:4])
    await pair.source.push("v1", root)
    for options in (AUTO, EVERYTHING):
        assert (await pair.copy(options=options)).digest == root.digest
    await pair.destination.holds("v1", root)


async def test_processes_share_what_is_refused_and_what_is_taken(strict: Pair) -> None:
    class Store(dict[str, str]):
        async def recall(self, names: Sequence[str]) -> list[str | None]:
            return [self.get(name) for name in names]

        def note(self, name: str, text: str) -> None:
            self[name] = text

    store = Store()
    model = artifact("application/vnd.cncf.model.config.v1+json", 4)
    async with a_registry() as lenient:
        for seed, asked in ((1, 1), (2, 0)):
            chart = artifact(CHART, seed)
            await strict.source.push("v1", chart)
            await strict.source.push("v2", model)
            async with a_copier(refused_store=store) as copier:
                for end in (strict.destination, lenient):
                    end.faults.log.clear()
                    await copier.copy(strict.source.reference("v1"), end.reference("v1"))
                    assert end.faults.log.count("PUT", f"/manifests/{chart.digest}") == asked
    # The kind at each of both, and the two charts that one of them refused.
    assert sorted(text.partition(" ")[2] for text in store.values()) == ["", "chart", "chart", "taken"]


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (Denied("403, the registry says: DENIED: unknown manifest class for a/b", status=403), True),
        (Denied("registry does not allow plugin manifest", status=403), True),
        (Unauthorized("DENIED: unknown manifest class for a/b", status=401), True),
        (Refused("MANIFEST_INVALID: unknown media type: a/b", status=400), True),
        (Refused("UNSUPPORTED: mediaType a/b is not supported", status=400), True),
        (Refused("a word", status=415), True),
        (Refused("MANIFEST_INVALID: manifest invalid", status=400), False),
        (Denied("requested access to the resource is denied", status=403), False),
        (RegistryError("unknown manifest class", status=500), False),
        (None, False),
    ],
)
def test_a_refusal_of_a_kind_is_told_by_its_words(error: RegistryError | None, is_one: bool) -> None:
    assert refuses_kind(error) is is_one


async def test_a_copy_by_digest_is_asked_for_by_an_equal_manifest_under_another_digest(strict: Pair) -> None:
    """Under its own it would be seen, and taken for complete, before its blobs are there."""
    chart = artifact(CHART)
    await strict.source.push("v1", chart)
    outcome = await strict.copy(to=chart.digest)
    assert (outcome.result, outcome.refused, outcome.bytes) == (Result.SKIPPED, "chart", 0)
    (write,) = writes(strict.destination)
    assert write.startswith("PUT sha256:")
    assert write != f"PUT {chart.digest}"


async def test_an_attestation_within_a_nested_index_is_left_out_where_other_kinds_are_a_failure(strict: Pair) -> None:
    inner = index([ARM64, attestation(ARM64, 3, empty_config=True)])
    await strict.source.push("v1", index([AMD64, inner]))
    await strict.copy(options=replace(AUTO, refused="fail"))
    first, nested = await held(strict)
    assert (first, await held(strict, nested)) == (AMD64.digest, [ARM64.digest])


async def test_an_attestation_with_an_image_s_config_comes_back_when_it_is_wanted_again(pair: Pair) -> None:
    root = index([AMD64, attestation(AMD64, 3)])
    await pair.source.push("v1", root)
    await pair.copy(options=STRIP)
    assert await held(pair) == [AMD64.digest]
    async with a_copier() as other:
        ends = pair.source.reference("v1"), pair.destination.reference("v1")
        assert (await other.copy(*ends, options=AUTO)).digest == root.digest


@pytest.mark.parametrize("of", ["tag", "child"])
async def test_a_forced_copy_asks_a_destination_again(pair: Pair, of: str) -> None:
    root = artifact(SOCI, 7) if of == "tag" else mixed([(AMD64, {}), ENTRIES["soci"]])
    await pair.source.push("v1", root)
    pair.copier.refused.note(pair.destination.host, "team", SOCI)
    await pair.copy(options=AUTO)
    assert (await pair.copy(options=AUTO)).digest != root.digest
    assert (await pair.copy(options=AUTO, force=True)).digest == root.digest


async def test_a_forced_copy_writes_an_index_again_without_what_is_still_refused(strict: Pair) -> None:
    await strict.source.push("v1", mixed([(AMD64, {}), ENTRIES["soci"]]))
    first = await strict.copy(options=AUTO)
    strict.clear()
    again = await strict.copy(options=AUTO, force=True)
    assert (again.result, again.digest) == (Result.COPIED, first.digest)
    assert "PUT v1" in writes(strict.destination)


async def test_an_artifact_that_is_added_to_an_index_is_not_taken_for_one_that_was_left_out(pair: Pair) -> None:
    """The index without it is to the byte what was copied before it was added."""
    after = mixed([(AMD64, {}), ENTRIES["soci"]])
    document = json.loads(after.content)
    before = {**document, "manifests": document["manifests"][:1]}
    root = Index(after.media_type, json.dumps(before, separators=(",", ":")).encode(), after.children[:1])
    await pair.source.push("v1", root)
    assert (await pair.copy(options=AUTO)).digest == root.digest
    await pair.source.push("v1", after)
    ends = pair.source.reference("v1"), pair.destination.reference("v1")
    found = await pair.copier.compare(*ends, AUTO, announced=after.digest, ask=True)
    assert (found.result, found.digest) == (None, after.digest)
    assert (await pair.copy(options=AUTO)).digest == after.digest
    await pair.destination.holds("v1", after)


async def test_what_was_left_out_is_asked_for_again_after_a_week(pair: Pair) -> None:
    root, now = mixed([(AMD64, {}), ENTRIES["soci"]]), 1e9
    await pair.source.push("v1", root)
    async with a_copier() as copier:
        copier.refused, copier.selections = RefusedKinds(clock=lambda: now), SelectionCache(clock=lambda: now)
        copier.refused.note(pair.destination.host, "team", SOCI)
        ends = pair.source.reference("v1"), pair.destination.reference("v1")
        for seconds, is_whole in ((0, False), (REFUSED_SECONDS - 1, False), (1, True)):
            now += seconds
            assert ((await copier.copy(*ends, options=AUTO)).digest == root.digest) is is_whole


async def test_an_index_of_refused_artifacts_alone_counts_as_refused_each_time(strict: Pair) -> None:
    await strict.source.push(
        "v1", mixed([(replace(artifact(CHART, 8), platform={}), {"platform": None}), ENTRIES["soci"]])
    )
    for _ in range(2):
        outcome = await strict.copy(options=AUTO)
        assert (outcome.result, outcome.note) == (
            Result.SKIPPED,
            "1 chart, 1 soci left out, which the registry refuses",
        )
        assert outcome.refused in ("chart", "soci")
