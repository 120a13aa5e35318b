"""The ``defaults`` section, and the command line's word in it: where ``""`` goes, and what of an image is copied.

What of an image is copied, as a rules file says it: ``platforms``, ``attestations`` and ``signatures``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from replicator.aliyun.acr import automatic_attestations
from replicator.copy.options import Attestations, CopyOptions
from replicator.errors import Problem
from replicator.reference import Platform, is_registry, is_repository_name
from replicator.rules.mapping import Template
from replicator.rules.node import Node, did_you_mean, expand_variables
from replicator.rules.patterns import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CONTENT_KEYS = ("platforms", "attestations", "signatures")
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


def read_content(fields: Mapping[str, Node], warnings: list[Problem]) -> Content:
    """Read the three keys where they are among ``fields``; what is wrong is noted at its place.

    Args:
        fields: the places by key; others than the three are passed over.
        warnings: gets what is allowed but looks like a mistake.
    """
    platforms, attestations, signatures = (fields.get(key) for key in CONTENT_KEYS)
    return Content(
        None if platforms is None else _platforms(platforms, warnings),
        None if attestations is None else attestations.choice(ATTESTATIONS),
        None if signatures is None else signatures.boolean(),
    )


def _platforms(place: Node, warnings: list[Problem]) -> tuple[Platform, ...]:
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
        if other.matches(platform) or platform.matches(other):
            wide, narrow = (platform, other) if platform.matches(other) else (other, platform)
            doubts.append(f"{wide} takes {narrow} too; one of them is enough")
            break
    return doubts


NAMES = ("registry", "namespace")
"""What ``""`` is made of."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What ``""`` stands for, and what rules mean that don't say it themselves.

    Attributes:
        registry: the host, in lower case; None if none is given, or a wrong one.
        namespace: what comes in front of the repository's name; None likewise.
        missing: which of the two nobody gave.
        content: what of an image is copied.
    """

    registry: str | None = None
    namespace: str | None = None
    missing: tuple[str, ...] = NAMES
    content: Content = NOTHING_SAID

    @property
    def template(self) -> Template | None:
        """The destination that ``""`` means; None if it can't be told."""
        if self.registry is None or self.namespace is None:
            return None
        return Template(self.registry, f"{self.namespace}/{{name}}", is_default=True)


def read_defaults(
    place: Node | None,
    environ: Mapping[str, str],
    options: Mapping[str, str | None],
    problems: list[Problem],
    warnings: list[Problem],
) -> Defaults:
    """Read the ``defaults`` mapping; what is wrong is noted.

    Args:
        place: the mapping; None if the file has none.
        environ: what ``${NAME}`` in the file is taken from.
        options: what the command line gives, by name; it wins.
        problems: gets what is wrong with the options.
        warnings: gets what is allowed but looks like a mistake.
    """
    values: dict[str, Node] = {}
    fields = (place.mapping((*NAMES, *CONTENT_KEYS)) if place is not None else None) or {}
    for name in [name for name in fields if name in NAMES]:
        written = fields[name]
        text = written.text()
        expanded = None if text is None else expand_variables(written, text, environ)
        written.value = expanded
        values[name] = written
    for name, option in options.items():
        if option is not None:
            values[name] = Node(option, f"--{name}", problems)
    registry = _checked(values.get("registry"), is_registry, "is no registry's host, e.g. harbor.example.com")
    namespace = _checked(
        values.get("namespace"), is_repository_name, "is no namespace: lower-case letters, digits, - _ ."
    )
    missing = tuple(name for name in NAMES if name not in values)
    return Defaults(registry, namespace, missing, read_content(fields, warnings))


def _checked(place: Node | None, is_valid: Callable[[str], bool], advice: str) -> str | None:
    if place is None or place.value is None:
        return None
    text = str(place.value)
    if place.path.endswith("registry"):
        text = text.lower()
    if not is_valid(text):
        place.wrong(f"{shorten(text)} {advice}")
        return None
    return text
