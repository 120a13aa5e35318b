"""The tags of repositories, from the list that takes the fewest requests and tells the most.

Harbor lists artifacts with their tags, digests and times, a hundred a page: of one repository or, since 2.12, of a
whole project. That takes a login with ``artifact:list``. The registry's own ``tags/list`` has only names, and is what
remains for other registries and logins. Harbor's lists leave out the tags of signatures that it counts as accessories:
those come with the artifact that they are attached to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replicator.errors import ErrorClass, ReplicatorError
from replicator.harbor import Artifact, HarborApi
from replicator.reference import Repository
from replicator.registry.errors import Denied, ForeignAnswer, NotFound, ProtocolViolated, RegistryError, Unauthorized
from replicator.replication.repositories import LISTED_AT_ONCE, NotListed
from replicator.tasks import merge_streams

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable
    from datetime import datetime

    from replicator.harbor.lists import Accessory
    from replicator.registry import Registries
    from replicator.registry.transport import Transport
    from replicator.replication.repositories import WantedRepository

TAGS_A_PAGE = 1000
"""Tags of ``tags/list`` that are passed on together."""


@dataclass(frozen=True, slots=True)
class TagInfo:
    """The facts of a list about a tag.

    Attributes:
        digest: of the artifact that it names.
        size: bytes of the artifact with all its parts; None if it is not known.
        pushed: when the tag was set, UTC; None if it is not known.
        accessories: the accessories of the artifact.
        is_index: whether the artifact has children.
        labels: names of the artifact's labels; none if they were not asked for.
        kind: of the artifact, as far as the list tells it.
    """

    digest: str
    size: int | None
    pushed: datetime | None
    accessories: tuple[Accessory, ...] = ()
    is_index: bool = False
    labels: frozenset[str] = frozenset()
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class TagPage:
    """Some or all tags of a repository; None for a tag from a list of names alone."""

    repository: Repository
    tags: Mapping[str, TagInfo | None]

    @property
    def labels(self) -> dict[str, frozenset[str]]:
        """The labels of each tag, as far as they are known."""
        return {tag: info.labels for tag, info in self.tags.items() if info is not None}


class LabelsUnknown(ReplicatorError):
    """A rule asks for labels, and they can't be read."""

    error_class = ErrorClass.PERMANENT

    def __init__(self, repository: Repository, error: RegistryError | None) -> None:
        if error is not None:
            self.error_class = error.error_class
            advice = "the login needs the permission artifact:list"
            super().__init__(f"{repository} does not show its labels", str(error), advice)
            return
        why = f"{repository.registry}/api/v2.0 does not answer as a Harbor does"
        advice = "if it is no Harbor, remove labels and exclude_labels from the rules"
        super().__init__(f"{repository} has no labels", why, advice)


async def read_labels(registries: Registries, repository: Repository, tag: str | None = None) -> dict[str, TagInfo]:
    """Read the tags of a repository at a Harbor with their labels.

    Args:
        registries: the client.
        repository: the repository.
        tag: read this tag alone, in one request.

    Raises:
        LabelsUnknown: it is not at a Harbor, or the login may not list its artifacts.
        RegistryError: any other answer, or none.
    """
    api = HarborApi(repository.registry, registries.transport(repository))
    found: dict[str, TagInfo] = {}
    try:
        async with contextlib.aclosing(api.artifacts(repository, labels=True, tag=tag)) as pages:
            async for page in pages:
                found |= _tags(page)
    except (Denied, Unauthorized) as error:
        raise LabelsUnknown(repository, error) from error
    except (NotFound, ProtocolViolated, ForeignAnswer) as error:
        # A proxy may have answered for a Harbor that is away, and for its registry then too.
        if not await api.is_harbor() and await registries.source(repository).answers():
            raise LabelsUnknown(repository, None) from error
        if not isinstance(error, NotFound):
            raise
    return found


_ArtifactPages = AsyncGenerator[list[Artifact], None]
_TagPages = AsyncGenerator[Mapping[str, TagInfo | None], None]
_Listed = AsyncGenerator[TagPage | NotListed, None]


