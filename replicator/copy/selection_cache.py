"""Cache of selections, in this process and shared with others.

A selection depends only on an image's bytes and on the options, so a cached one never goes stale.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from cachetools import LRUCache

from replicator.copy.selection import ALGORITHM
from replicator.reference import is_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replicator.copy.options import CopyOptions
    from replicator.copy.selection import Selection

_MAX_ENTRIES = 10_000
_MAX_SHARED = 1000
"""Characters of a shared entry; a note that names very many platforms is not shared."""
_SAME, _NOTHING = "=", "-"


class SelectionStore(Protocol):
    """Key-value store that the processes of one installation share; the value of a key never changes.

    An implementation must not fail: while it can't reach the others, it knows no key.
    """

    async def recall(self, names: Sequence[str]) -> list[str | None]:
        """Return the value of each key; None for one that is unknown, or not known in time."""

    def note(self, name: str, text: str) -> None:
        """Store a value; the other processes see it soon, or never."""


@dataclass(frozen=True, slots=True)
class CachedSelection:
    """Selection of an image, without its manifests.

    Attributes:
        digest: what the destination's tag will name; None when nothing of the image is selected.
        note: what is left out, or why everything is.
    """

    digest: str | None
    note: str = ""


class SelectionCache:
    """Selections by image and options: an LRU cache in front of an optional shared store."""

    def __init__(self, store: SelectionStore | None = None) -> None:
        self._store = store
        self._entries: LRUCache[tuple[str, CopyOptions], CachedSelection] = LRUCache(_MAX_ENTRIES)

    def add(self, digest: str, options: CopyOptions, selection: Selection) -> None:
        """Remember the selection of the image ``digest``."""
        if options.is_verbatim:
            return
        entry = CachedSelection(selection.manifest.digest if selection.manifest is not None else None, selection.note)
        self._entries[digest, options] = entry
        text = _serialize(digest, entry)
        if self._store is not None and len(text) <= _MAX_SHARED:
            self._store.note(selection_key(digest, options), text)

    def get(self, digest: str, options: CopyOptions) -> CachedSelection | None:
        """Return the selection of the image ``digest``, if this process knows it."""
        return CachedSelection(digest) if options.is_verbatim else self._entries.get((digest, options))

    async def fetch(self, digest: str, options: CopyOptions) -> CachedSelection | None:
        """Return the selection of the image ``digest``, if any process knows it."""
        await self.prefetch([(digest, options)])
        return self.get(digest, options)

    async def prefetch(self, images: Sequence[tuple[str, CopyOptions]]) -> None:
        """Learn what other processes know of many images, with one round trip per 500.

        Args:
            images: the digests of images, each with the options of its copy.
        """
        if self._store is None:
            return
        unknown = [image for image in dict.fromkeys(images) if self.get(*image) is None]
        if not unknown:
            return
        texts = await self._store.recall([selection_key(*image) for image in unknown])
        for image, text in zip(unknown, texts, strict=True):
            if text is not None and (entry := _parse(image[0], text)) is not None:
                self._entries[image] = entry


def selection_key(digest: str, options: CopyOptions) -> str:
    """Return a short key for the selection of an image, the same in all processes of one version of the program.

    Args:
        digest: the digest of the source's tag.
        options: the parts of the image that are copied; whether signatures are copied makes no difference.
    """
    selected = json.dumps(replace(options, signatures=False).to_json(), sort_keys=True)
    name = f"{ALGORITHM} {digest} {selected}".encode()
    return base64.urlsafe_b64encode(hashlib.sha256(name).digest()[:12]).decode()


def _serialize(digest: str, entry: CachedSelection) -> str:
    """Return the shared form of an entry; mostly the selection is the image ``digest`` itself."""
    word = _NOTHING if entry.digest is None else _SAME if entry.digest == digest else entry.digest
    return f"{word} {entry.note}"


def _parse(digest: str, text: str) -> CachedSelection | None:
    """Parse the text of `_serialize`; None where it has another form."""
    word, gap, note = text.partition(" ")
    if not gap or len(text) > _MAX_SHARED:
        return None
    if word == _NOTHING:
        return CachedSelection(None, note)
    if word == _SAME:
        return CachedSelection(digest, note)
    return CachedSelection(word, note) if is_digest(word) else None
