"""The tags of repositories, with what each names where a Harbor tells, and from the registry's own list elsewhere.

Harbor lists artifacts with their tags a hundred a page, of a repository or, from 2.12 on, of a whole project. Only a
login that may list artifacts gets them. Tags of signatures that Harbor counts as accessories are not among them; the
registry's ``tags/list`` has those too, and is asked for them where an artifact has any.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replicator.errors import ReplicatorError
from replicator.harbor import Artifact, HarborApi
from replicator.reference import Repository, is_signature_tag
from replicator.registry.errors import Denied, NotFound, RegistryError, Unauthorized
from replicator.tasks import merge_streams

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable, Mapping
    from datetime import datetime

    from replicator.registry import Registries
    from replicator.registry.transport import Transport
    from replicator.replication.repositories import WantedRepository

_AT_ONCE = 4
"""Repositories of one project that are listed at the same time where Harbor can't list the project."""
_CHUNK = 1000
"""Tags of ``tags/list`` that are given out together."""


@dataclass(frozen=True, slots=True)
class TagInfo:
    """What a list says of a tag.

    Attributes:
        digest: what it names.
        size: bytes of that with all its parts; None where it is not known.
        pushed: when the tag was set, UTC; None where it is not known.
    """

    digest: str
    size: int | None
    pushed: datetime | None


@dataclass(frozen=True, slots=True)
class TagPage:
    """Some tags of a repository, or all.

    Attributes:
        repository: where they are.
        tags: what the list says of each; None where it is a list of names alone.
    """

    repository: Repository
    tags: Mapping[str, TagInfo | None]


@dataclass(frozen=True, slots=True)
class NotListed:
    """A repository or project whose tags could not be listed, or not to their end.

    Attributes:
        what: it.
        error: why.
    """

    what: str
    error: ReplicatorError


_Pages = AsyncGenerator[list[Artifact], None]
_Parts = AsyncGenerator[dict[str, TagInfo | None], None]


