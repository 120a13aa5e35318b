"""One rule: a source, and where each of its tags goes.

What the rules say of a repository before its tags are known.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from replicator.copy.options import VERBATIM, CopyOptions
from replicator.reference import Reference, Repository, is_signature_tag
from replicator.rules.request import CopyRequest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from replicator.rules.mapping import SourcePattern, Template
    from replicator.rules.tags import TagFilter

_ONTO_ITSELF = "it would be copied onto itself"


@dataclass(frozen=True, slots=True)
class DestinationTag:
    """One destination of a rule.

    Attributes:
        template: the repository.
        tags: which tags of the source go there.
        pairs: the tags there by the source's tag, if they differ; empty: the same tags.
        digest_tag: the tag that a source named by digest gets, if any.
        options: what of an image is copied.
        path: where it stands in the file.
    """

    template: Template
    tags: TagFilter
    pairs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    digest_tag: str | None = None
    options: CopyOptions = VERBATIM
    path: str = ""

    @property
    def selection(self) -> TagFilter | None:
        """What decides when the copy runs, if the rule has ``latest``."""
        return self.tags if self.tags.latest is not None else None


@dataclass(frozen=True, slots=True)
class Rule:
    """A key of ``images`` and its value.

    Attributes:
        key: as it stands in the file.
        source: what it means.
        targets: where that goes.
    """

    key: str
    source: SourcePattern
    targets: tuple[DestinationTag, ...]

    def judge(self, target: DestinationTag, reference: Reference) -> list[CopyRequest] | str:
        """Return the copies of ``reference`` to ``target``, or why there is none; the repository is known to fit."""
        try:
            destination = target.template.expand(reference.repository)
        except ValueError as error:
            return str(error)
        digest = self.source.digest
        if digest is not None:
            if reference.digest != digest:
                return f"the digest is {reference.digest or 'not given'}, not {digest}"
            return self._requests(Reference(reference.repository, digest=digest), target, destination)
        if target.options.signatures and _is_signature(reference):
            return self._signature(reference, target, destination)
        if reference.tag is None:
            return "no tag is named, and the rule is about tags"
        refusal = target.tags.refusal(reference.tag)
        if refusal is not None:
            return refusal
        return self._requests(Reference(reference.repository, reference.tag), target, destination)

    def _requests(self, source: Reference, target: DestinationTag, destination: Repository) -> list[CopyRequest] | str:
        if source.tag is None:
            ends = [Reference(destination, target.digest_tag, None if target.digest_tag else source.digest)]
        else:
            ends = [Reference(destination, tag) for tag in target.pairs.get(source.tag, (source.tag,))]
        if source in ends:
            ends.remove(source)
        if not ends:
            return _ONTO_ITSELF
        return [CopyRequest(source, end, self.key, target.selection, target.options) for end in ends]

    def _signature(
        self, reference: Reference, target: DestinationTag, destination: Repository
    ) -> list[CopyRequest] | str:
        """Return the copy of what was pushed beside images, under the name that it has: others look for that name."""
        source = Reference(reference.repository, reference.tag, None if reference.tag is not None else reference.digest)
        end = Reference(destination, source.tag, source.digest)
        if source == end:
            return _ONTO_ITSELF
        return [CopyRequest(source, end, self.key, options=target.options, signature=True)]

    def listed(self, target: DestinationTag, repository: Repository, tags: Collection[str]) -> list[CopyRequest]:
        """Return the copies to ``target`` when ``tags`` are all there are in ``repository``, which is known to fit.

        Those that ``latest`` leaves out come too, as the only ones with a ``selection``: another rule may want them.
        """
        if self.source.digest is not None:
            return self._judged(target, Reference(repository, digest=self.source.digest))
        if target.tags.latest is None:
            tags = [*tags, *(target.tags.exact or ())]
        passing = replace(target.tags, latest=None).select(tags)
        selected = frozenset(passing[: target.tags.latest])
        if target.options.signatures:
            passing += sorted(set(filter(is_signature_tag, tags)))
        return [
            replace(request, selection=None) if tag in selected else request
            for tag in passing
            for request in self._judged(target, Reference(repository, tag))
        ]

    def _judged(self, target: DestinationTag, reference: Reference) -> list[CopyRequest]:
        judged = self.judge(target, reference)
        return [] if isinstance(judged, str) else judged


def _is_signature(reference: Reference) -> bool:
    return reference.tag is None or is_signature_tag(reference.tag)


@dataclass(frozen=True, slots=True)
class Route:
    """Where the copies of one repository can go, whatever its tags are.

    Attributes:
        destinations: the repositories that get a tag of any of its copies. Where copies go by digest alone is not
            among them: the same digest is the same content, wherever it comes from.
        renaming: those of them where a tag can have another name than at the source.
        whole: whether all tags must be seen together. If not, ``Rules.asked`` of one part of the tags after the other
            asks for the same as of all of them at once.
        unfit: why copies that rules ask for can't be made, whatever the tag: no such name can be at the destination.
    """

    destinations: frozenset[Repository]
    renaming: frozenset[Repository]
    whole: bool
    unfit: tuple[str, ...] = ()


def route(rules: Iterable[Rule], repository: Repository) -> Route:
    """Return the route of ``repository`` under ``rules``, all of which are about it."""
    destinations: set[Repository] = set()
    renaming: set[Repository] = set()
    whole = False
    unfit: dict[str, None] = {}
    for rule in rules:
        for target in rule.targets:
            whole = whole or _is_whole(rule, target)
            try:
                destination = target.template.expand(repository)
            except ValueError as error:
                # There is no such copy, see `Rule.judge`.
                unfit[f"rule {rule.key}: {error}"] = None
                continue
            if rule.source.digest is not None and target.digest_tag is None:
                continue
            destinations.add(destination)
            if target.pairs or target.digest_tag is not None:
                renaming.add(destination)
    return Route(frozenset(destinations), frozenset(renaming), whole, tuple(unfit))


def _is_whole(rule: Rule, target: DestinationTag) -> bool:
    """Tell whether a copy depends on more than its own tag.

    ``latest`` chooses among all tags. What is written out is asked for whether it is listed or not, and would be once
    for every part.
    """
    return rule.source.digest is not None or target.tags.latest is not None or target.tags.exact is not None
