"""Selections are computed once for all processes, and a listed digest saves the request for the tag."""

from __future__ import annotations

import json
import tempfile
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.copy import AttestationsFound, Result, SourceNotFound, selection_key
from replicator.copy.options import ALGORITHM, ANYWHERE, VERBATIM, Attestations, CopyOptions
from replicator.copy.selection import CachedSelection, Selection, SelectionCache, _parse, _serialize
from replicator.queue import Queue, RedisSelectionStore
from replicator.reference import Platform
from replicator.registry import Manifest
from replicator.registry.manifest import OCI_INDEX
from tests.copy.conftest import Pair, a_copier
from tests.queue.servers import RedisServer
from tests.standins.images import attestation, fetch_raw, image, index, multi_arch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from replicator.copy import Comparison, Copier
    from tests.standins.images import Image, Index

AMD64 = image(1, architecture="amd64")
ARM64 = image(2, architecture="arm64")
BOTH = index([AMD64, ARM64])
SIGNED_OFF = index([AMD64, attestation(AMD64, 2, empty_config=True)])
ARM_ONLY = image(3, architecture="arm64")

ONE_PLATFORM = CopyOptions((Platform("linux", "amd64"),))
STRIP = CopyOptions(attestations=Attestations.STRIP)
STRIP_REFUSED = CopyOptions(attestations=Attestations.STRIP_REFUSED)
FAIL = CopyOptions(attestations=Attestations.FAIL)
DIGEST = "sha256:" + "1" * 64
OTHER = "sha256:" + "2" * 64
EMPTY_CONFIG = "application/vnd.oci.empty.v1+json"


@pytest.fixture
async def queue() -> AsyncIterator[Queue]:
    # The path of a Unix socket must be short.
    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as directory, RedisServer(Path(directory)) as server:
        async with await Queue.connect(server.url) as queue:
            yield queue


@asynccontextmanager
async def a_process(queue: Queue) -> AsyncIterator[Copier]:
    """A copier with an empty cache and the store in Redis, which it has written to at the end."""
    async with aclosing(RedisSelectionStore(queue)) as memory, a_copier(selection_store=memory) as copier:
        yield copier


async def compare(
    pair: Pair, copier: Copier, options: CopyOptions, announced: str | None = None, *, read: bool = True
) -> Comparison:
    """Compare, with empty request logs."""
    pair.clear()
    source, destination = pair.source.reference("v1"), pair.destination.reference("v1")
    return await copier.compare(source, destination, options, announced=announced, read=read)


def asked(pair: Pair) -> tuple[list[str], list[str]]:
    """Return the requests to source and destination: method, and tag or digest."""
    source, destination = [
        [f"{entry.method} {entry.path.rpartition('/')[2]}" for entry in end.faults.log]
        for end in (pair.source, pair.destination)
    ]
    return source, destination


class Dictionary:
    """A store that counts its requests."""

    def __init__(self, known: dict[str, str] | None = None) -> None:
        self.known = known if known is not None else {}
        self.asked: list[int] = []

    async def recall(self, names: Sequence[str]) -> list[str | None]:
        self.asked.append(len(names))
        return [self.known.get(name) for name in names]

    def note(self, name: str, text: str) -> None:
        self.known[name] = text


async def test_a_listed_image_costs_one_request_whether_it_is_present_or_not(pair: Pair) -> None:
    root = multi_arch(1)
    await pair.source.push("v1", root)
    one_request: tuple[list[str], list[str]] = ([], ["HEAD v1"])
    found = await compare(pair, pair.copier, VERBATIM, root.digest)
    assert asked(pair) == one_request
    assert (found.result, found.announced, found.digest, found.present) == (None, root.digest, root.digest, None)
    await pair.destination.push("v1", AMD64)
    found = await compare(pair, pair.copier, VERBATIM, root.digest)
    assert asked(pair) == one_request
    assert (found.result, found.digest, found.present) == (None, root.digest, AMD64.digest)
    await pair.destination.push("v1", root)
    found = await compare(pair, pair.copier, VERBATIM, root.digest)
    assert asked(pair) == one_request
    assert (found.result, found.announced, found.digest) == (Result.UP_TO_DATE, root.digest, root.digest)


