"""What became of a copy, as a value that can be logged, reported and sent through a queue.

What only a copy as a whole can find wrong.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from replicator.errors import ErrorClass, ReplicatorError

if TYPE_CHECKING:
    from replicator.reference import Reference
    from replicator.registry import RegistryError

_MAX_WARNINGS = 20
"""Warnings that are told in full: an outcome goes through the queue and into logs."""


class Result(StrEnum):
    """How a copy ended that did not fail."""

    COPIED = "copied"
    """The destination's tag was written."""
    UP_TO_DATE = "up to date"
    """The destination's tag already named the same digest; nothing was sent."""
    SOURCE_GONE = "source gone"
    """The source's tag was deleted before the copy ran; the destination was left alone."""
    SKIPPED = "skipped"
    """Nothing of it is wanted, or can be: it is not among the latest, for no platform that is asked for, or refused."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a copy.

    Attributes:
        result: how it ended.
        source: where from, as a reference.
        destination: where to, as a reference.
        digest: what the destination's tag names now, where that is known.
        bytes: blob bytes that were sent to the destination.
        blobs_copied: blobs that were sent.
        blobs_mounted: blobs the destination took from another of its repositories.
        blobs_present: blobs that were in the destination's repository already.
        manifests: manifests that were written, children included.
        seconds: how long it took.
        note: why, where the result alone does not say it; what was left out.
        signatures: signatures and other referrers that were written, of ``manifests``.
        warnings: what was refused, or does not hold, without making the copy fail.
        source_digest: what the source's tag named when it was copied or found up to date; for the process that did
            it, and not in `to_json`.
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
        """Return it as JSON values, a key an attribute; ``signatures`` and ``warnings`` only if there are any."""
        values = asdict(self) | {"warnings": list(self.warnings)}
        del values["source_digest"]
        return {key: value for key, value in values.items() if value or key not in ("signatures", "warnings")}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Outcome:
        """Rebuild it from `to_json`'s values.

        Raises:
            TypeError, ValueError: they are not of that form.
        """
        warnings = tuple(values.get("warnings", ()))
        return cls(**{**values, "result": Result(values["result"]), "warnings": warnings})


@dataclass(slots=True)
class Tally:
    """Counts of a copy under way."""

    bytes: int = 0
    blobs_copied: int = 0
    blobs_mounted: int = 0
    blobs_present: int = 0
    manifests: int = 0
    signatures: int = 0
    warned: int = 0
    _warnings: list[str] = field(default_factory=list)

    def warn(self, words: str) -> None:
        """Note what was refused, or does not hold; after the first twenty they are only counted."""
        self.warned += 1
        if self.warned <= _MAX_WARNINGS:
            self._warnings.append(words)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was noted."""
        more = self.warned - len(self._warnings)
        return (*self._warnings, *([f"and {more} more"] if more else []))

    def outcome(
        self,
        result: Result,
        source: Reference,
        destination: Reference,
        digest: str | None,
        note: str,
        seconds: float,
    ) -> Outcome:
        """Return what became of the copy, with these counts."""
        return Outcome(
            result,
            str(source),
            str(destination),
            digest,
            self.bytes,
            self.blobs_copied,
            self.blobs_mounted,
            self.blobs_present,
            self.manifests,
            round(seconds, 3),
            note,
            self.signatures,
            self.warnings,
        )


class SourceNotFound(ReplicatorError):
    """The source has no such tag or digest: not yet, or not any more.

    Attributes:
        source: what was asked for.
    """

    error_class: ErrorClass = ErrorClass.NOT_YET

    def __init__(self, source: Reference, cause: RegistryError) -> None:
        self.source = source
        super().__init__(f"{source} is not there ({cause.why}): is the tag right, and may this login pull it?")


class AttestationsFound(ReplicatorError):
    """The image has attestations, and its rule says that there must be none."""

    def __init__(self, registry: str, digest: str) -> None:
        super().__init__(
            f"{registry}: the image has attestations, {digest} among them, and its rule says attestations: fail; build "
            "it without them (--provenance=false --sbom=false), or let the rule strip or keep them"
        )
