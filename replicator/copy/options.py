"""Options of a copy: which platforms, which attestations, and whether signatures are copied too."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from replicator.reference import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping


class Attestations(StrEnum):
    """Treatment of BuildKit's attestations: manifests inside an index that describe its images."""

    KEEP = "keep"
    """They are copied like any other manifest."""
    STRIP = "strip"
    """They are left out; the index is rewritten without them."""
    FAIL = "fail"
    """An image that has any fails with a permanent error."""
    STRIP_REFUSED = "strip refused"
    """Only those that a registry of images refuses are left out."""


_ANY = Platform("*", "*")
_PRECEDENCE = (Attestations.STRIP, Attestations.STRIP_REFUSED, Attestations.KEEP, Attestations.FAIL)
"""The last one wins when several rules ask for the same copy, so that nothing one of them wants is lost."""
_IN_WORDS = {
    Attestations.STRIP: "attestations are left out",
    Attestations.STRIP_REFUSED: "attestations that the registry refuses are left out",
    Attestations.FAIL: "an image with attestations is not copied",
}


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """What is copied of an image.

    Attributes:
        platforms: patterns of the platforms to copy, sorted and unique; empty for all, which ``*/*`` means too.
        attestations: the treatment of BuildKit's attestations.
        signatures: copy signatures and other referrers of the image too.
    """

    platforms: tuple[Platform, ...] = ()
    attestations: Attestations = Attestations.KEEP
    signatures: bool = False

    def __post_init__(self) -> None:
        # Normalized, so that equal selections are equal values: they are cache keys, and give equal bytes.
        platforms = () if _ANY in self.platforms else tuple(sorted(set(self.platforms)))
        object.__setattr__(self, "platforms", platforms)

    def __str__(self) -> str:
        parts = [f"only {', '.join(map(str, self.platforms))}"] if self.platforms else []
        parts += [_IN_WORDS[self.attestations]] if self.attestations in _IN_WORDS else []
        parts += ["with signatures"] if self.signatures else []
        return "; ".join(parts) or "everything, byte for byte"

    @property
    def is_verbatim(self) -> bool:
        """Whether every image is copied byte for byte."""
        return not self.platforms and self.attestations is Attestations.KEEP

    def merged_with(self, other: CopyOptions) -> CopyOptions:
        """Return the options of one copy that two rules ask for: whatever either of them wants.

        Platforms are united; for attestations the first of `Attestations.FAIL`, ``KEEP``, ``STRIP_REFUSED`` and
        ``STRIP`` wins. The order does not matter.
        """
        return CopyOptions(
            (*self.platforms, *other.platforms) if self.platforms and other.platforms else (),
            max(self.attestations, other.attestations, key=_PRECEDENCE.index),
            self.signatures or other.signatures,
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, without defaults."""
        values: dict[str, Any] = {}
        if self.platforms:
            values["platforms"] = [str(platform) for platform in self.platforms]
        if self.attestations is not Attestations.KEEP:
            values["attestations"] = str(self.attestations)
        if self.signatures:
            values["signatures"] = True
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Parse the values of `to_json`.

        Raises:
            ValueError, TypeError, AttributeError: the values have another form.
        """
        return cls(
            tuple(Platform.parse(text) for text in values.get("platforms", ())),
            Attestations(values.get("attestations", Attestations.KEEP)),
            values.get("signatures", False) is True,
        )


VERBATIM = CopyOptions()
"""The default: everything, byte for byte, without signatures."""
