"""The rules as a whole: from a reference to its copies."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, reduce
from hashlib import sha256
from typing import TYPE_CHECKING

from replicator.aliyun.acr import is_acr
from replicator.copy.options import CopyOptions, Overwrite, Public
from replicator.reference import Reference, Repository, is_tag
from replicator.rules.collisions import may_collide, possible_sources
from replicator.rules.credentials import PersonalUses
from replicator.rules.patterns import matching_glob
from replicator.rules.request import Asked, CopyRequest, Explanation, Source
from replicator.rules.rule import Route, route

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from replicator.errors import Problem
    from replicator.registry.credentials import Access
    from replicator.rules.credentials import Credentials
    from replicator.rules.rule import DestinationTag, Rule
    from replicator.rules.tags import TagFilter


_MOST_PARTS = 200


class Rules:
    """The content of all rules files. Pure: no method uses network, disk or clock, and none changes anything.

    Hosts are compared and returned in lower case.

    Args:
        rules: in the order of the file; of several files, in the order of their names.
        credentials: from ``auth``.
        warnings: allowed settings that look like a mistake.
        logins: pairs of a registry and the origin of its login, in words.
        out: names of rules files whose rules are not among them, because of a problem.
    """

    def __init__(
        self,
        rules: Iterable[Rule],
        credentials: Credentials,
        warnings: Iterable[Problem] = (),
        logins: Iterable[tuple[str, str]] = (),
        out: Iterable[str] = (),
    ) -> None:
        self._rules = tuple(rules)
        self._credentials = credentials
        self.warnings: tuple[Problem, ...] = tuple(warnings)
        self.logins: tuple[tuple[str, str], ...] = tuple(logins)
        self.out: tuple[str, ...] = tuple(out)
        self.hosts: frozenset[str] = frozenset(host for rule in self._rules for host in rule.hosts)
        self.keys: tuple[str, ...] = tuple(dict.fromkeys(rule.key for rule in self._rules))
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

    @cached_property
    def digest(self) -> str:
        """A digest of the copies that the rules ask for: sources, destinations and options.

        Rules in another order or spelling have the same one, and so have those with other logins.
        """
        texts = sorted({json.dumps(rule.to_json(), sort_keys=True) for rule in self._rules})
        return sha256(json.dumps(texts).encode()).hexdigest()[:32]

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """Short digests of sources and destinations, a few hundred at most, independent of tags and options.

        Two versions of one file have some in common, and the files of two installations have none.
        """
        pairs = {
            f"{rule.source.registry}/{rule.source.path} {target.template}"
            for rule in self._rules
            for target in rule.targets
        }
        # The lowest: of files that are nearly the same these are nearly the same too.
        return tuple(sorted(sha256(pair.encode()).hexdigest()[:12] for pair in pairs)[:_MOST_PARTS])

    @cached_property
    def may_collide(self) -> bool:
        """Whether two sources can go to one destination tag, if the repositories exist."""
        return may_collide(self._rules)

    def rivals(self, request: CopyRequest) -> list[Reference]:
        """Return other sources that go to the destination of a copy if they exist, as far as the rules alone tell.

        Sorted; of those that `{flat}` makes equal at most `collisions.MOST_FLAT`.
        """
        return sorted({each.source for each in self.claims(request.destination)} - {request.source}, key=str)

    def claims(self, destination: Reference) -> Iterator[CopyRequest]:
        """Yield the copies to a destination tag that the rules ask for if their sources exist, some perhaps twice."""
        for source in possible_sources(self._rules, destination):
            yield from (each for each in self.destinations(source) if each.destination == destination)

    def present(self, request: CopyRequest) -> CopyRequest | None:
        """Return a copy that was requested earlier as the rules ask for it now; None if none does any more."""
        for now in self.destinations(request.source):
            if now.destination == request.destination:
                # A list has found the signatures with the options of that time. What is known since of the destination
                # may have changed the attestations, which are parts of the image and no signatures.
                former = replace(request.options, attestations=now.options.attestations)
                shown = request.accessories if now.options == former else None
                return replace(
                    request,
                    rule=now.rule,
                    selection=now.selection,
                    options=now.options,
                    signature=now.signature,
                    accessories=shown,
                    overwrite=now.overwrite,
                    problem=now.problem,
                )
        return None

    def destinations(self, reference: Reference) -> tuple[CopyRequest, ...]:
        """Return every copy that the rules ask for after a push of ``reference``.

        A rule for tags decides by the tag and copies by tag, and ignores a digest beside it; a rule for a digest
        decides by the digest. If a rule for tags has ``signatures``, a digest alone and a tag of signatures count as
        signatures, with any filter. A copy that several rules request is returned once.
        """
        reference = Reference(_lowered(reference.repository), reference.tag, reference.digest)
        found: list[CopyRequest] = []
        for rule in self._candidates(reference.repository):
            for target in rule.targets:
                judged = rule.judge(target, reference)
                if not isinstance(judged, str):
                    found += judged
        return tuple(_once(found))

    def requests(
        self, repository: Repository, tags: Iterable[str], labels: Mapping[str, Collection[str]] | None = None
    ) -> list[CopyRequest]:
        """Return every copy that the rules ask for in a repository, the newest tags of each rule first.

        Digests, and tags that a rule writes out, are requested even if they are not among ``tags``; with ``latest`` or
        labels only if they are.

        Args:
            repository: the source.
            tags: all its tags, among which ``latest`` counts. Strings that are no valid tags are ignored.
            labels: the labels of each tag. Without them, a rule that asks for labels asks for no copy.

        Returns:
            Each copy once, as a push of its tag would have requested it, but with a ``selection`` only for labels:
            ``latest`` is decided here.
        """
        return [asked.request for asked in self.asked(repository, tags, labels)]

    def asked(
        self, repository: Repository, tags: Iterable[str], labels: Mapping[str, Collection[str]] | None = None
    ) -> list[Asked]:
        """Return the same copies as `requests`, each with the rules that ask for it."""
        repository = _lowered(repository)
        known = [tag for tag in tags if is_tag(tag)]
        found: dict[tuple[Reference, Reference], list[tuple[CopyRequest, bool]]] = {}
        for rule in self._candidates(repository):
            for target in rule.targets:
                for request, made in rule.listed(target, repository, known, labels):
                    found.setdefault((request.source, request.destination), []).append((request, made))
        # Most copies share the same few rules, so equal sets are kept once.
        sets: dict[frozenset[str], frozenset[str]] = {}
        asked: list[Asked] = []
        for group in found.values():
            asking = [request for request, made in group if made]
            if asking:
                keys = frozenset(request.rule for request in asking)
                # The options are those of all rules, and whether the tag is wanted is up to those that ask.
                request, selection = _merged([request for request, _ in group]), _merged_selection(asking)
                if request.selection != selection:
                    request = replace(request, selection=selection)
                asked.append(Asked(request, sets.setdefault(keys, keys)))
        return asked

    def keys_with_labels(self, registry: str) -> tuple[str, ...]:
        """Return the keys of the rules that ask for labels at a registry."""
        return tuple(
            rule.key
            for rule in self._rules
            if rule.source.registry == registry and any(target.tags.needs_labels for target in rule.targets)
        )

    def route(self, repository: Repository) -> Route:
        """Return the possible destinations of ``repository``, independent of its tags."""
        repository = _lowered(repository)
        return route(self._candidates(repository), repository)

    def explain(self, reference: Reference) -> tuple[Explanation, ...]:
        """Return the decision of every rule about ``reference``, in the order of the file."""
        reference = Reference(_lowered(reference.repository), reference.tag, reference.digest)
        return tuple(_explain(rule, reference) for rule in self._rules)

    def sources(self) -> tuple[Source, ...]:
        """Return the sources of a backfill, each repository and each glob once.

        Sources whose tags must be listed come first, so that a backfill can skip a repository that it has seen
        before.
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
            found[key] = replace(
                source,
                needs_tags=needs_tags,
                rules=tuple(dict.fromkeys((*source.rules, rule.key))),
                excluded=source.excluded.union(target.excluded for target in rule.targets),
            )
        return tuple(sorted(found.values(), key=lambda source: not source.needs_tags))

    def destination_hosts(self) -> dict[str, frozenset[str]]:
        """Return the hosts that each rule copies to, by its key."""
        found = dict.fromkeys(self.keys, frozenset[str]())
        for rule in self._rules:
            found[rule.key] |= rule.destination_hosts
        return found

    def hosts_of(self, keys: Collection[str]) -> frozenset[str]:
        """Return the hosts that the rules with these ``keys`` copy from and to."""
        return frozenset(host for rule in self._rules if rule.key in keys for host in rule.hosts)

    def ca_files(self) -> dict[str, frozenset[Path]]:
        """Return the files of further authorities that ``auth`` names, by the registry that they are for."""
        return self._credentials.ca_files()

    def credentials(self, repository: Repository) -> Access | None:
        """Return the access to ``repository`` by the longest matching key of ``auth``.

        Logins from outside the file are used only for hosts that the rules name. Docker's configuration may hold
        many more, and a job forged in the queue must not be able to use them.

        Returns:
            The access, without a login for ``anonymous``; None if no key matches here or elsewhere.

        Raises:
            ConfigError: no key matches here, and the logins elsewhere can't be read.
        """
        return self._credentials.find(repository, elsewhere=repository.registry.lower() in self.hosts)

    def personal_uses(self) -> PersonalUses:
        """Return what the rules need at the accounts of ACR's Personal Edition, as far as they alone tell."""
        return PersonalUses(self._rules, self.credentials)

    @property
    def finds_names_for_acr(self) -> bool:
        """Whether the names of some destinations at ACR depend on which repositories there are."""
        return any(
            rule.source.repository is None and is_acr(target.template.registry)
            for rule in self._rules
            for target in rule.targets
        )

    def allows_public(self, source: Repository, destination: Repository) -> bool:
        """Tell whether there are rules from ``source`` to ``destination``, and all of them say ``public: allow``."""
        found: list[Public | None] = []
        for rule in self._candidates(_lowered(source)):
            for target in rule.targets:
                if matching_glob(target.excluded, source.name) is not None:
                    continue
                with suppress(ValueError):  # a name that the destination can't hold
                    if target.template.expand(_lowered(source)) == destination:
                        found.append(target.options.public)
        return bool(found) and all(public is Public.ALLOW for public in found)

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


