"""Which tags a rule means, and which of them are the latest.

A tag is a version when PEP 440 says so (https://peps.python.org/pep-0440/), a leading ``v`` allowed: ``1.10``,
``v2.0.1``, ``7``, ``1.2.0-rc.1``, ``20260101``. ``1.27-alpine`` and ``latest`` are none. Versions are ordered as
versions, everything else by natural order (``build-9`` before ``build-10``) and before every version.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from replicator.reference import is_signature_tag
from replicator.rules.patterns import compile_tag_pattern, is_expression, is_glob, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable

_DIGITS = re.compile(r"([0-9]+)")
_NO_VERSION = Version("0")


@lru_cache(maxsize=16384)
def version_of(tag: str) -> Version | None:
    """Return the version that ``tag`` is, or None if it is none."""
    try:
        return Version(tag)
    except InvalidVersion:
        return None


@lru_cache(maxsize=1024)
def specifiers(text: str) -> SpecifierSet:
    """Return the range of versions that ``text`` means, e.g. ``>=1.4,<2``.

    Raises:
        ValueError: it is none; the message gives an example.
    """
    try:
        return SpecifierSet(text)
    except InvalidSpecifier:
        raise ValueError(
            f"{shorten(text)} is no range of versions; write comparisons with commas between, "
            "e.g. >=1.4,<2 or ~=1.4 or ==1.4.*"
        ) from None


def newest_first(tags: Iterable[str]) -> list[str]:
    """Return ``tags`` without repetitions, the highest version first, what is no version last."""
    return sorted(set(tags), key=_rank, reverse=True)


def _rank(tag: str) -> tuple[bool, Version, list[tuple[int, str]], str]:
    version = version_of(tag)
    # A run of digits counts by its value. split() puts texts at even and digits at odd places, so like meets like.
    parts = [(int(part), "") if index % 2 else (0, part) for index, part in enumerate(_DIGITS.split(tag))]
    return version is not None, version or _NO_VERSION, parts, tag


@dataclass(frozen=True, slots=True)
class TagFilter:
    """A set of tags; with nothing given, every tag.

    Patterns are tags, globs or ``/regular expressions/``, see `replicator.rules.patterns`.

    Attributes:
        named: what stood behind the source's colon; a tag must match one, if there are any.
        include: a tag must match one of these too, if there are any.
        exclude: a tag must match none of these.
        semver: a range of versions as ``packaging.specifiers.SpecifierSet`` reads it. A tag that is no version is
            out; so is a pre-release, unless the range itself names one (``>=1.4rc1``).
        latest: only so many of the tags that pass everything above, the highest ones by name.
        others: further filters; a tag that passes one of them is in as well, and each counts its own latest.
        signatures_apart: tags of signatures never pass, nor count among the latest: they are copied by themselves.

    Raises:
        ValueError: a pattern, the range or the number means nothing.
    """

    named: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    semver: str | None = None
    latest: int | None = None
    others: tuple[TagFilter, ...] = ()
    signatures_apart: bool = False

    def __post_init__(self) -> None:
        for pattern in (*self.named, *self.include, *self.exclude):
            compile_tag_pattern(pattern)
        if self.semver is not None:
            specifiers(self.semver)
        if self.latest is not None and self.latest < 1:
            raise ValueError(f"latest must be 1 or more, not {self.latest}")

    @property
    def is_everything(self) -> bool:
        """Whether every tag passes, those of signatures aside."""
        alone = not (self.named or self.include or self.exclude or self.semver is not None or self.latest)
        return alone or any(other.is_everything for other in self.others)

    @property
    def exact(self) -> tuple[str, ...] | None:
        """The tags behind the source's colon if each is written out, without wildcards; else None."""
        if not self.named or any(is_glob(name) or is_expression(name) for name in self.named):
            return None
        return self.named

    def matches(self, tag: str) -> bool:
        """Tell whether ``tag`` passes; ``latest`` is left aside, as it takes all tags to know."""
        return self.refusal(tag) is None

    def refusal(self, tag: str) -> str | None:
        """Return why ``tag`` does not pass, in words, ``latest`` left aside; None if it passes."""
        reason = self._own_refusal(tag)
        if reason is not None and any(other.matches(tag) for other in self.others):
            return None
        return reason

    def select(self, tags: Iterable[str]) -> list[str]:
        """Return those of ``tags`` that pass, ``latest`` included, without repetitions, the newest first.

        Args:
            tags: every tag of the repository: ``latest`` counts among them.
        """
        tags = list(tags)
        selected = newest_first(tag for tag in tags if self._own_refusal(tag) is None)[: self.latest]
        if not self.others:
            return selected
        return newest_first([*selected, *(tag for other in self.others for tag in other.select(tags))])

    def _own_refusal(self, tag: str) -> str | None:
        if self.signatures_apart and is_signature_tag(tag):
            return f"tag {tag} is one of signatures"
        if self.named and not _any(self.named, tag):
            return f"tag {tag} is not among {', '.join(self.named)}"
        if self.include and not _any(self.include, tag):
            return f"tag {tag} is not included by {', '.join(self.include)}"
        for pattern in self.exclude:
            if compile_tag_pattern(pattern).search(tag):
                return f"tag {tag} is excluded by {pattern}"
        return None if self.semver is None else _out_of_range(self.semver, tag)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, a key an attribute; what is not set is left out."""
        values: dict[str, Any] = {}
        for name in ("named", "include", "exclude"):
            if patterns := getattr(self, name):
                values[name] = list(patterns)
        if self.semver is not None:
            values["semver"] = self.semver
        if self.latest is not None:
            values["latest"] = self.latest
        if self.others:
            values["others"] = [other.to_json() for other in self.others]
        if self.signatures_apart:
            values["signatures_apart"] = True
        return values

    @classmethod
    def from_json(cls, values: Any) -> TagFilter:
        """Rebuild it from `to_json`'s values.

        Raises:
            ValueError: they are not of that form.
        """
        try:
            lists = {name: tuple(values.get(name, ())) for name in ("named", "include", "exclude")}
            others = tuple(cls.from_json(other) for other in values.get("others", ()))
            if type(values.get("latest", 1)) is not int:
                raise ValueError("not a stored tag filter: latest is no whole number")
            return cls(
                **lists,
                semver=values.get("semver"),
                latest=values.get("latest"),
                others=others,
                signatures_apart=values.get("signatures_apart", False) is True,
            )
        except (TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a stored tag filter: {error}") from error


def _any(patterns: tuple[str, ...], tag: str) -> bool:
    return any(compile_tag_pattern(pattern).search(tag) for pattern in patterns)


def _out_of_range(semver: str, tag: str) -> str | None:
    version = version_of(tag)
    if version is None:
        return f"tag {tag} is no version, and semver {semver} asks for one"
    wanted = specifiers(semver)
    # Said outright, because what None means here has changed between releases of packaging.
    if wanted.contains(version, prereleases=bool(wanted.prereleases)):
        return None
    if version.is_prerelease and wanted.contains(version, prereleases=True):
        return f"tag {tag} is a pre-release, and semver {semver} names none"
    return f"version {tag} is not {semver}"
