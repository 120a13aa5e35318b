"""State of one copy: the repositories it runs between, the manifests it has read, and the outcome that it comes to."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Self

from replicator.copy.ledger import RefusedKinds
from replicator.copy.options import VERBATIM, Attestations
from replicator.errors import ErrorClass, ReplicatorError
from replicator.registry.errors import NotFound, Refused, refuses_kind
from replicator.registry.kinds import deciding_type, is_image
from replicator.registry.manifest import embedded, platform_of

if TYPE_CHECKING:
    from replicator.copy.options import CopyOptions, Namespace, OnProgress
    from replicator.reference import Platform, Reference, Repository
    from replicator.registry import Descriptor, Manifest, Registries, RegistryError, RemoteRepository

_MAX_WARNINGS = 20
"""Warnings kept in full: an outcome goes through the queue and into logs."""


_OPTIONAL = frozenset({"signatures", "warnings", "replaced", "source_digest", "still_holds", "refused"})


class Result(StrEnum):
    """How a successful copy ended."""

    COPIED = "copied"
    """The destination's tag was written."""
    UP_TO_DATE = "up to date"
    """The destination's tag already had the right digest; nothing was sent."""
    SOURCE_GONE = "source gone"
    """The source's tag was deleted before the copy ran; the destination was left alone."""
    SKIPPED = "skipped"
    """Nothing to copy: the tag is not among the latest, no selected platform matches, the registry refuses it, or
    nothing may be replaced."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a copy.

    Attributes:
        result: how it ended.
        source: the reference that was read.
        destination: the reference that was written.
        digest: the digest of the destination's tag, where it is known.
        bytes: blob bytes sent to the destination.
        blobs_copied: blobs sent.
        blobs_mounted: blobs mounted from another repository of the destination's registry.
        blobs_present: blobs that the destination's repository already had.
        manifests: manifests written, children included.
        seconds: duration of the copy.
        note: the reason, where the result alone does not give it, or what was left out.
        signatures: signatures and other referrers written; ``manifests`` includes them.
        warnings: refusals that did not make the copy fail.
        replaced: the digest of another image that the destination's tag named before it was written; None if there was
            none.
        source_digest: the digest of the source's tag when it was copied or compared.
        settled: whether another attempt would bring no signature more. Only for the process that made the copy: it is
            not in `to_json`.
        former: the digest that the destination's tag named before the copy; empty if there was no such tag, None if
            the destination was not asked. It is not in `to_json` either.
        still_holds: the digest that the destination's tag still has, although the source's tag was skipped or is
            gone; None if there is no such tag.
        refused: the kind of an artifact that was skipped because the destination refuses it (`artifact_kind`); else
            empty.
    """

    result: Result
    source: str
    destination: str
    digest: str | None = None
    bytes: int = 0
    blobs_copied: int = 0
    blobs_mounted: int = 0
    blobs_present: int = 0
    manifests: int = 0
    seconds: float = 0.0
    note: str = ""
    signatures: int = 0
    warnings: tuple[str, ...] = ()
    replaced: str | None = None
    source_digest: str | None = None
    settled: bool = field(default=True, compare=False)
    former: str | None = field(default=None, compare=False)
    still_holds: str | None = None
    refused: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, one key per attribute; some of them only where there is a value."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.compare}
        values["warnings"] = list(self.warnings)
        return {name: value for name, value in values.items() if value or name not in _OPTIONAL}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Outcome:
        """Parse the values of `to_json`; keys of a later version are ignored.

        Raises:
            TypeError, ValueError: the values have another form.
        """
        warnings = tuple(values.get("warnings", ()))
        values = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        return cls(**{**values, "result": Result(values["result"]), "warnings": warnings})

    def held_by(self, digest: str | None) -> Self:
        """Return the same outcome of a tag that was left alone, with a warning if the destination has such a tag.

        Args:
            digest: the digest of the destination's tag; None if there is no such tag.
        """
        return replace(self, still_holds=digest, warnings=(*self.warnings, *held_warning(digest)))


def held_warning(digest: str | None) -> tuple[str, ...]:
    """Return the warning that a destination's tag still points to an old image; nothing if there is no such tag."""
    return (f"the destination still holds {digest}",) if digest is not None else ()