@dataclass(slots=True)
class _Host:
    """What is known about a registry during one listing."""

    is_harbor: bool | None = None
    lists_projects: bool = True
    has_warned: bool = False
    detecting: asyncio.Lock = field(default_factory=asyncio.Lock)


class TagLister:
    """Lists tags in the way that takes the fewest requests.

    Args:
        harbors: hosts that are known to be Harbors; of others it is found out once.

    Attributes:
        warnings: fall-backs that were used, with reasons; the reporter removes them.
        complete: the repositories whose tags were all listed.
    """

    def __init__(self, registries: Registries, harbors: Iterable[str]) -> None:
        self.warnings: list[str] = []
        self.complete: set[Repository] = set()
        self._registries = registries
        self._hosts = {registry: _Host(is_harbor=True) for registry in harbors}
        # Logins without artifact:list, each with the project that refused them: a robot may have it in others.
        self._refused: set[tuple[Transport, str]] = set()

    async def of_project(self, registry: str, project: str, wanted: Collection[WantedRepository]) -> _Listed:
        """List the tags of some repositories from their project's list of artifacts, page by page.

        Falls back to the list of each repository where Harbor has no list of the project.
        """
        place = Repository(registry, f"{project}/x")
        repositories = {each.repository: each for each in wanted}
        unseen = {each.repository for each in wanted if each.artifact_count}
        try:
            labels = any(each.needs_labels for each in wanted)
            async with contextlib.aclosing(self._api(place).artifacts_of_project(project, labels=labels)) as pages:
                page = await self._first_of_project(pages, place)
                is_listed = page is not None
                while page is not None:
                    for repository, artifacts in _by_repository(page, repositories).items():
                        unseen.discard(repository)
                        yield TagPage(repository, _tags(artifacts))
                    page = await anext(pages, None)
        except ReplicatorError as error:
            yield NotListed(f"{registry}/{project}/", error)
            return
        if not is_listed:
            unseen = set(repositories)
        self.complete |= repositories.keys() - unseen
        # A repository that has artifacts and is missing in the project's list is listed alone, so that none is lost.
        rest = [self.of_repository(repositories[each], whole=False) for each in sorted(unseen)]
        async for listed in merge_streams(rest, LISTED_AT_ONCE):
            yield listed

    async def of_repository(self, wanted: WantedRepository, *, whole: bool) -> _Listed:
        """List the tags of a repository; that it does not exist is reported only for one that a source names.

        With ``whole``, all tags come in one page, even if there are none; otherwise page by page.
        """
        pages = self._pages(wanted)
        async with contextlib.aclosing(self._guarded(wanted, _joined(pages) if whole else pages)) as listed:
            async for each in listed:
                yield each

    async def _guarded(self, wanted: WantedRepository, pages: _TagPages) -> _Listed:
        """Yield an error instead of raising it: one repository does not end the listing."""
        try:
            async with contextlib.aclosing(pages):
                async for tags in pages:
                    yield TagPage(wanted.repository, tags)
        except ReplicatorError as error:
            if wanted.named or not isinstance(error, NotFound):
                yield NotListed(str(wanted.repository), error)

    async def _pages(self, wanted: WantedRepository) -> _TagPages:
        repository = wanted.repository
        is_listed = False
        if await self._is_harbor(repository):
            artifacts = self._api(repository).artifacts(repository, labels=wanted.needs_labels)
            async with contextlib.aclosing(artifacts) as pages:
                page = await self._first_of_repository(pages, repository)
                # An empty list proves nothing: Harbor shows one for a repository that does not exist, or whose name a
                # proxy has mangled. Only if the project's list said 0 artifacts as well is it taken as it is.
                is_listed = page is not None and wanted.artifact_count == 0 and not wanted.named
                while page is not None:
                    is_listed = is_listed or bool(page)
                    yield _tags(page)
                    page = await anext(pages, None)
        if not is_listed:
            # A list of names has no labels. This tells why there is no other, or reads what came meanwhile.
            if wanted.needs_labels and (labelled := await read_labels(self._registries, repository)):
                yield labelled
            else:
                async for names in self._names(repository):
                    self._warn_if_refused(repository)
                    yield {} if wanted.needs_labels else names
                if wanted.needs_labels:
                    return
        self.complete.add(repository)

    async def _names(self, repository: Repository) -> _TagPages:
        """List the names of all tags (OCI distribution specification 1.1, "Listing Tags")."""
        tags: dict[str, TagInfo | None] = {}
        async for tag in self._registries.source(repository).tags(patient=True):
            tags[tag] = None
            if len(tags) == TAGS_A_PAGE:
                yield tags
                tags = {}
        if tags:
            yield tags

    async def _first_of_project(self, pages: _ArtifactPages, place: Repository) -> list[Artifact] | None:
        """Read the first page of a project's list; None if there is no such list."""
        host = self._host(place)
        # Harbor lists the artifacts of each public repository to everyone, but those of a project to logins only.
        if not host.lists_projects or self._registries.is_anonymous(place):
            return None
        try:
            return await self._first(pages, place)
        except NotFound:
            # A Harbor before 2.12. The other projects are not tried.
            host.lists_projects = False
            return None

    async def _first_of_repository(self, pages: _ArtifactPages, repository: Repository) -> list[Artifact] | None:
        """Read the first page of a repository's list; None if there is no such list."""
        try:
            return await self._first(pages, repository)
        except NotFound:
            # Whether the repository exists is decided by tags/list.
            return None

    async def _first(self, pages: _ArtifactPages, place: Repository) -> list[Artifact] | None:
        login = self._login(place)
        if login in self._refused:
            return None
        try:
            return await anext(pages, [])
        except (Denied, Unauthorized):
            # The login lacks artifact:list, or the project does not exist: Harbor answers the same. tags/list decides.
            self._refused.add(login)
            return None

    async def _is_harbor(self, repository: Repository) -> bool:
        if "/" not in repository.name:
            return False  # at a Harbor, every repository is in a project
        host = self._host(repository)
        async with host.detecting:
            if host.is_harbor is None:
                try:
                    host.is_harbor = await self._api(repository).is_harbor()
                except RegistryError:
                    # A failure is no reason to end: tags/list works without the API, and has retries of its own.
                    host.is_harbor = False
        return host.is_harbor

    def _warn_if_refused(self, place: Repository) -> None:
        host = self._host(place)
        if self._login(place) in self._refused and not host.has_warned:
            host.has_warned = True
            self.warnings.append(
                f"{place.registry}: the login may not list artifacts (artifact:list, with tag:list and "
                "accessory:list), so the tags of each repository are listed separately, without their digests"
            )

    def _login(self, place: Repository) -> tuple[Transport, str]:
        return self._registries.transport(place), place.name.partition("/")[0]

    def _api(self, place: Repository) -> HarborApi:
        return HarborApi(place.registry, self._registries.transport(place))

    def _host(self, place: Repository) -> _Host:
        return self._hosts.setdefault(place.registry, _Host())


async def _joined(pages: _TagPages) -> _TagPages:
    tags: dict[str, TagInfo | None] = {}
    async with contextlib.aclosing(pages):
        async for page in pages:
            tags |= page
    yield tags


def _tags(artifacts: Iterable[Artifact]) -> dict[str, TagInfo]:
    return {
        tag.name: TagInfo(
            artifact.digest,
            artifact.size,
            tag.pushed,
            artifact.accessories,
            artifact.is_index,
            artifact.labels,
            artifact.kind,
        )
        for artifact in artifacts
        for tag in artifact.tags
    }


def _by_repository(artifacts: Iterable[Artifact], wanted: Container[Repository]) -> dict[Repository, list[Artifact]]:
    found: dict[Repository, list[Artifact]] = {}
    for artifact in artifacts:
        if artifact.repository in wanted:
            found.setdefault(artifact.repository, []).append(artifact)
    return found
