"""Search for collisions: different sources that go to one destination, as far as the rules alone tell.

A certain collision is a problem. One that depends on which repositories and tags exist is a warning; a backfill, which
lists them, finds out (`replicator.rules.request.find_collisions`). A single rule that sends all its matches to one
destination is found in `replicator.rules.images`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from replicator.errors import Problem
from replicator.reference import Reference, Repository, is_repository_name, is_signature_tag

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replicator.rules.rule import DestinationTag, Rule


@dataclass(frozen=True, slots=True)
class _Flow:
    """The copies from one repository to one destination by one rule.

    Attributes:
        tags: the sources by the tag they get; None if the file does not write the tags out.
    """

    rule: Rule
    target: DestinationTag
    repository: Repository
    tags: dict[str, set[Reference]] | None


class CollisionSearch:
    """Searches rules for collisions; after `check` both lists are complete.

    Attributes:
        problems: certain collisions.
        warnings: possible collisions.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def check(self, rules: Iterable[Rule]) -> None:
        """Search ``rules``; each destination of a rule is reported at most once."""
        flows: dict[Repository, list[_Flow]] = {}
        globs: dict[str, list[tuple[Rule, DestinationTag]]] = {}
        for rule in rules:
            for target in rule.targets:
                repository = rule.source.repository
                if repository is None:
                    self._check_glob(rule, target, globs)
                    continue
                try:
                    destination = target.template.expand(repository)
                except ValueError:
                    continue  # noted already where the rule was read
                flow = _Flow(rule, target, repository, _destination_tags(rule, target, repository))
                others = flows.setdefault(destination, [])
                self._check_flow(flow, others)
                others.append(flow)
        for destination, found in flows.items():
            self._check_flows_with_globs(destination, found, globs.get(destination.registry, []))

    def _check_flow(self, flow: _Flow, others: list[_Flow]) -> None:
        for tag, sources in (flow.tags or {}).items():
            if len(sources) > 1:
                self._wrong(flow.target, f"the tag {tag} would come from {_and(sources)}; give each a tag of its own")
                return
        doubts: list[str] = []
        for other in others:
            certain, possible = _collide(flow, other)
            message = f"it would get different images from this rule and from {other.rule.key}"
            if certain:
                self._wrong(flow.target, f"{message}; send each to a repository or tag of its own")
                return
            if possible:
                doubts.append(f"{message} if both tag filters let the same tag pass")
            elif flow.repository != other.repository and _signatures_collide(flow, other):
                doubts.append(f"signatures of an image that is in {other.repository} too would come from both")
        # A certain collision may follow a possible one and is worth more, so warnings wait for the end.
        for doubt in doubts[:1]:
            self._warn(flow.target, doubt)

    def _check_glob(
        self, rule: Rule, target: DestinationTag, globs: dict[str, list[tuple[Rule, DestinationTag]]]
    ) -> None:
        others = globs.setdefault(target.template.registry, [])
        for other_rule, other in others:
            if _shown(rule, target) == _shown(other_rule, other) and _hidden(rule, target) != _hidden(
                other_rule, other
            ):
                message = f"equal names matched by this rule and by {other_rule.key} would go to one destination"
                self._warn(target, f"{message}; make the destinations differ")
                break
        others.append((rule, target))

    def _check_flows_with_globs(
        self, destination: Repository, flows: list[_Flow], globs: list[tuple[Rule, DestinationTag]]
    ) -> None:
        for glob_rule, glob in globs:
            repository = _inverse(glob_rule, glob, destination)
            if repository is None:
                continue
            other = _Flow(glob_rule, glob, repository, None)
            for flow in flows:
                shared = flow.tags is None or any(map(glob.tags.matches, flow.tags))
                if repository != flow.repository and (shared or _signatures_collide(flow, other)):
                    message = f"if {repository} exists, {glob_rule.key} sends it here too"
                    self._warn(flow.target, f"{message}; make the destinations differ")
                    return

    def _wrong(self, target: DestinationTag, message: str) -> None:
        self.problems.append(Problem(target.path, f"collision: {message}"))

    def _warn(self, target: DestinationTag, message: str) -> None:
        self.warnings.append(Problem(target.path, f"collision: {message}"))


def _destination_tags(rule: Rule, target: DestinationTag, repository: Repository) -> dict[str, set[Reference]] | None:
    """Return the sources by the tag they get; None if the file does not write the tags out."""
    if rule.source.digest is not None:
        # Without a tag the destination is the same digest, and equal digests are equal content.
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


def _collide(flow: _Flow, other: _Flow) -> tuple[bool, bool]:
    """Return whether a collision of two flows to one destination is certain, and whether it is possible."""
    if flow.tags is not None and other.tags is not None:
        mine, theirs = flow.tags, other.tags
        return any(tag in theirs and mine[tag] != theirs[tag] for tag in mine), False
    if flow.tags is not None or other.tags is not None:
        return _collide_with_filter(*((flow, other) if flow.tags is not None else (other, flow)))
    if flow.repository == other.repository:
        return False, False
    certain = flow.target.tags.is_everything or other.target.tags.is_everything or _same(flow.target, other.target)
    return certain, not certain


def _collide_with_filter(written: _Flow, filtered: _Flow) -> tuple[bool, bool]:
    """Compare tags that are written out with a filter, which keeps the names of tags."""
    possible = any(
        filtered.target.tags.matches(tag) and sources != {Reference(filtered.repository, tag)}
        for tag, sources in (written.tags or {}).items()
    )
    # An additional tag for the same repository is most likely intended: the warning is for the day the source gets a
    # tag of that name. And which tags are the latest of another repository can't be known here.
    certain = possible and written.repository != filtered.repository and filtered.target.tags.latest is None
    return certain, possible


def _same(target: DestinationTag, other: DestinationTag) -> bool:
    return replace(target.tags, signatures_apart=False) == replace(other.tags, signatures_apart=False)


def _signatures_collide(*flows: _Flow) -> bool:
    """Tell whether a tag of signatures, which equal images share, can come by every flow, and by one as a signature."""
    copying = [flow.target.options.signatures and flow.rule.source.digest is None for flow in flows]
    return any(copying) and all(
        copies or flow.tags is None or any(map(is_signature_tag, flow.tags))
        for copies, flow in zip(copying, flows, strict=True)
    )


def _shown(rule: Rule, target: DestinationTag) -> str:
    """Return the destination's path with the project filled in, as far as the rule fixes it."""
    path = target.template.path
    if rule.source.project is not None:
        path = path.replace("{project}", rule.source.project).replace("{repository}", f"{rule.source.project}/{{name}}")
    return path


def _hidden(rule: Rule, target: DestinationTag) -> tuple[str, ...]:
    """Return the parts of the source that the destination does not show."""
    source = rule.source
    if target.template.placeholders & {"repository", "flat", "project"} or source.project is None:
        return (source.registry,)
    return source.registry, source.project


def _inverse(rule: Rule, target: DestinationTag, destination: Repository) -> Repository | None:
    """Return the repository that the rule would send to ``destination``, or None if that can't be told."""
    before, braces, after = _shown(rule, target).partition("{name}")
    name = destination.name
    if not braces or "{" in before + after or rule.source.project is None:
        return None
    if not (name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after)):
        return None
    path = f"{rule.source.project}/{name[len(before) : len(name) - len(after)]}"
    # The project may be a name that no repository can have.
    return Repository(rule.source.registry, path) if is_repository_name(path) and rule.source.includes(path) else None


def _and(sources: Iterable[Reference]) -> str:
    return " and from ".join(sorted(str(source) for source in sources))
