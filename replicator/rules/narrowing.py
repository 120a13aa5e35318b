"""Selection of a part of the rules, for ``--only`` and ``--rule``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from replicator.errors import ConfigError, Problem
from replicator.rules.mapping import SourcePattern, parse_source
from replicator.rules.node import did_you_mean
from replicator.rules.patterns import shorten
from replicator.rules.tags import TagFilter

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from replicator.reference import Reference, Repository
    from replicator.rules.request import Asked, Source
    from replicator.rules.ruleset import Rules


class Narrowing:
    """A subset of the copies that the rules ask for. The options of a copy still come from all rules.

    Args:
        rules: all rules.
        only: sources, written like the keys of rules, with or without the host; empty for all.
        keys: keys of the selected rules; empty for all.

    Raises:
        ConfigError: a source can't be parsed or matches no rule, or a key is unknown; with every problem at once.
    """

    def __init__(self, rules: Rules, only: Collection[str] = (), keys: Collection[str] = ()) -> None:
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
        if slash and ":" in first and first.lower() not in hosts:
            problems.append(Problem("--only", f"no rule copies from {first}; the rules copy from {', '.join(hosts)}"))
            return []
        texts = [text] if first.lower() in hosts else [f"{host}/{text}" for host in hosts]
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
        """Return, in words, what has matched nothing."""
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
