"""Filters for tags: which tags a rule means, and which of them are the latest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from replicator.reference import is_signature_tag
from replicator.rules.patterns import compile_tag_pattern, is_expression, is_glob
from replicator.rules.versions import newest_first, version_range

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class TagFilter:
    """A set of tags; an empty filter lets every tag pass.

    Patterns are tags, globs or ``/regular expressions/``, see `replicator.rules.patterns`.

    Attributes:
        named: patterns behind the colon of a rule's source; a tag must match one of them, if there are any.
        include: patterns of which a tag must match one too, if there are any.
        exclude: patterns of which a tag must match none.
        semver: a range of versions, see `replicator.rules.versions`.
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
        alone = not (self.named or self.include or self.exclude or self.semver is not None or self.latest)
        return alone or any(other.is_everything for other in self.others)

    @property
    def exact(self) -> tuple[str, ...] | None:
        """The tags after the source's colon if all are written out, without wildcards; else None."""
        if not self.named or any(is_glob(name) or is_expression(name) for name in self.named):
            return None
        return self.named

    def matches(self, tag: str) -> bool:
        """Tell whether ``tag`` passes. ``latest`` is ignored, as it depends on all tags."""
        return self.refusal(tag) is None

    def refusal(self, tag: str) -> str | None:
        """Return why ``tag`` does not pass, in words; None if it passes. ``latest`` is ignored."""
        reason = self._own_refusal(tag)
        if reason is not None and any(other.matches(tag) for other in self.others):
            return None
        return reason

    def select(self, tags: Iterable[str]) -> list[str]:
        """Return the tags that pass, ``latest`` included, without repetitions, the newest first.

        Args:
            tags: all tags of the repository, among which ``latest`` counts.
        """
        tags = list(tags)
        order = newest_first if self.semver is None else version_range(self.semver).newest_first
        selected = order(tag for tag in tags if self._own_refusal(tag) is None)[: self.latest]
        if not self.others:
            return selected
        # Each filter counts its own latest, so selections are merged and not filtered again.
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
        return None if self.semver is None else version_range(self.semver).refusal(tag)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, without attributes that are not set."""
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
        """Rebuild it from the values of `to_json`.

        Raises:
            ValueError: the values have another form.
        """
        try:
            lists = {name: tuple(values.get(name, ())) for name in ("named", "include", "exclude")}
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
