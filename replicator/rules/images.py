"""Reader of the ``images`` section, which maps sources to destinations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from replicator.aliyun.acr import NAME_SEGMENTS, is_acr_host, name_doubt
from replicator.copy.options import Overwrite
from replicator.errors import Problem
from replicator.reference import HUB, full_name, is_registry, is_signature_tag, is_tag
from replicator.rules.credentials import NamedDestination
from replicator.rules.defaults import CONTENT_KEYS, NOTHING_SAID, Content, read_content, read_excluded
from replicator.rules.mapping import TAG, SourcePattern, Template, parse_source
from replicator.rules.node import expand_name
from replicator.rules.patterns import compile_tag_pattern, is_glob, shorten
from replicator.rules.rule import DestinationTag, Rule, has_no_labels, hub_doubts, source_doubts
from replicator.rules.tags import TagFilter, version_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from replicator.rules.defaults import Defaults
    from replicator.rules.node import Node

_COSIGN_TAG = f"sha256-{'0' * 64}.sig"
DESTINATION = ("to", "tags", "repositories", *CONTENT_KEYS)
"""Keys of a destination that is a mapping."""
TAGS = ("include", "exclude", "semver", "labels", "exclude_labels", "latest")
"""Keys of its ``tags``."""
_MAX_LABEL = 128


def read_images(
    node: Node, defaults: Defaults, environ: Mapping[str, str], warnings: list[Problem]
) -> tuple[list[Rule], list[NamedDestination]]:
    """Read the ``images`` mapping; mistakes are noted at its nodes.

    Args:
        node: the mapping.
        defaults: the meaning of ``""``.
        environ: the values of ``${NAME}``.
        warnings: collects what is allowed but looks like a mistake.

    Returns:
        The rules without mistakes, and everything that needs a login, even for rules with mistakes.
    """
    entries = node.mapping()
    if entries is not None and not entries:
        node.wrong("is empty; add a source and its destination")
    rules: list[Rule] = []
    named: list[NamedDestination] = []
    for key, entry in (entries or {}).items():
        if entry.value is None and not is_registry(key.partition("/")[0]):
            # A piece of a login can become a key by a slip, so it is not shown.
            number = list(node.value).index(key) + 1
            node.wrong(f"key number {number} of {len(node.value)} must be a source, with a destination behind a colon")
            continue
        expanded = expand_name(entry, key, environ)
        source = parse_source(expanded, entry.wrong) if expanded is not None else None
        warnings += [Problem(entry.path, message) for message in source_doubts(expanded or "", source)]
        reader = _Reader(source, defaults, environ, warnings)
        targets = reader.read(entry)
        if source is not None:
            warnings += _slow_expressions((entry.path, tag) for tag in source.tags)
            named.append(NamedDestination(source.fixed, source.repository is not None, key))
            if targets:
                rules.append(Rule(key, source, tuple(targets)))
        named += [NamedDestination(*template.fixed, key) for template in reader.templates]
    return rules, named


class _Reader:
    """Reads the value of one key. Without a source it only finds further mistakes."""

    def __init__(
        self, source: SourcePattern | None, defaults: Defaults, environ: Mapping[str, str], warnings: list[Problem]
    ) -> None:
        self._source = source
        self._defaults = defaults
        self._environ = environ
        self._warnings = warnings
        self.templates: list[Template] = []

    def read(self, entry: Node) -> list[DestinationTag]:
        items = entry.items()
        if not items:
            entry.wrong('no destination; write "" for the default one')
        targets = [target for item in items for target in self._item(item)]
        return [target for target in targets if target is not None]

    def _item(self, item: Node) -> list[DestinationTag | None]:
        if not isinstance(item.value, dict):
            if item.value is None:
                item.wrong('no destination; write "" for the default one')
                return []
            return [self._target(item, self._filter(None), NOTHING_SAID)]
        fields = item.mapping(DESTINATION) or {}
        tags = self._filter(fields.get("tags"))
        excluded = read_excluded(fields.get("repositories"), self._source)
        content = read_content(fields, self._warnings)
        if "to" not in fields:
            item.wrong('"to" is missing; write to: "" for the default destination')
            return []
        destinations = fields["to"].items()
        if not destinations:
            fields["to"].wrong('no destination; write "" for the default one')
        return [self._target(destination, tags, content, excluded) for destination in destinations]

    def _filter(self, node: Node | None) -> TagFilter | None:
        """Return the filter, or None if there is a mistake in it."""
        named = self._source.tags if self._source is not None else ()
        if node is None:
            return TagFilter(named)
        if self._source is not None and self._source.digest is not None:
            node.wrong("a digest has no tags to filter; remove this")
        fields = node.mapping(TAGS)
        if fields is None:
            return None
        include, exclude = self._patterns(fields.get("include")), self._patterns(fields.get("exclude"))
        semver, latest = _semver(fields.get("semver")), None
        if "latest" in fields:
            latest = fields["latest"].positive()
        labels, excluded = self._labels(fields.get("labels")), self._labels(fields.get("exclude_labels"))
        if include is None or exclude is None or labels is None or excluded is None:
            return None
        tags = TagFilter(named, include, exclude, semver, labels, excluded, latest)
        if tags.exact is not None and not any(map(tags.matches, tags.exact)):
            message = f"none of the tags {', '.join(named)} passes, so nothing is ever copied"
            self._warnings.append(Problem(node.path, message))
        return tags

    def _patterns(self, node: Node | None) -> tuple[str, ...] | None:
        if node is None:
            return ()
        items = node.items()
        if not items:
            node.wrong("is empty; remove it")
        patterns = _all_checked(items, compile_tag_pattern)
        self._warnings += _slow_expressions(zip((item.path for item in items), patterns or (), strict=False))
        return patterns

    def _labels(self, node: Node | None) -> tuple[str, ...] | None:
        if node is None:
            return ()
        items = node.items()
        if not items:
            node.wrong("is empty; remove it")
        if self._source is not None and (problem := has_no_labels(self._source)):
            node.wrong(problem)
            return None
        return _all_checked(items, _check_label)

    def _target(
        self, node: Node, tags: TagFilter | None, own: Content, excluded: tuple[str, ...] = ()
    ) -> DestinationTag | None:
        written = node.text()
        text = expand_name(node, written, self._environ) if written is not None else None
        if text is None:
            return None
        template, ends = self._template(node, text)
        if template is None:
            return None
        try:
            template.check()
        except ValueError as error:
            node.wrong(str(error))
            return None
        # A rule with mistakes needs its logins too, so that a missing login is reported together with them.
        self.templates.append(template)
        source = self._source
        if source is None or not self._fits(node, source, template) or not self._names(node, source, template):
            return None
        pairs = self._pairs(node, source, ends)
        if pairs is None or tags is None:
            return None
        digest_tag = ends[0] if source.digest is not None and ends else None
        if source.digest is not None and source.repository is not None and template.tag is not None:
            digest_tag = template.expand_tag(source.repository, "")
            template = replace(template, tag=None)
        content = own.over(self._defaults.content)
        if content.signatures is None and tags is not None and _speaks_of_signatures(tags):
            content = replace(content, signatures="false")
        options, automatic = content.options(template.registry), content.is_automatic
        if source.digest is not None and digest_tag is None:
            if own.changes_bytes:
                node.wrong("a part of the image has another digest; append a tag to the destination")
            # A default that strips parts can't apply: the destination's name is the digest of all of it.
            options, automatic = content.under_its_digest(template.registry), False
        elif source.digest is None and options.signatures is not False:
            tags = replace(tags, signatures_apart=True)
        overwrite = content.overwrite or Overwrite.ALWAYS
        target = DestinationTag(template, tags, pairs, digest_tag, options, node.path, overwrite, excluded, automatic)
        if _is_onto_itself(source, target):
            node.wrong("the image would be copied onto itself")
            return None
        return target

    def _template(self, node: Node, written: str) -> tuple[Template | None, tuple[str, ...]]:
        if written == "":
            if self._defaults.missing:
                options = " and ".join(f"--{name}" for name in self._defaults.missing)
                keys = " and ".join(f"defaults.{name}" for name in self._defaults.missing)
                node.wrong(f'"" needs a default registry and namespace: set {keys}, or pass {options}')
            return self._defaults.template, ()
        text, at, digest = (full_name(written) if "/" in written else written).partition("@")
        self._warnings += [Problem(node.path, message) for message in hub_doubts(written, text)]
        registry, slash, rest = text.partition("/")
        registry = registry.lower()
        path, colon, tags = rest.partition(":")
        problem = None
        if not is_registry(registry):
            advice = f"e.g. {self._defaults.registry or 'registry.cn-beijing.aliyuncs.com'}/namespace/repository"
            problem = f"must begin with a registry host, {advice}"
            if "://" in written:
                problem = "a destination is written without http:// or https://"
        elif not slash or not path:
            problem = f"{shorten(text)} has no repository after the registry"
        elif registry == HUB and path.startswith("library/"):
            problem = (
                f"{shorten(written)} is one of Docker's own images, and nobody can push there; write "
                "host/namespace/name"
            )
        elif at and self._source is not None and digest != self._source.digest:
            problem = (
                "a destination can only have the digest of its source, as it results from what is copied; remove it"
            )
        if problem is not None:
            node.wrong(problem)
            return None, ()
        if "{" in tags or "}" in tags:
            if "," in tags:
                node.wrong("a tag with placeholders must be the only tag; for another tag, add another destination")
                return None, ()
            return Template(registry, path, tag=tags), ()
        ends = tuple(tags.split(",")) if colon else ()
        wrong = [end for end in ends if not is_tag(end)]
        for end in wrong:
            node.wrong(
                f"{shorten(end)} is not a tag: use letters, digits, . _ -, at most 128 characters; "
                "separate tags by commas"
            )
        return (None if wrong else Template(registry, path)), ends

    def _fits(self, node: Node, source: SourcePattern, template: Template) -> bool:
        """Check that every match can be held at a destination of its own, as far as the rule alone tells."""
        if problem := _tag_template_problem(source, template):
            node.wrong(problem)
            return False
        if source.repository is not None:
            try:
                template.expand(source.repository)
            except ValueError as error:
                node.wrong(str(error))
                return False
            return True
        if source.segments[1] == 1 and "project" in template.placeholders:
            node.wrong("{project} needs a repository in a project, and no match is in one")
            return False
        # Two matches of one pattern must stay two repositories, or the last copy of a tag would win.
        need = _missing_placeholders(source, template)
        if need is not None:
            namespace = template.path.partition("/")[0].partition("{")[0] or "namespace"
            node.wrong(
                "collision: all matching repositories would go to one destination; "
                f"add {need} to it, e.g. {template.registry}/{namespace}/{{flat}}"
            )
            return False
        # Other registries nest names freely; ACR holds exactly two segments.
        lowest, highest = template.segments(*source.segments)
        if not is_acr_host(template.registry) or lowest == highest == NAME_SEGMENTS:
            return True
        advice = template.advice(highest if highest > NAME_SEGMENTS else lowest)
        if lowest > NAME_SEGMENTS or highest < NAME_SEGMENTS:
            node.wrong(f"ACR can't hold the resulting name: {advice}")
            return False
        self._warnings.append(Problem(node.path, f"some matching repositories can't be copied to ACR: {advice}"))
        return True

    def _names(self, node: Node, source: SourcePattern, template: Template) -> bool:
        """Check that ACR can hold the name of some match at least, as far as the rule alone tells."""
        if problem := template.fixed_name_problem(source):
            node.wrong(problem)
            return False
        if source.repository is not None and (doubt := name_doubt(template.expand(source.repository))):
            self._warnings.append(Problem(node.path, doubt))
        return True

    def _pairs(self, node: Node, source: SourcePattern, ends: tuple[str, ...]) -> dict[str, tuple[str, ...]] | None:
        """Return the destination's tags by the source's, or None if they can't be paired."""
        if not ends:
            return {}
        if source.digest is not None:
            if len(ends) > 1:
                node.wrong("a digest gets one tag; for another tag, add another destination")
                return None
            return {}
        if TagFilter(source.tags).exact is None:
            node.wrong("tags here need as many tags, without wildcards, after the source; remove them to keep the tags")
            return None
        if len(ends) != len(source.tags):
            node.wrong(f"{len(ends)} tag(s) here for {len(source.tags)} of the source; they are paired left to right")
            return None
        pairs: dict[str, tuple[str, ...]] = {}
        for tag, end in zip(source.tags, ends, strict=True):
            pairs[tag] = (*pairs.get(tag, ()), end)
        return pairs


