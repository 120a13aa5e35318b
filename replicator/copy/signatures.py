"""Copies of signatures and other referrers of an image: cosign's tags, the referrers API, and its fallback tag.

Specifications: OCI distribution 1.1, "Listing Referrers", "Referrers Tag Schema" and "Pushing Manifests with Subject";
cosign's "Signature Specification" for the tags ``sha256-<hex>.sig``, ``.att`` and ``.sbom``.

Referrers are copied byte for byte, after the image. A registry's refusal of one is a warning and never fails the copy;
where signatures are copied only as far as the destination takes them, it is a note, and that kind is left out for a
week.

Harbor lists cosign's old signatures among the referrers although they name no subject: those go by their tag.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from replicator.copy.compare import SIGNATURE_SUFFIX, find_signable, read_fallback, read_root, signatures_held
from replicator.copy.context import Result, SourceNotFound, is_of_kind, is_signature_kind, refusal_note
from replicator.copy.push import KindRefused, Pusher
from replicator.errors import ErrorClass, ReplicatorError
from replicator.reference import parse_signature_tag
from replicator.registry.errors import Denied, ManifestIncomplete, NotFound, Refused, UnsupportedManifest
from replicator.registry.kinds import deciding_type, kind_of
from replicator.registry.manifest import MAX_MANIFEST_BYTES, OCI_INDEX, descriptor_row, digest_of, parse_manifest
from replicator.registry.manifests import fallback_tag
from replicator.tasks import gather_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replicator.copy.blobs import BlobCopier
    from replicator.copy.context import CopyContext
    from replicator.copy.ledger import TagLocks
    from replicator.copy.options import Accessories
    from replicator.copy.selection import Selection
    from replicator.registry import Manifest, RegistryError

_COSIGN_SUFFIXES = (SIGNATURE_SUFFIX, ".att", ".sbom")
_MAX_REFERRER_DEPTH = 3
"""Referrers of referrers: a signature of an SBOM of an image has depth two."""
_LIST_BATCH_BYTES = 1024 * 1024
"""Bytes of referrers that are copied before they are listed, all in one write of the fallback tag."""
_MAX_IMAGES = 4
"""Images whose signatures are looked up at once."""


class SignatureCopier:
    """Copies the signatures of one image, or one signature.

    Args:
        context: the copy this belongs to.
        blobs: copies the blobs.
        tag_locks: locks on the tags that list referrers.

    Attributes:
        refused: a signature that was left out because the destination refuses its kind; None for none.
    """

    def __init__(self, context: CopyContext, blobs: BlobCopier, tag_locks: TagLocks) -> None:
        self._context = context
        self._origin = context.origin
        self._target = context.target
        self._tally = context.tally
        self._push = Pusher(context, blobs)
        self._tag_locks = tag_locks
        self._auto = context.options.signatures is None
        # Whether a kind that was refused is left out for a week, or tried each time.
        self._lenient = self._auto or context.options.refused == "skip"
        self._lookups = asyncio.Semaphore(_MAX_IMAGES)
        self._visited: set[str] = set()
        self.refused: Manifest | None = None

    async def copy_listed(self, listed: Accessories) -> None:
        """Copy the signatures of an image that has no children, and was copied byte for byte.

        Args:
            listed: the facts from a list of the source.

        Raises:
            ReplicatorError: a failure that a retry may mend.
        """
        await self._copy_referrers_of(listed.subject, listed)

    async def copy_all(self, announced: str, selection: Selection, listed: Accessories | None = None) -> None:
        """Copy the referrers of an image and of those of its children that were copied.

        Args:
            announced: the digest of the image at the source.
            selection: the parts of it that were copied.
            listed: the facts of a list of the source about the image, so that they are not requested again.

        Raises:
            ReplicatorError: a failure that a retry may mend; a permanent one is only a warning.
        """
        if selection.manifest is None:
            return
        digests: dict[str, None] = {}
        await find_signable(selection.manifest, selection, self._context.reader, digests)
        if selection.manifest.digest != announced:
            # A signature is over bytes, and the index was rewritten.
            del digests[selection.manifest.digest]
            await self._tell_of_lost_signatures(announced, selection.manifest.digest, listed)
        await gather_all(self._copy_referrers_of(digest, listed) for digest in digests)

    async def copy_one(self) -> tuple[Result, str | None, str]:
        """Copy the signature that is the source of this copy, if the destination has its subject.

        Returns:
            The result, the digest that was copied, and why it was skipped.

        Raises:
            SourceNotFound: the source does not have it.
            ReplicatorError: a failure that a retry may mend.
        """
        source = self._context.source
        found = await self._find_subject()
        if isinstance(found, str):
            return Result.SKIPPED, None, found
        subject, suffix, pushed = found
        if await self._target.head_destination(subject) is None:
            return Result.SKIPPED, None, f"its subject {subject} is not at the destination"
        before = self._tally.manifests
        digest: str | None = source.digest
        try:
            if suffix:
                digest = await self._copy_tag(f"{fallback_tag(subject)}{suffix}")
                if digest is None:
                    # For the registry's own words, which its answer to HEAD did not have.
                    await read_root(self._context, source.identifier)
                    raise SourceNotFound(source, NotFound("there is no such tag").at(source.registry, "HEAD"))
            else:
                await self._copy_referrers(subject, 0, pushed)
        except ReplicatorError as error:
            self._warn(source.identifier, error)
        if self._tally.manifests > before:
            return Result.COPIED, digest, ""
        if self.refused is not None and not (self._tally.warned or self._tally.notes):
            return Result.SKIPPED, None, self._refusal(self.refused)
        if self._tally.warned or self._tally.notes:
            return Result.SKIPPED, None, "; ".join(self._tally.warnings)
        return Result.UP_TO_DATE, digest, ""

    async def _find_subject(self) -> tuple[str, str, Manifest | None] | str:
        """Return the subject of the signature that is the source, its suffix and, by digest, itself; or why not."""
        source = self._context.source
        if source.tag is not None:
            parsed = parse_signature_tag(source.tag)
            return (*parsed, None) if parsed is not None else "its tag is not a signature's"
        try:
            pushed = await self._origin.get_manifest(source.identifier)
        except NotFound as error:
            raise SourceNotFound(source, error) from error
        except UnsupportedManifest as error:
            # No rule asked for it: a push by digest alone is only looked at for signatures.
            return str(error)
        return (pushed.subject.digest, "", pushed) if pushed.subject is not None else "it refers to no image"

    async def _tell_of_lost_signatures(self, announced: str, digest: str, listed: Accessories | None) -> None:
        try:
            signed = bool(listed.digests) if listed is not None else await self._is_signed(announced)
        except ReplicatorError as error:
            self._warn(f"referrers of {announced}", error)
        else:
            if signed:
                (self._tally.note if self._auto else self._tally.warn)(
                    f"the signatures of {announced} are not copied, because they are not valid for the "
                    f"rewritten index {digest}"
                )

    async def _copy_referrers_of(self, digest: str, listed: Accessories | None) -> None:
        async with self._lookups:
            is_listed = listed is not None and digest == listed.subject
            suffixes = () if self._auto else _COSIGN_SUFFIXES
            tags = [f"{fallback_tag(digest)}{suffix}" for suffix in suffixes]
            for tag in listed.tags if listed is not None and is_listed else tags:
                try:
                    await self._copy_tag(tag)
                except ReplicatorError as error:
                    self._warn(tag, error)
            try:
                if listed is not None and is_listed:
                    await self._copy_digests(digest, listed.digests, 0)
                else:
                    await self._copy_referrers(digest, 0)
            except ReplicatorError as error:
                self._warn(f"referrers of {digest}", error)

    async def _is_signed(self, digest: str) -> bool:
        tags = [f"{fallback_tag(digest)}{suffix}" for suffix in _COSIGN_SUFFIXES]
        if any(await gather_all(self._origin.head_manifest(tag) for tag in tags)):
            return True
        return bool(await self._list_origin(digest))

    async def _copy_tag(self, tag: str, read: Manifest | None = None) -> str | None:
        """Bring one of cosign's tags up to date.

        Args:
            tag: the tag.
            read: the manifest that the tag most likely names; None to ask first whether the tag exists.

        Returns:
            Its digest; None if the source does not have it.
        """
        if read is None and await self._origin.head_manifest(tag) is None:
            return None
        async with self._tag_locks.hold(self._target.repository, tag):
            # The source is read under the lock, so the last writer is also the last reader.
            wanted = await self._origin.head_manifest(tag)
            present = await self._target.head_destination(tag)
            if wanted is None or (present is not None and present.digest == wanted.digest):
                return wanted.digest if wanted is not None else None
            is_read = read is not None and read.digest == wanted.digest
            manifest = read if read is not None and is_read else await self._origin.get_manifest(wanted.digest)
            if not await self._is_refused(manifest):
                await self._send(manifest, tag, new=present is None)
            return manifest.digest

    async def _copy_referrers(self, subject: str, depth: int, pushed: Manifest | None = None) -> None:
        """Copy the referrers of ``subject``, and theirs.

        Args:
            subject: a digest.
            depth: subjects above it.
            pushed: a referrer that the source may not list yet.
        """
        # Lists may be wrong, even circular: every subject is visited once.
        if subject in self._visited:
            return
        self._visited.add(subject)
        digests = sorted(await self._list_origin(subject))
        if pushed is not None and pushed.digest not in digests:
            digests.append(pushed.digest)
        await self._copy_digests(subject, digests, depth, pushed)

    async def _copy_digests(
        self, subject: str, digests: Sequence[str], depth: int, pushed: Manifest | None = None
    ) -> None:
        """Copy these referrers of ``subject``, and theirs; those of signatures only where everything is copied."""
        if not digests:
            return
        async with self._tag_locks.hold(self._target.repository, fallback_tag(subject)):
            present = await self._copy_missing(subject, digests, pushed)
        if depth < _MAX_REFERRER_DEPTH and not self._auto:
            for digest in present:
                await self._copy_referrers(digest, depth + 1)

    async def _copy_missing(self, subject: str, digests: Sequence[str], pushed: Manifest | None) -> list[str]:
        """Copy the referrers that are missing; return those that may have referrers of their own."""
        held = await signatures_held(self._target, subject, digests)
        present, unlisted, unlisted_bytes = [], [], 0
        for digest in digests:
            if digest not in held:
                try:
                    known = pushed if pushed is not None and pushed.digest == digest else None
                    manifest = known or await self._origin.get_manifest(digest)
                    if manifest.subject is None and is_signature_kind(kind_of(manifest)):
                        # One of cosign's old ones; Harbor still lists it after its tag has moved on.
                        await self._copy_tag(f"{fallback_tag(subject)}{SIGNATURE_SUFFIX}", manifest)
                        continue
                    by_registry = await self._copy_referrer(manifest, subject)
                except ReplicatorError as error:
                    self._warn(digest, error)
                    continue
                if by_registry is None:
                    continue
                if not by_registry:
                    unlisted.append(descriptor_row(manifest))
                    unlisted_bytes += len(manifest.content)
                if unlisted_bytes > _LIST_BATCH_BYTES:
                    await self._extend_list(subject, unlisted)
                    unlisted, unlisted_bytes = [], 0
            present.append(digest)
        if unlisted:
            await self._extend_list(subject, unlisted)
        return present

    async def _copy_referrer(self, manifest: Manifest, subject: str) -> bool | None:
        """Copy one referrer; return whether the registry lists it, or leaves that to its clients; None if left out."""
        named = manifest.subject.digest if manifest.subject is not None else "nothing"
        if named != subject:
            raise UnsupportedManifest(f"it is listed as a referrer of {subject}, but refers to {named}").at(
                self._context.source.registry, manifest.digest
            )
        if (self._auto and not is_signature_kind(kind_of(manifest))) or await self._is_refused(manifest):
            return None
        return await self._send(manifest, manifest.digest)

    async def _is_refused(self, manifest: Manifest) -> bool:
        context, refused = self._context, self._lenient and await self._context.verdict(manifest)
        if not refused and self._auto and not context.force:
            refused = await context.kinds.verdict(*context.place, f"signature {deciding_type(manifest)}")
        if not refused:
            return False
        self.refused = manifest
        if not self._auto:
            self._tally.note(f"not copied: {self._refusal(manifest)}")
        return True

    def _refusal(self, manifest: Manifest) -> str:
        return refusal_note(self._context.destination.registry, kind_of(manifest))

    async def _send(self, manifest: Manifest, identifier: str, *, new: bool = True) -> bool | None:
        """Copy one signature with its blobs.

        Args:
            manifest: the signature.
            identifier: its tag or digest.
            new: whether its tag is new. One that can't be moved says nothing about the kind.

        Returns:
            Whether the registry lists it among the referrers of its subject; None if it refuses the kind.
        """
        try:
            await self._push.ask(manifest, lenient=False)
            await self._push.copy_parts(manifest)
            listed = await self._push.put(manifest, identifier)
        except KindRefused as refusal:
            error: RegistryError = refusal.error or Denied(self._refusal(manifest))
        except (Denied, Refused) as refused:
            if not (self._auto and new and is_of_kind(refused)):
                raise
            # The words may be about this one alone, so they count for signatures only, which are brought if taken.
            self._context.kinds.note(*self._context.place, f"signature {deciding_type(manifest)}")
            error = refused
        else:
            self._tally.signatures += 1
            return listed
        if not self._lenient:
            raise error
        self.refused = manifest
        say, what = (self._tally.note, kind_of(manifest)) if self._auto else (self._tally.warn, identifier)
        say(f"not copied: {what}: {error}; this kind is not tried again for a week")
        return None

    async def _list_origin(self, subject: str) -> set[str]:
        """List the referrers of ``subject`` by the API and by the fallback tag, which may be older than the API."""
        found = await self._origin.referrers(subject)
        listed = {descriptor.digest for descriptor in found or ()}
        if self._auto and found is not None:
            return listed
        try:
            index = await read_fallback(self._origin, subject)
        except ReplicatorError as error:
            self._warn(fallback_tag(subject), error)
        else:
            listed |= {descriptor.digest for descriptor in index.manifests} if index is not None else set()
        return listed

    async def _extend_list(self, subject: str, rows: list[dict[str, Any]]) -> None:
        """Add rows to the index under the fallback tag, which lists referrers where the registry has no API."""
        before = await read_fallback(self._target, subject)
        if before is not None and not before.is_index:
            # Somebody else's image: it is left alone.
            raise self._unlistable(subject, "the fallback tag names an image")
        try:
            rows = [*(json.loads(before.content).get("manifests") or () if before is not None else ()), *rows]
        except RecursionError as error:
            raise self._unlistable(subject, "the list is nested too deeply") from error
        try:
            await self._put_list(subject, rows)
        except ManifestIncomplete:
            # Referrers that were listed before are gone from the registry.
            heads = await gather_all(self._target.head_manifest(row["digest"]) for row in rows)
            rows = [row for row, head in zip(rows, heads, strict=True) if head is not None]
            try:
                await self._put_list(subject, rows)
            except ManifestIncomplete as error:
                # Every row exists, so a retry by the queue would not help.
                raise self._unlistable(subject, error.why) from error

    async def _put_list(self, subject: str, rows: list[dict[str, Any]]) -> None:
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows}
        try:
            content = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
            index = parse_manifest(content, OCI_INDEX, digest_of(content))
        except (ValueError, RecursionError) as error:
            raise self._unlistable(subject, str(error)) from error
        if len(content) > MAX_MANIFEST_BYTES:
            raise self._unlistable(subject, f"the list would be larger than {MAX_MANIFEST_BYTES} bytes")
        await self._target.put_manifest(index, fallback_tag(subject))

    def _unlistable(self, subject: str, reason: str) -> UnsupportedManifest:
        return UnsupportedManifest(f"the referrers of {subject} can't be listed: {reason}").at(
            self._context.destination.registry, fallback_tag(subject)
        )

    def _warn(self, what: str, error: ReplicatorError) -> None:
        """Turn a permanent error into a warning, or into a note where only what the destination takes is copied.

        Raises:
            ReplicatorError: any other error, which a retry may mend.
        """
        if error.error_class is not ErrorClass.PERMANENT:
            raise error
        self._tally.settled = False
        (self._tally.note if self._auto else self._tally.warn)(f"not copied: {what}: {error}")