@dataclass(slots=True)
class _Host:
    """What is known of a registry for the time of one listing."""

    is_harbor: bool | None = None
    lists_projects: bool = True
    has_warned: bool = False
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class TagLister:
    """Lists tags in the way that costs the fewest requests.

    Args:
        registries: to list.
        harbors: hosts that are known to be Harbors; others are asked once whether they are.

    Attributes:
        warnings: what was listed in another way than it could have been, and why; who tells of them takes them out.
    """

    def __init__(self, registries: Registries, harbors: Iterable[str]) -> None:
        self.warnings: list[str] = []
        self._registries = registries
        self._hosts = {registry: _Host(is_harbor=True) for registry in harbors}
        # The logins that may not list artifacts, each with the project where it may not.
        self._refused: set[tuple[Transport, str]] = set()

    async def of_project(
        self, registry: str, project: str, wanted: Collection[WantedRepository]
    ) -> AsyncGenerator[TagPage | NotListed, None]:
        """List the tags of some repositories by the list of their project's artifacts, in parts.

        Where there is no such list, each repository is listed by itself.
        """
        place = Repository(registry, f"{project}/x")
        repositories = {each.repository: each for each in wanted}
        unseen = {each.repository for each in wanted if each.artifact_count}
        signatures = _Signatures()
        try:
            async with contextlib.aclosing(self._api(place).artifacts_of_project(project)) as pages:
                page = await self._first_of_project(pages, place)
                listed = page is not None
                while page is not None:
                    for repository, artifacts in _by_repository(page, repositories).items():
                        unseen.discard(repository)
                        yield TagPage(repository, _labels(artifacts))
                        signatures.note(repository, artifacts)
                    page = await anext(pages, None)
        except ReplicatorError as error:
            yield NotListed(f"{registry}/{project}/", error)
            return
        if not listed:
            unseen = set(repositories)
        # What has artifacts and is not in the project's list, whyever, is listed by itself.
        parts = [self.of_repository(repositories[each], whole=False) for each in sorted(unseen)]
        parts += [self._told(repositories[each], self._signatures(each, known)) for each, known in signatures.hidden()]
        async for part in merge_streams(parts, _AT_ONCE):
            yield part

    async def of_repository(
        self, wanted: WantedRepository, *, whole: bool
    ) -> AsyncGenerator[TagPage | NotListed, None]:
        """List the tags of a repository.

        Args:
            wanted: the repository. If it is not there, that is told only of one that is named.
            whole: give out all tags together, even if there are none; otherwise in parts.
        """
        parts = self._parts(wanted)
        async with contextlib.aclosing(self._told(wanted, self._together(parts) if whole else parts)) as told:
            async for part in told:
                yield part

    async def _told(self, wanted: WantedRepository, parts: _Parts) -> AsyncGenerator[TagPage | NotListed, None]:
        try:
            async with contextlib.aclosing(parts):
                async for tags in parts:
                    yield TagPage(wanted.repository, tags)
        except ReplicatorError as error:
            if wanted.named or not isinstance(error, NotFound):
                yield NotListed(str(wanted.repository), error)

    async def _together(self, parts: _Parts) -> _Parts:
        tags: dict[str, TagInfo | None] = {}
        async with contextlib.aclosing(parts):
            async for some in parts:
                tags |= some
        yield tags

    async def _parts(self, wanted: WantedRepository) -> _Parts:
        repository = wanted.repository
        listed = False
        signatures = _Signatures()
        if await self._is_harbor(repository):
            async with contextlib.aclosing(self._api(repository).artifacts(repository)) as pages:
                page = await self._first_of_repository(pages, repository)
                # Of a repository that is not there, or whose name a proxy mangled, Harbor shows an empty list.
                listed = page is not None and wanted.artifact_count == 0 and not wanted.named
                while page is not None:
                    listed = listed or bool(page)
                    yield _labels(page)
                    signatures.note(repository, page)
                    page = await anext(pages, None)
        if listed:
            for _, known in signatures.hidden():
                async for tags in self._signatures(repository, known):
                    yield tags
            return
        async for tags in self._names(repository):
            self._warn_if_refused(repository)
            yield tags

    async def _names(self, repository: Repository) -> _Parts:
        """List the names of all tags (OCI distribution specification 1.1, "Listing Tags")."""
        tags: dict[str, TagInfo | None] = {}
        async for tag in self._registries.source(repository).tags():
            tags[tag] = None
            if len(tags) == _CHUNK:
                yield tags
                tags = {}
        if tags:
            yield tags

    async def _signatures(self, repository: Repository, known: Collection[str]) -> _Parts:
        """List the tags of signatures that are not ``known``."""
        async for names in self._names(repository):
            tags = {tag: label for tag, label in names.items() if is_signature_tag(tag) and tag not in known}
            if tags:
                yield tags

    async def _first_of_project(self, pages: _Pages, place: Repository) -> list[Artifact] | None:
        """Read the first page; None where this list is not to be had."""
        host = self._host(place)
        if not host.lists_projects:
            return None
        try:
            return await self._first(pages, place)
        except NotFound:
            host.lists_projects = False
            return None

    async def _first_of_repository(self, pages: _Pages, repository: Repository) -> list[Artifact] | None:
        """Read the first page; None where this list is not to be had."""
        try:
            return await self._first(pages, repository)
        except NotFound:
            # The registry has the last word.
            return None

    async def _first(self, pages: _Pages, place: Repository) -> list[Artifact] | None:
        login = self._login(place)
        if login in self._refused:
            return None
        try:
            return await anext(pages, [])
        except (Denied, Unauthorized):
            # Harbor says the same of a project that is not there: the registry's list will tell.
            self._refused.add(login)
            return None

    async def _is_harbor(self, repository: Repository) -> bool:
        if "/" not in repository.name:
            return False  # at a Harbor, every repository is in a project
        host = self._host(repository)
        async with host.asking:
            if host.is_harbor is None:
                try:
                    host.is_harbor = await self._api(repository).is_harbor()
                except RegistryError:
                    # The registry's own list needs none, and is asked with a patience of its own.
                    host.is_harbor = False
        return host.is_harbor

    def _warn_if_refused(self, place: Repository) -> None:
        host = self._host(place)
        if self._login(place) in self._refused and not host.has_warned:
            host.has_warned = True
            self.warnings.append(
                f"{place.registry}: the login may not list artifacts (artifact:list, with tag:list and "
                "accessory:list), so each repository's tags are listed by themselves, without their digests"
            )

    def _login(self, place: Repository) -> tuple[Transport, str]:
        return self._registries.transport(place), place.name.partition("/")[0]

    def _api(self, place: Repository) -> HarborApi:
        return HarborApi(place.registry, self._registries.transport(place))

    def _host(self, place: Repository) -> _Host:
        return self._hosts.setdefault(place.registry, _Host())


def _labels(artifacts: Iterable[Artifact]) -> dict[str, TagInfo | None]:
    return {
        tag.name: TagInfo(artifact.digest, artifact.size, tag.pushed) for artifact in artifacts for tag in artifact.tags
    }


def _by_repository(artifacts: Iterable[Artifact], wanted: Container[Repository]) -> dict[Repository, list[Artifact]]:
    found: dict[Repository, list[Artifact]] = {}
    for artifact in artifacts:
        if artifact.repository in wanted:
            found.setdefault(artifact.repository, []).append(artifact)
    return found


class _Signatures:
    """Which repositories have tags of signatures that the list of artifacts does not show."""

    def __init__(self) -> None:
        self._shown: dict[Repository, set[str]] = {}
        self._signed: dict[Repository, None] = {}

    def note(self, repository: Repository, artifacts: Iterable[Artifact]) -> None:
        for artifact in artifacts:
            if artifact.has_accessories:
                self._signed[repository] = None
            shown = {tag.name for tag in artifact.tags if is_signature_tag(tag.name)}
            if shown:
                self._shown.setdefault(repository, set()).update(shown)

    def hidden(self) -> list[tuple[Repository, Collection[str]]]:
        """Return these repositories, each with what is shown all the same."""
        return [(repository, self._shown.get(repository, ())) for repository in self._signed]
