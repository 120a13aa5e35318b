"""Selection of the parts of an image to copy (all, an index with fewer children, or nothing), and a cache of it.

The selection depends only on the source's bytes, on the options, and on which kinds of artifacts the destination is
known to refuse; so the digest of the destination's tag is known before it is written, and the same each time. A
rewritten index keeps the order and all other fields of the original, as compact JSON.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cachetools import LRUCache

from replicator.copy.context import AttestationsFound
from replicator.copy.options import ANYWHERE, Attestations, deciding_place, selection_key
from replicator.reference import is_digest
from replicator.registry import Manifest
from replicator.registry.errors import UnsupportedManifest
from replicator.registry.kinds import artifact_kind, deciding_type, is_image, is_plain_image
from replicator.registry.manifest import digest_of, entries, parse_manifest
from replicator.tasks import gather_all

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from replicator.copy.context import CopyContext
    from replicator.copy.ledger import SelectionStore
    from replicator.copy.options import CopyOptions, Namespace
    from replicator.reference import Platform
    from replicator.registry import Descriptor

MAX_DEPTH = 4
"""Levels of nested indexes; no builder makes more."""
MAX_NESTED_BYTES = 16 * 1024 * 1024
"""Bytes of all nested indexes of one image: they are held in memory."""
_MAX_UNKNOWN = 4
"""Manifests that are kept to ask the destination about their kinds, each up to 4 MiB."""
_MAX_INSPECTED = 8
"""Children inspected at once, each with up to 4 MiB of manifest and 4 MiB of config."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The content that the destination will hold.

    Attributes:
        manifest: the manifest that its tag will point to; None if the options select nothing of the image.
        rewritten: the nested indexes that exist in no registry yet, by digest.
        note: the parts that were left out, in words; empty if there are none.
        otherwise: the selection if the destination refused the kinds of which that is not known; None if all are known.
        refused: where nothing is left to copy because the destination refuses its kind, a manifest of that kind.
        unknown: of an ``otherwise``, manifests that it leaves out although no refusal of their kinds is known; not all.
        until: when the first of the refusals for which it leaves something out is forgotten, in seconds since 1970.
    """

    manifest: Manifest | None
    rewritten: Mapping[str, Manifest] = field(default_factory=dict)
    note: str = ""
    otherwise: Selection | None = None
    refused: Manifest | None = None
    unknown: tuple[Manifest, ...] = ()
    until: float = math.inf


async def select(root: Manifest, context: CopyContext) -> Selection:
    """Select what is copied of the image ``root`` under the options of the copy.

    Raises:
        AttestationsFound: the image has attestations, and the options forbid them.
        UnsupportedManifest: an index can't be rewritten, or is nested too deeply.
        RegistryError: the source refused, failed or sent other bytes.
    """
    if context.options.is_verbatim:
        return Selection(root)
    if note := unwanted(root, context.options):
        return Selection(None, note=note)
    try:
        selector = _Selector(context)
        selection = await selector.select(root)
        if not selector.unknown:
            return selection
        otherwise = await _Selector(context, unknown=False).select(root)
        return replace(selection, otherwise=replace(otherwise, unknown=tuple(selector.unknown.values())))
    except RecursionError as error:
        # Reading the JSON succeeded with a shallower stack than writing it.
        deep = UnsupportedManifest("its JSON is nested too deeply to be rewritten")
        raise deep.at(context.source.registry, root.digest) from error


def unwanted(root: Manifest, options: CopyOptions) -> str:
    """Return why an artifact is not copied because of its type; empty if it is."""
    if not options.types:
        return ""
    config = root.config.media_type if root.config is not None else ""
    return options.unwanted(artifact_kind(root), root.artifact_type.lower(), config.lower())


@dataclass(frozen=True, slots=True)
class _SelectedIndex:
    """The selected parts of an index.

    Attributes:
        index: the index with the selected children: the original if that is all of them, None if it is none.
        unchanged: digests of the images and indexes in it that are copied as they are, its own included.
    """

    index: Manifest | None
    unchanged: frozenset[str]


class _Selector:
    """Selects from one image.

    Args:
        context: the copy this belongs to.
        unknown: whether it keeps a child although it is unknown whether the destination refuses its kind.

    Attributes:
        unknown: such children, one for each kind; the first `_MAX_UNKNOWN` kinds.
    """

    def __init__(self, context: CopyContext, *, unknown: bool = True) -> None:
        self.unknown: dict[str, Manifest] = {}
        self._until = math.inf
        self._keeps_unknown = unknown
        self._context = context
        self._options: CopyOptions = context.options
        self._reader = context.reader
        self._registry = context.source.registry
        self._rewritten: dict[str, Manifest] = {}
        self._inspections = asyncio.Semaphore(_MAX_INSPECTED)
        self._nested: dict[str, _SelectedIndex] = {}
        self._nested_bytes = 0
        self._images = 0
        self._left_out = 0
        self._attestations = 0
        self._refused: Counter[str] = Counter()
        self._last_refused: Manifest | None = None

    async def select(self, root: Manifest) -> Selection:
        wanted = ", ".join(map(str, self._options.platforms))
        if not root.is_index:
            if not self._options.platforms or not is_image(root):
                return Selection(root)
            platform = await self._reader.platform(root)
            if self._matches(platform):
                return Selection(root)
            return Selection(None, note=f"its platform is {platform or 'not given'}, not {wanted}")
        selected = (await self._select_index(root, 0)).index
        if selected is None:
            if self._last_refused is not None and not self._left_out:
                return Selection(None, note=self._note(wanted), refused=self._last_refused)
            return Selection(None, note=f"none of its images is for {wanted}" if wanted else "it has only attestations")
        self._rewritten.pop(selected.digest, None)
        return Selection(selected, self._rewritten, self._note(wanted), until=self._until)

    def _note(self, wanted: str) -> str:
        parts = []
        if self._left_out:
            parts.append(f"{self._left_out} of {self._images} images left out, as only {wanted} is wanted")
        if self._attestations:
            parts.append(f"{_counted(self._attestations, 'attestation')} left out")
        if self._refused:
            kinds = ", ".join(_counted(count, kind) for kind, count in sorted(self._refused.items()))
            parts.append(f"{kinds} left out, which the registry refuses")
        return "; ".join(parts)

    async def _select_index(self, index: Manifest, depth: int) -> _SelectedIndex:
        if depth > MAX_DEPTH:
            raise self._unsupported(index.digest, f"indexes nested more than {MAX_DEPTH} deep can't be copied")
        children = entries(index)
        # One nested index after the other: each is in memory while its children are inspected.
        nested = {
            child.digest: await self._select_nested(child, index.digest, depth) for child in children if _nests(child)
        }
        wanted = await gather_all(self._is_wanted(child, index.digest) for child in children)
        kept: list[Descriptor | Manifest | None] = []
        unchanged: set[str] = set()
        for child, is_wanted in zip(children, wanted, strict=True):
            if _nests(child):
                selected = nested[child.digest]
            else:
                selected = _SelectedIndex(None, frozenset({child.digest} if is_wanted else ()))
            unchanged |= selected.unchanged
            kept.append(child if child.digest in selected.unchanged else selected.index)
        # An attestation stays with its image, so it is decided on once all images are.
        attested = await gather_all(self._select_attestation(child, index.digest, unchanged) for child in children)
        chosen = [one if one is not None else other for one, other in zip(kept, attested, strict=True)]
        result = self._rewrite(index, children, chosen)
        return _SelectedIndex(result, frozenset({*unchanged, *([index.digest] if result is index else ())}))

    async def _select_nested(self, child: Descriptor, index: str, depth: int) -> _SelectedIndex:
        """Select from an index within an index, once however often it is listed."""
        if child.digest not in self._nested:
            nested = await self._reader.child(child, index)
            self._nested_bytes += len(nested.content)
            if self._nested_bytes > MAX_NESTED_BYTES:
                raise self._unsupported(index, f"its nested indexes are larger than {MAX_NESTED_BYTES} bytes")
            refused = not is_plain_image(nested) and self._context.may_leave_out(attestation=False)
            if refused and await self._context.verdict(nested):
                await self._leave_out(nested, artifact_kind(nested))
                self._nested[child.digest] = _SelectedIndex(None, frozenset())
            else:
                self._nested[child.digest] = await self._select_index(nested, depth + 1)
        return self._nested[child.digest]

    async def _is_wanted(self, child: Descriptor, index: str) -> bool:
        """Tell whether a child is a wanted image or other artifact; nested indexes and attestations are not."""
        if _nests(child) or child.is_attestation:
            return False
        wanted = not self._options.platforms or await self._has_wanted_platform(child, index)
        if wanted and await self._is_refused(child, index):
            return False
        self._images += 1
        self._left_out += not wanted
        return wanted

    async def _is_refused(self, child: Descriptor, index: str) -> bool:
        """Tell whether the destination refuses the kind of a child that may be left out then."""
        if not self._context.may_leave_out(attestation=child.is_attestation):
            return False
        # The entry of an image has a platform and no type of an artifact: it is read only by the copy.
        known = child.digest in self._context.left_out
        if not known and child.platform is not None and not child.artifact_type and not child.is_attestation:
            return False
        async with self._inspections:
            manifest = await self._reader.child(child, index)
        # An index that is an attestation is left out without a question: it has no kind of its own.
        if not known and not (child.is_attestation and manifest.is_index):
            verdict = None if is_plain_image(manifest) else await self._context.verdict(manifest)
            # Registries of images take what has the config of one, as older attestations do; else they will say so.
            if verdict is None and not is_image(manifest) and not is_plain_image(manifest):
                if len(self.unknown) < _MAX_UNKNOWN:
                    self.unknown[deciding_type(manifest)] = manifest
                verdict = not self._keeps_unknown
            if not verdict:
                return False
        await self._leave_out(manifest, "attestation" if child.is_attestation else artifact_kind(manifest))
        return True

    async def _leave_out(self, manifest: Manifest, kind: str) -> None:
        """Count a child that the destination refuses."""
        self._refused[kind] += 1
        self._last_refused = manifest
        self._until = min(self._until, await self._context.kinds.until(*self._context.place, deciding_type(manifest)))

    async def _has_wanted_platform(self, child: Descriptor, index: str) -> bool:
        if child.platform is not None:
            return self._matches(child.platform)
        async with self._inspections:
            manifest = await self._reader.child(child, index)
            # Another artifact than an image has no platform, so a selection of platforms does not apply to it.
            return not is_image(manifest) or self._matches(await self._reader.platform(manifest))

    async def _select_attestation(self, child: Descriptor, index: str, unchanged: set[str]) -> Descriptor | None:
        if not child.is_attestation:
            return None
        if self._options.platforms and child.attested is not None and child.attested not in unchanged:
            return None
        policy = self._options.attestations
        if policy is Attestations.FAIL:
            raise AttestationsFound(self._registry, child.digest)
        if policy is Attestations.KEEP:
            return child
        if policy is Attestations.STRIP_REFUSED:
            return None if await self._is_refused(child, index) else child
        self._attestations += 1
        return None

    def _matches(self, platform: Platform | None) -> bool:
        return platform is not None and any(wanted.matches(platform) for wanted in self._options.platforms)

    def _rewrite(
        self, index: Manifest, children: Sequence[Descriptor], chosen: Sequence[Descriptor | Manifest | None]
    ) -> Manifest | None:
        if not any(chosen):
            return None if children else index
        if all(one is child for one, child in zip(chosen, children, strict=True)):
            return index
        document = json.loads(index.content)
        rows = []
        for row, one in zip(document["manifests"], chosen, strict=True):
            if isinstance(one, Manifest):
                # What the original embeds as data is not the content of this one.
                own = {key: value for key, value in row.items() if key != "data"}
                rows.append({**own, "digest": one.digest, "size": len(one.content)})
            elif one is not None:
                rows.append(row)
        document["manifests"] = rows
        try:
            content = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
            manifest = parse_manifest(content, index.media_type, digest_of(content, index.digest))
        except ValueError as error:
            raise self._unsupported(index.digest, f"the index can't be rewritten: {error}") from error
        self._rewritten[manifest.digest] = manifest
        return manifest

    def _unsupported(self, digest: str, detail: str) -> UnsupportedManifest:
        return UnsupportedManifest(detail).at(self._registry, digest)


def _counted(count: int, kind: str) -> str:
    return f"{count} {kind}{'s' if count > 1 and '/' not in kind else ''}"


def _nests(child: Descriptor) -> bool:
    """Tell whether a child is an index of images; an index that is an attestation is treated as an attestation."""
    return child.is_index and not child.is_attestation


_MAX_ENTRIES = 10_000
_MAX_SHARED = 1000
"""Characters of a shared entry; a note that names very many platforms is not shared."""
_SAME, _NOTHING = "=", "-"


@dataclass(frozen=True, slots=True)
class CachedSelection:
    """Selection of an image, without its manifests.

    Attributes:
        digest: the future digest of the destination's tag; None if nothing of the image is selected.
        note: the parts that are left out, or the reason why everything is.
        until: the end of its validity, in seconds since 1970: the destination may take a refused kind by then.
    """

    digest: str | None
    note: str = ""
    until: float = math.inf


class SelectionCache:
    """Selections by image and options: an LRU cache in front of an optional shared store."""

    def __init__(self, store: SelectionStore | None = None, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._entries: LRUCache[tuple[str, CopyOptions, Namespace], CachedSelection] = LRUCache(_MAX_ENTRIES)

    def add(self, digest: str, options: CopyOptions, selection: Selection, place: Namespace = ANYWHERE) -> None:
        """Remember the selection of the image ``digest`` for the destinations of a place, unless that may change."""
        if options.is_verbatim or selection.otherwise is not None or selection.refused is not None:
            return
        kept = selection.manifest.digest if selection.manifest is not None else None
        entry = CachedSelection(kept, selection.note, selection.until)
        self._entries[digest, options, deciding_place(options, place)] = entry
        text = _serialize(digest, entry)
        if self._store is not None and len(text) <= _MAX_SHARED:
            self._store.note(selection_key(digest, options, place), text)

    def get(self, digest: str, options: CopyOptions, place: Namespace = ANYWHERE) -> CachedSelection | None:
        """Return the selection of the image ``digest``, if this process knows it."""
        if options.is_verbatim:
            return CachedSelection(digest)
        entry = self._entries.get((digest, options, deciding_place(options, place)))
        return entry if entry is not None and self._clock() < entry.until else None

    async def fetch(self, digest: str, options: CopyOptions, place: Namespace = ANYWHERE) -> CachedSelection | None:
        """Return the selection of the image ``digest``, if any process knows it."""
        await self.prefetch([(digest, options, place)])
        return self.get(digest, options, place)

    async def prefetch(self, images: Sequence[tuple[str, CopyOptions, Namespace]]) -> None:
        """Learn what other processes know of many images, with one round trip per 500.

        Args:
            images: the digests of images, each with the options of its copy, and host and namespace of its destination.
        """
        asked = dict.fromkeys((digest, options, deciding_place(options, place)) for digest, options, place in images)
        unknown = [image for image in asked if self.get(*image) is None]
        if self._store is None or not unknown:
            return
        texts = await self._store.recall([selection_key(*image) for image in unknown])
        for image, text in zip(unknown, texts, strict=True):
            if text is not None and (entry := _parse(image[0], text)) is not None:
                self._entries[image] = entry


def _serialize(digest: str, entry: CachedSelection) -> str:
    """Return the shared form of an entry; mostly the selection is the image ``digest`` itself."""
    word = _NOTHING if entry.digest is None else _SAME if entry.digest == digest else entry.digest
    # Versions that know no time take such an entry for none.
    return f"{word}{f'@{int(entry.until)}' if entry.until < math.inf else ''} {entry.note}"


def _parse(digest: str, text: str) -> CachedSelection | None:
    """Parse the text of `_serialize`; None where it has another form."""
    word, gap, note = text.partition(" ")
    word, at, until = word.partition("@")
    if not gap or len(text) > _MAX_SHARED or (at and not until.isdecimal()):
        return None
    kept = {_NOTHING: None, _SAME: digest}.get(word, word)
    return CachedSelection(kept, note, float(until) if at else math.inf) if kept is None or is_digest(kept) else None
