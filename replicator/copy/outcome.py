"""Results of a copy: a value that can be logged, reported and queued, the counts behind it, and two errors."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from replicator.errors import ErrorClass, ReplicatorError

if TYPE_CHECKING:
    from replicator.reference import Reference
    from replicator.registry import RegistryError

_MAX_WARNINGS = 20
"""Warnings kept in full: an outcome goes through the queue and into logs."""


class Result(StrEnum):
    """How a successful copy ended."""

    COPIED = "copied"
    """The destination's tag was written."""
    UP_TO_DATE = "up to date"
    """The destination's tag already had the right digest; nothing was sent."""
    SOURCE_GONE = "source gone"
    """The source's tag was deleted before the copy ran; the destination was left alone."""
    SKIPPED = "skipped"
    """Nothing to copy: the tag is not among the latest, no selected platform matches, or the registry refuses it."""


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
        source_digest: the digest of the source's tag when it was copied or compared. Only for the process that made
            the copy: it is not in `to_json`.
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
    source_digest: str | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, one key per attribute; ``signatures`` and ``warnings`` only where there are any."""
        values = asdict(self) | {"warnings": list(self.warnings)}
        del values["source_digest"]
        return {key: value for key, value in values.items() if value or key not in ("signatures", "warnings")}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Outcome:
        """Parse the values of `to_json`.

        Raises:
            TypeError, ValueError: the values have another form.
        """
        warnings = tuple(values.get("warnings", ()))
        return cls(**{**values, "result": Result(values["result"]), "warnings": warnings})


@dataclass(slots=True)
class Tally:
    """Running counts of a copy; `Outcome` explains them."""

    bytes: int = 0
    blobs_copied: int = 0
    blobs_mounted: int = 0
    blobs_present: int = 0
    manifests: int = 0
    signatures: int = 0
    warned: int = 0
    _warnings: list[str] = field(default_factory=list)

    def warn(self, message: str) -> None:
        """Add a warning; after the first twenty, warnings are only counted."""
        self.warned += 1
        if self.warned <= _MAX_WARNINGS:
            self._warnings.append(message)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings so far."""
        more = self.warned - len(self._warnings)
        return (*self._warnings, *([f"and {more} more"] if more else []))


class SourceNotFound(ReplicatorError):
    """The source has no such tag or digest: not yet, or no longer.

    Attributes:
        source: the missing reference.
    """

    error_class: ErrorClass = ErrorClass.NOT_YET

    def __init__(self, source: Reference, cause: RegistryError) -> None:
        self.source = source
        super().__init__(f"{source} not found ({cause.why}): check the tag, and that this login may pull it")


class AttestationsFound(ReplicatorError):
    """The image has attestations, and its rule forbids them."""

    def __init__(self, registry: str, digest: str) -> None:
        super().__init__(
            f"{registry}: the image has attestations ({digest} is one), and its rule says attestations: fail; build it "
            "without them (--provenance=false --sbom=false), or set attestations to strip or keep"
        )
