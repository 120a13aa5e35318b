"""Reader of the ``defaults`` section, and of the keys for parts of an image, its destination and replacements.

The defaults give a meaning to ``""`` as a destination, where the command line wins over the file. ``types``,
``platforms``, ``attestations``, ``signatures``, ``overwrite`` and ``public`` stand in ``defaults`` for all rules, or in
a rule.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from replicator.aliyun.acr import is_acr_host
from replicator.copy.options import Attestations, CopyOptions, Overwrite, Public
from replicator.errors import Problem
from replicator.reference import Platform, full_host, is_registry, is_repository_name
from replicator.registry.kinds import KINDS
from replicator.rules.mapping import SourcePattern, Template, check_path
from replicator.rules.node import Node, did_you_mean, expand_variables
from replicator.rules.patterns import is_glob, literal_prefix, may_share, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from replicator.rules.credentials import Elsewhere

CONTENT_KEYS = ("types", "platforms", "attestations", "signatures", "overwrite", "public")
"""Keys that select types of artifacts and parts of an image, and say what a copy may replace and whether a private
image may become public."""

_AUTO = "auto"
ATTESTATIONS = (_AUTO, *(str(choice) for choice in (Attestations.KEEP, Attestations.STRIP, Attestations.FAIL)))
"""Values of ``attestations``."""
SIGNATURES = {_AUTO: None, "true": True, "false": False}
"""What each value of ``signatures`` means in `CopyOptions`."""
ALL = "all"
"""The value of ``types`` for every kind of artifact, those included that a destination refuses: a failure then."""
_MOST_TYPES = 64
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}\Z")
"""RFC 6838, section 4.2, in small letters."""
_SYSTEMS = ("linux", "windows", "darwin", "freebsd", "android", "wasip1")
_ARCHITECTURES = (
    *("amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64", "loong64"),
    *("mips", "mipsle", "mips64", "mips64le", "ppc64", "wasm"),
)
"""Go's names, which the OCI image specification 1.1 adopts ("Image Index", ``platform``), as far as images use them."""


@dataclass(frozen=True, slots=True)
class Content:
    """The parts of an image to copy, and what may be replaced, as one mapping of the file says; None for a missing key.

    Attributes:
        attestations: a value of `Attestations`, or ``auto``.
        signatures: a key of `SIGNATURES`.
        public: a value of `Public`.
        types: names of kinds of artifacts and media types, or `ALL` alone.
    """

    platforms: tuple[Platform, ...] | None = None
    attestations: str | None = None
    signatures: str | None = None
    overwrite: Overwrite | None = None
    public: str | None = None
    types: tuple[str, ...] | None = None

    def over(self, other: Content) -> Content:
        """Return this content, with missing keys taken from ``other``."""
        return Content(
            other.platforms if self.platforms is None else self.platforms,
            other.attestations if self.attestations is None else self.attestations,
            other.signatures if self.signatures is None else self.signatures,
            other.overwrite if self.overwrite is None else self.overwrite,
            other.public if self.public is None else self.public,
            other.types if self.types is None else self.types,
        )

    def options(self, registry: str) -> CopyOptions:
        """Return the options for a copy to ``registry``, as far as its name tells them."""
        automatic = Attestations.STRIP_REFUSED if is_acr_host(registry) else Attestations.KEEP
        attestations = automatic if self.is_automatic else Attestations(str(self.attestations))
        public = Public(self.public) if self.public is not None else None
        everything = self.types == (ALL,)
        return CopyOptions(
            self.platforms or (),
            attestations,
            SIGNATURES[self.signatures or _AUTO],
            public,
            "fail" if everything else "skip",
            () if everything else self.types or (),
        )

    def under_its_digest(self, registry: str) -> CopyOptions:
        """Return the options for a destination that is the source's digest: no byte may change."""
        options = self.options(registry)
        fails = options.attestations is Attestations.FAIL
        return replace(options, platforms=(), attestations=Attestations.FAIL if fails else Attestations.KEEP)

    @property
    def is_automatic(self) -> bool:
        """Whether the destination decides about attestations."""
        return self.attestations in (None, _AUTO)

    @property
    def changes_bytes(self) -> bool:
        """Whether it asks explicitly for a part of the source's index."""
        return bool(CopyOptions(self.platforms or ()).platforms) or self.attestations == Attestations.STRIP


NOTHING_SAID = Content()


