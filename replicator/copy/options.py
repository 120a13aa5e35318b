"""What of an image is copied: which platforms, which attestations, and whether its signatures too. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from replicator.reference import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping


class Attestations(StrEnum):
    """What becomes of BuildKit's attestations: manifests inside an index that describe its images."""

    KEEP = "keep"
    """They are copied like all else."""
    STRIP = "strip"
    """They are left out; the index is written anew without them."""
    FAIL = "fail"
    """An image that has any is not copied: a permanent error."""
    STRIP_REFUSED = "strip refused"
    """Those are left out that a registry which takes only images refuses for good, the rest is copied."""


_EVERYTHING = Platform("*", "*")
_STRENGTH = (Attestations.STRIP, Attestations.STRIP_REFUSED, Attestations.KEEP, Attestations.FAIL)
"""Of several wishes for one copy the last of these wins: what was asked to be kept, or to be told, is not lost."""
_IN_WORDS = {
    Attestations.STRIP: "attestations are left out",
    Attestations.STRIP_REFUSED: "attestations that the registry refuses are left out",
    Attestations.FAIL: "an image with attestations is not copied",
}


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """What of an image is copied.

    Attributes:
        platforms: only images for these, sorted, each once; empty for all, which ``*/*`` among them means too.
        attestations: what becomes of BuildKit's attestations.
        signatures: whether signatures and whatever else refers to the image are copied too.
    """

    platforms: tuple[Platform, ...] = ()
    attestations: Attestations = Attestations.KEEP
    signatures: bool = False

    def __post_init__(self) -> None:
        # One spelling of one wish: equal wishes are equal values, and give equal bytes.
        platforms = () if _EVERYTHING in self.platforms else tuple(sorted(set(self.platforms)))
        object.__setattr__(self, "platforms", platforms)

    def __str__(self) -> str:
        parts = [f"only {', '.join(map(str, self.platforms))}"] if self.platforms else []
        parts += [_IN_WORDS[self.attestations]] if self.attestations in _IN_WORDS else []
        parts += ["with signatures"] if self.signatures else []
        return "; ".join(parts) or "everything, byte for byte"

    @property
    def is_verbatim(self) -> bool:
        """Whether every image is copied as it is, byte for byte."""
        return not self.platforms and self.attestations is Attestations.KEEP

    def merged_with(self, other: CopyOptions) -> CopyOptions:
        """Return what is copied when both are asked for one copy: what either of them wants.

        Every platform of both; of what becomes of attestations the stronger: `Attestations.FAIL`, then
        ``KEEP``, ``STRIP_REFUSED``, ``STRIP``. The order of the two, and of several, makes no difference.
        """
        return CopyOptions(
            (*self.platforms, *other.platforms) if self.platforms and other.platforms else (),
            max(self.attestations, other.attestations, key=_STRENGTH.index),
            self.signatures or other.signatures,
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; what is as it is by default is left out."""
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
        """Rebuild it from `to_json`'s values.

        Raises:
            ValueError, TypeError, AttributeError: they are not of that form.
        """
        return cls(
            tuple(Platform.parse(text) for text in values.get("platforms", ())),
            Attestations(values.get("attestations", Attestations.KEEP)),
            values.get("signatures", False) is True,
        )


VERBATIM = CopyOptions()
"""Everything, byte for byte, without signatures: what is copied where nothing else is asked for."""
