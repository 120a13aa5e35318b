"""A rule: a source and its destinations, and the decision about one reference.

A `Route` sums up the destinations of a repository before its tags are known.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from replicator.aliyun.acr import automatic_attestations, is_acr_host
from replicator.copy.options import VERBATIM, CopyOptions, Overwrite
from replicator.reference import HUB, Reference, Repository, full_host, is_signature_tag
from replicator.rules.patterns import matching_glob
from replicator.rules.request import CopyRequest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from replicator.rules.mapping import SourcePattern, Template
    from replicator.rules.tags import TagFilter

_SHOWN = 100
"""Characters that are shown of a tag that is too long."""
_NO_HARBORS = ("docker.io", "registry-1.docker.io", "ghcr.io", "quay.io", "gcr.io", "registry.k8s.io", "public.ecr.aws")
"""Registries that are known not to be Harbors, although their hosts are often named in rules."""
_ONTO_ITSELF = "it would be copied onto itself"


@dataclass(frozen=True, slots=True)
class DestinationTag:
    """One destination of a rule.

    Attributes:
        template: the repository.
        tags: the filter for the source's tags.
        pairs: the destination's tags by the source's; empty if the tags keep their names.
        digest_tag: the tag for a source that is a digest, if it gets one.
        options: the parts of an image to copy, as far as the destination's name tells them.
        path: its path in the file.
        overwrite: the tags there that may be replaced.
        excluded: globs for repositories of the source that do not go there.
        automatic: whether the destination decides about attestations.
    """

    template: Template
    tags: TagFilter
    pairs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    digest_tag: str | None = None
    options: CopyOptions = VERBATIM
    path: str = ""
    overwrite: Overwrite = Overwrite.ALWAYS
    excluded: tuple[str, ...] = ()
    automatic: bool = False

    @property
    def known_options(self) -> CopyOptions:
        """The parts of an image to copy, by what is known of the destination by now."""
        attestations = automatic_attestations(self.template.registry) if self.automatic else self.options.attestations
        if attestations is self.options.attestations:
            return self.options
        return replace(self.options, attestations=attestations)

    def ends(self, source: Repository, tag: str) -> tuple[str, ...]:
        """Return the destination's tags for a ``tag`` of ``source``."""
        if self.template.tag is not None:
            return (self.template.expand_tag(source, tag),)
        return self.pairs.get(tag, (tag,))

    @property
    def selection(self) -> TagFilter | None:
        """The filter to apply when the copy runs; None if the tag's name tells all."""
        return self.tags if self.tags.latest is not None or self.tags.needs_labels else None


