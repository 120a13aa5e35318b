"""What of an image is copied: which platforms, which attestations, and whether its signatures too. Plain values.

Platforms are those of the OCI image specification 1.1 ("Image Index", ``platform``), written ``os/architecture`` or
``os/architecture/variant``, e.g. ``linux/amd64`` and ``linux/arm64/v8``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

_PART = re.compile(r"(?:\*|[a-z0-9][a-z0-9._-]{0,63})\Z")
_SPELLINGS = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
}
"""Other names of an architecture, and of a variant with it, as container tools read them."""
_VARIANTS = {("arm64", "v8"): "", ("arm", ""): "v7", ("amd64", "v1"): ""}
"""Variants that say no more, or no less, than their absence, as container tools read them."""
_SHOWN = 80


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


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """What a container runs on.

    Attributes:
        os: e.g. ``linux``; ``*`` in a wish for any.
        architecture: e.g. ``arm64``; ``*`` in a wish for any.
        variant: e.g. ``v7``; empty when none is said.
    """

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``os/architecture`` or ``os/architecture/variant``.

        Raises:
            ValueError: the text is not of that form.
        """
        parts = text.strip().lower().split("/")
        if not 2 <= len(parts) <= 3 or not all(_PART.match(part) for part in parts) or parts[2:] == ["*"]:
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
            raise ValueError(f"{shown!r} is no platform: write os/architecture, e.g. linux/amd64 or linux/arm64/v8")
        architecture, variant = _SPELLINGS.get(parts[1], (parts[1], ""))
        return cls(parts[0], architecture, parts[2] if len(parts) > 2 else variant)

    def takes(self, platform: Platform) -> bool:
        """Tell whether ``platform``, of an image, is one that this wish names; without a variant any is."""
        architecture, implied = _SPELLINGS.get(platform.architecture.lower(), (platform.architecture.lower(), ""))
        variant = platform.variant or implied
        return (
            self.os in ("*", platform.os.lower())
            and self.architecture in ("*", architecture)
            and (not self.variant or _variant(architecture, self.variant) == _variant(architecture, variant))
        )


def _variant(architecture: str, variant: str) -> str:
    variant = variant.lower()
    if variant.isdecimal():
        variant = f"v{variant}"
    return _VARIANTS.get((architecture, variant), variant)


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
