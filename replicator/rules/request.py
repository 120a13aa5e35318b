"""What the rules give: copies to make, reasons, and what a backfill must list. Plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from replicator.copy.options import VERBATIM, CopyOptions
from replicator.reference import Reference, Repository, is_digest
from replicator.rules.patterns import compile_glob
from replicator.rules.tags import TagFilter

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """One copy to make.

    Attributes:
        source: where from: by tag alone, so that what the tag names then is copied; or by digest alone.
        destination: where to, by tag; by digest when the source is named by digest and gets no tag.
        rule: the key of the rule in the file.
        selection: set when the rule has ``latest``: copy only if the tag is in what this selects from all tags of
            the source repository at that time.
        options: what of the image is copied.
        signature: it is a signature, an attestation or whatever else refers to an image: copied only if what it is
            about is at the destination already.
        announced: the digest that the tag was said or seen to name by who asked for the copy.
        force: copy it even where the destination names the right digest.
    """

    source: Reference
    destination: Reference
    rule: str
    selection: TagFilter | None = None
    options: CopyOptions = VERBATIM
    signature: bool = False
    announced: str | None = None
    force: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; what is as it is by default is left out."""
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
        return values

    @classmethod
    def from_json(cls, values: Any) -> CopyRequest:
        """Rebuild it from `to_json`'s values, those of an older version too.

        Raises:
            ValueError: they are not of that form.
        """
        try:
            selection, announced = values.get("selection"), values.get("announced")
            if announced is not None and not is_digest(announced):
                raise ValueError("not a stored copy request: what was announced is no digest")
            return cls(
                Reference.parse(values["source"]),
                Reference.parse(values["destination"]),
                str(values["rule"]),
                None if selection is None else TagFilter.from_json(selection),
                CopyOptions.from_json(values.get("options", {})),
                values.get("signature", False) is True,
                announced,
                values.get("force", False) is True,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a stored copy request: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Asked:
    """A copy, and who asks for it.

    Attributes:
        request: the copy, as all of them together want it.
        rules: keys of all rules that ask for it.
    """

    request: CopyRequest
    rules: frozenset[str]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one rule says about a reference.

    Attributes:
        rule: the key of the rule in the file.
        matches: whether it copies the reference anywhere.
        reason: why, or why not, in words; several are joined by ``; ``.
        destinations: where it goes.
    """

    rule: str
    matches: bool
    reason: str
    destinations: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Something a backfill must look through: a repository, or all repositories of a registry that match a glob.

    Attributes:
        registry: the host.
        repository: the repository; None when there is a glob instead.
        glob: the glob for repository names; None when there is a single repository.
        project: the Harbor project that every matching repository is in; None when it can be any, or for a
            repository without one.
        needs_tags: whether the repository's tags must be listed. If not, the rules name all they want and
            ``Rules.requests(repository, [])`` is complete.
        rules: keys of the rules that led here.
    """

    registry: str
    repository: Repository | None
    glob: str | None
    project: str | None
    needs_tags: bool
    rules: tuple[str, ...]

    def includes(self, name: str) -> bool:
        """Tell whether the repository ``name`` of this registry is meant."""
        if self.repository is not None:
            return name == self.repository.name
        return self.glob is not None and compile_glob(self.glob).match(name) is not None

    def may_be_in(self, project: str) -> bool:
        """Tell whether a repository that is meant can be in the Harbor project ``project``."""
        first, slash, _ = (self.glob or (self.repository.name if self.repository is not None else "")).partition("/")
        # What runs over slashes can end anywhere behind the project.
        start, runs_on, _ = first.partition("**")
        glob = f"{start}**" if runs_on else first
        return bool(slash or runs_on) and compile_glob(glob).match(project) is not None


@dataclass(frozen=True, slots=True)
class Collision:
    """Different sources on their way to one destination: whoever comes last would win.

    Attributes:
        destination: what they would all be.
        sources: the sources, sorted.
        rules: keys of the rules that sent them, sorted.
    """

    destination: Reference
    sources: tuple[Reference, ...]
    rules: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        return f"{self.destination} would come from {' and from '.join(map(str, self.sources))}"


def collisions(requests: Iterable[CopyRequest]) -> list[Collision]:
    """Return every destination that ``requests`` fill from more than one source, sorted by destination.

    Destinations by digest are left out: the same digest is the same content, wherever it comes from.
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