@dataclass(frozen=True, slots=True)
class Rule:
    """A key of ``images`` and its value.

    Attributes:
        key: as in the file.
        file: its name, if there are several.
    """

    key: str
    source: SourcePattern
    targets: tuple[DestinationTag, ...]
    file: str = ""

    @property
    def destination_hosts(self) -> frozenset[str]:
        """The registries that it copies to."""
        return frozenset(target.template.registry for target in self.targets)

    @property
    def hosts(self) -> frozenset[str]:
        """The registries that it copies from and to."""
        return self.destination_hosts | {self.source.registry}

    def to_json(self) -> dict[str, Any]:
        """Return the copies that it asks for as JSON values; its place and spelling in the file are no part of them."""
        targets = [
            {
                "to": str(target.template),
                "tags": target.tags.to_json(),
                "pairs": {tag: sorted(ends) for tag, ends in target.pairs.items()},
                "digest_tag": target.digest_tag,
                "options": target.options.to_json(),
                # Left out by default, so that rules from before it was known are still the same.
                **({} if target.overwrite is Overwrite.ALWAYS else {"overwrite": str(target.overwrite)}),
                **({"excluded": sorted(target.excluded)} if target.excluded else {}),
            }
            for target in self.targets
        ]
        source = self.source
        # Its tags are in the filter of every target.
        return {
            "from": f"{source.registry}/{source.path}",
            "digest": source.digest,
            "targets": sorted(targets, key=lambda target: json.dumps(target, sort_keys=True)),
        }

    def always_copies(self, target: DestinationTag) -> bool:
        """Tell whether every match that has a tag has a copy to ``target``; a tag that is written out is there."""
        source, tags = self.source, target.tags
        if target.options.types:
            return False
        named = source.repository is not None and tags.exact is not None
        return source.digest is not None or named or replace(tags, latest=None).is_everything

    def judge(self, target: DestinationTag, reference: Reference) -> list[CopyRequest] | str:
        """Return the copies of ``reference``, whose repository matches, to ``target``; or the reason for none."""
        destination = self._destination(target, reference.repository)
        return destination if isinstance(destination, str) else self._judge(target, reference, destination)

    def _destination(self, target: DestinationTag, repository: Repository) -> Repository | str:
        """Return the destination of a repository's tags, or the reason for none."""
        if (glob := matching_glob(target.excluded, repository.name)) is not None:
            return f"the repository {repository.name} is excluded by repositories.exclude: {glob}"
        try:
            return target.template.expand(repository)
        except ValueError as error:
            return str(error)

    def _judge(self, target: DestinationTag, reference: Reference, destination: Repository) -> list[CopyRequest] | str:
        digest = self.source.digest
        if digest is not None:
            if reference.digest != digest:
                return f"the digest is {reference.digest or 'not given'}, not {digest}"
            return self._requests(Reference(reference.repository, digest=digest), target, destination)
        if _is_signature(reference.tag, target):
            # It goes where its image goes, which fails with the same reason.
            return target.template.name_problem(destination) or self._signature(reference, target, destination)
        if reference.tag is None:
            return "no tag is given, and the rule is for tags"
        refusal = target.tags.refusal(reference.tag)
        if refusal is not None:
            return refusal
        source = reference if reference.digest is None else Reference(reference.repository, reference.tag)
        return self._requests(source, target, destination)

    def _requests(self, source: Reference, target: DestinationTag, destination: Repository) -> list[CopyRequest] | str:
        problem = target.template.name_problem(destination)
        if source.tag is None:
            ends = [Reference(destination, target.digest_tag, None if target.digest_tag else source.digest)]
        elif unfit := target.template.tag_problem(source.repository, source.tag):
            # A destination needs a valid name, and no copy goes there: it fails with the reason.
            (end,) = target.ends(source.repository, source.tag)
            name = f"{end[:_SHOWN]}-{hashlib.blake2b(end.encode(), digest_size=8).hexdigest()}"
            named = Reference(destination, name)
            return [
                CopyRequest(source, named, self.key, target.selection, target.known_options, problem=problem or unfit)
            ]
        else:
            ends = [Reference(destination, tag) for tag in target.ends(source.repository, source.tag)]
        if source in ends:
            ends.remove(source)
        if not ends:
            return _ONTO_ITSELF
        return [
            CopyRequest(
                source,
                end,
                self.key,
                target.selection,
                target.known_options,
                overwrite=target.overwrite,
                problem=problem,
            )
            for end in ends
        ]

    def _signature(
        self, reference: Reference, target: DestinationTag, destination: Repository
    ) -> list[CopyRequest] | str:
        """Return the copy of a signature. It keeps its name, by which clients look for it."""
        source = Reference(reference.repository, reference.tag, None if reference.tag is not None else reference.digest)
        end = Reference(destination, source.tag, source.digest)
        if source == end:
            return _ONTO_ITSELF
        return [CopyRequest(source, end, self.key, options=target.known_options, signature=True)]

    def listed(
        self,
        target: DestinationTag,
        repository: Repository,
        tags: Collection[str],
        labels: Mapping[str, Collection[str]] | None = None,
    ) -> list[tuple[CopyRequest, bool]]:
        """Return the copies to ``target``, given all ``tags`` of a matching ``repository``, and whether each is made.

        Tags that ``latest`` or labels leave out are included: another rule may ask for the same copy. Of the copies
        that are made, those have a ``selection`` whose rule asks for labels: the tag may move before its copy begins.

        Args:
            target: one of this rule's.
            repository: the source.
            tags: all its tags.
            labels: the labels of each tag; without them, no tag passes a filter for labels.
        """
        destination = self._destination(target, repository)
        if isinstance(destination, str):
            return []

        def judged(reference: Reference) -> list[CopyRequest]:
            requests = self._judge(target, reference, destination)
            return [] if isinstance(requests, str) else requests

        if self.source.digest is not None:
            return [(each, True) for each in judged(Reference(repository, digest=self.source.digest))]
        if target.selection is None:
            # A tag that is written out but missing should fail visibly instead of being skipped.
            tags = [*tags, *(target.tags.exact or ())]
        known = {tag: labels[tag] for tag in tags if tag in labels} if labels is not None else {}
        # An event has no labels, so here too a rule counts for the options by the tag's name alone.
        passing = replace(target.tags, latest=None).select(tags)
        wanted = target.tags.select(known, known) if target.tags.needs_labels else passing[: target.tags.latest]
        selected = frozenset(wanted)
        signatures = sorted(tag for tag in set(tags) if _is_signature(tag, target))
        again = target.tags.of_labels
        return [
            *(
                (
                    replace(request, selection=again) if tag in selected and request.selection != again else request,
                    tag in selected,
                )
                for tag in passing
                for request in judged(Reference(repository, tag))
            ),
            *((each, True) for tag in signatures for each in judged(Reference(repository, tag))),
        ]