async def test_a_listed_image_with_a_selection_is_read_once_and_by_its_digest(pair: Pair) -> None:
    await pair.source.push("v1", BOTH)
    found = await compare(pair, pair.copier, ONE_PLATFORM, BOTH.digest)
    source, destination = asked(pair)
    assert destination == ["HEAD v1"]
    assert source[0] == f"GET {BOTH.digest}"
    assert all(line.startswith("GET sha256:") for line in source)
    assert (found.result, found.announced, found.present) == (None, BOTH.digest, None)
    assert found.digest not in (None, BOTH.digest)
    for content in (None, AMD64):
        if content is not None:
            await pair.destination.push("v1", content)
        again = await compare(pair, pair.copier, ONE_PLATFORM, BOTH.digest)
        assert asked(pair) == ([], ["HEAD v1"])
        assert (again.result, again.announced, again.digest, again.note) == (
            None,
            BOTH.digest,
            found.digest,
            found.note,
        )
        assert again.present == (content and content.digest)
    await pair.copy(options=ONE_PLATFORM)
    again = await compare(pair, pair.copier, ONE_PLATFORM, BOTH.digest)
    assert asked(pair) == ([], ["HEAD v1"])
    assert (again.result, again.digest, again.note) == (Result.UP_TO_DATE, found.digest, found.note)


async def test_a_listed_image_that_will_be_copied_anyway_is_left_to_the_copy(pair: Pair) -> None:
    await pair.source.push("v1", BOTH)
    found = await compare(pair, pair.copier, ONE_PLATFORM, BOTH.digest, read=False)
    assert asked(pair) == ([], ["HEAD v1"])
    assert (found.result, found.announced, found.digest, found.present) == (None, BOTH.digest, None, None)
    # The destination has something, which may be just the selection.
    await pair.copy(options=ONE_PLATFORM)
    async with a_copier() as another:
        found = await compare(pair, another, ONE_PLATFORM, BOTH.digest, read=False)
    assert asked(pair)[1] == ["HEAD v1"]
    assert found.result is Result.UP_TO_DATE


async def test_an_image_that_no_list_showed_is_left_to_its_copy_too_where_the_destination_has_nothing(
    pair: Pair,
) -> None:
    await pair.source.push("v1", BOTH)
    found = await compare(pair, pair.copier, ONE_PLATFORM, read=False)
    assert asked(pair) == (["HEAD v1"], ["HEAD v1"])
    assert (found.result, found.announced, found.digest, found.present) == (None, BOTH.digest, None, None)


async def test_a_listed_image_that_is_present_unchanged_is_up_to_date_with_strip_refused(
    pair: Pair,
) -> None:
    await pair.source.push("v1", SIGNED_OFF)
    await pair.destination.push("v1", SIGNED_OFF)
    found = await compare(pair, pair.copier, STRIP_REFUSED, SIGNED_OFF.digest)
    assert asked(pair) == ([], ["HEAD v1"])
    assert (found.result, found.digest) == (Result.UP_TO_DATE, SIGNED_OFF.digest)
    # With `strip` it is not.
    found = await compare(pair, pair.copier, STRIP, SIGNED_OFF.digest)
    assert (found.result, found.present) == (None, SIGNED_OFF.digest)
    assert found.digest not in (None, SIGNED_OFF.digest)


@pytest.mark.parametrize("options", [ONE_PLATFORM, STRIP, STRIP_REFUSED, FAIL], ids=str)
async def test_a_listed_image_that_was_deleted_meanwhile_is_not_found(pair: Pair, options: CopyOptions) -> None:
    await pair.source.push("v1", AMD64)
    with pytest.raises(SourceNotFound):
        await compare(pair, pair.copier, options, OTHER)


async def test_forbidden_attestations_of_a_listed_image_are_an_error_each_time(pair: Pair) -> None:
    await pair.source.push("v1", SIGNED_OFF)
    for _ in range(2):
        with pytest.raises(AttestationsFound):
            await compare(pair, pair.copier, FAIL, SIGNED_OFF.digest)


