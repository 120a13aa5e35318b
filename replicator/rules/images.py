"""The ``images`` section: what is copied where."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from replicator.aliyun.acr import NAME_SEGMENTS, is_acr
from replicator.errors import Problem
from replicator.reference import is_registry, is_tag
from replicator.rules.defaults import CONTENT_KEYS, NOTHING_SAID, Content, read_content
from replicator.rules.mapping import SourcePattern, Template, parse_source
from replicator.rules.patterns import check_tag_pattern, is_glob, shorten
from replicator.rules.rule import DestinationTag, Rule
from replicator.rules.tags import TagFilter, specifiers

if TYPE_CHECKING:
    from collections.abc import Callable

    from replicator.rules.defaults import Defaults
    from replicator.rules.node import Node

DESTINATION = ("to", "tags", *CONTENT_KEYS)
"""What a destination can have that is a mapping."""
TAGS = ("include", "exclude", "semver", "latest")
"""What ``tags`` in it can have."""


@dataclass(frozen=True, slots=True)
class NamedDestination:
    """Something at a registry that must be reached.

    Attributes:
        beginning: ``registry/…``, the repository's name or as much of it as is certain.
        whole: whether that is the whole name.
        key: the rule that names it.
    """

    beginning: str
    whole: bool
    key: str


def read_images(place: Node, defaults: Defaults, warnings: list[Problem]) -> tuple[list[Rule], list[NamedDestination]]:
    """Read the ``images`` mapping; what is wrong is noted at its place.

    Args:
        place: the mapping.
        defaults: what ``""`` stands for.
        warnings: gets what is allowed but looks like a mistake.

    Returns:
        The rules without mistakes, and what all rules name, those with mistakes too.
    """
    entries = place.mapping()
    if entries is not None and not entries:
        place.wrong("is empty: it says what is copied where")
    rules: list[Rule] = []
    named: list[NamedDestination] = []
    for key, entry in (entries or {}).items():
        source = parse_source(key, entry.wrong)
        reader = _Reader(source, defaults, warnings)
        targets = reader.read(entry)
        if source is not None:
            named.append(NamedDestination(source.fixed, source.repository is not None, key))
            if targets:
                rules.append(Rule(key, source, tuple(targets)))
        named += [NamedDestination(*template.fixed, key) for template in reader.templates]
    return rules, named


class _Reader:
    """Reads the value of one key; without a source, only to find what else is wrong."""

    def __init__(self, source: SourcePattern | None, defaults: Defaults, warnings: list[Problem]) -> None:
        self._source = source
        self._defaults = defaults
        self._warnings = warnings
        self.templates: list[Template] = []

    def read(self, entry: Node) -> list[DestinationTag]:
        items = entry.items()
        if not items:
            entry.wrong('names no destination; "" means the default one')
        targets = [target for item in items for target in self._item(item)]
        return [target for target in targets if target is not None]

    def _item(self, item: Node) -> list[DestinationTag | None]:
        if not isinstance(item.value, dict):
            if item.value is None:
                item.wrong('names no destination; "" means the default one')
                return []
            return [self._target(item, self._filter(None), NOTHING_SAID)]
        fields = item.mapping(DESTINATION) or {}
        tags = self._filter(fields.get("tags"))
        content = read_content(fields, self._warnings)
        if "to" not in fields:
            item.wrong('"to" is missing; to: "" means the default destination')
            return []
        destinations = fields["to"].items()
        if not destinations:
            fields["to"].wrong('names no destination; "" means the default one')
        return [self._target(destination, tags, content) for destination in destinations]

    def _filter(self, place: Node | None) -> TagFilter | None:
        """Return the filter, or None if there is a mistake in it."""
        named = self._source.tags if self._source is not None else ()
        if place is None:
            return TagFilter(named)
        if self._source is not None and self._source.digest is not None:
            place.wrong("a digest has no tags to choose from")
        fields = place.mapping(TAGS)
        if fields is None:
            return None
        include, exclude = _patterns(fields.get("include")), _patterns(fields.get("exclude"))
        semver, latest = _semver(fields.get("semver")), None
        if "latest" in fields:
            latest = fields["latest"].positive()
        if include is None or exclude is None:
            return None
        tags = TagFilter(named, include, exclude, semver, latest)
        if tags.exact is not None and not any(map(tags.matches, tags.exact)):
            self._warnings.append(
                Problem(place.path, f"no tag of {', '.join(named)} passes, so nothing is ever copied")
            )
        return tags

    def _target(self, place: Node, tags: TagFilter | None, own: Content) -> DestinationTag | None:
        text = place.text()
        if text is None:
            return None
        template, ends = self._template(place, text)
        if template is None:
            return None
        try:
            template.check()
        except ValueError as error:
            place.wrong(str(error))
            return None
        self.templates.append(template)
        source = self._source
        if source is None or not self._fits(place, source, template):
            return None
        pairs = self._pairs(place, source, ends)
        if pairs is None or tags is None:
            return None
        digest_tag = ends[0] if source.digest is not None and ends else None
        content = own.over(self._defaults.content)
        options = content.options(template.registry)
        if source.digest is not None and digest_tag is None:
            if own.changes_bytes:
                place.wrong("less than the whole image has another digest: write a tag behind the destination")
            options = content.under_its_digest(template.registry)
        elif source.digest is None and options.signatures:
            tags = replace(tags, signatures_apart=True)
        target = DestinationTag(template, tags, pairs, digest_tag, options, place.path)
        if _is_onto_itself(source, target):
            place.wrong("the image would be copied onto itself")
            return None
        return target

    def _template(self, place: Node, text: str) -> tuple[Template | None, tuple[str, ...]]:
        if text == "":
            if self._defaults.missing:
                options = " and ".join(f"--{name}" for name in self._defaults.missing)
                keys = " and ".join(f"defaults.{name}" for name in self._defaults.missing)
                place.wrong(f'"" needs a default registry and namespace: give {keys}, or {options}')
            return self._defaults.template, ()
        registry, slash, rest = text.partition("/")
        registry = registry.lower()
        path, colon, tags = rest.partition(":")
        problem = None
        if not is_registry(registry):
            advice = f"e.g. {self._defaults.registry or 'registry.cn-beijing.aliyuncs.com'}/namespace/repository"
            problem = f"{shorten(text)} must begin with a registry's host that is written out, {advice}"
        elif not slash or not path:
            problem = f"{shorten(text)} names no repository"
        elif "@" in rest:
            problem = "a destination has no digest: it follows from what is copied"
        if problem is not None:
            place.wrong(problem)
            return None, ()
        ends = tuple(tags.split(",")) if colon else ()
        wrong = [end for end in ends if not is_tag(end)]
        for end in wrong:
            place.wrong(
                f"{shorten(end)} is no tag: letters, digits, . _ -, at most 128 characters, commas between tags"
            )
        return (None if wrong else Template(registry, path)), ends

    def _fits(self, place: Node, source: SourcePattern, template: Template) -> bool:
        """Check that the destination can hold what the source names, as far as that is certain."""
        if source.repository is not None:
            try:
                template.expand(source.repository)
            except ValueError as error:
                place.wrong(str(error))
                return False
            return True
        if source.segments[1] == 1 and "project" in template.placeholders:
            place.wrong("{project} asks for a repository in a project, and none that matches stands in one")
            return False
        need = _missing_placeholders(source, template)
        if need is not None:
            namespace = template.path.partition("/")[0].partition("{")[0] or "namespace"
            place.wrong(
                "two sources for one destination: all repositories that match would go into one; "
                f"put {need} into the destination, e.g. {template.registry}/{namespace}/{{flat}}"
            )
            return False
        lowest, highest = template.segments(*source.segments)
        if not is_acr(template.registry) or lowest == highest == NAME_SEGMENTS:
            return True
        advice = template.advice(highest if highest > NAME_SEGMENTS else lowest)
        if lowest > NAME_SEGMENTS or highest < NAME_SEGMENTS:
            place.wrong(f"ACR can't hold what this becomes: {advice}")
            return False
        self._warnings.append(Problem(place.path, f"some repositories that match can't be copied to ACR: {advice}"))
        return True

    def _pairs(self, place: Node, source: SourcePattern, ends: tuple[str, ...]) -> dict[str, tuple[str, ...]] | None:
        """Return the destination's tags by the source's, or None if they don't go together."""
        if not ends:
            return {}
        if source.digest is not None:
            if len(ends) > 1:
                place.wrong("a digest gets one tag; for more, write more destinations")
                return None
            return {}
        if TagFilter(source.tags).exact is None:
            place.wrong("tags here need as many tags written out behind the source; without, tags stay the same")
            return None
        if len(ends) != len(source.tags):
            place.wrong(
                f"{len(ends)} tag(s) here for {len(source.tags)} of the source; they go in pairs, left to right"
            )
            return None
        pairs: dict[str, tuple[str, ...]] = {}
        for tag, end in zip(source.tags, ends, strict=True):
            pairs[tag] = (*pairs.get(tag, ()), end)
        return pairs


