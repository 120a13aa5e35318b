"""Upload of one image: blobs and child manifests before the manifest that names them, the tag last."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, TypeVar

from replicator.copy.context import refusal_note
from replicator.copy.selection import MAX_DEPTH, MAX_NESTED_BYTES
from replicator.copy.tag import is_in_place
from replicator.errors import ErrorClass
from replicator.registry.errors import (
    LoginRefused,
    ManifestIncomplete,
    Refused,
    RegistryError,
    UnsupportedManifest,
    may_land_late,
    refuses_kind,
)
from replicator.registry.kinds import artifact_kind, deciding_type, is_plain_image
from replicator.registry.manifest import IMAGE_TYPES, digest_of, embedded, parse_manifest
from replicator.retry import is_transient, retrying
from replicator.tasks import KeyedLock, gather_tolerant

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from replicator.copy.blobs import BlobCopier
    from replicator.copy.context import CopyContext
    from replicator.registry import Descriptor, Manifest

_MAX_REPAIRS = 2
"""How often the parts of one manifest are copied again because the destination reported one missing."""
_MAX_CHILDREN = 8
"""Child manifests in memory at once, each up to 4 MiB."""
_MISSING = frozenset({"MANIFEST_BLOB_UNKNOWN", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN"})
"""Codes of a registry that has taken the kind of a manifest, and looks for its parts."""
_ABOUT_FOREIGN = re.compile(r"\bURLs?\b|foreign|non-?distributable", re.IGNORECASE)
"""Words of a registry that refuses foreign layers, or the places where they can be had."""
_T = TypeVar("_T")


class KindRefused(Exception):
    """The destination refuses the kind of a manifest, which may be left out.

    Attributes:
        manifest: the manifest that it refuses.
        error: its answer; None if that was remembered.
    """

    def __init__(self, manifest: Manifest, error: RegistryError | None) -> None:
        super().__init__(manifest.digest)
        self.manifest = manifest
        self.error = error
        if error is not None:
            error.kind = self.kind

    def note(self, registry: str) -> str:
        """Say what is skipped, and why."""
        if self.error is None:
            return refusal_note(registry, self.kind)
        return f"{registry} refuses the kind {self.kind!r}: {self.error.why}"

    @property
    def kind(self) -> str:
        """The kind that is refused; see `artifact_kind`."""
        return artifact_kind(self.manifest)


class Pusher:
    """Upload of manifests and everything they name.

    Args:
        context: the copy this belongs to.
        blobs: copies the blobs.
        rewritten: indexes that the source does not have, by digest.
    """

    def __init__(
        self, context: CopyContext, blobs: BlobCopier, rewritten: Mapping[str, Manifest] | None = None
    ) -> None:
        self._context = context
        self._target = context.target
        self._blobs = blobs
        self._ledger = blobs.ledger
        self._rewritten = rewritten or {}
        self._children = asyncio.Semaphore(_MAX_CHILDREN)
        self._nested: set[str] = set()
        self._nested_bytes = 0
        self._child_locks = KeyedLock()
        self._repository = (context.target.repository.registry, context.target.repository.name)

    async def copy_parts(
        self, manifest: Manifest, depth: int = 0, *, distrust: bool = False, foreign: bool = False
    ) -> None:
        """Copy everything that ``manifest`` names, but not ``manifest`` itself.

        Args:
            manifest: an index or an image.
            depth: indexes above it.
            distrust: see `BlobCopier.ensure`.
            foreign: copy the source's foreign layers as well, even those that can be had elsewhere.
        """
        if self._ledger.has(*self._repository, manifest.digest):
            return
        if manifest.is_index:
            if depth >= MAX_DEPTH:
                raise self._unsupported(manifest.digest, f"indexes nested more than {MAX_DEPTH} deep")
            refusals: list[KindRefused] = []
            await gather_tolerant(
                self._copy_child(child, manifest.digest, depth + 1, refusals) for child in manifest.manifests
            )
            if refusals:
                raise refusals[0]
        else:
            blobs = [blob for blob in manifest.blobs if await self._is_sent(blob, foreign=foreign)]
            await self._blobs.ensure(blobs, self._context, distrust=distrust)

    async def ask(self, manifest: Manifest, *, lenient: bool, tagged: bool = True) -> None:
        """Find out whether the destination takes the kind of a manifest, before any of its blobs is sent.

        The manifest is written by digest: a registry decides about its kind before it looks for its parts. One that
        stores it without them is not believed to have them: it is written again after them.

        Args:
            manifest: of an image, which is not asked for, or of anything else.
            lenient: a refusal that is remembered counts; else the registry is asked again, for its words.
            tagged: whether readers see the manifest only once it has a tag, or an index that names it.

        Raises:
            KindRefused: it is refused.
            UnsupportedManifest: it is an index of blobs.
            RegistryError: there was no usable answer.
        """
        if self._ledger.has(*self._repository, manifest.digest):
            return
        if manifest.is_index:
            await self._refuse_blobs(manifest)
        if is_plain_image(manifest):
            return
        context = self._context
        asked = manifest
        if not tagged or manifest.subject is not None:
            # By its digest alone, or as a referrer, it would be seen before its blobs are there.
            asked = _without_subject(manifest)
        async with context.kinds.question(*context.place, deciding_type(manifest)):
            refused = await context.verdict(manifest)
            if refused and lenient:
                raise KindRefused(manifest, None)
            if refused is False:
                return
            try:
                await self._target.put_manifest(asked, asked.digest)
            except ManifestIncomplete:
                pass
            except RegistryError as error:
                if refuses_kind(error):
                    context.learn(manifest, refused=True)
                    raise KindRefused(manifest, error) from error
                permanent = error.error_class in (ErrorClass.PERMANENT, ErrorClass.CREDENTIALS)
                if not permanent or isinstance(error, LoginRefused):
                    raise
                if not _MISSING.intersection(error.codes):
                    # It says nothing about the kind. What is wrong shows when everything else is there.
                    return
            context.learn(manifest, refused=False)

    async def _is_sent(self, blob: Descriptor, *, foreign: bool) -> bool:
        """Tell whether a blob is sent: of foreign layers those that are wanted here, if the source has them."""
        if not blob.is_foreign:
            return True
        if blob.has_urls and not foreign:
            return False
        return embedded(blob)[0] is not None or await self._context.origin.has_blob(blob.digest)

    async def _refuse_blobs(self, index: Manifest, depth: int = 1) -> None:
        """Refuse an index that lists blobs, itself or in an index within it, before anything of it is sent."""
        for child in index.manifests:
            # What has the type of an image is read when it is copied.
            skips = child.media_type in ("", *IMAGE_TYPES) or child.digest in self._nested
            if skips or self._ledger.has(*self._repository, child.digest):
                continue
            manifest = self._rewritten.get(child.digest) or await self._context.reader.child(child, index.digest)
            if manifest.is_index and depth < MAX_DEPTH:
                self._count_nested(manifest, index.digest)
                await self._refuse_blobs(manifest, depth + 1)

    def _count_nested(self, nested: Manifest, index: str) -> None:
        if nested.digest in self._nested:
            return
        self._nested.add(nested.digest)
        self._nested_bytes += len(nested.content)
        if self._nested_bytes > MAX_NESTED_BYTES:
            raise self._unsupported(index, f"its nested indexes are larger than {MAX_NESTED_BYTES} bytes")

    async def put(self, manifest: Manifest, identifier: str) -> bool:
        """Write ``manifest``, repairing its parts where the destination reports one missing.

        Returns:
            Whether the registry lists it among the referrers of its subject; see `RemoteRepository.put_manifest`.
        """

        async def write() -> bool:
            try:
                return await self._target.put_manifest(manifest, identifier)
            except RegistryError as error:
                if not await is_in_place(self._context, manifest, identifier, error):
                    raise
                return False

        return await self._put(manifest, write)

    async def put_root(
        self,
        manifest: Manifest,
        identifier: str,
        confirm: Callable[[], Awaitable[None]],
        answered: Callable[[], None] | None = None,
    ) -> None:
        """Write ``manifest`` under its tag.

        Each attempt is confirmed and ends within `Timing.tag`: a late write could undo the write of another process.
        ``answered`` is called after each attempt but those that the registry may still carry out.
        """
        timing = self._target.timing
        answered = answered or (lambda: None)

        async def attempt() -> None:
            # A Retry-After is waited for before the confirmation: afterwards it would use up the lease.
            await self._target.pause()
            await confirm()
            try:
                await self._target.put_manifest(manifest, identifier, within=timing.tag)
            except RegistryError as error:
                if not may_land_late(error):
                    answered()
                if not await is_in_place(self._context, manifest, identifier, error):
                    raise
            else:
                answered()

        failures = 0

        def is_retryable(error: Exception) -> bool:
            nonlocal failures
            # What ``confirm`` raises is final, and a missing part has to be copied first.
            if not isinstance(error, RegistryError) or isinstance(error, ManifestIncomplete):
                return False
            # One count for the whole write: a repair in between gives no further attempts.
            failures += 1
            return is_transient(error) and failures < timing.attempts

        await self._put(manifest, lambda: retrying(attempt, attempts=None, retryable=is_retryable))

    async def _put(self, manifest: Manifest, write: Callable[[], Awaitable[_T]]) -> _T:
        repairs = 0
        while True:
            try:
                listed = await write()
            except ManifestIncomplete as error:
                repairs += 1
                layer = self._wanted_foreign(manifest, error, repairs)
                if layer is not None:
                    raise _foreign_refused(layer, error) from error
                if not await self._repair(manifest, repairs):
                    raise
            except RegistryError as error:
                if refuses_kind(error) and not is_plain_image(manifest):
                    self._context.learn(manifest, refused=True)
                    raise KindRefused(manifest, error) from error
                layer = next((blob for blob in manifest.blobs if blob.is_foreign), None)
                if layer is None or not isinstance(error, Refused):
                    raise
                if not (layer.digest in error.why or _ABOUT_FOREIGN.search(error.why)):
                    raise
                raise _foreign_refused(layer, error) from error
            else:
                break
        self._context.tally.manifests += 1
        self._ledger.add(*self._repository, manifest.digest)
        if not is_plain_image(manifest) and await self._context.verdict(manifest) is not False:
            self._context.learn(manifest, refused=False)
        if repairs == _MAX_REPAIRS:
            # Only the repair without mounts helped.
            self._blobs.distrust_mounts(self._target)
        return listed

    def _wanted_foreign(self, manifest: Manifest, error: ManifestIncomplete, repairs: int) -> Descriptor | None:
        """Return the foreign layer for which a manifest is incomplete for good; None while a repair may help."""
        named = [blob for blob in manifest.blobs if blob.digest in error.why]
        if named:
            return named[0] if repairs > 1 and all(blob.is_foreign for blob in named) else None
        # The registry does not say what it lacks: everything but the layers that the source does not have was sent.
        if repairs <= _MAX_REPAIRS:
            return None
        foreign = [blob for blob in manifest.blobs if blob.is_foreign]
        return next((blob for blob in foreign if not self._ledger.has(*self._repository, blob.digest)), None)

    async def _repair(self, manifest: Manifest, repairs: int) -> bool:
        """Copy the parts of a manifest again after the destination reported one missing.

        Returns:
            False where another attempt is pointless and nothing was done.
        """
        # A missing child can't have been mounted, so one repair of an index is enough.
        if repairs > (1 if manifest.is_index else _MAX_REPAIRS):
            return False
        parts = [part.digest for part in (*manifest.manifests, *manifest.blobs)]
        await self._blobs.forget(self._target, [*parts, manifest.digest])
        # If a blob is missing again right after we mounted it, the registry's mount response was a lie; upload it
        # instead.
        await self.copy_parts(manifest, distrust=repairs == _MAX_REPAIRS, foreign=True)
        return True

    async def _copy_child(self, child: Descriptor, index: str, depth: int, refusals: list[KindRefused]) -> None:
        """Copy a child of an index; a refusal of its kind is added to ``refusals`` if the child may be left out.

        Raises:
            RegistryError: a registry failed, or the destination refuses the kind and may not.
        """
        lenient = self._context.may_leave_out(attestation=child.is_attestation)
        try:
            await self._copy_manifest(child, index, depth, lenient=lenient)
        except KindRefused as refusal:
            # In a nested index, the treatment of the refused child was decided one level below.
            if refusal.manifest.digest == child.digest:
                if not lenient:
                    if refusal.error is not None:
                        refusal.error.is_part = True
                    raise refusal.error or refusal from refusal
                self._context.left_out.add(child.digest)
            refusals.append(refusal)

    async def _copy_manifest(self, child: Descriptor, index: str, depth: int, *, lenient: bool) -> None:
        digest = child.digest
        # Several indexes of one image may name the same child: the second one finds it in the ledger.
        async with self._child_locks.hold(digest):
            if self._ledger.has(*self._repository, digest):
                return
            # An index gives its slot back before it waits for its children: nested indexes could hold all slots and
            # keep their own children from starting.
            async with self._children:
                manifest = self._rewritten.get(digest) or await self._context.reader.child(child, index)
                if not manifest.is_index:
                    await self.ask(manifest, lenient=lenient)
                    await self.copy_parts(manifest, depth)
                    await self.put(manifest, digest)
                    return
            self._count_nested(manifest, index)
            await self.copy_parts(manifest, depth)
            await self.put(manifest, digest)

    def _unsupported(self, digest: str, detail: str) -> UnsupportedManifest:
        return UnsupportedManifest(detail).at(self._context.source.registry, digest)


def _without_subject(manifest: Manifest) -> Manifest:
    """Return a manifest of the same kind and parts without a subject, and always with another digest."""
    document = json.loads(manifest.content)
    document.pop("subject", None)
    content = json.dumps(document).encode() + b"\n\n"
    return parse_manifest(content, manifest.media_type, digest_of(content))


def _foreign_refused(layer: Descriptor, error: RegistryError) -> UnsupportedManifest:
    """Return the error for an image whose foreign layer the destination wants to have, or refuses the URLs of."""
    refused = error.recast(UnsupportedManifest)
    refused.why = f"the foreign layer {layer.digest} (Windows) is refused: {error.why}"
    refused.do = "exclude such images with platforms: [linux/*], or allow foreign layers at the registry"
    return refused
