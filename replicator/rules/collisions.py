"""Search for collisions: different sources that go to one destination, in the rules and in what a backfill lists.

A certain collision is a problem. One that depends on which repositories and tags exist is a warning; a backfill, which
lists them, finds out (`ListingCollisions`). A single rule that sends all its matches to one destination is found in
`replicator.rules.images`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import TYPE_CHECKING

from replicator.errors import Problem
from replicator.reference import Reference, Repository, is_repository_name, is_signature_tag, is_tag
from replicator.rules.patterns import matching_glob
from replicator.rules.request import CopyRequest, find_collisions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from replicator.rules.request import Collision
    from replicator.rules.rule import DestinationTag, Route, Rule


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

    @property
    def around(self) -> tuple[str, str]:
        """The text of the destination's tag before and behind the source's."""
        before, _, after = self.target.ends(self.repository, "\0")[0].partition("\0")
        return before, after

    def source_of(self, end: str) -> Reference | None:
        """Return the source that a filter for tags would send to the tag ``end``; None if there is none."""
        before, after = self.around
        tag = end[len(before) : len(end) - len(after)]
        fits = len(end) > len(before) + len(after) and end.startswith(before) and end.endswith(after)
        return Reference(self.repository, tag) if fits and is_tag(tag) and self.target.tags.matches(tag) else None


class CollisionSearch:
    """Searches rules for collisions; after `check` both lists are complete.

    Attributes:
        problems: certain collisions, each with the file of its rule.
        warnings: possible collisions.
    """

    def __init__(self) -> None:
        self.problems: list[tuple[str, Problem]] = []
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
                self._wrong(flow, f"the tag {tag} would come from {_and(sources)}; give each its own tag")
                return
        doubts: list[str] = []
        for other in others:
            certain, possible = _collide(flow, other)
            message = f"it would get different images from this rule and from {_told(other.rule, flow.rule)}"
            if certain:
                self._wrong(flow, f"{message}; send each to its own repository or tag")
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
                message = (
                    f"equal names matched by this rule and by {_told(other_rule, rule)} would go to one destination"
                )
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
                    message = f"if {repository} exists, {_told(glob_rule, flow.rule)} sends it here too"
                    self._warn(flow.target, f"{message}; make the destinations differ")
                    return

    def _wrong(self, flow: _Flow, message: str) -> None:
        self.problems.append((flow.rule.file, Problem(flow.target.path, f"collision: {message}")))

    def _warn(self, target: DestinationTag, message: str) -> None:
        self.warnings.append(Problem(target.path, f"collision: {message}"))


def _told(other: Rule, rule: Rule) -> str:
    """Return the key of another rule, with its file if that is not the file of ``rule``."""
    return other.key if other.file == rule.file else f"{other.key} in {other.file}"


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
            for end in target.ends(repository, tag):
                ends.setdefault(end, set()).add(Reference(repository, tag))
    return ends


def _collide(flow: _Flow, other: _Flow) -> tuple[bool, bool]:
    """Return whether a collision of two flows to one destination is certain, and whether it is possible."""
    certain, possible = _collide_by_names(flow, other)
    if flow.target.tags.needs_labels or other.target.tags.needs_labels:
        # It takes images with those labels.
        return False, certain or possible
    return certain, possible


def _collide_by_names(flow: _Flow, other: _Flow) -> tuple[bool, bool]:
    if flow.tags is not None and other.tags is not None:
        mine, theirs = flow.tags, other.tags
        return any(tag in theirs and mine[tag] != theirs[tag] for tag in mine), False
    if flow.tags is not None or other.tags is not None:
        return _collide_with_filter(*((flow, other) if flow.tags is not None else (other, flow)))
    if flow.repository == other.repository or flow.around != other.around:
        # Tags that are made in two ways meet by chance at most, which a listing finds.
        return False, False
    certain = flow.target.tags.is_everything or other.target.tags.is_everything or _same(flow.target, other.target)
    return certain, not certain


def _collide_with_filter(written: _Flow, filtered: _Flow) -> tuple[bool, bool]:
    """Compare tags that are written out with a filter."""
    possible = any(
        (source := filtered.source_of(end)) is not None and sources != {source}
        for end, sources in (written.tags or {}).items()
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
    """Return the destination's path and tag with the project filled in, as far as the rule fixes it."""
    path = str(target.template).partition("/")[2]
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
    """Return the repository that the rule would send to ``destination``, or None if that is not known."""
    before, braces, after = _shown(rule, target).partition("{name}")
    name = destination.name
    if not braces or "{" in before + after or rule.source.project is None:
        return None
    if not (name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after)):
        return None
    path = f"{rule.source.project}/{name[len(before) : len(name) - len(after)]}"
    # The project may be a name that no repository can have.
    if not is_repository_name(path) or not rule.source.includes(path) or matching_glob(target.excluded, path):
        return None
    return Repository(rule.source.registry, path)


_MOST_RULES = 1000
MOST_FLAT = 256
"""Names of repositories that may become one name by ``{flat}``; of a name with more dashes, some are left out."""


