"""The repositories of a backfill: those that sources name, and those that Harbor lists for patterns.

Their destinations are the neighbours of a copy: repositories that may have blobs which it can mount from there.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from replicator.errors import ReplicatorError
from replicator.harbor import HarborApi
from replicator.reference import Repository
from replicator.rules import Narrowing
from replicator.tasks import merge_streams

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from replicator.harbor import ListedRepository
    from replicator.registry import Registries
    from replicator.rules import Rules, Source

_log = structlog.get_logger("replicator.copy")

LISTED_AT_ONCE = 4
"""Projects, or repositories, that are listed at the same time; the pages of each one after the other."""


@dataclass(frozen=True, slots=True)
class NotListed:
    """Something that could not be listed, or not to its end.

    Attributes:
        what: a repository, a project or the pattern that names it.
        error: the reason.
    """

    what: str
    error: ReplicatorError


@dataclass(slots=True)
class WantedRepository:
    """A repository to list.

    Attributes:
        needs_tags: whether its tags must be listed.
        named: whether a source names it without wildcards, so that it is a mistake if it does not exist.
        artifact_count: how many artifacts it has; None if no list says so.
    """

    repository: Repository
    needs_tags: bool = False
    named: bool = False
    artifact_count: int | None = None


class RepositoryLister:
    """Finds the repositories that the sources of a narrowing name.

    Args:
        narrowing: the sources.
        registries: the Harbors that are listed.
        on_wanted: called with each repository as soon as it is found.

    Attributes:
        wanted: the repositories, complete once `failures` has ended.
        artifacts: the artifacts of all repositories together, by registry and project; only for projects whose
            repositories were listed, so that their registry is a Harbor.
    """

    def __init__(
        self, narrowing: Narrowing, registries: Registries, on_wanted: Callable[[Repository], None] | None = None
    ) -> None:
        self._on_wanted = on_wanted
        self.wanted: dict[Repository, WantedRepository] = {}
        self.artifacts: Counter[tuple[str, str]] = Counter()
        self._narrowing = narrowing
        self._registries = registries

    async def failures(self) -> AsyncGenerator[NotListed, None]:
        """List every project once; yield what can't be listed, and go on with the rest."""
        projects: dict[tuple[str, str], list[Source]] = {}
        anywhere: dict[str, list[Source]] = {}
        for source in self._narrowing.sources():
            if source.repository is not None:
                self._want(source.repository, source)
            elif source.project is not None:
                projects.setdefault((source.registry, source.project), []).append(source)
            else:
                anywhere.setdefault(source.registry, []).append(source)
        for registry, sources in anywhere.items():
            try:
                api = HarborApi(registry, self._registries.transport(Repository(registry, "x")))
                names = [name async for name in api.projects()]
            except ReplicatorError as error:
                for source in sources:
                    yield NotListed(f"{registry}/{source.glob}", error)
                continue
            for name in names:
                projects.setdefault((registry, name), []).extend(sources)
        listings = (self._list(*project, sources) for project, sources in projects.items())
        async for failure in merge_streams(listings, LISTED_AT_ONCE):
            yield failure

    async def _list(self, registry: str, project: str, sources: list[Source]) -> AsyncGenerator[NotListed, None]:
        try:
            # Any repository of the project stands for it: the rules may have a login of its own for a project.
            api = HarborApi(registry, self._registries.transport(Repository(registry, f"{project}/x")))
            self.artifacts[registry, project] = 0
            async for listed in api.repositories(project):
                self.artifacts[registry, project] += listed.artifact_count
                for source in sources:
                    if source.includes(listed.repository.name):
                        self._want(listed.repository, source, listed)
        except ReplicatorError as error:
            del self.artifacts[registry, project]
            places = (source.glob if source.project is not None else f"{project}/" for source in sources)
            for place in dict.fromkeys(places):
                yield NotListed(f"{registry}/{place}", error)

    def _want(self, repository: Repository, source: Source, listed: ListedRepository | None = None) -> None:
        if not self._narrowing.includes(repository):
            return
        if self._on_wanted is not None and repository not in self.wanted:
            self._on_wanted(repository)
        wanted = self.wanted.setdefault(repository, WantedRepository(repository))
        wanted.needs_tags |= source.needs_tags
        if listed is not None:
            wanted.artifact_count = listed.artifact_count
        else:
            wanted.named = True


def destinations(rules: Rules, repositories: Iterable[Repository]) -> dict[Repository, None]:
    """Return the repositories that the rules copy other repositories to, in their order."""
    return {each: None for repository in repositories for each in sorted(rules.route(repository).destinations)}


class Neighbours:
    """Names the destinations of all rules, for copies that look for blobs there (`replicator.copy.Copier`).

    Destinations of rules without wildcards come from the rules alone. For the others Harbor is asked for its
    repositories, a hundred a request.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def renew(self, rules: Rules) -> None:
        """Use other rules from now on."""
        self._rules = rules

    async def __call__(self, registries: Registries, found: Callable[[Repository], object]) -> None:
        """Call ``found`` with each of them as soon as it is known; projects that can't be listed are left out."""
        rules, narrowing = self._rules, Narrowing(self._rules)

        def wanted(repository: Repository) -> None:
            for each in destinations(rules, [repository]):
                found(each)

        named = [source.repository for source in narrowing.sources() if source.repository is not None]
        for repository in named:
            wanted(repository)
        if len(named) < len(narrowing.sources()):
            async for failure in RepositoryLister(narrowing, registries, wanted).failures():
                _log.debug("neighbours not listed", source=failure.what, error=str(failure.error))