def _is_signature(tag: str | None, target: DestinationTag) -> bool:
    """Tell whether a push is one of signatures that are wanted.

    If no rule asks for them, Harbor's list shows all that it attaches to an image. So a digest alone is none, and
    no list of tags is read for tags that are written out.
    """
    wanted = target.options.signatures
    if wanted is None:
        named = tag is not None and is_signature_tag(tag) and not tag.endswith(".sbom")
        return named and target.tags.exact is None
    return wanted and (tag is None or is_signature_tag(tag))


@dataclass(frozen=True, slots=True)
class Route:
    """The destinations of one repository, independent of its tags.

    Attributes:
        destinations: the repositories that get tags. A destination by digest alone is not among them: equal digests
            are equal content.
        renaming: those of them where a tag may have another name than at the source.
        certain: the destinations, by digest too, that get an image if the repository has any.
        whole: whether the rules must see all tags together. If not, ``Rules.asked`` for one page of tags after
            another gives the same copies as for all tags at once.
        labels: whether the rules must see the labels of the tags.
        unfit: why some copies are not requested for any tag: there is no such destination.
        problems: why some copies fail for every tag: the destination can't hold the name.
    """

    destinations: frozenset[Repository]
    renaming: frozenset[Repository]
    certain: frozenset[Repository]
    whole: bool
    labels: bool = False
    unfit: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def route(rules: Iterable[Rule], repository: Repository) -> Route:
    """Return the route of ``repository`` under ``rules``, which all match it."""
    destinations: set[Repository] = set()
    renaming: set[Repository] = set()
    certain: set[Repository] = set()
    whole = labels = False
    unfit: dict[str, None] = {}
    problems: dict[str, None] = {}
    for rule in rules:
        for target in rule.targets:
            if matching_glob(target.excluded, repository.name) is not None:
                continue
            whole = whole or _is_whole(rule, target)
            labels = labels or target.tags.needs_labels
            try:
                destination = target.template.expand(repository)
            except ValueError as error:
                # `Rule.judge` makes no such copy either.
                unfit[f"rule {rule.key}: {error}"] = None
                continue
            if problem := target.template.name_problem(destination):
                problems[f"rule {rule.key}: {problem}"] = None
                continue
            if rule.always_copies(target):
                certain.add(destination)
            if rule.source.digest is not None and target.digest_tag is None:
                continue
            destinations.add(destination)
            if target.pairs or target.digest_tag is not None or target.template.tag is not None:
                renaming.add(destination)
    return Route(
        frozenset(destinations),
        frozenset(renaming),
        frozenset(certain),
        whole,
        labels,
        tuple(unfit),
        tuple(problems),
    )


def _is_whole(rule: Rule, target: DestinationTag) -> bool:
    """Tell whether a copy depends on more than its own tag.

    ``latest`` compares all tags. Tags that are written out are requested even if they are not listed, so each page of
    tags would request them again.
    """
    return rule.source.digest is not None or target.tags.latest is not None or target.tags.exact is not None


def has_no_labels(source: SourcePattern) -> str:
    """Return why no image of a source can have labels of Harbor; empty if its name does not show it."""
    if is_acr_host(source.registry) or source.registry in _NO_HARBORS:
        return f"only a Harbor has labels, and {source.registry} is not a Harbor; remove this"
    repository = source.repository
    if repository is not None and "/" not in repository.name:
        return f"only a Harbor has labels, and each of its repositories is in a project: {repository.name} is not"
    return ""


def source_doubts(text: str, source: SourcePattern | None) -> Iterator[str]:
    """Yield why a source that was read looks like a mistake."""
    if source is None:
        return
    yield from hub_doubts(text, str(source.repository))
    if source.digest is not None and ":" in text.partition("@")[0].partition("/")[2]:
        yield "the digest is used, and the tag before it is ignored; to keep the tag, append it to the destination"


def hub_doubts(written: str, name: str) -> Iterator[str]:
    """Yield why a name that was read as ``name`` looks like a mistake: it lacks a host."""
    host = written.partition("/")[0]
    if name.startswith(f"{HUB}/") and full_host(host) != HUB:
        yield f"without a host this is {name} of Docker Hub; write the host to mean another registry"