def _lowered(repository: Repository) -> Repository:
    registry = repository.registry.lower()
    return repository if registry == repository.registry else Repository(registry, repository.name)


def _needs_tags(rule: Rule) -> bool:
    return rule.source.digest is None and any(
        target.tags.exact is None or target.selection is not None or target.options.signatures
        for target in rule.targets
    )


def _once(requests: list[CopyRequest]) -> list[CopyRequest]:
    """Merge the requests for the same copy. The result does not depend on their order."""
    groups: dict[tuple[Reference, Reference], list[CopyRequest]] = {}
    for request in requests:
        groups.setdefault((request.source, request.destination), []).append(request)
    return [_merged(group) for group in groups.values()]


def _merged(group: list[CopyRequest]) -> CopyRequest:
    if len(group) == 1:
        return group[0]
    return replace(
        min(group, key=lambda request: request.rule),
        options=reduce(CopyOptions.merged_with, (request.options for request in group)),
        # A copy as an image needs no subject at the destination, so it wins over one as a signature.
        signature=all(request.signature for request in group),
        overwrite=reduce(Overwrite.stricter, (request.overwrite for request in group)),
        selection=_merged_selection(group),
    )


def _merged_selection(group: list[CopyRequest]) -> TagFilter | None:
    """Return the selection that lets a tag pass if one of the requests does."""
    if len(group) == 1:
        return group[0].selection
    selections: dict[TagFilter, None] = {}
    for request in sorted(group, key=lambda request: (request.rule, repr(request.selection))):
        if request.selection is None:
            return None
        selections[request.selection] = None
    selection, *others = selections
    return replace(selection, others=(*selection.others, *others)) if others else selection