def read_content(fields: Mapping[str, Node], warnings: list[Problem]) -> Content:
    """Read these keys if they are among ``fields``; mistakes are noted at their nodes.

    Args:
        fields: nodes by key; other keys are ignored.
        warnings: collects what is allowed but looks like a mistake.
    """
    types, platforms, attestations, signatures, overwrite, public = (fields.get(key) for key in CONTENT_KEYS)
    replaces = None if overwrite is None else overwrite.choice([*Overwrite])
    return Content(
        None if platforms is None else _platforms(platforms, warnings),
        None if attestations is None else attestations.choice(ATTESTATIONS),
        None if signatures is None else _signatures(signatures),
        None if replaces is None else Overwrite(replaces),
        None if public is None else public.choice(tuple(map(str, Public))),
        None if types is None else _types(types),
    )


def _types(node: Node) -> tuple[str, ...] | None:
    """Return the types in small letters; None if there is a mistake."""
    items = node.items()
    if not items:
        node.wrong(f"is empty; remove it, or write {ALL} for every type")
    if len(items) > _MOST_TYPES:
        node.wrong(f"has more than {_MOST_TYPES} types, the limit")
        return None
    found: list[str] = []
    for item in items:
        text = item.text()
        kind = text.lower() if text is not None else None
        if text is None or kind is None:
            continue
        if kind in found:
            item.wrong(f"duplicate type {kind}; remove one")
        elif kind == ALL and len(items) > 1:
            item.wrong(f"{ALL} means every type; remove it or the others")
        elif kind not in (ALL, *KINDS) and _MEDIA_TYPE.match(kind) is None:
            item.wrong(f"{shorten(text)} is neither a type nor a media type; {did_you_mean(kind, (*KINDS, ALL))}")
        else:
            found.append(kind)
    return tuple(found) if 0 < len(found) == len(items) else None


def _signatures(node: Node) -> str | None:
    if isinstance(node.value, bool):
        return str(node.value).lower()
    if node.value == _AUTO:
        return _AUTO
    node.wrong("must be true, false or auto, without quotes")
    return None


def _platforms(node: Node, warnings: list[Problem]) -> tuple[Platform, ...]:
    items = node.items()
    if not items:
        node.wrong('is empty; remove it, or write "*/*" for all platforms')
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
            item.wrong(f"duplicate platform {platform}; remove one")
            continue
        warnings += [Problem(item.path, message) for message in _doubts(platform, found)]
        found.append(platform)
    return tuple(found)


def _doubts(platform: Platform, others: list[Platform]) -> list[str]:
    """Return why ``platform``, after ``others``, looks like a mistake."""
    doubts = []
    if platform.os not in ("*", *_SYSTEMS):
        doubts.append(f"{platform.os} is an unknown operating system; {did_you_mean(platform.os, _SYSTEMS)}")
    if platform.architecture not in ("*", *_ARCHITECTURES):
        known = did_you_mean(platform.architecture, _ARCHITECTURES)
        doubts.append(f"{platform.architecture} is an unknown architecture; {known}")
    for other in others:
        if other.matches(platform) or platform.matches(other):
            wide, narrow = (platform, other) if platform.matches(other) else (other, platform)
            doubts.append(f"{wide} includes {narrow}; remove one of them")
            break
    return doubts


