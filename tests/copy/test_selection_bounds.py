"""Selection from synthetic indexes: it is deterministic and bounded."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.copy.context import CopyContext
from replicator.copy.options import CopyOptions
from replicator.copy.selection import MAX_DEPTH, CachedSelection, Selection, SelectionCache, select
from replicator.reference import Platform, Reference
from replicator.registry.errors import UnsupportedManifest
from replicator.registry.manifest import OCI_INDEX, Descriptor, Manifest, digest_of, parse_manifest
from tests.standins.images import image, index

AMD64 = image(1, architecture="amd64")
S390X = image(4, architecture="s390x")


def only(*platforms: str) -> CopyOptions:
    return CopyOptions(tuple(map(Platform.parse, platforms)))


class Unread:
    """A reader for indexes whose children need no inspection."""

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


async def _select(root: Manifest, options: CopyOptions, reader: Unread | Shelf | None = None) -> Selection:
    reference = Reference.parse("h.example.com/team/app:v1")
    # Nothing else of a reader is used, and nothing of the repositories.
    context = CopyContext(reference, reference, None, None, options, reader or Unread(), print)  # type: ignore[arg-type]  # unused here
    return await select(root, context)


@given(
    ENTRIES, st.lists(st.sampled_from(ARCHITECTURES), min_size=1, unique=True), st.text(), st.sampled_from([None, 3])
)
async def test_selection_is_a_pure_function_that_only_leaves_out(
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
    # Selecting again changes nothing.
    again = await _select(first.manifest, options)
    assert again.manifest is first.manifest


async def test_an_index_with_nan_is_not_rewritten() -> None:
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
    with pytest.raises(UnsupportedManifest, match="can't be rewritten"):
        await _select(root, only("linux/amd64"))


def test_cached_selections_are_bounded_and_the_most_recently_used_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.copy.selection._MAX_ENTRIES", 10)
    cache, options = SelectionCache(), only("linux/amd64")
    for number in range(100):
        cache.add(f"sha256:{number}", options, Selection(None, note="nothing"))
    assert len(cache._entries) == 10
    assert cache.get("sha256:99", options) == CachedSelection(None, "nothing")
    assert cache.get("sha256:1", options) is None
    # What is used, or added again, stays longest.
    cache.get("sha256:90", options)
    cache.add("sha256:91", options, Selection(None, note="nothing"))
    for number in range(8):
        cache.add(f"sha512:{number}", options, Selection(None, note="nothing"))
    assert {key for key, *_ in cache._entries if key.startswith("sha256")} == {"sha256:90", "sha256:91"}


class Shelf:
    """A reader of synthetic manifests; it counts how often each is read, and how many are in memory."""

    def __init__(self, *manifests: Manifest) -> None:
        self.read: list[str] = []
        self.held = self.most = 0
        self._manifests = {one.digest: one for one in manifests}

    async def child(self, child: Descriptor, index: str) -> Manifest:
        self.read.append(child.digest)
        self.held += 1
        self.most = max(self.most, self.held)
        return self._manifests[child.digest]

    async def platform(self, image: Manifest) -> Platform | None:
        await asyncio.sleep(0)
        self.held -= 1
        return Platform("linux", "amd64")


def _nested(*children: Manifest, times: int = 1, word: str = "") -> Manifest:
    rows = [{"mediaType": one.media_type, "digest": one.digest, "size": len(one.content)} for one in children]
    return _index({"schemaVersion": 2, "manifests": rows * times, "word": word})


async def test_an_index_listed_a_thousand_times_at_each_level_is_inspected_once() -> None:
    """Otherwise four levels would take 10^12 inspections."""
    inner = levels = _index({"schemaVersion": 2, "manifests": []})
    shelf = [inner]
    for _ in range(3):
        levels = _nested(levels, times=1000)
        shelf.append(levels)
    reader = Shelf(*shelf)
    chosen = await _select(_nested(levels), only("linux/amd64"), reader)
    assert chosen.manifest is not None
    assert sorted(reader.read) == sorted(one.digest for one in shelf)


async def test_nested_indexes_are_bounded() -> None:
    large = [_index({"schemaVersion": 2, "manifests": [], "word": f"{number}" * 3_000_000}) for number in range(6)]
    with pytest.raises(UnsupportedManifest, match="nested indexes are larger"):
        await _select(_nested(*large), only("linux/amd64"), Shelf(*large))
    await _select(_nested(*large[:5]), only("linux/amd64"), Shelf(*large))


async def test_few_children_are_in_memory_at_once_while_their_configs_are_read() -> None:
    made = [parse_manifest(one.content, one.media_type, one.digest) for one in (image(seed) for seed in range(50))]
    reader = Shelf(*made)
    await _select(_nested(*made), only("linux/amd64"), reader)
    assert len(reader.read) == 50
    assert reader.most <= 8


async def test_an_index_nested_as_deep_as_can_be_read_is_refused_without_a_crash() -> None:
    rows = index([AMD64, S390X])

    def nested(depth: int) -> Manifest | None:
        content = rows.content[:-1] + b', "deep": ' + b"[" * depth + b"]" * depth + b"}"
        with contextlib.suppress(ValueError):
            return parse_manifest(content, OCI_INDEX, digest_of(content))
        return None

    # How deep can be read depends on Python: 3.11 counts about 1,000 levels, 3.13 about 10,000.
    limit = bisect.bisect_left(range(100_000), x=True, key=lambda depth: nested(depth) is None)
    assert 100 < limit < 100_000, "the limit was not met"
    for depth in range(limit - 60, limit):
        root = nested(depth)
        if root is not None:
            with contextlib.suppress(UnsupportedManifest):
                await _select(root, only("linux/amd64"))


async def test_a_rewritten_index_keeps_the_algorithm_of_its_digest() -> None:
    content = index([AMD64, S390X]).content
    chosen = await _select(parse_manifest(content, OCI_INDEX, digest_of(content, "sha512:")), only("linux/amd64"))
    assert chosen.manifest is not None
    assert chosen.manifest.digest == digest_of(chosen.manifest.content, "sha512:")


async def test_indexes_nested_too_deep_are_refused() -> None:
    levels = [_index({"schemaVersion": 2, "manifests": []})]
    for depth in range(7):
        levels.append(_nested(levels[-1]))
        chosen = _select(levels[-1], only("linux/amd64"), Shelf(*levels))
        if depth < MAX_DEPTH:
            assert (await chosen).manifest is levels[-1]
        else:
            with pytest.raises(UnsupportedManifest, match="nested more than 4 deep"):
                await chosen
