"""Answers of the rules, as plain values: copies to make, explanations, and the sources of a backfill."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from replicator.copy.options import VERBATIM, Accessories, CopyOptions, Overwrite
from replicator.reference import Reference, Repository, is_digest
from replicator.rules.patterns import compile_glob
from replicator.rules.tags import TagFilter

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """One copy to make.

    Attributes:
        source: by tag alone, so that the copy takes the image that the tag names then; or by digest alone.
        destination: by tag; by digest if the source is a digest and gets no tag.
        rule: the key of the rule in the file.
        selection: set if the rule has ``latest``: the copy is made only if this selects the tag among all tags of the
            source repository at that time.
        options: the parts of the image to copy.
        signature: whether it is a signature, an attestation or anything else that refers to an image, and is copied
            only if that image is at the destination already.
        announced: the digest that the tag named when the copy was requested.
        force: whether to copy even if the destination names the right digest.
        absent: whether the destination had no such tag when the copy was requested.
        accessories: the signatures that a list has shown of the image; None if none was read.
        overwrite: what may be replaced at the destination.
    """

    source: Reference
    destination: Reference
    rule: str
    selection: TagFilter | None = None
    options: CopyOptions = VERBATIM
    signature: bool = False
    announced: str | None = None
    force: bool = False
    absent: bool = False
    accessories: Accessories | None = None
    overwrite: Overwrite = Overwrite.ALWAYS

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, without those that equal the default."""
        values: dict[str, Any] = {
            "source": str(self.source),
            "destination": str(self.destination),
            "rule": self.rule,
        }
        if self.selection is not None:
            values["selection"] = self.selection.to_json()
        if options := self.options.to_json():
            values["options"] = options
        if self.signature:
            values["signature"] = True
        if self.announced is not None:
            values["announced"] = self.announced
        if self.force:
            values["force"] = True
        if self.absent:
            values["absent"] = True
        if self.accessories is not None:
            values["accessories"] = self.accessories.to_json()
        if self.overwrite is not Overwrite.ALWAYS:
            values["overwrite"] = str(self.overwrite)
        return values

    @classmethod
    def from_json(cls, values: Any) -> CopyRequest:
        """Rebuild it from the values of `to_json`, of earlier versions too.

        Raises:
            ValueError: the values have another form.
        """
        try:
            selection, announced, attached = map(values.get, ("selection", "announced", "accessories"))
            if announced is not None and not is_digest(announced):
                raise ValueError("not a stored copy request: announced is not a digest")
            return cls(
                Reference.parse(values["source"]),
                Reference.parse(values["destination"]),
                str(values["rule"]),
                None if selection is None else TagFilter.from_json(selection),
                CopyOptions.from_json(values.get("options", {})),
                values.get("signature", False) is True,
                announced,
                values.get("force", False) is True,
                values.get("absent", False) is True,
                None if attached is None else Accessories.from_json(attached),
                Overwrite(values.get("overwrite", Overwrite.ALWAYS)),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a stored copy request: {error!r}") from error


def may_trust(request: CopyRequest) -> bool:
    """Tell whether an observation of the destination (`Observations`) can prove that there is nothing to copy.

    It can for tags alone: a digest always names the same content and is not recorded. Signatures have observations of
    their own; see `signature_fact`.
    """
    return request.source.tag is not None and request.destination.tag is not None


def signature_fact(request: CopyRequest, accessories: Accessories) -> tuple[str, str]:
    """Name the observation that a destination holds the signatures of an image, and say what is observed."""
    kind = "all" if request.options.signatures else "signatures"
    return f"{request.destination.repository}@{accessories.subject} {kind}", accessories.key


@dataclass(frozen=True, slots=True)
class Asked:
    """A copy together with the rules that ask for it.

    Attributes:
        request: the copy, with the options of all these rules merged.
        rules: their keys.
    """

    request: CopyRequest
    rules: frozenset[str]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision of one rule about a reference.

    Attributes:
        rule: the key of the rule in the file.
        matches: whether the rule copies the reference.
        reason: why, or why not, in words; several reasons are joined by ``; ``.
    """

    rule: str
    matches: bool
    reason: str
    destinations: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A source of a backfill: a repository, or all repositories of a registry that match a glob.

    Attributes:
        registry: the host.
        repository: the repository; None for a glob.
        glob: the glob for repository names; None for a single repository.
        project: the Harbor project of every matching repository; None if there is no project or no single one.
        needs_tags: whether the tags must be listed. If not, the rules write out all tags, and
            ``Rules.requests(repository, [])`` is complete.
        rules: keys of the rules with this source.
    """

    registry: str
    repository: Repository | None
    glob: str | None
    project: str | None
    needs_tags: bool
    rules: tuple[str, ...]

    def includes(self, name: str) -> bool:
        """Tell whether the source covers the repository ``name`` of this registry."""
        if self.repository is not None:
            return name == self.repository.name
        return self.glob is not None and compile_glob(self.glob).match(name) is not None

    def may_be_in(self, project: str) -> bool:
        """Tell whether a repository of this source can be in the Harbor project ``project``."""
        first, slash, _ = (self.glob or (self.repository.name if self.repository is not None else "")).partition("/")
        # A ** in the first segment crosses slashes, so the project may end anywhere after it.
        start, runs_on, _ = first.partition("**")
        glob = f"{start}**" if runs_on else first
        return bool(slash or runs_on) and compile_glob(glob).match(project) is not None


@dataclass(frozen=True, slots=True)
class Collision:
    """Different sources that go to one destination, where the last copy would win.

    Attributes:
        sources: the sources, sorted.
        rules: keys of their rules, sorted.
    """

    destination: Reference
    sources: tuple[Reference, ...]
    rules: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        return f"{self.destination} would come from {' and from '.join(map(str, self.sources))}"


def find_collisions(requests: Iterable[CopyRequest]) -> list[Collision]:
    """Return the collisions among ``requests``, sorted by destination.

    Destinations by digest never collide: equal digests are equal content.
    """
    found: dict[Reference, dict[Reference, set[str]]] = {}
    for request in requests:
        if request.destination.tag is not None:
            found.setdefault(request.destination, {}).setdefault(request.source, set()).add(request.rule)
    return [
        Collision(destination, tuple(sorted(sources, key=str)), tuple(sorted(set().union(*sources.values()))))
        for destination, sources in sorted(found.items(), key=lambda item: str(item[0]))
        if len(sources) > 1
    ]