async def test_a_tag_that_moved_since_it_was_listed_is_copied_as_it_is_now(pair: Pair) -> None:
    await pair.source.push("v1", AMD64)
    await pair.destination.push("v1", AMD64)
    assert (await compare(pair, pair.copier, VERBATIM, AMD64.digest)).result is Result.UP_TO_DATE
    await pair.source.push("v1", ARM64)
    assert (await compare(pair, pair.copier, VERBATIM, OTHER)).digest == OTHER
    outcome = await pair.copy(announced=OTHER)
    assert (outcome.result, outcome.digest, outcome.source_digest) == (Result.COPIED, ARM64.digest, ARM64.digest)


@pytest.mark.parametrize(
    ("root", "options"),
    [(BOTH, ONE_PLATFORM), (SIGNED_OFF, STRIP_REFUSED), (AMD64, ONE_PLATFORM), (ARM_ONLY, ONE_PLATFORM)],
    ids=["less", "stripped", "whole", "nothing"],
)
@pytest.mark.parametrize("listed", [True, False])
async def test_a_second_process_reads_no_manifest(
    pair: Pair, queue: Queue, root: Image | Index, options: CopyOptions, listed: bool
) -> None:
    await pair.source.push("v1", root)
    place = pair.destination.host, "team", EMPTY_CONFIG
    pair.copier.refused.note(*place)
    await pair.copy(options=options)
    announced = root.digest if listed else None
    async with a_process(queue) as first:
        first.refused.note(*place)
        found = await compare(pair, first, options, announced)
        assert any(line.startswith("GET") for line in asked(pair)[0])
    async with a_process(queue) as second:
        second.refused.note(*place)
        again = await compare(pair, second, options, announced)
        assert asked(pair) == ([] if listed else ["HEAD v1"], ["HEAD v1"])
    assert found.result in (Result.UP_TO_DATE, Result.SKIPPED)
    assert (again.result, again.announced, again.digest, again.note) == (
        found.result,
        found.announced,
        found.digest,
        found.note,
    )


async def test_a_copy_uses_the_selection_of_another_process(pair: Pair, queue: Queue) -> None:
    await pair.source.push("v1", BOTH)
    async with a_process(queue) as first:
        await first.copy(pair.source.reference("v1"), pair.destination.reference("v1"), options=ONE_PLATFORM)
    content, _ = await fetch_raw(pair.destination.plain, "team/app", "v1")
    for announced in (None, BOTH.digest):
        async with a_process(queue) as second:
            pair.clear()
            outcome = await second.copy(
                pair.source.reference("v1"),
                pair.destination.reference("v1"),
                options=ONE_PLATFORM,
                announced=announced,
            )
        assert (outcome.result, outcome.source_digest) == (Result.UP_TO_DATE, BOTH.digest)
        assert outcome.digest not in (None, BOTH.digest)
        assert asked(pair) == ([] if announced else ["HEAD v1"], ["HEAD v1"])
    assert len(json.loads(content)["manifests"]) == 1


async def test_a_batch_is_prefetched_in_one_round_trip_and_nothing_twice(pair: Pair) -> None:
    memory = Dictionary({selection_key(f"sha256:{number:064}", ONE_PLATFORM): f"{OTHER} less" for number in range(500)})
    images = [(f"sha256:{number:064}", ONE_PLATFORM, ANYWHERE) for number in range(500)]
    async with a_copier(selection_store=memory) as copier:
        await copier.selections.prefetch([*images, (DIGEST, VERBATIM, ANYWHERE), *images])
        assert memory.asked == [500]
        await copier.selections.prefetch(images)
        found = await compare(pair, copier, ONE_PLATFORM, images[7][0])
        assert (found.result, found.digest, found.note) == (None, OTHER, "less")
    assert memory.asked == [500]


async def test_redis_is_asked_for_500_in_one_script(queue: Queue) -> None:
    async with aclosing(RedisSelectionStore(queue)) as memory:
        for number in range(1200):
            memory.note(f"n{number}", f"= {number}")
    scripts: list[str] = []
    run_script = queue.run_script

    async def counted(name: str, *arguments: str | bytes | float) -> object:
        scripts.append(name)
        return await run_script(name, *arguments)

    queue.run_script = counted  # type: ignore[method-assign]  # to count, not to change what it does
    async with aclosing(RedisSelectionStore(queue)) as memory:
        names = [f"n{number}" for number in range(1200)]
        assert await memory.recall([*names, "unknown"]) == [*(f"= {number}" for number in range(1200)), None]
    assert scripts == ["recall"] * 3


