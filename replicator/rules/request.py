"""Answers of the rules, as plain values: copies to make, explanations, and the sources of a backfill.

`Narrowing` selects a part of them, for ``--only`` and ``--rule``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from replicator.copy.options import VERBATIM, Accessories, CopyOptions, Overwrite
from replicator.errors import ConfigError, Problem
from replicator.reference import Reference, Repository, full_host, is_digest
from replicator.rules.mapping import SourcePattern, parse_source
from replicator.rules.node import did_you_mean
from replicator.rules.patterns import compile_glob, covers_project, matching_glob, shorten
from replicator.rules.tags import TagFilter

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """One copy to make.

    Attributes:
        source: by tag alone, so that the copy takes the image that the tag names then; or by digest alone.
        destination: by tag; by digest if the source is a digest and gets no tag.
        rule: the key of the rule in the file.
        selection: set if the rule has ``latest`` or labels: the copy is made only if this selects the tag among all
            tags of the source repository at that time, by their labels then.
        options: the parts of the image to copy.
        signature: whether it is a signature, an attestation or anything else that refers to an image, and is copied
            only if that image is at the destination already.
        announced: the digest that the tag named when the copy was requested.
        force: whether to copy even if the destination names the right digest.
        absent: whether the destination had no such tag when the copy was requested.
        accessories: the signatures that a list has shown of the image; None if none was read.
        overwrite: the tags at the destination that may be replaced.
        problem: why the copy can't be made, and what to do; its destination is only a name for it then. None if it
            can be made.
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
    problem: str | None = None

    @property
    def origin(self) -> str:
        """The source by its tag, if it has one; the digest of that tag may be given too."""
        source = self.source
        return str(source) if source.tag is None else f"{source.repository}:{source.tag}"

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
        if self.problem is not None:
            values["problem"] = self.problem
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
                None if (problem := values.get("problem")) is None else str(problem),
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
        destinations: where it is copied.
        file: the name of the rule's file, if there are several.
    """

    rule: str
    matches: bool
    reason: str
    destinations: tuple[Reference, ...] = ()
    file: str = ""


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
        excluded: for each destination of these rules, the globs for repositories that do not go there.
    """

    registry: str
    repository: Repository | None
    glob: str | None
    project: str | None
    needs_tags: bool
    rules: tuple[str, ...]
    excluded: frozenset[tuple[str, ...]] = frozenset()

    def includes(self, name: str) -> bool:
        """Tell whether the source covers the repository ``name`` of this registry."""
        if self.repository is not None:
            return name == self.repository.name
        if self.glob is None or compile_glob(self.glob).match(name) is None:
            return False
        return not self.excluded or any(matching_glob(globs, name) is None for globs in self.excluded)

    def may_be_in(self, project: str) -> bool:
        """Tell whether a repository of this source can be in the Harbor project ``project``."""
        first, slash, _ = (self.glob or (self.repository.name if self.repository is not None else "")).partition("/")
        # A ** in the first segment crosses slashes, so the project may end anywhere after it.
        start, runs_on, _ = first.partition("**")
        glob = f"{start}**" if runs_on else first
        if not (slash or runs_on) or compile_glob(glob).match(project) is None:
            return False
        nested = "**" in (self.glob or "") or (self.glob or "").count("/") > 1
        return not self.excluded or not all(
            any(covers_project(each, project, nested=nested) for each in globs) for globs in self.excluded
        )


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


class HasSources(Protocol):
    """The rules to narrow: `replicator.rules.ruleset.Rules`."""

    def sources(self) -> tuple[Source, ...]:
        """Return the sources of a backfill."""


