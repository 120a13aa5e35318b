"""Filters for tags: which tags a rule means, which of them are the latest, and which versions they are.

There are two kinds of ranges of versions. A range in the form of PEP 440 (https://peps.python.org/pep-0440/), such as
``>=1.4,<2``, reads tags as PEP 440 does. Every other range, such as ``^1.4`` or ``>=1.4 <2``, is one of node-semver
(https://github.com/npm/node-semver#ranges) and reads tags as semantic versions (https://semver.org).

A tag can be written more loosely than a semantic version: a ``v`` in front is allowed, the second and third number may
be missing, and ``_`` replaces ``+``, because no tag can contain a ``+``. Helm pushes charts so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cmp_to_key, lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from replicator.reference import is_signature_tag
from replicator.rules.patterns import compile_tag_pattern, is_expression, is_glob, shorten

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

MAX_RANGE_LENGTH = 256
"""Characters in a range of node-semver."""

_LISTS = ("named", "include", "exclude", "labels", "exclude_labels")
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


@dataclass(frozen=True, slots=True)
class TagFilter:
    """A set of tags; an empty filter lets every tag pass.

    Patterns are tags, globs or ``/regular expressions/``, see `replicator.rules.patterns`.

    Attributes:
        named: patterns behind the colon of a rule's source; a tag must match one of them, if there are any.
        include: patterns of which a tag must match one too, if there are any.
        exclude: patterns of which a tag must match none.
        semver: a range of versions, see `replicator.rules.tags`.
        labels: names of Harbor's labels, all of which the tag's artifact must have.
        exclude_labels: names of labels of which it must have none.
        latest: how many tags pass at most: the highest ones of those that pass everything above.
        others: further filters; a tag passes if one of them lets it pass, and each counts its own latest.
        signatures_apart: whether tags of signatures never pass nor count among the latest; they are copied separately.

    Raises:
        ValueError: a pattern, the range or the number is invalid.
    """

    named: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    semver: str | None = None
    labels: tuple[str, ...] = ()
    exclude_labels: tuple[str, ...] = ()
    latest: int | None = None
    others: tuple[TagFilter, ...] = ()
    signatures_apart: bool = False

    def __post_init__(self) -> None:
        for pattern in (*self.named, *self.include, *self.exclude):
            compile_tag_pattern(pattern)
        if self.semver is not None:
            version_range(self.semver)
        if self.latest is not None and self.latest < 1:
            raise ValueError(f"latest must be 1 or more, not {self.latest}")

    @property
    def is_everything(self) -> bool:
        """Whether every tag passes, except those of signatures."""
        names = self.named or self.include or self.exclude or self.semver is not None
        alone = not (names or self.labels or self.exclude_labels or self.latest)
        return alone or any(other.is_everything for other in self.others)

    @property
    def needs_labels(self) -> bool:
        """Whether a tag's labels have to be known."""
        return bool(self.labels or self.exclude_labels) or any(other.needs_labels for other in self.others)

    @property
    def needs_all_tags(self) -> bool:
        """Whether all tags of the repository have to be known."""
        return self.latest is not None or any(other.needs_all_tags for other in self.others)

    @property
    def of_labels(self) -> TagFilter | None:
        """The part that asks for labels; None if none does."""
        asks = self.labels or self.exclude_labels
        return TagFilter(labels=self.labels, exclude_labels=self.exclude_labels) if asks else None

    @property
    def exact(self) -> tuple[str, ...] | None:
        """The tags after the source's colon if all are written out, without wildcards; else None."""
        if not self.named or any(is_glob(name) or is_expression(name) for name in self.named):
            return None
        return self.named

    def matches(self, tag: str, labels: Collection[str] | None = None) -> bool:
        """Tell whether ``tag`` passes, see `refusal`."""
        return self.refusal(tag, labels) is None

    def refusal(self, tag: str, labels: Collection[str] | None = None) -> str | None:
        """Return why ``tag`` does not pass, in words; None if it passes.

        ``latest`` is ignored, as it depends on all tags, and so are labels if ``labels``, those of the tag, is None.
        """
        reason = self._own_refusal(tag, labels)
        if reason is not None and any(other.matches(tag, labels) for other in self.others):
            return None
        return reason

    def select(self, tags: Iterable[str], labels: Mapping[str, Collection[str]] | None = None) -> list[str]:
        """Return the tags that pass, ``latest`` included, without repetitions, the newest first.

        Args:
            tags: all tags of the repository, among which ``latest`` counts.
            labels: the labels of each tag, none if it is missing; None to ignore labels.
        """
        tags = list(tags)
        order = newest_first if self.semver is None else version_range(self.semver).newest_first
        known = (lambda tag: labels.get(tag, ())) if labels is not None else (lambda _: None)
        selected = order(tag for tag in tags if self._own_refusal(tag, known(tag)) is None)[: self.latest]
        if not self.others:
            return selected
        # Each filter counts its own latest, so selections are merged and not filtered again.
        return newest_first([*selected, *(tag for other in self.others for tag in other.select(tags, labels))])

    def _own_refusal(self, tag: str, labels: Collection[str] | None) -> str | None:
        if self.signatures_apart and is_signature_tag(tag):
            return f"tag {tag} is one of signatures"
        if self.named and not _any(self.named, tag):
            return f"tag {tag} is not among {', '.join(self.named)}"
        if self.include and not _any(self.include, tag):
            return f"tag {tag} is not included by {', '.join(self.include)}"
        for pattern in self.exclude:
            if compile_tag_pattern(pattern).search(tag):
                return f"tag {tag} is excluded by {pattern}"
        refusal = None if self.semver is None else version_range(self.semver).refusal(tag)
        return refusal if refusal is not None or labels is None else self._label_refusal(tag, labels)

    def _label_refusal(self, tag: str, labels: Collection[str]) -> str | None:
        if missing := [label for label in self.labels if label not in labels]:
            return f"tag {tag} does not have the label {', '.join(missing)}"
        found = [label for label in self.exclude_labels if label in labels]
        return f"tag {tag} has the label {', '.join(found)}" if found else None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, without attributes that are not set."""
        values: dict[str, Any] = {}
        for name in _LISTS:
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
        """Rebuild it from the values of `to_json`.

        Raises:
            ValueError: the values have another form.
        """
        try:
            lists = {name: tuple(values.get(name, ())) for name in _LISTS}
            others = tuple(cls.from_json(other) for other in values.get("others", ()))
            if type(values.get("latest", 1)) is not int:
                raise ValueError("not a stored tag filter: latest is not an integer")
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