def _explain(rule: Rule, reference: Reference) -> Explanation:
    refusal = rule.source.refusal(reference.repository)
    if refusal is not None:
        return Explanation(rule.key, matches=False, reason=refusal, file=rule.file)
    reasons: dict[str, None] = {}
    destinations: dict[Reference, None] = {}
    for target in rule.targets:
        judged = rule.judge(target, reference)
        if isinstance(judged, str):
            reasons[f"{target.template}: {judged}" if len(rule.targets) > 1 else judged] = None
            continue
        if problem := next((request.problem for request in judged if request.problem is not None), None):
            reasons[f"the repository and the tag match, but {problem}"] = None
            continue
        destinations.update((request.destination, None) for request in judged)
        signature = any(request.signature for request in judged)
        reasons[_match_reason(rule, target, reference, signature=signature)] = None
    return Explanation(rule.key, bool(destinations), "; ".join(reasons), tuple(destinations), rule.file)


def _match_reason(rule: Rule, target: DestinationTag, reference: Reference, *, signature: bool) -> str:
    if signature:
        what = "a digest alone" if reference.tag is None else "such a tag"
        return f"the repository matches, and with signatures {what} counts as a signature"
    reason = "the repository and the digest match" if rule.source.digest else "the repository and the tag match"
    conditions = [conditions_of(target.tags)] if rule.source.digest is None else []
    conditions += [f"its type is {' or '.join(target.options.types)}"] if target.options.types else []
    if wanted := " and ".join(filter(None, conditions)):
        reason = f"{reason}, if {wanted}, which is checked when it is copied"
    return reason


def conditions_of(tags: TagFilter) -> str:
    """Say what a filter asks beside a tag's name; empty if it asks nothing else.

    Args:
        tags: the filter, with those that are merged with it.
    """
    own = [f"it has the label {' and '.join(tags.labels)}"] if tags.labels else []
    own += [f"it does not have the label {' or '.join(tags.exclude_labels)}"] if tags.exclude_labels else []
    own += [f"the tag is among the latest {tags.latest} of the source"] if tags.latest is not None else []
    return ", or ".join(filter(None, (" and ".join(own), *map(conditions_of, tags.others))))