class Narrowing:
    """A subset of the copies that the rules ask for. The options of a copy still come from all rules.

    Args:
        rules: all rules.
        only: sources, written like the keys of rules, with or without the host; empty for all.
        keys: keys of the selected rules; empty for all.

    Raises:
        ConfigError: a source can't be parsed or matches no rule, or a key is unknown; with every problem at once.
    """

    def __init__(self, rules: HasSources, only: Collection[str] = (), keys: Collection[str] = ()) -> None:
        problems: list[Problem] = []
        self._keys = frozenset(keys)
        self._all = rules.sources()
        self._rules = tuple(dict.fromkeys(key for source in self._all for key in source.rules))
        for key in dict.fromkeys(keys):
            if key not in self._rules:
                message = f"{shorten(key)} is not a key under images; {did_you_mean(key, self._rules)}"
                problems.append(Problem("--rule", message))
        self._patterns = {text: self._parse(text, problems) for text in only}
        if problems:
            raise ConfigError("command line", problems)
        self._sources = tuple(self._narrowed(problems))
        if problems:
            raise ConfigError("command line", problems)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return not self._keys and not self._patterns

    def sources(self) -> tuple[Source, ...]:
        """Return the selected sources, in the order of `Rules.sources`."""
        return self._sources

    def includes(self, repository: Repository) -> bool:
        """Tell whether any copy from ``repository`` can be selected."""
        return not self._patterns or any(pattern.refusal(repository) is None for pattern in self._each())

    def takes(self, asked: Asked) -> bool:
        """Tell whether a copy is selected."""
        if self._keys and not self._keys & asked.rules:
            return False
        return not self._patterns or any(_names(pattern, asked.request.source) for pattern in self._each())

    def matcher(self) -> Matched:
        """Return a record of the selected sources and rules that match at least one copy."""
        keys = [key for key in self._rules if not self._keys or key in self._keys]
        return Matched(self._patterns, keys)

    def _each(self) -> Iterable[SourcePattern]:
        return (pattern for patterns in self._patterns.values() for pattern in patterns)

    def _parse(self, text: str, problems: list[Problem]) -> list[SourcePattern]:
        """Parse a source; without a host it stands for every host that the rules copy from."""
        hosts = dict.fromkeys(source.registry for source in self._all)
        first, slash, _ = text.partition("/")
        if slash and ":" in first and full_host(first) not in hosts:
            problems.append(Problem("--only", f"no rule copies from {first}; the rules copy from {', '.join(hosts)}"))
            return []
        texts = [text] if full_host(first) in hosts else [f"{host}/{text}" for host in hosts]
        messages: list[str] = []
        parsed = [parse_source(whole, messages.append) for whole in texts]
        problems += [Problem("--only", f"{shorten(text)}: {message}") for message in dict.fromkeys(messages)]
        return [pattern for pattern in parsed if pattern is not None]

    def _narrowed(self, problems: list[Problem]) -> Iterable[Source]:
        sources = [source for source in self._all if not self._keys or self._keys & frozenset(source.rules)]
        if self._keys:
            # A rule that is not selected contributes options, and to merge them it may need the tags.
            sources = [replace(source, needs_tags=source.needs_tags or source.repository is None) for source in sources]
        if not self._patterns:
            return sources
        found: dict[Source, None] = {}
        hit: set[str] = set()
        for source in sources:
            for text, patterns in self._patterns.items():
                for pattern in patterns:
                    narrowed = _narrower(source, pattern)
                    if narrowed is not None:
                        found[narrowed] = None
                        hit.add(text)
        which = "none of these rules copies" if self._keys else "no rule copies"
        problems += [Problem("--only", f"{which} from {text}") for text in self._patterns if text not in hit]
        return found


class Matched:
    """Records which sources or rules match a copy. It does not keep the copies.

    Args:
        patterns: the patterns of ``--only``, by its text.
        keys: keys of the selected rules, which count only if there are no patterns.
    """

    def __init__(self, patterns: Mapping[str, Iterable[SourcePattern]], keys: Iterable[str]) -> None:
        self._patterns = {text: tuple(parsed) for text, parsed in patterns.items()}
        self._keys = dict.fromkeys(keys)
        self._narrowed = bool(self._patterns)

    def add(self, asked: Asked) -> None:
        """Record a copy that `Narrowing.takes` has accepted."""
        if not self._narrowed:
            for key in asked.rules:
                self._keys.pop(key, None)
            return
        source = asked.request.source
        hit = [text for text, parsed in self._patterns.items() if any(_names(pattern, source) for pattern in parsed)]
        for text in hit:
            del self._patterns[text]

    def unmatched(self) -> list[str]:
        """Return, in words, the options that have matched nothing."""
        if self._narrowed:
            return [f"--only {text} matches nothing" for text in self._patterns]
        return [f"the rule {key} matches nothing" for key in self._keys]


def _narrower(source: Source, pattern: SourcePattern) -> Source | None:
    """Return the part of ``source`` that ``pattern`` covers; None if there is none."""
    if source.registry != pattern.registry:
        return None
    if source.repository is not None:
        return source if pattern.includes(source.repository.name) else None
    if pattern.repository is not None:
        if not source.includes(pattern.path):
            return None
        return replace(source, repository=pattern.repository, glob=None, project=pattern.project)
    if source.project is not None and pattern.project not in (None, source.project):
        return None
    return replace(source, project=source.project or pattern.project)


def _names(pattern: SourcePattern, source: Reference) -> bool:
    if pattern.refusal(source.repository) is not None:
        return False
    if pattern.digest is not None:
        return source.digest == pattern.digest
    return not pattern.tags or (source.tag is not None and TagFilter(pattern.tags).matches(source.tag))
