"""Image references and platforms as parsed values: ``registry/repository:tag@digest``, ``os/architecture/variant``.

The grammar of references is that of the OCI distribution specification 1.1, "Pulling manifests" (``<name>`` and
``<reference>``), and of the OCI image specification, "Digests". There is no default registry and no default tag:
``nginx`` alone is an error, because a replicator must never guess a host. Only rules files may have Docker's short
names, since image-syncer's do: `full_name`.

Platforms are those of the OCI image specification 1.1 ("Image Index", ``platform``), e.g. ``linux/amd64`` and
``linux/arm64/v8``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

_HOST = re.compile(
    r"(?=.{1,253}(?::|$))"
    r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*)"
    r"(?::(?P<port>[0-9]{1,5}))?\Z"
)
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*\Z")
MAX_TAG_LENGTH = 128
"""Characters in a tag."""
_TAG = re.compile(rf"[a-zA-Z0-9_][a-zA-Z0-9._-]{{0,{MAX_TAG_LENGTH - 1}}}\Z")
_DIGEST = re.compile(r"(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})\Z")

_SIGNATURE = re.compile(r"(?P<algorithm>sha256|sha512)-(?P<hex>[0-9a-f]{64})(?P<suffix>\.sig|\.att|\.sbom|)\Z")

MAX_NAME_LENGTH = 255
"""Characters in a repository name; some registries count the host too."""


def is_registry(text: str) -> bool:
    """Tell whether ``text`` is ``host`` or ``host:port``, with a dot, a port, brackets or ``localhost``."""
    match = _HOST.match(text)
    if match is None or (match["port"] is not None and not 0 < int(match["port"]) < 65536):
        return False
    return "." in text or ":" in text or text == "localhost"


def is_repository_name(text: str) -> bool:
    """Tell whether ``text`` is a repository name, e.g. ``library/nginx``."""
    return len(text) <= MAX_NAME_LENGTH and _NAME.match(text) is not None


def is_tag(text: str) -> bool:
    """Tell whether ``text`` is a tag, e.g. ``v1.2.3``: at most 128 characters."""
    return _TAG.match(text) is not None


def is_digest(text: str) -> bool:
    """Tell whether ``text`` is a digest of a registered algorithm: ``sha256:`` or ``sha512:`` and lower-case hex."""
    return _DIGEST.match(text) is not None


def is_signature_tag(tag: str) -> bool:
    """Tell whether ``tag`` names signatures or other referrers of an image.

    Such tags are cosign's (``sha256-<hex>`` of the image with ``.sig``, ``.att`` or ``.sbom``), and the fallback tag of
    the OCI distribution specification 1.1, "Referrers Tag Schema", for registries without a referrers API:
    ``sha256-<hex>`` alone. The schema cuts the hex after 64 characters, since a tag has at most 128.
    """
    return _SIGNATURE.match(tag) is not None


def parse_signature_tag(tag: str) -> tuple[str, str] | None:
    """Parse a tag that `is_signature_tag` accepts.

    Returns:
        The digest of the subject, and ``.sig``, ``.att``, ``.sbom`` or nothing; None for any other tag, and for a
        sha512 digest, which the tag truncates.
    """
    match = _SIGNATURE.match(tag)
    if match is None or match["algorithm"] != "sha256":
        return None
    return f"sha256:{match['hex']}", match["suffix"]


HUB = "registry-1.docker.io"
"""Host of Docker Hub's registry."""
_HUB_NAMES = frozenset({HUB, "docker.io", "index.docker.io", "registry.hub.docker.com"})


def full_host(host: str) -> str:
    """Return a host in lower case, and one registry's host for every name that Docker Hub has."""
    host = host.lower()
    return HUB if host in _HUB_NAMES else host


def full_name(text: str) -> str:
    """Return the name with a host for one of Docker's short names; any other text as it is.

    ``mongo:4`` is ``registry-1.docker.io/library/mongo:4``, and so is ``docker.io/mongo:4``; ``bitnami/redis`` is
    ``registry-1.docker.io/bitnami/redis``. As in Docker's ``reference.ParseNormalizedNamed``, a first segment with a
    dot or a port is a host. Names at Docker Hub have two segments at most, so a longer one lacks its host.
    """
    if "://" in text:
        return text
    mark = re.search("[:@]", text)
    host, slash, rest = text.partition("/")
    if slash and is_registry(host):
        if full_host(host) != HUB or not rest:
            return text
        name = re.split("[:@]", rest, maxsplit=1)[0]
        return f"{HUB}/{'library/' if is_repository_name(name) and '/' not in name else ''}{rest}"
    name = text[: mark.start()] if mark else text
    # Behind a mark, only an expression for tags has a slash; any other is one of user:password@host/name.
    if mark and "/" in text[mark.end() :] and not text.startswith(":/", mark.start()):
        return text
    if not is_repository_name(name) or name.count("/") > 1 or is_registry(name.partition("/")[0]):
        return text
    return f"{HUB}/{'' if '/' in name else 'library/'}{text}"