@dataclass(slots=True)
class Tally:
    """Running counts of a copy; `Outcome` explains them.

    Attributes:
        settled: whether another attempt would bring no signature more.
    """

    bytes: int = 0
    blobs_copied: int = 0
    blobs_mounted: int = 0
    blobs_present: int = 0
    manifests: int = 0
    signatures: int = 0
    warned: int = 0
    settled: bool = True
    _notes: list[str] = field(default_factory=list)
    _warnings: list[str] = field(default_factory=list)

    def warn(self, message: str) -> None:
        """Add a warning; after the first twenty, warnings are only counted."""
        self.warned += 1
        if self.warned <= _MAX_WARNINGS:
            self._warnings.append(message)

    def note(self, message: str) -> None:
        """Add what is worth a word and no warning; no more than twenty, each once."""
        if message not in self._notes and len(self._notes) < _MAX_WARNINGS:
            self._notes.append(message)

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes so far."""
        return tuple(self._notes)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings so far."""
        more = self.warned - len(self._warnings)
        return (*self._warnings, *([f"and {more} more"] if more else []))


class SourceNotFound(ReplicatorError):
    """The source has no such tag or digest: not yet, or no longer.

    Attributes:
        source: the missing reference.
        says_gone: what the registry's own words say is not there: the manifest (``MANIFEST_UNKNOWN``, or Harbor's
            ``NOT_FOUND`` of an artifact or its repository), or the repository (``NAME_UNKNOWN``), as a registry may
            say too whose storage is not mounted; None if it has no such words.
    """

    error_class: ErrorClass = ErrorClass.NOT_YET

    def __init__(self, source: Reference, cause: RegistryError) -> None:
        self.source = source
        self.says_gone: Literal["manifest", "repository"] | None = None
        name = re.escape(source.repository.name)
        named = re.search(rf"\b(artifact {name}[:@]|repository {name} )", cause.why)
        if "MANIFEST_UNKNOWN" in cause.codes or ("NOT_FOUND" in cause.codes and named):
            self.says_gone = "manifest"
        elif "NAME_UNKNOWN" in cause.codes:
            self.says_gone = "repository"
        advice = "check the name and the tag, and that the login may pull it"
        super().__init__(f"{source} not found", cause.why, advice)


class AttestationsFound(ReplicatorError):
    """The image has attestations, and its rule forbids them."""

    def __init__(self, registry: str, digest: str) -> None:
        super().__init__(
            f"{registry}: the image has attestations ({digest} is one)",
            "its rule says attestations: fail",
            "build it without them (--provenance=false --sbom=false), or set attestations to strip or keep",
        )


_SIGNATURE_KIND = re.compile(r"signature|sigstore|cosign|\bsig\b|notary|in-toto|dsse|attestation|provenance")
_OTHER_KIND = re.compile(r"sbom|spdx|cyclonedx")
_REFUSALS_OF_KINDS = frozenset({400, 415, 422})
_MAX_READS = 8
"""Concurrent manifest reads, each up to 4 MiB."""
_CACHE_BYTES = 1024 * 1024
"""Manifests kept for a second use, such as attestations that were inspected before they are copied."""
PUSH_AGAIN = "the source has lost a part of this image: push it there again"
"""What to do about a part that its source does not have."""


def place_of(repository: Repository) -> Namespace:
    """Return the place of a destination's repository."""
    namespace, slash, _ = repository.name.partition("/")
    return repository.registry, namespace if slash else ""


