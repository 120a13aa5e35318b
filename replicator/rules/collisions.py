"""Different sources that one destination would get: what the rules alone can tell.

What is certain is a problem. That a single rule sends all that matches to one place is seen in
`replicator.rules.images`. What depends on which repositories and tags there are is a warning, and
`replicator.rules.collisions` finds it once they are listed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from replicator.errors import Problem
from replicator.reference import Reference, Repository, is_repository_name, is_signature_tag

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replicator.rules.rule import DestinationTag, Rule


class CollisionSearch:
    """Looks through rules for overlaps; after `check` both lists are complete.

    Attributes:
        problems: overlaps that are certain.
        warnings: overlaps that are possible.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def check(self, rules: Iterable[Rule]) -> None:
        """Look through ``rules``; each is told of at most once."""
        single: dict[Repository, list[tuple[Rule, DestinationTag, Repository]]] = {}
        globs: dict[str, list[tuple[Rule, DestinationTag]]] = {}
        for rule in rules:
            for target in rule.targets:
                if rule.source.repository is None:
                    self._check_glob(rule, target, globs)
                    continue
                try:
                    destination = target.template.expand(rule.source.repository)
                except ValueError:
                    continue  # a problem of its own, noted where it was read
                others = single.setdefault(destination, [])
                self._check_single(rule, target, rule.source.repository, others)
                others.append((rule, target, rule.source.repository))
        for destination, targets in single.items():
            self._check_single_with_globs(destination, targets, globs.get(destination.registry, []))

    def _check_single(
        self,
        rule: Rule,
        target: DestinationTag,
        repository: Repository,
        others: list[tuple[Rule, DestinationTag, Repository]],
    ) -> None:
        ends = _ends(rule, target, repository)
        for tag, sources in (ends or {}).items():
            if len(sources) > 1:
                self._wrong(target, f"its tag {tag} would come from {_and(sources)}; give each a tag of its own")
                return
        doubts: list[str] = []
        for other_rule, other, other_repository in others:
            other_ends = _ends(other_rule, other, other_repository)
            if ends is not None and other_ends is not None:
                shared = [tag for tag in ends if tag in other_ends and ends[tag] != other_ends[tag]]
                certain, possible = bool(shared), False
            elif ends is not None or other_ends is not None:
                certain, possible = _one_written_out(rule, target, repository, other_rule, other, other_repository)
            elif repository == other_repository:
                continue
            else:
                certain = target.tags.is_everything or other.tags.is_everything or _same(target, other)
                possible = not certain
            message = f"it would get different images from this rule and from {other_rule.key}"
            if certain:
                self._wrong(target, f"{message}; send each to a repository or tag of its own")
                return
            ways = (rule, target, ends), (other_rule, other, other_ends)
            if possible:
                doubts.append(f"{message} where both tag filters let the same tag through")
            elif repository != other_repository and _signatures_meet(*ways):
                doubts.append(f"signatures of an image that stands in {other_repository} too would come from both")
        # What is certain may come behind what is possible.
        for doubt in doubts[:1]:
            self._warn(target, doubt)

    def _check_glob(
        self, rule: Rule, target: DestinationTag, globs: dict[str, list[tuple[Rule, DestinationTag]]]
    ) -> None:
        others = globs.setdefault(target.template.registry, [])
        for other_rule, other in others:
            if _shown(rule, target) == _shown(other_rule, other) and _hidden(rule, target) != _hidden(
                other_rule, other
            ):
                message = f"equal names matched by this rule and by {other_rule.key} would go to one destination"
                self._warn(target, f"{message}; tell them apart in the destination")
                break
        others.append((rule, target))

    def _check_single_with_globs(
        self,
        destination: Repository,
        targets: list[tuple[Rule, DestinationTag, Repository]],
        globs: list[tuple[Rule, DestinationTag]],
    ) -> None:
        for glob_rule, glob in globs:
            repository = _inverse(glob_rule, glob, destination)
            for rule, target, own in targets if repository is not None else ():
                ends = _ends(rule, target, own)
                meet = ends is None or any(glob.tags.matches(tag) for tag in ends)
                if repository != own and (meet or _signatures_meet((rule, target, ends), (glob_rule, glob, None))):
                    message = f"if {repository} exists, {glob_rule.key} sends it here too"
                    self._warn(target, f"{message}; tell them apart in the destination")
                    return

    def _wrong(self, target: DestinationTag, message: str) -> None:
        self.problems.append(Problem(target.path, f"two sources for one destination: {message}"))

    def _warn(self, target: DestinationTag, message: str) -> None:
        self.warnings.append(Problem(target.path, f"two sources for one destination: {message}"))


