"""What of an image is copied, as a rules file says it: ``platforms``, ``attestations`` and ``signatures``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from replicator.acr import automatic_attestations
from replicator.errors import Problem
from replicator.options import Attestations, CopyOptions, Platform
from replicator.rules.place import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.rules.place import Place

KEYS = ("platforms", "attestations", "signatures")
"""The keys that say it."""

_AUTO = "auto"
ATTESTATIONS = (_AUTO, *(str(choice) for choice in (Attestations.KEEP, Attestations.STRIP, Attestations.FAIL)))
"""The words of ``attestations``."""
_SYSTEMS = ("linux", "windows", "darwin", "freebsd", "android", "wasip1")
_ARCHITECTURES = (
    *("amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64", "loong64"),
    *("mips", "mipsle", "mips64", "mips64le", "ppc64", "wasm"),
)
"""Go's names, which the OCI image specification 1.1 ("Image Index", ``platform``) takes over; those of images."""


@dataclass(frozen=True, slots=True)
class Content:
    """What one place of the file says; None for what it does not.

    Attributes:
        platforms: the platforms that are copied.
        attestations: a word of `Attestations`, or ``auto``.
        signatures: whether signatures are copied too.
    """

    platforms: tuple[Platform, ...] | None = None
    attestations: str | None = None
    signatures: bool | None = None

    def over(self, other: Content) -> Content:
        """Return what both say, this one's word first."""
        return Content(
            other.platforms if self.platforms is None else self.platforms,
            other.attestations if self.attestations is None else self.attestations,
            other.signatures if self.signatures is None else self.signatures,
        )

    def options(self, registry: str) -> CopyOptions:
        """Return what it means for a destination at ``registry``."""
        automatically = self.attestations in (None, _AUTO)
        attestations = automatic_attestations(registry) if automatically else Attestations(str(self.attestations))
        return CopyOptions(self.platforms or (), attestations, bool(self.signatures))

    def under_its_digest(self, registry: str) -> CopyOptions:
        """Return what it means for a destination that is named by the source's digest: no byte may change."""
        options = self.options(registry)
        fails = options.attestations is Attestations.FAIL
        return CopyOptions((), Attestations.FAIL if fails else Attestations.KEEP, options.signatures)

    @property
    def changes_bytes(self) -> bool:
        """Whether it asks outright for an index with less in it than at the source."""
        return bool(CopyOptions(self.platforms or ()).platforms) or self.attestations == Attestations.STRIP


NOTHING_SAID = Content()


def read_content(fields: Mapping[str, Place], warnings: list[Problem]) -> Content:
    """Read the three keys where they are among ``fields``; what is wrong is noted at its place.

    Args:
        fields: the places by key; others than the three are passed over.
        warnings: gets what is allowed but looks like a mistake.
    """
    platforms, attestations, signatures = (fields.get(key) for key in KEYS)
    return Content(
        None if platforms is None else _platforms(platforms, warnings),
        None if attestations is None else attestations.choice(ATTESTATIONS),
        None if signatures is None else signatures.boolean(),
    )


def _platforms(place: Place, warnings: list[Problem]) -> tuple[Platform, ...]:
    items = place.items()
    if not items:
        place.wrong('names no platform; leave it out, or write "*/*" for all')
    found: list[Platform] = []
    for item in items:
        text = item.text()
        if text is None:
            continue
        try:
            platform = Platform.parse(text)
        except ValueError as error:
            item.wrong(str(error))
            continue
        if platform in found:
            item.wrong(f"the platform {platform} stands here twice; remove one")
            continue
        warnings += [Problem(item.path, message) for message in _doubts(platform, found)]
        found.append(platform)
    return tuple(found)


def _doubts(platform: Platform, others: list[Platform]) -> list[str]:
    """Return what is most likely not meant by ``platform`` behind ``others``."""
    doubts = []
    if platform.os not in ("*", *_SYSTEMS):
        doubts.append(f"{platform.os} is no operating system known here; {did_you_mean(platform.os, _SYSTEMS)}")
    if platform.architecture not in ("*", *_ARCHITECTURES):
        known = did_you_mean(platform.architecture, _ARCHITECTURES)
        doubts.append(f"{platform.architecture} is no architecture known here; {known}")
    for other in others:
        if other.takes(platform) or platform.takes(other):
            wide, narrow = (platform, other) if platform.takes(other) else (other, platform)
            doubts.append(f"{wide} takes {narrow} too; one of them is enough")
            break
    return doubts