# Not frozen, although no code changes one: there is one for each tag, and a frozen one costs three times as much.
@dataclass(slots=True)
class CopyContext:
    """The shared state of all steps of one copy.

    Attributes:
        source: the image, by tag or by digest.
        destination: the tag or digest that is written.
        origin: the repository of ``source``.
        target: the repository of ``destination``.
        options: the parts of the image to copy.
        reader: reads manifests from ``origin``, each once.
        on_bytes: called with every chunk of a blob that is read, and every blob that will be sent.
        tally: counts for the outcome.
        started: when the copy started, by `time.monotonic`.
        kinds: the kinds of manifests that destinations refuse and take.
        left_out: digests of children that the destination refused in this copy.
        force: whether only that counts of ``kinds`` which this copy has found out itself.
        learned: whether the destination refuses a kind, as this copy has found out.
    """

    source: Reference
    destination: Reference
    origin: RemoteRepository
    target: RemoteRepository
    options: CopyOptions
    reader: SourceReader
    on_bytes: OnProgress
    tally: Tally = field(default_factory=Tally)
    started: float = field(default_factory=time.monotonic)
    kinds: RefusedKinds = field(default_factory=RefusedKinds)
    left_out: set[str] = field(default_factory=set)
    force: bool = False
    learned: dict[str, bool] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        registries: Registries,
        source: Reference,
        destination: Reference,
        options: CopyOptions = VERBATIM,
        progress: OnProgress | None = None,
        kinds: RefusedKinds | None = None,
        *,
        force: bool = False,
    ) -> Self:
        """Return the context of a new copy; no request is sent yet."""
        origin = registries.source(source.repository)
        target = registries.destination(destination.repository)
        reader, kinds = SourceReader(origin), kinds or RefusedKinds()
        return cls(source, destination, origin, target, options, reader, progress or _ignore, kinds=kinds, force=force)

    @property
    def place(self) -> Namespace:
        """The host and the namespace of the destination, whose policies decide which kinds it takes."""
        return place_of(self.target.repository)

    async def verdict(self, manifest: Manifest) -> bool | None:
        """Tell whether the destination is known to refuse the kind of a manifest; see `RefusedKinds.verdict`."""
        kind = deciding_type(manifest)
        return self.learned.get(kind) if self.force else await self.kinds.verdict(*self.place, kind)

    def learn(self, manifest: Manifest, *, refused: bool) -> None:
        """Remember whether the destination refuses the kind of a manifest."""
        kind = deciding_type(manifest)
        self.learned[kind] = refused
        self.kinds.note(*self.place, kind, refused=refused)

    def may_leave_out(self, *, attestation: bool) -> bool:
        """Tell whether a child of an index that the destination refuses may be left out: never if all is wanted."""
        if attestation:
            return self.options.attestations is Attestations.STRIP_REFUSED
        lenient = self.options.attestations in (Attestations.STRIP_REFUSED, Attestations.STRIP)
        return lenient and self.options.refused == "skip"

    def outcome(
        self,
        result: Result,
        digest: str | None,
        note: str = "",
        *,
        source_digest: str | None = None,
        replaced: str | None = None,
    ) -> Outcome:
        """Return the outcome of the copy, with the counts and the time so far."""
        return Outcome(
            result,
            str(self.source),
            str(self.destination),
            digest,
            bytes=self.tally.bytes,
            blobs_copied=self.tally.blobs_copied,
            blobs_mounted=self.tally.blobs_mounted,
            blobs_present=self.tally.blobs_present,
            manifests=self.tally.manifests,
            seconds=round(time.monotonic() - self.started, 3),
            note="; ".join(filter(None, (note, *self.tally.notes))),
            signatures=self.tally.signatures,
            warnings=self.tally.warnings,
            replaced=replaced,
            source_digest=source_digest,
            settled=self.tally.settled,
        )


class SourceReader:
    """Reader of the manifests of one image, with a small cache."""

    def __init__(self, origin: RemoteRepository) -> None:
        self._origin = origin
        self._reads = asyncio.Semaphore(_MAX_READS)
        self._cache: dict[str, Manifest] = {}
        self._free_bytes = _CACHE_BYTES

    async def child(self, child: Descriptor, index: str) -> Manifest:
        """Read a child manifest of the index with the digest ``index``.

        Raises:
            NotFound: the source does not have it; the error names both.
            UnsupportedManifest: it is a blob.
            RegistryError: the source refused, failed or sent other bytes.
        """
        if child.digest in self._cache:
            return self._cache[child.digest]
        async with self._reads:
            try:
                manifest = await self._origin.get_child(child, index)
            except NotFound as error:
                lost = f"the index {index} lists the child {child.digest}, which the source does not have"
                raise NotFound(f"{lost}{embedded(child)[1]}", PUSH_AGAIN, status=error.status, codes=error.codes).at(
                    error.registry, error.request
                ) from error
        if len(manifest.content) <= self._free_bytes:
            self._free_bytes -= len(manifest.content)
            self._cache[child.digest] = manifest
        return manifest

    async def platform(self, image: Manifest) -> Platform | None:
        """Read the platform of an image from its config (image specification, "Image Configuration").

        Returns:
            The platform; None where the config names none.

        Raises:
            RegistryError: the source refused, failed or sent other bytes.
        """
        if not is_image(image) or image.config is None:
            return None
        try:
            content, _ = embedded(image.config)
            return platform_of(json.loads(await self._origin.read_blob(image.config) if content is None else content))
        except (ValueError, RecursionError):
            return None


def refusal_note(registry: str, kind: str) -> str:
    """Say why something is skipped whose kind is remembered to be refused."""
    return f"{registry} has refused the kind {kind!r} within the last week"


def is_signature_kind(kind: str) -> bool:
    """Tell whether an ``artifactType`` is that of signatures or attestations, not of SBOMs or anything else."""
    kind = kind.lower()
    return _SIGNATURE_KIND.search(kind) is not None and _OTHER_KIND.search(kind) is None


def is_of_kind(error: RegistryError) -> bool:
    """Tell whether the refusal of a signature's manifest is about its kind, not about a quota or a permission."""
    if not error.request.startswith("PUT") or "/manifests/" not in error.request:
        return False
    return refuses_kind(error) or (isinstance(error, Refused) and error.status in _REFUSALS_OF_KINDS)


def _ignore(_: int, __: int = 0, /) -> None:
    return
