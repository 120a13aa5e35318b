"""One rule: a source, and where each of its tags goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replicator.reference import Reference, Repository
from replicator.rules.request import CopyRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from replicator.rules.destination import Template
    from replicator.rules.source import SourcePattern
    from replicator.rules.tags import TagFilter


@dataclass(frozen=True, slots=True)
class Target:
    """One destination of a rule.

    Attributes:
        template: the repository.
        tags: which tags of the source go there.
        pairs: the tags there by the source's tag, if they differ; empty: the same tags.
        digest_tag: the tag that a source named by digest gets, if any.
        path: where it stands in the file.
    """

    template: Template
    tags: TagFilter
    pairs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    digest_tag: str | None = None
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
    targets: tuple[Target, ...]

    def judge(self, target: Target, reference: Reference) -> list[CopyRequest] | str:
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
        if reference.tag is None:
            return "no tag is named, and the rule is about tags"
        refusal = target.tags.refusal(reference.tag)
        if refusal is not None:
            return refusal
        return self._requests(Reference(reference.repository, reference.tag), target, destination)

    def _requests(self, source: Reference, target: Target, destination: Repository) -> list[CopyRequest] | str:
        if source.tag is None:
            ends = [Reference(destination, target.digest_tag, None if target.digest_tag else source.digest)]
        else:
            ends = [Reference(destination, tag) for tag in target.pairs.get(source.tag, (source.tag,))]
        if source in ends:
            ends.remove(source)
        if not ends:
            return "it would be copied onto itself"
        return [CopyRequest(source, end, self.key, target.selection) for end in ends]

    def listed(self, target: Target, repository: Repository, tags: Iterable[str]) -> list[CopyRequest]:
        """Return the copies to ``target`` when ``tags`` are all there are in ``repository``, which is known to fit."""
        if self.source.digest is not None:
            references = [Reference(repository, digest=self.source.digest)]
        else:
            selected = target.tags.select([*tags, *(target.tags.exact or ())])
            references = [Reference(repository, tag) for tag in selected]
        requests: list[CopyRequest] = []
        for reference in references:
            judged = self.judge(target, reference)
            if isinstance(judged, str):
                continue
            # Which tags are the latest has just been decided.
            requests += [CopyRequest(request.source, request.destination, request.rule) for request in judged]
        return requests
