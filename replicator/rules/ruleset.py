"""All rules of a file: from a reference to its copies, without asking anyone."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING

from replicator.copy.options import CopyOptions
from replicator.reference import Reference, Repository, is_tag
from replicator.rules.request import Asked, CopyRequest, Explanation, Source
from replicator.rules.rule import Route, route

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from replicator.errors import Problem
    from replicator.registry.credentials import Access
    from replicator.rules.auth import Credentials
    from replicator.rules.rule import DestinationTag, Rule
    from replicator.rules.tags import TagFilter


class Rules:
    """What a rules file says. Pure: no method asks the network, the disk or the clock, and none changes anything.

    Hosts are compared in lower case, and appear so in what is returned.

    Args:
        rules: in the order of the file.
        credentials: from the file's ``auth``.
        warnings: what is allowed, but looks like a mistake.
        logins: each registry, and where a login for it is from, in words.
    """

    def __init__(
        self,
        rules: Iterable[Rule],
        credentials: Credentials,
        warnings: Iterable[Problem] = (),
        logins: Iterable[tuple[str, str]] = (),
    ) -> None:
        self._rules = tuple(rules)
        self._credentials = credentials
        self.warnings: tuple[Problem, ...] = tuple(warnings)
        self.logins: tuple[tuple[str, str], ...] = tuple(logins)
        self.hosts: frozenset[str] = frozenset(_hosts(self._rules))
        self.keys: tuple[str, ...] = tuple(rule.key for rule in self._rules)
        self._by_repository: dict[Repository, list[int]] = {}
        self._by_project: dict[tuple[str, str], list[int]] = {}
        self._by_registry: dict[str, list[int]] = {}
        for number, rule in enumerate(self._rules):
            source = rule.source
            if source.repository is not None:
                self._by_repository.setdefault(source.repository, []).append(number)
            elif source.project is not None:
                self._by_project.setdefault((source.registry, source.project), []).append(number)
            else:
                self._by_registry.setdefault(source.registry, []).append(number)

    def asks_for_the_same_as(self, other: Rules) -> bool:
        """Tell whether these are the same rules, whatever the logins are."""
        return self._rules == other._rules

    def destinations(self, reference: Reference) -> tuple[CopyRequest, ...]:
        """Return every copy that the rules ask for when ``reference`` was pushed; none if no rule is about it.

        A rule about tags looks at the tag and copies by tag, whatever digest is given with it; a rule about a digest
        looks at the digest. Under a rule about tags that has ``signatures``, a digest alone and a tag of signatures
        are ones of signatures, whatever its tags. The same copy asked for by several rules comes once.
        """
        reference = Reference(_lowered(reference.repository), reference.tag, reference.digest)
        found: list[CopyRequest] = []
        for rule in self._candidates(reference.repository):
            for target in rule.targets:
                judged = rule.judge(target, reference)
                if not isinstance(judged, str):
                    found += judged
        return tuple(_once(found))

    def requests(self, repository: Repository, tags: Iterable[str]) -> list[CopyRequest]:
        """Return every copy that the rules ask for in a repository, the newest tags of each rule first.

        Tags that a rule writes out, and digests, come whether they are in ``tags`` or not; with ``latest`` only if
        they are.

        Args:
            repository: where the tags are.
            tags: all its tags; ``latest`` counts among them. What is no tag is left out.

        Returns:
            The copies, each once, none with a ``selection``: that has been decided here. Each is what a push of its
            tag would have asked for.
        """
        return [asked.request for asked in self.asked(repository, tags)]

    def asked(self, repository: Repository, tags: Iterable[str]) -> list[Asked]:
        """Return what `requests` does, and with each copy every rule that asks for it."""
        repository = _lowered(repository)
        known = [tag for tag in tags if is_tag(tag)]
        found: list[CopyRequest] = []
        for rule in self._candidates(repository):
            for target in rule.targets:
                found += rule.listed(target, repository, known)
        # Most copies have the same few askers: one set of them serves all.
        sets: dict[frozenset[str], frozenset[str]] = {}
        asked: list[Asked] = []
        for request, group in _merged_groups(found):
            if request.selection is None:
                askers = frozenset(asking.rule for asking in group if asking.selection is None)
                asked.append(Asked(request, sets.setdefault(askers, askers)))
        return asked

    def route(self, repository: Repository) -> Route:
        """Return where the copies of ``repository`` can go, without knowing its tags."""
        repository = _lowered(repository)
        return route(self._candidates(repository), repository)

    def explain(self, reference: Reference) -> tuple[Explanation, ...]:
        """Return what every rule says about ``reference``, in the order of the file."""
        reference = Reference(_lowered(reference.repository), reference.tag, reference.digest)
        return tuple(_explain(rule, reference) for rule in self._rules)

    def sources(self) -> tuple[Source, ...]:
        """Return what a backfill must look through, each repository and each glob once.

        What needs its tags listed comes first. So whoever takes a repository the first time it turns up, and skips
        it later, knows then whether any rule needs its tags.
        """
        found: dict[tuple[str, str], Source] = {}
        for rule in self._rules:
            pattern = rule.source
            key = (pattern.registry, pattern.path)
            source = found.get(key) or Source(
                registry=pattern.registry,
                repository=pattern.repository,
                glob=pattern.path if pattern.repository is None else None,
                project=pattern.project,
                needs_tags=False,
                rules=(),
            )
            needs_tags = source.needs_tags or _needs_tags(rule)
            if pattern.repository is not None:
                needs_tags = needs_tags or any(map(_needs_tags, self._candidates(pattern.repository)))
            found[key] = replace(source, needs_tags=needs_tags, rules=(*source.rules, rule.key))
        return tuple(sorted(found.values(), key=lambda source: not source.needs_tags))

    def hosts_of(self, keys: Collection[str]) -> frozenset[str]:
        """Return the hosts that some rules copy from and to.

        Args:
            keys: of these rules.
        """
        return frozenset(_hosts(rule for rule in self._rules if rule.key in keys))

    def credentials(self, repository: Repository) -> Access | None:
        """Return how ``repository`` is reached and as whom, by the longest key of ``auth`` that fits.

        Logins that stand elsewhere are only for hosts that the rules name: a person may have many more, and who can
        write to the queue must not be able to use them.

        Returns:
            The access, without a login where the file says ``anonymous``; None if no key fits, here and elsewhere.

        Raises:
            ConfigError: no key fits here, and what is elsewhere can't be used.
        """
        return self._credentials.find(repository, elsewhere=repository.registry.lower() in self.hosts)

    def _candidates(self, repository: Repository) -> Iterator[Rule]:
        for number in self._numbers(repository):
            rule = self._rules[number]
            if rule.source.includes(repository.name):
                yield rule

    def _numbers(self, repository: Repository) -> list[int]:
        project = repository.name.partition("/")[0]
        return sorted(
            [
                *self._by_repository.get(repository, ()),
                *self._by_project.get((repository.registry, project), ()),
                *self._by_registry.get(repository.registry, ()),
            ]
        )


def _hosts(rules: Iterable[Rule]) -> Iterator[str]:
    for rule in rules:
        yield rule.source.registry
        for target in rule.targets:
            yield target.template.registry


def _lowered(repository: Repository) -> Repository:
    registry = repository.registry.lower()
    return repository if registry == repository.registry else Repository(registry, repository.name)


def _needs_tags(rule: Rule) -> bool:
    return rule.source.digest is None and any(
        target.tags.exact is None or target.tags.latest is not None or target.options.signatures
        for target in rule.targets
    )


def _once(requests: list[CopyRequest]) -> list[CopyRequest]:
    """Make one of all requests for the same copy; which one does not depend on the order they come in."""
    return [request for request, _ in _merged_groups(requests)]


def _merged_groups(requests: list[CopyRequest]) -> list[tuple[CopyRequest, list[CopyRequest]]]:
    groups: dict[tuple[Reference, Reference], list[CopyRequest]] = {}
    for request in requests:
        groups.setdefault((request.source, request.destination), []).append(request)
    return [(group[0] if len(group) == 1 else _merged(group), group) for group in groups.values()]


def _merged(group: list[CopyRequest]) -> CopyRequest:
    first = replace(
        min(group, key=lambda request: request.rule),
        options=reduce(CopyOptions.merged_with, (request.options for request in group)),
        # One that does not wait for what it is about does more.
        signature=all(request.signature for request in group),
    )
    selections: dict[TagFilter, None] = {}
    for request in sorted(group, key=lambda request: (request.rule, repr(request.selection))):
        if request.selection is None:
            return replace(first, selection=None)
        selections[request.selection] = None
    # The tag is wanted if it is among the latest of one of them.
    selection, *others = selections
    return replace(first, selection=replace(selection, others=(*selection.others, *others)))


def _explain(rule: Rule, reference: Reference) -> Explanation:
    refusal = rule.source.refusal(reference.repository)
    if refusal is not None:
        return Explanation(rule.key, matches=False, reason=refusal)
    reasons: dict[str, None] = {}
    destinations: dict[Reference, None] = {}
    for target in rule.targets:
        judged = rule.judge(target, reference)
        if isinstance(judged, str):
            reasons[f"{target.template}: {judged}" if len(rule.targets) > 1 else judged] = None
            continue
        destinations.update((request.destination, None) for request in judged)
        signature = any(request.signature for request in judged)
        reasons[_fitting(rule, target, reference, signature=signature)] = None
    return Explanation(rule.key, bool(destinations), "; ".join(reasons), tuple(destinations))


def _fitting(rule: Rule, target: DestinationTag, reference: Reference, *, signature: bool) -> str:
    if signature:
        what = "a digest alone" if reference.tag is None else "such a tag"
        return f"the repository fits, and with signatures {what} is taken for one of them"
    reason = "the repository and the digest fit" if rule.source.digest else "the repository and the tag fit"
    latest = target.tags.latest
    if latest is not None:
        reason = f"{reason}, if the tag is among the latest {latest} of the source, which is seen when it is copied"
    return reason
