"""Copies: byte for byte, with as few requests as possible, the tag last."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from replicator.copy import Result, SourceNotFound
from replicator.copy.context import PUSH_AGAIN
from replicator.errors import ErrorClass
from replicator.registry.errors import NotFound
from replicator.replication.advice import explained
from tests.copy.conftest import Pair, RecordingLocks, a_copier
from tests.standins.blobs import Blob
from tests.standins.faults import Answer, Fault
from tests.standins.images import (
    Image,
    Index,
    attestation,
    blobs_of,
    fetch_raw,
    image,
    index,
    layer,
    manifests_of,
    multi_arch,
    put_manifest,
)
from tests.standins.layouts import write_directory

if TYPE_CHECKING:
    from pathlib import Path

KINDS: dict[str, Image | Index] = {
    "oci": image(1),
    "docker": image(2, docker=True),
    "large": image(3, (700_000, 200_000)),
    "foreign": image(4, foreign=True),
    "index": multi_arch(5, size=100_000),
    "list": multi_arch(6, docker=True, size=100_000),
    "attested": multi_arch(7, attested=True),
    "nested": index([index([multi_arch(8), image(9)]), image(9)]),
    "mixed": index([image(10, docker=True), image(11)]),
    "empty-config": index([image(12), attestation(image(12), empty_config=True)]),
    "no-layers": image(13, ()),
    "twice-the-same-layer": image(14, (10,), base=[layer(1), layer(1)]),
    "no-children": index([]),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_copy_is_equal_to_the_byte_and_a_second_one_sends_nothing(pair: Pair, kind: str) -> None:
    root = KINDS[kind]
    await pair.source.push("v1", root)
    pair.expect("v1", root)
    outcome = await pair.copy()
    await pair.destination.holds("v1", root)
    assert (outcome.result, outcome.digest) == (Result.COPIED, root.digest)
    assert outcome.blobs_copied == len(blobs_of(root))
    assert outcome.bytes == sum(blob.size for blob in blobs_of(root))
    assert outcome.manifests == len(manifests_of(root))
    for one in blobs_of(root):
        assert pair.source.faults.log.count("GET", f"/blobs/{one.digest}") == 1
    pair.clear()
    again = await pair.copy()
    assert (again.result, again.digest, again.bytes, again.manifests) == (Result.UP_TO_DATE, root.digest, 0, 0)
    assert pair.counts() == (1, 1)
    assert pair.source.faults.log.count("HEAD") == pair.destination.faults.log.count("HEAD") == 1


@pytest.mark.parametrize("announced", [False, True])
async def test_a_forced_copy_writes_the_tag_again_and_sends_no_blob(pair: Pair, announced: bool) -> None:
    root = multi_arch(5)
    await pair.source.push("v1", root)
    await pair.copy()
    pair.clear()
    async with a_copier() as copier:  # one that knows nothing of the first copy
        fresh = Pair(pair.source, pair.destination, copier)
        outcome = await fresh.copy(force=True, announced=root.digest if announced else None)
    assert (outcome.result, outcome.digest, outcome.bytes) == (Result.COPIED, root.digest, 0)
    log = pair.destination.faults.log
    assert log.count("PUT", "/manifests/v1") == 1
    assert log.count("PUT", "/blobs/") == 0


async def test_a_forced_copy_repairs_an_image_that_lost_a_child(pair: Pair) -> None:
    root = multi_arch(5)
    await pair.source.push("v1", root)
    await pair.copy()
    child = next(one for one in manifests_of(root) if one is not root)
    await pair.destination.delete(f"manifests/{child.digest}")
    async with a_copier() as copier:
        fresh = Pair(pair.source, pair.destination, copier)
        assert (await fresh.copy()).result is Result.UP_TO_DATE
        assert (await fresh.copy(force=True)).result is Result.COPIED
    await pair.destination.holds("v1", root)


@pytest.mark.parametrize("docker", [True, False])
async def test_what_skopeo_pushed_arrives_unchanged(pair: Pair, tmp_path: Path, docker: bool) -> None:
    root = multi_arch(1, docker=docker)
    write_directory(tmp_path, root)
    options = ("--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false")
    ends = (f"dir:{tmp_path}", f"docker://{pair.source.plain}/team/app:v1")
    push = await asyncio.create_subprocess_exec("skopeo", "copy", *options, *ends)
    assert await push.wait() == 0
    await pair.copy()
    await pair.destination.holds("v1", root)
    inspect = await asyncio.create_subprocess_exec(
        "skopeo",
        "inspect",
        "--raw",
        "--tls-verify=false",
        f"docker://{pair.destination.plain}/team/app:v1",
        stdout=asyncio.subprocess.PIPE,
    )
    raw, _ = await inspect.communicate()
    assert raw == root.content


async def test_a_copy_by_digest_takes_that_image_whatever_the_tag_says(pair: Pair) -> None:
    await pair.source.push("v1", image(1))
    await pair.source.push("v1", image(2))
    await pair.copy(image(1).digest, to="old")
    await pair.destination.holds("old", image(1))
    await pair.copy(image(2).digest, to=image(2).digest)
    await pair.destination.holds(image(2).digest, image(2))


def _floor(root: Image | Index, source: bool) -> int:
    """The fewest requests: a HEAD, then every manifest once, and a missing blob GET, or POST and PUT."""
    return 1 + len(manifests_of(root)) + len(blobs_of(root)) * (1 if source else 2)


async def test_a_copy_takes_the_minimum_of_requests(pair: Pair) -> None:
    warm, root = image(1), multi_arch(2, size=100_000)
    await pair.source.push("warm", warm)
    await pair.source.push("v1", root)
    await pair.copy("warm")
    pair.clear()
    await pair.copy()
    assert pair.counts() == (_floor(root, source=True), _floor(root, source=False))


async def test_the_very_first_copy_takes_few_requests_more(pair: Pair) -> None:
    root = multi_arch(2, size=100_000)
    await pair.source.push("v1", root)
    await pair.copy()
    large = sum(blob.size > 65536 for blob in blobs_of(root))
    source, destination = pair.counts()
    assert source == _floor(root, source=True)
    # A lookup per large blob, and one probe of a mount in place.
    assert destination <= _floor(root, source=False) + large + 1


async def test_a_blob_that_is_present_costs_at_most_one_request(pair: Pair) -> None:
    base = [layer(number, 100_000) for number in range(5)]
    old, new, warm = image(1, (100,), base=base), image(2, (100,), base=base), image(3)
    await pair.source.push("warm", warm)
    await pair.source.push("v2", new)
    # Another process copied the base; this one knows nothing of it.
    await pair.destination.push("v1", old)
    await pair.copy("warm")
    pair.clear()
    outcome = await pair.copy("v2")
    assert (outcome.blobs_present, outcome.blobs_copied) == (5, 2)
    # Both HEADs, config and layer (POST and PUT each), the base, the manifest.
    assert pair.counts()[1] == 1 + 2 * 2 + 5 + 1
    assert pair.source.faults.log.count("GET", "/blobs/") == 2
    await pair.destination.holds("v2", new)


async def test_a_known_image_under_another_tag_costs_one_put(pair: Pair) -> None:
    root = multi_arch(1)
    await pair.source.push("v1", root)
    await put_manifest(pair.source.plain, "team/app", "v2", root)
    await pair.copy("v1")
    pair.clear()
    await pair.copy("v2")
    assert [entry.method for entry in pair.destination.faults.log] == ["HEAD", "PUT"]
    assert pair.counts()[0] == 2
    await pair.destination.holds("v2", root)


async def test_a_blob_of_another_repository_is_mounted_not_sent(pair: Pair) -> None:
    root = image(1, (300_000,))
    await pair.source.push("v1", root)
    await pair.copy(name="one/app")
    pair.clear()
    outcome = await pair.copy(name="two/app")
    assert (outcome.blobs_mounted, outcome.blobs_copied, outcome.bytes) == (2, 0, 0)
    assert pair.source.faults.log.count("GET", "/blobs/") == 0
    assert pair.counts()[1] == 1 + 2 + 1
    await pair.destination.holds("v1", root, "two/app")


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_mount_is_not_asked_for_again(pair: Pair, status: int) -> None:
    root = image(1, (300_000, 200_000, 100_000))
    await pair.source.push("v1", root)
    await pair.copy(name="one/app")
    refusal = pair.destination.faults.add(Fault(Answer(status, "DENIED"), method="POST", query="from=one", times=None))
    pair.clear()
    outcome = await pair.copy(name="two/app")
    await pair.destination.holds("v1", root, "two/app")
    assert outcome.blobs_copied == 4
    assert refusal.hits <= 4
    again = pair.destination.faults.add(
        Fault(Answer(status, "DENIED"), method="POST", path="^/v2/three/", query="from=two", times=None)
    )
    await pair.copy(name="three/app")
    await pair.destination.holds("v1", root, "three/app")
    assert again.hits == 0


async def test_one_repository_that_refuses_mounts_does_not_end_all_mounts(pair: Pair) -> None:
    roots = [image(number, (300_000,)) for number in (1, 2, 3)]
    for number, root in enumerate(roots):
        await pair.source.push(f"v{number}", root)
    for number, name in enumerate(("one/app", "secret/app", "three/app")):
        await pair.copy(f"v{number}", name=name)
    pair.destination.faults.add(Fault(Answer(403, "DENIED"), method="POST", query="from=secret", times=None))
    outcomes = [await pair.copy(f"v{number}", name="all/app") for number in range(3)]
    assert [outcome.blobs_mounted for outcome in outcomes] == [2, 0, 2]
    await pair.destination.holds("v1", roots[1], "all/app")


async def test_a_mount_that_opens_an_upload_instead_is_used(pair: Pair) -> None:
    root = image(1, (300_000,))
    await pair.source.push("v1", root)
    await pair.copy(name="one/app")
    for blob in blobs_of(root):
        await pair.destination.delete(f"blobs/{blob.digest}", "one/app")
    pair.clear()
    outcome = await pair.copy(name="two/app")
    await pair.destination.holds("v1", root, "two/app")
    assert outcome.blobs_copied == 2
    # A HEAD for each tells that the other repository has lost it, so the registry may mount all the same.
    assert pair.counts()[1] == _floor(root, source=False) + 2


@pytest.mark.parametrize("why", ["lost", "refused"])
async def test_a_repository_that_does_not_give_its_blob_is_asked_once_to_mount_it(pair: Pair, why: str) -> None:
    """Where it has lost the blob, the other processes forget it too."""
    warm, lost = image(1, (100_000,)), image(2, (300_000,))
    blob = max(blobs_of(lost), key=lambda blob: blob.size)
    locks = RecordingLocks()
    async with a_copier(blob_locks=locks) as copier:
        fresh = Pair(pair.source, pair.destination, copier)
        for tag, root in (("warm", warm), ("v1", lost)):
            await pair.source.push(tag, root)
            await fresh.copy(tag, name="one/app")
        # Only a registry that has mounted a blob is asked again after it did not.
        assert (await fresh.copy("warm", name="two/app")).blobs_mounted == 2
        if why == "lost":
            await pair.destination.delete(f"blobs/{blob.digest}", "one/app")
        else:
            pair.destination.faults.add(Fault(Answer(403, "DENIED"), "POST", query="from=one", times=None))
        pair.destination.faults.add(Fault(Answer(500), "PUT", query=blob.digest.replace(":", "%3A")))
        pair.clear()
        await fresh.copy("v1", name="two/app")
    log = pair.destination.faults.log
    assert [entry.status for entry in log.select("PUT", query=blob.digest[7:])] == [500, 201]
    assert log.count("POST", query=f"mount=.*{blob.digest[7:]}.*from=one") == 1
    assert ((pair.destination.host, "one/app", blob.digest) in locks.forgotten) == (why == "lost")
    await pair.destination.holds("v1", lost, "two/app")


async def test_parts_that_the_destination_lost_are_copied_again(pair: Pair) -> None:
    root = index([multi_arch(1), image(2)])
    await pair.source.push("v1", root)
    await pair.copy()
    for blob in blobs_of(root):
        await pair.destination.delete(f"blobs/{blob.digest}")
    for manifest in reversed(manifests_of(root)):
        await pair.destination.delete(f"manifests/{manifest.digest}")
    pair.expect("v1", root)
    # The ledger trusts the old entries, so the first write of the tag fails; the watch must count only that one.
    outcome = await pair.copy()
    pair.destination.early.clear()
    assert outcome.result is Result.COPIED
    await pair.destination.holds("v1", root)


async def test_twenty_tags_at_once_send_a_shared_layer_once(pair: Pair) -> None:
    base = [layer(99, 500_000)]
    roots = {f"v{number}": image(number, (2000,), base=base) for number in range(20)}
    for tag, root in roots.items():
        await pair.source.push(tag, root)
        pair.expect(tag, root)
    await asyncio.gather(*(pair.copy(tag) for tag in roots))
    assert pair.source.faults.log.count("GET", f"/blobs/{base[0].digest}") == 1
    assert pair.destination.faults.log.count("PUT", query=base[0].digest.replace(":", "%3A")) == 1
    blobs = {blob.digest for root in roots.values() for blob in blobs_of(root)}
    assert pair.destination.faults.log.count("PUT", "/blobs/uploads/") == len(blobs)
    # HEAD and PUT per tag, POST and PUT per blob, one lookup of the large one, one probe.
    assert pair.counts()[1] <= 20 * 2 + 2 * len(blobs) + 2
    for tag, root in roots.items():
        await pair.destination.holds(tag, root)


async def test_the_same_tag_copied_twice_at_once_is_sent_once(pair: Pair) -> None:
    root = multi_arch(1)
    await pair.source.push("v1", root)
    await asyncio.gather(*(pair.copy() for _ in range(5)))
    assert pair.destination.faults.log.count("PUT", "/blobs/uploads/") == len(blobs_of(root))
    await pair.destination.holds("v1", root)


async def test_the_tag_is_the_last_thing_written(pair: Pair) -> None:
    root = multi_arch(1, attested=True)
    await pair.source.push("v1", root)
    await pair.copy()
    writes = [entry for entry in pair.destination.faults.log if entry.method == "PUT"]
    assert writes[-1].path.endswith("/manifests/v1")
    children = [place for place, entry in enumerate(writes) if "/manifests/sha256:" in entry.path]
    assert len(children) == 5, "each once, and one of the attestations before that, to ask whether it is taken"
    by_digest = {entry.query: place for place, entry in enumerate(writes)}
    for child in root.children:
        assert isinstance(child, Image)
        at = max(place for place in children if child.digest in writes[place].path)
        for blob in child.blobs:
            assert max(place for query, place in by_digest.items() if blob.digest[7:] in query) < at


async def test_a_push_between_head_and_get_does_not_mix_two_images(pair: Pair) -> None:
    old, new = multi_arch(1), multi_arch(2)
    await pair.source.push("v1", old)

    class Pushing:
        hits = 0

    original = pair.source.faults._handler

    async def pushing(request: object) -> object:
        if getattr(request, "method", "") == "GET" and not Pushing.hits:
            Pushing.hits = 1
            await pair.source.push("v1", new)
        return await original(request)  # type: ignore[arg-type]  # passed through

    pair.source.faults._handler = pushing  # type: ignore[assignment]  # as above
    outcome = await pair.copy()
    assert outcome.digest == old.digest
    await pair.destination.holds("v1", old)
    assert (await pair.copy()).digest == new.digest
    await pair.destination.holds("v1", new)


async def test_an_absent_source_is_not_yet_there(pair: Pair) -> None:
    with pytest.raises(SourceNotFound, match="v1") as caught:
        await pair.copy()
    assert caught.value.error_class is ErrorClass.NOT_YET
    assert pair.destination.faults.log.count("PUT") == pair.destination.faults.log.count("POST") == 0


async def test_a_child_that_the_source_lost_is_named(pair: Pair) -> None:
    root = multi_arch(1)
    await pair.source.push("v1", root)
    await pair.source.delete(f"manifests/{root.children[1].digest}")
    with pytest.raises(NotFound, match=f"{root.digest} lists the child {root.children[1].digest}") as caught:
        await pair.copy()
    assert explained(caught.value).do == PUSH_AGAIN
    assert not await pair.destination.has_tag("v1")


async def test_an_empty_blob_is_copied(pair: Pair) -> None:
    root = image(1, (5,), base=[Blob("application/vnd.oci.image.layer.v1.tar", b"")])
    await pair.source.push("v1", root)
    await pair.copy()
    await pair.destination.holds("v1", root)


async def test_a_retag_within_one_repository_sends_no_blob(pair: Pair) -> None:
    root = image(1)
    await pair.source.push("v1", root)
    async with a_copier() as copier:
        await copier.copy(pair.source.reference("v1"), pair.source.reference("v2"))
    assert await fetch_raw(pair.source.plain, "team/app", "v2") == (root.content, root.media_type)


async def test_a_copy_within_one_registry_mounts_what_the_source_has(pair: Pair) -> None:
    root = image(1, (300_000,))
    await pair.source.push("v1", root)
    async with a_copier() as copier:
        outcome = await copier.copy(pair.source.reference("v1"), pair.source.reference("v1", "other/app"))
    assert (outcome.blobs_mounted, outcome.blobs_copied) == (2, 0)
    await pair.source.holds("v1", root, "other/app")