async def test_verbatim_options_never_use_the_shared_store(pair: Pair) -> None:
    memory = Dictionary()
    await pair.source.push("v1", BOTH)
    async with a_copier(selection_store=memory) as copier:
        await copier.copy(pair.source.reference("v1"), pair.destination.reference("v1"))
        await compare(pair, copier, VERBATIM, DIGEST)
        await compare(pair, copier, VERBATIM)
    assert (memory.asked, memory.known) == ([], {})


@pytest.mark.parametrize("text", ["", "=", "x", "sha256:12 ", "latest less", "\ufffd\ufffd less", "=" * 5000])
async def test_an_invalid_shared_entry_is_replaced(pair: Pair, text: str) -> None:
    await pair.source.push("v1", BOTH)
    memory = Dictionary({selection_key(BOTH.digest, ONE_PLATFORM): text})
    async with a_copier(selection_store=memory) as copier:
        found = await compare(pair, copier, ONE_PLATFORM, BOTH.digest)
    assert found.selection is not None
    assert found.digest not in (None, BOTH.digest)
    assert memory.known == {selection_key(BOTH.digest, ONE_PLATFORM): f"{found.digest} {found.note}"}


async def test_without_redis_the_image_is_read(pair: Pair) -> None:
    await pair.source.push("v1", BOTH)
    async with await Queue.connect("unix:///nowhere/redis.sock") as queue, a_process(queue) as process:
        found = await compare(pair, process, ONE_PLATFORM, BOTH.digest)
    assert found.digest not in (None, BOTH.digest)


def test_a_very_long_note_is_not_shared() -> None:
    memory = Dictionary()
    cache = SelectionCache(memory)
    cache.add(DIGEST, ONE_PLATFORM, Selection(None, note="x" * 5000))
    assert memory.known == {}
    assert cache.get(DIGEST, ONE_PLATFORM) == CachedSelection(None, "x" * 5000)


@given(st.sampled_from([None, DIGEST, OTHER]), st.text(max_size=200))
def test_a_shared_entry_survives_a_round_trip(digest: str | None, note: str) -> None:
    assert _parse(DIGEST, _serialize(DIGEST, CachedSelection(digest, note))) == CachedSelection(digest, note)


@given(st.text(max_size=300))
def test_any_parsed_entry_has_a_digest_or_none(text: str) -> None:
    entry = _parse(DIGEST, text)
    assert entry is None or entry.digest is None or entry.digest == DIGEST or entry.digest.startswith("sha")


def test_a_key_differs_by_image_options_and_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    wishes = [VERBATIM, ONE_PLATFORM, STRIP, STRIP_REFUSED, FAIL]
    names = {selection_key(digest, wish) for digest in (DIGEST, OTHER) for wish in wishes}
    assert len(names) == 2 * len(wishes)
    # Signatures do not change the selection.
    signed = CopyOptions(ONE_PLATFORM.platforms, signatures=True)
    assert selection_key(DIGEST, signed) == selection_key(DIGEST, ONE_PLATFORM)
    monkeypatch.setattr("replicator.copy.options.ALGORITHM", ALGORITHM + 1)
    assert selection_key(DIGEST, ONE_PLATFORM) not in names


async def test_a_selection_without_what_is_refused_is_made_anew_when_the_refusal_is_forgotten() -> None:
    stored = CachedSelection(OTHER, "1 chart left out", 1000.0)
    assert _parse(DIGEST, _serialize(DIGEST, stored)) == stored
    now = 999.0
    cache = SelectionCache(clock=lambda: now)
    rewritten = Manifest(OCI_INDEX, OTHER, b"")
    cache.add(DIGEST, STRIP_REFUSED, Selection(rewritten, note="1 chart left out", until=1000.0))
    assert cache.get(DIGEST, STRIP_REFUSED) == stored
    now = 1000.0
    assert cache.get(DIGEST, STRIP_REFUSED) is None
