"""What is wanted of images, remembered: it depends on bytes and options alone, so it is never out of date.

What the processes of one installation remember for each other, as the copy engine wants it remembered.

It only ever spares work: an implementation that can't reach the others knows nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from replicator.copy.selection import ALGORITHM
from replicator.reference import is_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replicator.copy.options import CopyOptions
    from replicator.copy.selection import Selection

_MAX_FORMS = 10_000
_MAX_SHARED = 1000
"""Characters of what is told to other processes; a note that names very many platforms is not."""
_SAME, _NOTHING = "=", "-"


@dataclass(frozen=True, slots=True)
class CachedSelection:
    """What is wanted of an image.

    Attributes:
        digest: what the destination's tag is to name; None when nothing of the image is wanted.
        note: what is left out of it, or why all of it.
    """

    digest: str | None
    note: str = ""


class SelectionCache:
    """What was found to be wanted of images; bounded, the least used forgotten first.

    Args:
        memory: what other processes found; None for a process alone.
        entries: images that are remembered in this process.
    """

    def __init__(self, memory: SelectionStore | None = None, *, entries: int = _MAX_FORMS) -> None:
        self._memory = memory
        self._entries = entries
        self._known: OrderedDict[tuple[str, CopyOptions], CachedSelection] = OrderedDict()

    def note(self, digest: str, options: CopyOptions, selection: Selection) -> None:
        """Remember what is wanted of the image ``digest``."""
        if options.is_verbatim:
            return
        form = CachedSelection(selection.manifest.digest if selection.manifest is not None else None, selection.note)
        self._keep((digest, options), form)
        text = _text(digest, form)
        if self._memory is not None and len(text) <= _MAX_SHARED:
            self._memory.note(selection_key(digest, options), text)

    def known(self, digest: str, options: CopyOptions) -> CachedSelection | None:
        """Return what is wanted of the image ``digest``, if that is known in this process."""
        if options.is_verbatim:
            return CachedSelection(digest)
        form = self._known.get((digest, options))
        if form is not None:
            self._known.move_to_end((digest, options))
        return form

    async def recall(self, digest: str, options: CopyOptions) -> CachedSelection | None:
        """Return what is wanted of the image ``digest``, if any process knows."""
        await self.recall_many([(digest, options)])
        return self.known(digest, options)

    async def recall_many(self, images: Sequence[tuple[str, CopyOptions]]) -> None:
        """Learn what other processes know of many images, a round trip for 500 of them.

        Args:
            images: digests of what tags name, each with the options it is to be copied with.
        """
        if self._memory is None:
            return
        asked = [image for image in dict.fromkeys(images) if self.known(*image) is None]
        if not asked:
            return
        texts = await self._memory.recall([selection_key(*image) for image in asked])
        for image, text in zip(asked, texts, strict=True):
            if text is not None and (form := _read(image[0], text)) is not None:
                self._keep(image, form)

    def _keep(self, image: tuple[str, CopyOptions], form: CachedSelection) -> None:
        self._known[image] = form
        self._known.move_to_end(image)
        if len(self._known) > self._entries:
            self._known.popitem(last=False)


def selection_key(digest: str, options: CopyOptions) -> str:
    """Return a short name for what is wanted of an image, the same in every process of one version of the program.

    Args:
        digest: what the source's tag names.
        options: what of it is copied; whether its signatures are too makes no difference.
    """
    wishes = json.dumps(replace(options, signatures=False).to_json(), sort_keys=True)
    name = f"{ALGORITHM} {digest} {wishes}".encode()
    return base64.urlsafe_b64encode(hashlib.sha256(name).digest()[:12]).decode()


def _text(digest: str, form: CachedSelection) -> str:
    """Write what is wanted of the image ``digest`` for other processes; mostly that is the image itself."""
    word = _NOTHING if form.digest is None else _SAME if form.digest == digest else form.digest
    return f"{word} {form.note}"


def _read(digest: str, text: str) -> CachedSelection | None:
    """Read `_text`'s words again; None for what is none."""
    word, gap, note = text.partition(" ")
    if not gap or len(text) > _MAX_SHARED:
        return None
    if word == _NOTHING:
        return CachedSelection(None, note)
    if word == _SAME:
        return CachedSelection(digest, note)
    return CachedSelection(word, note) if is_digest(word) else None


class SelectionStore(Protocol):
    """Texts under names; what a name stands for never changes, so what is remembered is never out of date."""

    async def recall(self, names: Sequence[str]) -> list[str | None]:
        """Return what is remembered under each name; None for what is not, or not known in time. It raises nothing."""

    def note(self, name: str, text: str) -> None:
        """Remember a text under a name; others hear of it soon, or never."""