def _ends(rule: Rule, target: DestinationTag, repository: Repository) -> dict[str, set[Reference]] | None:
    """Return the sources by the tag they get, or None if the file does not write the tags out."""
    if rule.source.digest is not None:
        # Without a tag the destination is named by the same digest: equal names are equal content there.
        tag = target.digest_tag
        return {} if tag is None else {tag: {Reference(repository, digest=rule.source.digest)}}
    if target.tags.exact is None:
        return None
    ends: dict[str, set[Reference]] = {}
    for tag in target.tags.exact:
        if target.tags.matches(tag):
            for end in target.pairs.get(tag, (tag,)):
                ends.setdefault(end, set()).add(Reference(repository, tag))
    return ends


def _same(target: DestinationTag, other: DestinationTag) -> bool:
    return replace(target.tags, signatures_apart=False) == replace(other.tags, signatures_apart=False)


def _signatures_meet(*ways: tuple[Rule, DestinationTag, Iterable[str] | None]) -> bool:
    """Tell whether tags of signatures, which equal images share, can come all ``ways``, and one way as such.

    Each way is a rule, its target, and the tags that are written out there.
    """
    apart = [target.options.signatures and rule.source.digest is None for rule, target, _ in ways]
    return any(apart) and all(
        is_apart or ends is None or any(map(is_signature_tag, ends))
        for is_apart, (_, _, ends) in zip(apart, ways, strict=True)
    )


def _one_written_out(
    rule: Rule,
    target: DestinationTag,
    repository: Repository,
    other_rule: Rule,
    other: DestinationTag,
    other_repository: Repository,
) -> tuple[bool, bool]:
    """Compare tags that are written out with a filter, which keeps tags as they are: certain, possible."""
    ends, open_target, open_repository = _ends(rule, target, repository), other, other_repository
    if ends is None:
        ends, open_target, open_repository = _ends(other_rule, other, other_repository), target, repository
    clash = any(
        open_target.tags.matches(tag) and sources != {Reference(open_repository, tag)}
        for tag, sources in (ends or {}).items()
    )
    # A further tag of the same repository is most likely meant; the warning is for the day it gets that name itself.
    # Of another repository's latest so many, nobody knows which they are.
    return clash and repository != other_repository and open_target.tags.latest is None, clash


def _shown(rule: Rule, target: DestinationTag) -> str:
    path = target.template.path
    if rule.source.project is not None:
        path = path.replace("{project}", rule.source.project).replace("{repository}", f"{rule.source.project}/{{name}}")
    return path


def _hidden(rule: Rule, target: DestinationTag) -> tuple[str, ...]:
    source = rule.source
    if target.template.placeholders & {"repository", "flat", "project"} or source.project is None:
        return (source.registry,)
    return source.registry, source.project


def _inverse(rule: Rule, target: DestinationTag, destination: Repository) -> Repository | None:
    """Return the repository that the rule would send to ``destination``, where that can be told."""
    before, braces, after = _shown(rule, target).partition("{name}")
    name = destination.name
    if not braces or "{" in before + after or rule.source.project is None:
        return None
    if not (name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after)):
        return None
    path = f"{rule.source.project}/{name[len(before) : len(name) - len(after)]}"
    # A project's name that no repository can have makes one that there can't be.
    return Repository(rule.source.registry, path) if is_repository_name(path) and rule.source.includes(path) else None


def _and(sources: Iterable[Reference]) -> str:
    return " and from ".join(sorted(str(source) for source in sources))
