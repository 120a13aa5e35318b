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

from replicator.copy.errors import SourceNotFound
from replicator.copy.outcome import Result
from replicator.copy.run import Run
from replicator.copy.together import each
from replicator.copy.turns import Turns
from replicator.errors import ErrorClass, ReplicatorError
from replicator.reference import Reference, signed_by
from replicator.registry.digests import digest_of
from replicator.registry.errors import ManifestIncomplete, NotFound, RegistryError
from replicator.registry.manifest import OCI_INDEX, parse_manifest
from replicator.registry.referrers import fallback_tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from replicator.copy.blobs import BlobCopier
    from replicator.copy.outcome import Tally
    from replicator.copy.reading import SourceReader
    from replicator.copy.selection import Selection
    from replicator.registry import Descriptor, Manifest, RemoteRepository

_COSIGN = (".sig", ".att", ".sbom")
_MAX_DEPTH = 3
"""What refers to a referrer, and so on: a signature of an SBOM of an image has two."""
_AT_ONCE = 4
"""Images whose signatures are looked for at once."""


class Signatures:
    """Copies signatures; one process, and as far as the processes share, one of all, is at one image's at a time.

    Args:
        blobs: brings their blobs.
    """

    def __init__(self, blobs: BlobCopier) -> None:
        self._blobs = blobs
        self._turns = Turns()

    def between(
        self,
        origin: RemoteRepository,
        reader: SourceReader,
        target: RemoteRepository,
        tally: Tally,
        on_bytes: Callable[[int], None],
    ) -> Signing:
        """Return what copies signatures from one repository to another."""
        run = Run(origin, reader, target, self._blobs, tally, on_bytes, {})
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
        run: Run,
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
        digests = [digest async for digest in self._tree(selection.manifest, selection)]
        if selection.manifest.digest != announced:
            # A signature is of bytes, and these were written anew.
            digests.remove(selection.manifest.digest)
            if await self._is_signed(announced):
                self._tally.warnings.append(
                    f"the signatures of {announced} are not copied: they do not hold for the index written anew, "
                    f"{selection.manifest.digest}"
                )
        await each(self._all_of(digest) for digest in dict.fromkeys(digests))

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
                    raise SourceNotFound(source, NotFound(source.registry, "HEAD", "there is no such tag"))
            else:
                await self._referrers(subject, 0, extra)
        except ReplicatorError as error:
            self._warn(source.identifier, error)
        if self._tally.warnings:
            return Result.SKIPPED, None, "; ".join(self._tally.warnings)
        return (Result.COPIED if self._tally.manifests > before else Result.UP_TO_DATE), digest, ""

    async def _tree(self, manifest: Manifest, selection: Selection) -> AsyncIterator[str]:
        yield manifest.digest
        for child in manifest.manifests:
            if child.is_index:
                nested = selection.rewritten.get(child.digest) or await self._reader.child(
                    child.digest, manifest.digest
                )
                async for digest in self._tree(nested, selection):
                    if digest not in selection.rewritten:
                        yield digest
            elif not child.is_attestation:
                yield child.digest

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
        if any(await each(self._origin.head_manifest(tag) for tag in tags)):
            return True
        return bool(await self._listed(self._origin, digest))

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
        listed = {descriptor.digest for descriptor in await self._listed(self._origin, subject)}
        digests = list(dict.fromkeys([*sorted(listed), *([extra.digest] if extra is not None else [])]))
        if not digests:
            return
        async with self._signatures.turn(self._target, fallback_tag(subject)):
            present = {descriptor.digest for descriptor in await self._listed(self._target, subject)}
            unlisted = []
            for digest in digests:
                if digest not in present:
                    try:
                        manifest = extra if extra is not None and extra.digest == digest else None
                        unlisted += await self._referrer(manifest or await self._origin.get_manifest(digest))
                    except ReplicatorError as error:
                        self._warn(digest, error)
            if unlisted:
                await self._list(subject, unlisted)
        if depth < _MAX_DEPTH:
            for digest in digests:
                await self._referrers(digest, depth + 1)

    async def _referrer(self, manifest: Manifest) -> list[Manifest]:
        """Bring one referrer; return it if the registry leaves it to its clients to list it."""
        await self._run.bring_parts(manifest)
        listed = await self._run.put(manifest, manifest.digest)
        self._tally.signatures += 1
        return [] if listed else [manifest]

    async def _listed(self, repository: RemoteRepository, subject: str) -> Iterable[Descriptor]:
        found = await repository.referrers(subject)
        if found is None:
            index = await self._fallback(repository, subject)
            found = index.manifests if index is not None else ()
        return found

    async def _fallback(self, repository: RemoteRepository, subject: str) -> Manifest | None:
        try:
            index = await repository.get_manifest(fallback_tag(subject))
        except NotFound:
            return None
        return index if index.is_index else None

    async def _list(self, subject: str, manifests: Iterable[Manifest]) -> None:
        """Add to the index that lists referrers where the registry has no API for them."""
        before = await self._fallback(self._target, subject)
        rows: list[dict[str, Any]] = json.loads(before.content)["manifests"] if before is not None else []
        rows += [_row(manifest) for manifest in manifests]
        try:
            await self._put_list(subject, rows)
        except ManifestIncomplete:
            # The registry has lost, or someone has deleted, what was listed before.
            there = await each(self._target.head_manifest(row["digest"]) for row in rows)
            await self._put_list(subject, [row for row, found in zip(rows, there, strict=True) if found is not None])

    async def _put_list(self, subject: str, rows: list[dict[str, Any]]) -> None:
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows}
        content = json.dumps(document, separators=(",", ":")).encode()
        index = parse_manifest(content, OCI_INDEX, digest_of(content))
        await self._target.put_manifest(index, fallback_tag(subject))

    def _warn(self, what: str, error: ReplicatorError) -> None:
        """Take a refusal for a warning.

        Raises:
            ReplicatorError: it is a fault that passes: trying again may help.
        """
        if error.error_class is not ErrorClass.PERMANENT or not isinstance(error, RegistryError):
            raise error
        self._tally.warnings.append(f"not copied: {what}: {error}")


def _row(manifest: Manifest) -> dict[str, Any]:
    row: dict[str, Any] = {
        "mediaType": manifest.media_type,
        "digest": manifest.digest,
        "size": len(manifest.content),
        "artifactType": manifest.artifact_type,
    }
    return row | ({"annotations": dict(manifest.annotations)} if manifest.annotations else {})
