"""The write of a destination's tag: the images that it may replace, and the meaning of a refusal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from replicator.copy.options import Overwrite
from replicator.reference import is_digest
from replicator.registry.errors import Denied, Refused, TagImmutable, is_of_quantity, refuses_kind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container

    from replicator.copy.context import CopyContext
    from replicator.registry import Manifest, RegistryError

_IMMUTABLE = re.compile(r"immutab|overwrit|(tag|version)\b.{0,200}\balready exists", re.IGNORECASE)
"""Words of a registry whose tags can't be moved: ACR's, Harbor's, and those of others."""
_CONFLICTS = frozenset({409, 412})
"""Harbor answers 412 for an immutable tag, others 409."""


class LeftAlone(Exception):
    """The destination's tag names an image that may not be replaced; the text is a note on that.

    Attributes:
        present: the image's digest.
    """

    def __init__(self, note: str, present: str) -> None:
        super().__init__(note)
        self.present = present


class TagGuard:
    """Guards the writes of a destination's tag: awaited right before each of them.

    Args:
        context: the copy this belongs to.
        digest: the digest that is written.
        replaced: the digest of another image that the tag named when it was compared; None for none.
        overwrite: which images may be replaced. Where not any may, the tag is looked at once more before each write.
        own: the digests that this installation wrote under the tag.

    Attributes:
        replaced: the same, as it was seen last.
        writing: called with both digests before the confirmation.
        confirm: awaited last; an exception from it ends the copy.
    """

    def __init__(
        self, context: CopyContext, digest: str, replaced: str | None, *, overwrite: Overwrite, own: Container[str]
    ) -> None:
        self.replaced = replaced
        self.writing: Callable[[str, str | None], None] | None = None
        self.confirm: Callable[[], Awaitable[None]] | None = None
        self._context = context
        self._digest = digest
        self._overwrite = overwrite
        self._own = own

    async def __call__(self) -> None:
        """Look once more, tell what is written, and confirm it.

        Raises:
            LeftAlone: the tag has come to name an image that may not be replaced.
        """
        if self._overwrite is not Overwrite.ALWAYS:
            tag = self._context.destination.identifier
            head = await self._context.target.head_destination(tag, withheld=False)
            # An attempt before this one may have written it, and replaced what was seen before that.
            if head is None or head.digest != self._digest:
                self.replaced = head.digest if head is not None else None
            self.check()
        if self.writing is not None:
            self.writing(self._digest, self.replaced)
        if self.confirm is not None:
            await self.confirm()

    def check(self) -> None:
        """Raise `LeftAlone` if the image that was seen last may not be replaced."""
        if self.replaced is not None and not self._overwrite.allows(self.replaced, self._own):
            raise LeftAlone(self._overwrite.kept(self._context.destination, self.replaced), self.replaced)


async def is_in_place(context: CopyContext, manifest: Manifest, identifier: str, error: RegistryError) -> bool:
    """Tell whether a tag whose write was refused names the manifest: an answer to an earlier write was lost.

    Raises:
        TagImmutable: it names another one, and that is why the write was refused.
    """
    tally = context.tally
    error.written = tally.blobs_copied + tally.blobs_mounted + tally.manifests > 0
    if is_digest(identifier) or not isinstance(error, Denied | Refused) or refuses_kind(error):
        return False
    head = await context.target.head_destination(identifier)
    if head is None or head.digest == manifest.digest:
        return head is not None
    # Without words on it, a denial means the tag if everything else was taken a moment ago, unless it is a quota's.
    likely = error.status in _CONFLICTS or (isinstance(error, Denied) and error.written)
    if not _IMMUTABLE.search(error.why) and (not likely or is_of_quantity(error.why)):
        return False
    immutable = error.recast(TagImmutable)
    immutable.why = f"the tag is immutable, holds {head.digest} ({error.why})"
    immutable.do = "to replace it, delete it there; to keep it, write overwrite: never in the rule"
    raise immutable from error
