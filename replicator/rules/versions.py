"""Versions in tags, and ranges of versions.

There are two kinds of ranges. A range in the form of PEP 440 (https://peps.python.org/pep-0440/), such as
``>=1.4,<2``, reads tags as PEP 440 does. Every other range, such as ``^1.4`` or ``>=1.4 <2``, is one of node-semver
(https://github.com/npm/node-semver#ranges) and reads tags as semantic versions (https://semver.org).

A tag can be written more loosely than a semantic version: a ``v`` in front is allowed, the second and third number may
be missing, and ``_`` stands for ``+``, which no tag can hold. Helm pushes charts so.
"""

from __future__ import annotations

import re
from functools import cmp_to_key, lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from replicator.rules.patterns import shorten

if TYPE_CHECKING:
    from collections.abc import Iterable

    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

MAX_RANGE_LENGTH = 256
"""Characters in a range of node-semver."""

_DIGITS = re.compile(r"([0-9]+)")
_SEMANTIC = re.compile(
    r"[vV]?(?P<numbers>[0-9]+(?:\.[0-9]+){0,2})(?P<prerelease>-[0-9A-Za-z.-]+)?(?:_(?P<build>[0-9A-Za-z.-]+))?\Z"
)


class VersionRange(Protocol):
    """A range of versions."""

    def refusal(self, tag: str) -> str | None:
        """Return why ``tag`` is not in the range, in words; None if it is."""

    def newest_first(self, tags: Iterable[str]) -> list[str]:
        """Return ``tags`` without repetitions, the highest version first."""


@lru_cache(maxsize=1024)
def version_range(text: str) -> VersionRange:
    """Parse a range of versions.

    Raises:
        ValueError: it is none; the message gives examples.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        # PEP 440 comes first: a range that both could read keeps the meaning it had before there was a second kind.
        return _Pep440Range(text, SpecifierSet(text))
    except InvalidSpecifier:
        pass
    found = _node_range(text)
    if found is not None:
        return _SemanticRange(text, found)
    spaced = " ".join(text.replace(",", " ").split())
    if "," in text and _node_range(spaced) is not None:
        raise ValueError(f"{shorten(text)} is not a version range: here a space means and, so write {spaced}")
    raise ValueError(f"{shorten(text)} is not a version range: write e.g. ^1.4, 1.4.x, 1.4 - 1.9 or >=1.4,<2")


def _node_range(text: str) -> Any:
    import nodesemver

    # Several stars without a space between are nonsense that node-semver refuses and this port takes for any version.
    if len(text) > MAX_RANGE_LENGTH or re.search(r"\*[^\s|]*\*", text):
        return None
    try:
        return nodesemver.make_range(text, loose=False)
    except ValueError:
        return None


class _Pep440Range:
    """A range as ``packaging.specifiers.SpecifierSet`` reads it; a pre-release passes only if the range names one."""

    def __init__(self, text: str, specifiers: SpecifierSet) -> None:
        self._text = text
        self._specifiers = specifiers

    def refusal(self, tag: str) -> str | None:
        version = version_of(tag)
        if version is None:
            return f"tag {tag} is not a version, and semver {self._text} needs one"
        # The flag is always given, because what None means here differs between releases of packaging.
        if self._specifiers.contains(version, prereleases=bool(self._specifiers.prereleases)):
            return None
        if version.is_prerelease and self._specifiers.contains(version, prereleases=True):
            return f"tag {tag} is a pre-release, and semver {self._text} names none"
        return f"version {tag} is not {self._text}"

    def newest_first(self, tags: Iterable[str]) -> list[str]:
        return newest_first(tags)


class _SemanticRange:
    """A range of node-semver; a pre-release passes only if the range names one of the same three numbers."""

    def __init__(self, text: str, compiled: Any) -> None:
        self._text = text
        self._range = compiled

    def refusal(self, tag: str) -> str | None:
        version = semantic_version_of(tag)
        if version is None:
            return f"tag {tag} is not a semantic version, and semver {self._text} needs one"
        if self._range.test(version):
            return None
        if version.prerelease and self._range.test(version, include_prerelease=True):
            release = f"{version.major}.{version.minor}.{version.patch}"
            return f"tag {tag} is a pre-release, and semver {self._text} names none of {release}"
        return f"version {tag} is not {self._text}"

    def newest_first(self, tags: Iterable[str]) -> list[str]:
        def compare(version: Any, other: Any) -> int:
            return int(version.compare(other))

        precedence = cmp_to_key(compare)

        def rank(tag: str) -> tuple[bool, Any, list[tuple[int, str]], str]:
            version = semantic_version_of(tag)
            return version is not None, version and precedence(version), _natural(tag), tag

        return sorted(set(tags), key=rank, reverse=True)


@lru_cache(maxsize=16384)
def version_of(tag: str) -> Version | None:
    """Return the version of PEP 440 that ``tag`` is, or None if it is none."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(tag)
    except InvalidVersion:
        return None


@lru_cache(maxsize=16384)
def semantic_version_of(tag: str) -> Any:
    """Return the semantic version that ``tag`` is, a ``nodesemver.SemVer``, or None if it is none."""
    import nodesemver

    match = _SEMANTIC.match(tag)
    if match is None:
        return None
    numbers = ".".join([*match["numbers"].split("."), "0", "0"][:3])
    build = f"+{match['build']}" if match["build"] else ""
    try:
        return nodesemver.make_semver(f"{numbers}{match['prerelease'] or ''}{build}", loose=False)
    except ValueError:
        return None  # a number with a leading zero, or a part without a character


def newest_first(tags: Iterable[str]) -> list[str]:
    """Return ``tags`` without repetitions, the highest version of PEP 440 first and what is no version last."""
    return sorted(set(tags), key=_rank, reverse=True)


def _rank(tag: str) -> tuple[bool, Any, list[tuple[int, str]], str]:
    version = version_of(tag)
    return version is not None, version, _natural(tag), tag


def _natural(tag: str) -> list[tuple[int, str]]:
    """Return a key that orders runs of digits by their value: ``build-9`` before ``build-10``."""
    # split() puts texts at even and digits at odd positions, so like meets like.
    return [(int(part), "") if index % 2 else (0, part) for index, part in enumerate(_DIGITS.split(tag))]