NAMES = ("registry", "namespace")
"""Keys that give ``""`` its meaning."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """The defaults of all rules.

    Attributes:
        registry: the host, in lower case; None if it is missing or a mistake.
        namespace: the part in front of the repository's name; None likewise.
        missing: those of the two that are missing.
        content: the parts of an image to copy.
    """

    registry: str | None = None
    namespace: str | None = None
    missing: tuple[str, ...] = NAMES
    content: Content = NOTHING_SAID

    @property
    def template(self) -> Template | None:
        """The destination that ``""`` means; None without a registry or a namespace."""
        if self.registry is None or self.namespace is None:
            return None
        return Template(self.registry, f"{self.namespace}/{{name}}", is_default=True)


@dataclass(frozen=True, slots=True)
class RulesOptions:
    """Inputs of the rules beside their files.

    Attributes:
        environ: the values of ``${NAME}``; by default the environment.
        registry: the default registry; wins over a file's.
        namespace: the default namespace; wins over a file's.
        platforms: the default platforms; empty for a file's.
        elsewhere: logins for registries that have none in the files.
    """

    environ: Mapping[str, str] | None = None
    registry: str | None = None
    namespace: str | None = None
    platforms: tuple[Platform, ...] = ()
    elsewhere: Elsewhere | None = None


def read_defaults(
    node: Node | None,
    environ: Mapping[str, str],
    options: Mapping[str, str | None],
    problems: list[Problem],
    warnings: list[Problem],
) -> Defaults:
    """Read the ``defaults`` mapping and the options; mistakes are noted.

    Args:
        node: the mapping; None if the file has none.
        environ: the values of ``${NAME}`` in the file.
        options: the command line's values by key, which win over the file's.
        problems: collects mistakes in the options.
        warnings: collects what is allowed but looks like a mistake.
    """
    values: dict[str, Node] = {}
    fields = (node.mapping((*NAMES, *CONTENT_KEYS)) if node is not None else None) or {}
    for name in [name for name in fields if name in NAMES]:
        written = fields[name]
        text = written.text()
        expanded = None if text is None else expand_variables(written, text, environ)
        written.value = expanded
        values[name] = written
    for name, option in options.items():
        if option is not None:
            values[name] = Node(option, f"--{name}", problems)
        elif name not in values and (inherited := environ.get(f"DEFAULT_{name.upper()}")):
            # image-syncer's variables. Any program may have set them, so one that can't be meant counts as missing.
            unused: list[Problem] = []
            if _checked(found := Node(inherited, name, unused), *_CHECKS[name]) is not None:
                values[name] = found
    registry, namespace = (_checked(values.get(name), *_CHECKS[name]) for name in NAMES)
    missing = tuple(name for name in NAMES if name not in values)
    return Defaults(registry, namespace, missing, read_content(fields, warnings))


_CHECKS = {
    "registry": (is_registry, "is not a registry host, e.g. harbor.example.com"),
    "namespace": (is_repository_name, "is not a namespace: use lower-case letters, digits, - _ ."),
}


def _checked(node: Node | None, is_valid: Callable[[str], bool], advice: str) -> str | None:
    if node is None or node.value is None:
        return None
    text = str(node.value)
    if node.path.endswith("registry"):
        text = full_host(text)
    if not is_valid(text):
        node.wrong(f"{shorten(text)} {advice}")
        return None
    return text


REPOSITORIES = ("exclude",)
"""Keys of ``repositories``, beside a destination."""


def read_excluded(node: Node | None, source: SourcePattern | None) -> tuple[str, ...]:
    """Read ``repositories``; mistakes are noted at its nodes.

    Args:
        node: the mapping; None if there is none.
        source: the rule's; None if it has mistakes.

    Returns:
        The globs for repositories that are left out, each for a whole name as in the key.
    """
    if node is None:
        return ()
    if source is not None and not is_glob(source.path):
        node.wrong("the source is a single repository, and this selects among those that a pattern matches; remove it")
    if node.value == {}:
        node.wrong("is empty; remove it")
    fields = node.mapping((*REPOSITORIES, "include")) or {}
    if "include" in fields:
        fields["include"].wrong("unknown key; the key of a rule says what is included: add a rule for each pattern")
    items = fields["exclude"].items() if "exclude" in fields else []
    if "exclude" in fields and not items:
        fields["exclude"].wrong("is empty; remove it")
    return tuple(glob for item in items if (glob := _excluded(item, source)) is not None)


def _excluded(node: Node, source: SourcePattern | None) -> str | None:
    glob = node.text()
    if glob is None:
        return None
    mistakes: list[str] = []
    check_path(glob, mistakes.append)
    if not mistakes and source is not None and is_glob(source.path):
        beginning = glob.removesuffix("**")
        if not may_share(glob, source.path):
            mistakes.append(f"{shorten(glob)} matches no repository of {source.path}: {_whole_name(glob, source)}")
        elif glob == source.path or (beginning != glob and literal_prefix(source.path).startswith(beginning)):
            mistakes.append(f"{shorten(glob)} excludes every repository of {source.path}; remove it, or the rule")
    for message in mistakes:
        node.wrong(message)
    return None if mistakes else glob


def _whole_name(glob: str, source: SourcePattern) -> str:
    """Say how to write a glob that matches no repository of a source."""
    within = glob.removeprefix(f"{source.registry}/")
    if within != glob and may_share(within, source.path):
        return f"leave the host out, and write {within}"
    fixed = literal_prefix(source.path).rpartition("/")[0]
    if fixed and may_share(f"{fixed}/{glob}", source.path):
        return f"a pattern is for the whole name, so write {fixed}/{glob}"
    return "a pattern is for the whole name, as in the key; remove it"