def _speaks_of_signatures(tags: TagFilter) -> bool:
    """Tell whether a rule's tags decide about cosign's themselves: they name one, or leave them out."""
    if any(map(is_signature_tag, tags.exact or ())):
        return True
    left_out = TagFilter(exclude=tags.exclude)
    return not left_out.matches(_COSIGN_TAG)


def _is_onto_itself(source: SourcePattern, target: DestinationTag) -> bool:
    if source.repository is None or target.template.expand(source.repository) != source.repository:
        return False
    if source.digest is not None:
        return target.digest_tag is None
    return not target.pairs or any(tag in ends for tag, ends in target.pairs.items())


def _tag_template_problem(source: SourcePattern, template: Template) -> str | None:
    """Return why the tag of a template can never be right for a source; None if it can be, or there is none."""
    if template.tag is None:
        return None
    if source.digest is not None:
        if TAG in template.placeholders:
            return "the source is a digest, which has no tag: remove {tag}"
    elif not template.keeps_tags_apart and len(set(TagFilter(source.tags).exact or ("", "*"))) > 1:
        return f"collision: all tags of the source would go to one tag; add {{tag}} to it, e.g. {template.tag}-{{tag}}"
    in_tag = replace(template, path="").placeholders
    segments = source.segments[1]
    for name, most in (("repository", 1), ("name", 2)):
        if name in in_tag and segments > most:
            return f"{{{name}}} can have a slash, which a tag can't; use {{flat}}"
    if source.registry == template.registry and "{" not in template.path and source.includes(template.path):
        return "the source includes the destination, so its copies would be copied again and again"
    if source.repository is None:
        return None
    exact = TagFilter(source.tags).exact or ("x",)
    problems = [template.tag_problem(source.repository, "" if source.digest else tag) for tag in exact]
    return next(filter(None, problems), None)


def _missing_placeholders(source: SourcePattern, template: Template) -> str | None:
    """Return the placeholders that keep two matching repositories apart; None if nothing is missing."""
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


def _slow_expressions(patterns: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    """Return a warning for each pattern, given with its path, that RE2 does not run."""
    for path, pattern in patterns:
        if warning := compile_tag_pattern(pattern).warning:
            yield Problem(path, warning)


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


def _check_label(text: str) -> None:
    if not text.strip() or not text.isprintable():
        raise ValueError("is not the name of a label: it is empty, or has invisible characters")
    if len(text) > _MAX_LABEL:
        raise ValueError(f"{shorten(text)} is longer than {_MAX_LABEL} characters, the most that Harbor allows a label")


def _semver(node: Node | None) -> str | None:
    if node is None:
        return None
    checked = _all_checked([node], version_range)
    return checked[0] if checked else None