def may_collide(rules: Iterable[Rule]) -> bool:
    """Tell whether two sources can go to one destination tag under ``rules``, for any existing repositories."""
    seen: list[tuple[str, bool]] = []
    for rule in rules:
        for target in rule.targets:
            beginning, whole = target.template.fixed
            if "flat" in target.template.placeholders or target.pairs or target.digest_tag or len(seen) > _MOST_RULES:
                return True
            for other, other_whole in seen:
                apart = whole and other_whole and beginning != other
                if not apart and (beginning.startswith(other) or other.startswith(beginning)):
                    return True
            seen.append((beginning, whole))
    return False


def possible_sources(rules: Iterable[Rule], destination: Reference) -> Iterator[Reference]:
    """Yield the references that may go to a destination tag, some perhaps twice; the rules have to judge each."""
    if destination.tag is None:
        return
    for rule in rules:
        for target in rule.targets:
            for repository in _possible_repositories(rule, target, destination.repository):
                if rule.source.digest is not None:
                    yield Reference(repository, digest=rule.source.digest)
                elif target.pairs:
                    yield from (Reference(repository, tag) for tag in target.pairs)
                else:
                    yield Reference(repository, destination.tag)


def _possible_repositories(rule: Rule, target: DestinationTag, destination: Repository) -> Iterator[Repository]:
    source, template = rule.source, target.template
    if template.registry != destination.registry:
        return
    if source.repository is not None:
        yield source.repository
        return
    parts = re.split(r"\{(\w+)\}", template.path)
    known: set[str] = set()
    pattern = ""
    for number, part in enumerate(parts):
        if number % 2 == 0:
            pattern += re.escape(part)
        elif part in known:
            pattern += f"(?P={part})"
        else:
            known.add(part)
            pattern += f"(?P<{part}>.+)"
    if (match := re.fullmatch(pattern, destination.name)) is None:
        return
    values = match.groupdict()
    project = values.get("project", source.project)
    if "repository" in values:
        names: Iterable[str] = [values["repository"]]
    elif "name" in values:
        names = [f"{project}/{values['name']}" if project is not None else values["name"]]
    elif "flat" in values:
        words = values["flat"].split("-")
        separators = islice(product("-/", repeat=len(words) - 1), MOST_FLAT)
        names = ("".join(map("".join, zip(words, (*each, ""), strict=True))) for each in separators)
    else:
        return
    for name in names:
        if is_repository_name(name) and source.includes(name):
            yield Repository(source.registry, name)


def _and(sources: Iterable[Reference]) -> str:
    return " and from ".join(sorted(str(source) for source in sources))


def collision_candidates(routes: Iterable[Route]) -> frozenset[Repository]:
    """Return the destination repositories where two copies can meet at one tag.

    Tags of one repository that keep their names never meet, so these are the destinations of several repositories and
    those where tags are renamed.

    Args:
        routes: one for each source repository.
    """
    reached: set[Repository] = set()
    candidates: set[Repository] = set()
    for route in routes:
        candidates |= route.renaming | (route.destinations & reached)
        reached |= route.destinations
    return frozenset(candidates)


_Origin = tuple[Reference | tuple[Repository, str, str], str]
"""A source, and the rule that sends it.

A repository with two texts stands for its tag that the destination's tag has between these texts.
"""


class ListingCollisions:
    """Collects the copies into some destination repositories, and finds those that collide.

    Args:
        candidates: the destination repositories to watch, see `collision_candidates`.
    """

    def __init__(self, candidates: Collection[Repository]) -> None:
        self._candidates = frozenset(candidates)
        # There may be a million destinations and hardly a collision. So of each destination only a short digest is
        # kept, with an origin that most tags of a repository share; whole requests are kept for collisions alone.
        self._first: dict[bytes, _Origin] = {}
        self._origins: dict[_Origin, _Origin] = {}
        self._colliding: dict[Reference, dict[CopyRequest, None]] = {}

    def add(self, request: CopyRequest) -> None:
        """Add a copy; adding it twice makes no difference."""
        source, destination = request.source, request.destination
        # The same digest is the same content, wherever it comes from.
        if destination.tag is None or destination.repository not in self._candidates:
            return
        if request.problem is not None or (request.signature and request.options.signatures is None):
            # Equal images share the name of their signatures. No rule requests these, so no rule is at fault.
            return
        origin: _Origin = (source, request.rule)
        if source.digest is None and source.tag is not None and source.tag in destination.tag:
            before, _, after = destination.tag.partition(source.tag)
            origin = ((source.repository, before, after), request.rule)
        origin = self._origins.setdefault(origin, origin)
        key = hashlib.blake2b(str(destination).encode(), digest_size=16).digest()
        first, rule = self._first.setdefault(key, origin)
        if first == origin[0]:
            return
        if isinstance(first, Reference):
            first_source = first
        else:
            repository, before, after = first
            first_source = Reference(repository, destination.tag.removeprefix(before).removesuffix(after))
        first_request = CopyRequest(first_source, destination, rule)
        colliding = self._colliding.setdefault(destination, {first_request: None})
        colliding[CopyRequest(source, destination, request.rule)] = None

    def __iter__(self) -> Iterator[Collision]:
        """Iterate over all collisions so far."""
        for colliding in self._colliding.values():
            yield from find_collisions(colliding)

    def of(self, request: CopyRequest) -> Collision | None:
        """Return the collision at the destination of ``request``, as far as it has been seen; None if there is none."""
        colliding = self._colliding.get(request.destination)
        return find_collisions(colliding)[0] if colliding is not None else None
