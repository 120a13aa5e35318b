"""Which repositories a backfill looks through: those that sources name, and those that Harbor lists for patterns.

What a listing gives out, a part at a time. Plain values.
"""

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
    from datetime import datetime

    from replicator.harbor import ListedRepository
    from replicator.registry import Registries
    from replicator.rules import Asked, Collision, Narrowing, Source


@dataclass(frozen=True, slots=True)
class Found:
    """One copy the rules ask for.

    Attributes:
        asked: the copy, and who asks for it.
        digest: what the source's tag names according to the list; None where no list said so.
        size: bytes of the image with all its parts; None where it is not known.
        pushed: when the tag was set, UTC; None where it is not known.
    """

    asked: Asked
    digest: str | None = None
    size: int | None = None
    pushed: datetime | None = None


@dataclass(frozen=True, slots=True)
class ListingRefused:
    """A copy that is not made, as another source is on its way to the same destination.

    Attributes:
        asked: the copy, and who asks for it.
        collision: its destination, and every source that is known to be on its way there.
    """

    asked: Asked
    collision: Collision


@dataclass(frozen=True, slots=True)
class Batch:
    """A part of what a listing finds: some tags of one repository, or what could not be listed.

    Attributes:
        what: the repository; of what could not be listed, that, its project or the pattern that names it.
        found: the copies that are meant.
        refused: copies that are meant and would overwrite each other.
        error: why it could not be listed; None when it could.
        warnings: what was listed in another way than it could have been, and why.
    """

    what: str
    found: tuple[Found, ...] = ()
    refused: tuple[ListingRefused, ...] = ()
    error: ReplicatorError | None = None
    warnings: tuple[str, ...] = ()


_AT_ONCE = 4
"""Projects whose repositories are listed at the same time."""


@dataclass(slots=True)
class WantedRepository:
    """A repository that is looked through.

    Attributes:
        repository: it.
        needs_tags: whether its tags must be listed.
        named: whether a source names it without wildcards: then it is a mistake if it is not there.
        artifact_count: how many artifacts it has; None where no list said so.
    """

    repository: Repository
    needs_tags: bool = False
    named: bool = False
    artifact_count: int | None = None


class RepositoryLister:
    """The repositories that a narrowing's sources name.

    Args:
        narrowing: what is meant.
        registries: to list.

    Attributes:
        wanted: the repositories, once `failures` has ended.
        artifacts: how many artifacts all repositories of a project have, by registry and project; of those projects
            alone whose repositories were listed. So their registry is a Harbor.
    """

    def __init__(self, narrowing: Narrowing, registries: Registries) -> None:
        self.wanted: dict[Repository, WantedRepository] = {}
        self.artifacts: Counter[tuple[str, str]] = Counter()
        self._narrowing = narrowing
        self._registries = registries

    async def failures(self) -> AsyncGenerator[Batch, None]:
        """List all names, each project's once; give out what can't be listed, and go on with the rest."""
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
                    yield Batch(f"{registry}/{source.glob}", error=error)
                continue
            for name in names:
                projects.setdefault((registry, name), []).extend(sources)
        listings = (self._list(*project, sources) for project, sources in projects.items())
        async for failure in merge_streams(listings, _AT_ONCE):
            yield failure

    async def _list(self, registry: str, project: str, sources: list[Source]) -> AsyncGenerator[Batch, None]:
        try:
            # The login of the project, where the rules give one, else that of the host.
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
                yield Batch(f"{registry}/{place}", error=error)

    def _want(self, repository: Repository, source: Source, listed: ListedRepository | None = None) -> None:
        if not self._narrowing.includes(repository):
            return
        wanted = self.wanted.setdefault(repository, WantedRepository(repository))
        wanted.needs_tags |= source.needs_tags
        if listed is not None:
            wanted.artifact_count = listed.artifact_count
        else:
            wanted.named = True
