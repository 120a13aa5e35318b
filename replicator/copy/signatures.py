"""Signatures and whatever else refers to an image: cosign's tags, and OCI referrers by the API or by the fallback tag.

Specifications: OCI distribution 1.1, "Listing Referrers", "Referrers Tag Schema" and "Pushing Manifests with Subject";
cosign's "Signature Specification" for the tags ``sha256-<hex>.sig``, ``.att`` and ``.sbom``.

They are copied as they are, after what they refer to. One that is refused is told of, and ends nothing.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from replicator.copy.gathering import gather_all
from replicator.copy.outcome import Result, SourceNotFound
from replicator.copy.push import Push
from replicator.copy.selection import MAX_DEPTH
from replicator.errors import ErrorClass, ReplicatorError
from replicator.reference import Reference, signed_by
from replicator.registry.errors import ManifestIncomplete, NotFound, UnsupportedManifest
from replicator.registry.manifest import MAX_MANIFEST_BYTES, OCI_INDEX, digest_of, parse_manifest
from replicator.registry.requests import fallback_tag
from replicator.tasks import KeyedLock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from replicator.copy.blobs import BlobCopier
    from replicator.copy.outcome import Tally
    from replicator.copy.selection import Selection, SourceReader
    from replicator.registry import Descriptor, Manifest, RemoteRepository

_COSIGN = (".sig", ".att", ".sbom")
_MAX_DEPTH = 3
"""What refers to a referrer, and so on: a signature of an SBOM of an image has two."""
_LISTED_AFTER = 1024 * 1024
"""Bytes of referrers that wait to be listed, all at once, where the registry leaves that to its clients."""
_AT_ONCE = 4
"""Images whose signatures are looked for at once."""


class Signatures:
    """Copies signatures; one process, and as far as the processes share, one of all, is at one image's at a time.

    Args:
        blobs: brings their blobs.
    """

    def __init__(self, blobs: BlobCopier) -> None:
        self._blobs = blobs
        self._turns = KeyedLock()

    def between(
        self,
        origin: RemoteRepository,
        reader: SourceReader,
        target: RemoteRepository,
        tally: Tally,
        on_bytes: Callable[[int], None],
    ) -> Signing:
        """Return what copies signatures from one repository to another."""
        run = Push(origin, reader, target, self._blobs, tally, on_bytes, {})
        return Signing(origin, reader, target, run, tally, self)

    @asynccontextmanager
    async def turn(self, target: RemoteRepository, name: str) -> AsyncIterator[None]:
        """Wait for the turn to write a tag, or to change a list of referrers."""
        place = target.repository
        async with (
            self._turns.turn(place.registry, place.name, name),
            self._blobs.sharing.turn(place.registry, place.name, f"{place.name}:{name}"),
        ):
            yield


class Signing:
    """The signatures of one image, or one signature; made by `Signatures.between`."""

    def __init__(
        self,
        origin: RemoteRepository,
        reader: SourceReader,
        target: RemoteRepository,
        run: Push,
        tally: Tally,
        signatures: Signatures,
    ) -> None:
        self._origin = origin
        self._reader = reader
        self._target = target
        self._run = run
        self._tally = tally
        self._signatures = signatures
        self._looking = asyncio.Semaphore(_AT_ONCE)
        self._seen: set[str] = set()

    async def copy_all(self, announced: str, selection: Selection) -> None:
        """Copy what refers to an image and to its children, as far as they were copied.

        Args:
            announced: the digest of the image at the source.
            selection: what was copied of it.

        Raises:
            ReplicatorError: a fault that passes; what is refused for good is a warning of the tally.
        """
        if selection.manifest is None:
            return
        digests: dict[str, None] = {}
        await self._find(selection.manifest, selection, digests)
        if selection.manifest.digest != announced:
            # A signature is of bytes, and these were written anew.
            del digests[selection.manifest.digest]
            await self._warn_of_lost(announced, selection.manifest.digest)
        await gather_all(self._all_of(digest) for digest in digests)

    async def copy_one(self, source: Reference) -> tuple[Result, str | None, str]:
        """Copy one signature, if what it refers to is at the destination.

        Returns:
            How it ended, the digest that was copied, and why it was skipped.

        Raises:
            SourceNotFound: the source does not have it.
            ReplicatorError: a fault that passes.
        """
        extra: Manifest | None = None
        if source.tag is not None:
            signed = signed_by(source.tag)
            if signed is None:
                return Result.SKIPPED, None, "it has no signature's tag"
            subject, suffix = signed
        else:
            try:
                extra = await self._origin.get_manifest(source.identifier)
            except NotFound as error:
                raise SourceNotFound(source, error) from error
            except UnsupportedManifest as error:
                # Whatever it is, no rule names it: a push by digest alone asks for nothing but signatures.
                return Result.SKIPPED, None, str(error)
            if extra.subject is None:
                return Result.SKIPPED, None, "it refers to no image"
            subject, suffix = extra.subject.digest, ""
        if await self._target.head_destination(subject) is None:
            return Result.SKIPPED, None, f"what it refers to, {subject}, is not at the destination"
        before = self._tally.manifests
        digest: str | None = source.digest
        try:
            if suffix:
                digest = await self._tag(f"{fallback_tag(subject)}{suffix}")
                if digest is None:
                    raise SourceNotFound(source, NotFound("there is no such tag").at(source.registry, "HEAD"))
            else:
                await self._referrers(subject, 0, extra)
        except ReplicatorError as error:
            self._warn(source.identifier, error)
        if self._tally.manifests > before:
            return Result.COPIED, digest, ""
        if self._tally.warned:
            return Result.SKIPPED, None, "; ".join(self._tally.warnings)
        return Result.UP_TO_DATE, digest, ""

    async def _find(self, manifest: Manifest, selection: Selection, digests: dict[str, None], depth: int = 0) -> None:
        """Find the digests that may be signed: of the index, of its images and of the indexes in it."""
        if manifest.digest not in selection.rewritten:
            digests[manifest.digest] = None
        for child in manifest.manifests:
            if child.digest in digests or child.is_attestation:
                continue
            if not child.is_index:
                digests[child.digest] = None
            elif depth < MAX_DEPTH:
                nested = selection.rewritten.get(child.digest)
                nested = nested or await self._reader.child(child.digest, manifest.digest)
                await self._find(nested, selection, digests, depth + 1)

    async def _warn_of_lost(self, announced: str, digest: str) -> None:
        try:
            signed = await self._is_signed(announced)
        except ReplicatorError as error:
            self._warn(f"what refers to {announced}", error)
        else:
            if signed:
                self._tally.warn(
                    f"the signatures of {announced} are not copied: they do not hold for the index written anew, "
                    f"{digest}"
                )

    async def _all_of(self, digest: str) -> None:
        async with self._looking:
            for suffix in _COSIGN:
                tag = f"{fallback_tag(digest)}{suffix}"
                try:
                    await self._tag(tag)
                except ReplicatorError as error:
                    self._warn(tag, error)
            try:
                await self._referrers(digest, 0)
            except ReplicatorError as error:
                self._warn(f"what refers to {digest}", error)

    async def _is_signed(self, digest: str) -> bool:
        tags = [f"{fallback_tag(digest)}{suffix}" for suffix in _COSIGN]
        if any(await gather_all(self._origin.head_manifest(tag) for tag in tags)):
            return True
        return bool(await self._listed_at_origin(digest))

    async def _tag(self, tag: str) -> str | None:
        """Bring a tag of cosign's up to date; return what it names, or None if the source does not have it."""
        if await self._origin.head_manifest(tag) is None:
            return None
        async with self._signatures.turn(self._target, tag):
            # What it names is seen inside of the turn: who writes last has looked last.
            wanted = await self._origin.head_manifest(tag)
            present = await self._target.head_destination(tag)
            if wanted is None or (present is not None and present.digest == wanted.digest):
                return wanted.digest if wanted is not None else None
            manifest = await self._origin.get_manifest(wanted.digest)
            await self._run.bring_parts(manifest)
            await self._run.put(manifest, tag)
            self._tally.signatures += 1
            return manifest.digest

    async def _referrers(self, subject: str, depth: int, extra: Manifest | None = None) -> None:
        """Bring what refers to ``subject``, and what refers to that."""
        # A list may lie: what it names is looked at once, whoever names it.
        if subject in self._seen:
            return
        self._seen.add(subject)
        digests = sorted(await self._listed_at_origin(subject))
        if extra is not None and extra.digest not in digests:
            digests.append(extra.digest)
        if not digests:
            return
        async with self._signatures.turn(self._target, fallback_tag(subject)):
            brought = await self._bring_referrers(subject, digests, extra)
        if depth < _MAX_DEPTH:
            for digest in brought:
                await self._referrers(digest, depth + 1)

    async def _bring_referrers(self, subject: str, digests: list[str], extra: Manifest | None) -> list[str]:
        """Bring those that are missing; return those that are there now."""
        present = await self._listed(self._target, subject)
        brought, unlisted, waiting = [], [], 0
        for digest in digests:
            if digest not in present:
                try:
                    known = extra if extra is not None and extra.digest == digest else None
                    manifest = known or await self._origin.get_manifest(digest)
                    listed = await self._referrer(manifest, subject)
                except ReplicatorError as error:
                    self._warn(digest, error)
                    continue
                if not listed:
                    unlisted.append(_row(manifest))
                    waiting += len(manifest.content)
                if waiting > _LISTED_AFTER:
                    await self._list(subject, unlisted)
                    unlisted, waiting = [], 0
            brought.append(digest)
        if unlisted:
            await self._list(subject, unlisted)
        return brought

    async def _referrer(self, manifest: Manifest, subject: str) -> bool:
        """Bring one referrer; tell whether the registry lists it, or leaves that to its clients."""
        named = manifest.subject.digest if manifest.subject is not None else "nothing"
        if named != subject:
            wrong = f"it is listed as referring to {subject}, and refers to {named}"
            raise UnsupportedManifest(wrong).at(self._origin.repository.registry, manifest.digest)
        await self._run.bring_parts(manifest)
        listed = await self._run.put(manifest, manifest.digest)
        self._tally.signatures += 1
        return listed

    async def _listed_at_origin(self, subject: str) -> set[str]:
        """Find what refers to ``subject``, in the fallback tag too: it may be older than the registry's API."""
        found = await self._origin.referrers(subject)
        listed = {descriptor.digest for descriptor in found or ()}
        try:
            index = await self._fallback(self._origin, subject)
        except ReplicatorError as error:
            self._warn(fallback_tag(subject), error)
        else:
            listed |= {descriptor.digest for descriptor in index.manifests} if index is not None else set()
        return listed

    async def _listed(self, repository: RemoteRepository, subject: str) -> set[str]:
        found: Iterable[Descriptor] | None = await repository.referrers(subject)
        if found is None:
            index = await self._fallback(repository, subject)
            found = index.manifests if index is not None else ()
        return {descriptor.digest for descriptor in found}

    async def _fallback(self, repository: RemoteRepository, subject: str) -> Manifest | None:
        try:
            return await repository.get_manifest(fallback_tag(subject))
        except NotFound:
            return None

    async def _list(self, subject: str, added: list[dict[str, Any]]) -> None:
        """Add to the index that lists referrers where the registry has no API for them."""
        before = await self._fallback(self._target, subject)
        if before is not None and not before.is_index:
            # Somebody's image, and no list: it is left alone.
            raise self._unlistable(subject, "the tag that is to list them names an image")
        try:
            rows = [*(json.loads(before.content)["manifests"] if before is not None else ()), *added]
        except RecursionError as error:
            raise self._unlistable(subject, "the list is nested too deep") from error
        try:
            await self._put_list(subject, rows)
        except ManifestIncomplete:
            # The registry has lost, or someone has deleted, what was listed before.
            there = await gather_all(self._target.head_manifest(row["digest"]) for row in rows)
            rows = [row for row, found in zip(rows, there, strict=True) if found is not None]
            try:
                await self._put_list(subject, rows)
            except ManifestIncomplete as error:
                # No patience of the queue would help: all it names is there.
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

    def _unlistable(self, subject: str, why: str) -> UnsupportedManifest:
        registry = self._target.repository.registry
        what = f"what refers to {subject} can't be listed: {why}"
        return UnsupportedManifest(what).at(registry, fallback_tag(subject))

    def _warn(self, what: str, error: ReplicatorError) -> None:
        """Take a refusal for a warning.

        Raises:
            ReplicatorError: it is a fault that passes: trying again may help.
        """
        if error.error_class is not ErrorClass.PERMANENT:
            raise error
        self._tally.warn(f"not copied: {what}: {error}")


def _row(manifest: Manifest) -> dict[str, Any]:
    row: dict[str, Any] = {
        "mediaType": manifest.media_type,
        "digest": manifest.digest,
        "size": len(manifest.content),
    }
    row |= {"artifactType": manifest.artifact_type} if manifest.artifact_type else {}
    return row | ({"annotations": dict(manifest.annotations)} if manifest.annotations else {})