def _is_onto_itself(source: SourcePattern, target: DestinationTag) -> bool:
    if source.repository is None or target.template.expand(source.repository) != source.repository:
        return False
    if source.digest is not None:
        return target.digest_tag is None
    return not target.pairs or any(tag in ends for tag, ends in target.pairs.items())


def _missing_placeholders(source: SourcePattern, template: Template) -> str | None:
    """Return what the destination needs so that two repositories that match stay two; None if it needs nothing."""
    used = template.placeholders
    if used & {"repository", "flat"}:
        return None
    first, slash, rest = source.path.partition("/")
    has_no_project = not slash and "**" not in source.path
    if not has_no_project and is_glob(first) and "project" not in used:
        return "{repository} or {flat}"
    if (has_no_project or is_glob(rest) or "**" in first) and "name" not in used:
        return "{name}, {repository} or {flat}"
    return None


def _patterns(place: Node | None) -> tuple[str, ...] | None:
    if place is None:
        return ()
    items = place.items()
    if not items:
        place.wrong("names no tags; leave it out")
    return _all_checked(items, check_tag_pattern)


def _all_checked(items: list[Node], check: Callable[[str], object]) -> tuple[str, ...] | None:
    texts: list[str] = []
    for item in items:
        text = item.text()
        if text is None:
            continue
        try:
            check(text)
        except ValueError as error:
            item.wrong(str(error))
        else:
            texts.append(text)
    return tuple(texts) if len(texts) == len(items) > 0 else None


def _semver(place: Node | None) -> str | None:
    if place is None:
        return None
    checked = _all_checked([place], specifiers)
    return checked[0] if checked else None