@dataclass(frozen=True, slots=True, order=True)
class Repository:
    """Repository of a registry.

    Attributes:
        registry: ``host`` or ``host:port``, as the user wrote it.
        name: the path below ``/v2/``, e.g. ``library/nginx``.
    """

    registry: str
    name: str

    def __post_init__(self) -> None:
        if not is_registry(self.registry):
            raise ValueError(
                f"{self.registry!r} is not a registry's host: write it with a dot or a port, e.g. harbor.example.com"
            )
        if len(self.name) > MAX_NAME_LENGTH:
            raise ValueError(
                f"'{self.name[:60]}…' is not a repository's name: it has {len(self.name)} characters, the maximum is "
                f"{MAX_NAME_LENGTH}"
            )
        if not is_repository_name(self.name):
            raise ValueError(
                f"{self.name!r} is not a repository's name: lower-case letters and digits, separated by . _ - or /"
            )

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``host[:port]/name``.

        Raises:
            ValueError: the text has another form; the message names the wrong part.
        """
        registry, slash, name = text.partition("/")
        if not slash:
            raise ValueError(f"{text!r} needs a registry and a repository, e.g. harbor.example.com/library/nginx")
        return cls(registry, name)


@dataclass(frozen=True, slots=True)
class Reference:
    """Image in a repository, by tag, by digest (``algorithm:hex``), or by both: then the digest decides."""

    repository: Repository
    tag: str | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        if self.tag is None and self.digest is None:
            raise ValueError(f"{self.repository} needs a tag or a digest, e.g. {self.repository}:latest")
        if self.tag is not None and not is_tag(self.tag):
            raise ValueError(f"{self.tag!r} is not a tag: letters, digits, . _ -, at most 128 characters")
        if self.digest is not None and not is_digest(self.digest):
            raise ValueError(f"{self.digest!r} is not a digest: sha256: and 64, or sha512: and 128 hex characters")

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.repository}{tag}{digest}"

    @property
    def registry(self) -> str:
        """``host`` or ``host:port`` of the registry."""
        return self.repository.registry

    @property
    def identifier(self) -> str:
        """The path segment after ``/manifests/``: the digest if there is one, else the tag."""
        identifier = self.digest or self.tag
        assert identifier is not None  # noqa: S101 - __post_init__ refuses a reference with neither
        return identifier

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``host[:port]/name[:tag][@digest]``.

        Raises:
            ValueError: the text has another form; the message names the wrong part.
        """
        rest, at, digest = text.partition("@")
        registry, slash, path = rest.partition("/")
        name, colon, tag = path.partition(":")
        return cls(
            Repository.parse(f"{registry}{slash}{name}"),
            tag if colon else None,
            digest if at else None,
        )


_PLATFORM_PART = re.compile(r"(?:\*|[a-z0-9][a-z0-9._-]{0,63})\Z")
_SPELLINGS = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
}
"""Aliases of architectures, some of which imply a variant, as container tools read them."""
_VARIANTS = {("arm64", "v8"): "", ("arm", ""): "v7", ("amd64", "v1"): ""}
"""Variants that mean the same as another spelling or as none, as container tools read them."""
_MAX_SHOWN = 80


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """Platform of an image, or a pattern that selects platforms.

    Attributes:
        os: e.g. ``linux``; ``*`` in a pattern for any.
        architecture: e.g. ``arm64``; ``*`` in a pattern for any.
        variant: e.g. ``v7``; empty for none, which in a pattern means any.
    """

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``os/architecture`` or ``os/architecture/variant``.

        Raises:
            ValueError: the text has another form.
        """
        parts = text.strip().lower().split("/")
        if not 2 <= len(parts) <= 3 or not all(_PLATFORM_PART.match(part) for part in parts) or parts[2:] == ["*"]:
            shown = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
            raise ValueError(f"{shown!r} is not a platform: write os/architecture, e.g. linux/amd64 or linux/arm64/v8")
        architecture, variant = _SPELLINGS.get(parts[1], (parts[1], ""))
        return cls(parts[0], architecture, parts[2] if len(parts) > 2 else variant)

    def matches(self, platform: Platform) -> bool:
        """Tell whether this pattern selects an image for ``platform``."""
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
