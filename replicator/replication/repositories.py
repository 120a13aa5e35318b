"""The repositories of a backfill: those that sources name, and those that Harbor lists for patterns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replicator.errors import ReplicatorError
from replicator.harbor import HarborApi
from replicator.reference import Repository
from replicator.tasks import merge_streams

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from replicator.harbor import ListedRepository
    from replicator.registry import Registries
    from replicator.rules import Narrowing, Source

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

    Attributes:
        wanted: the repositories, complete once `failures` has ended.
        artifacts: the artifacts of all repositories together, by registry and project; only for projects whose
            repositories were listed, so that their registry is a Harbor.
    """

    def __init__(self, narrowing: Narrowing, registries: Registries) -> None:
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
        wanted = self.wanted.setdefault(repository, WantedRepository(repository))
        wanted.needs_tags |= source.needs_tags
        if listed is not None:
            wanted.artifact_count = listed.artifact_count
        else:
            wanted.named = True
