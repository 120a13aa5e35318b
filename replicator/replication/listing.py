"""All copies that the rules ask for now, yielded while the rest is still being listed, without any that collide.

A collision is two sources on their way to one destination tag with different images; which one won would be chance. It
has to be known before the first of the two is queued, though tags are listed in a stream. So repositories are listed
first, a hundred a request. Their names tell which destination repositories can get tags from several sources, and only
what goes there has its tags read ahead (`ListingCollisions`). The rest, which is nearly always all of it, is listed
once.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import structlog

from replicator.copy.options import MAX_ACCESSORIES, Accessories
from replicator.errors import ConfigError, ErrorText, ReplicatorError
from replicator.harbor import ROWS_A_PAGE
from replicator.harbor.api import narrow_login
from replicator.reference import Repository
from replicator.registry.errors import NotFound
from replicator.registry.manifests import fallback_tag
from replicator.registry.places import BULK
from replicator.replication.repositories import (
    LISTED_AT_ONCE,
    NotListed,
    QuotaCount,
    RepositoryLister,
    WantedRepository,
    destinations,
    name_warnings,
)
from replicator.replication.tag_lists import TAGS_A_PAGE, TagLister, TagPage, read_labels
from replicator.rules import CopyRequest, Narrowing
from replicator.rules.collisions import ListingCollisions, collision_candidates
from replicator.tasks import merge_streams

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Container, Iterable, Iterator
    from datetime import datetime

    from replicator.copy import Copier
    from replicator.registry import Registries
    from replicator.replication.tag_lists import TagInfo
    from replicator.rules import Asked, Collision, Rules

log = structlog.get_logger("replicator.collisions")

_MOST_LOGGED = 20
"""Collisions that are logged at the start."""
_NO_SIGNATURES = frozenset({"sbom.harbor", "accelerator.nydus"})
"""Kinds of accessories that are no signatures; of others the manifest tells."""
_MOST_COMPARED = 1000
"""Collisions whose images are compared; further ones count as different."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """One copy that the rules ask for; two are equal only if they are the same entry of a list.

    Attributes:
        asked: the copy, and the rules that ask for it.
        digest: of the source's tag; None if the list had only names.
        size: bytes of the image with all its parts; None if it is not known.
        pushed: when the tag was set, UTC; None if it is not known.
        accessories: the signatures and attestations of the image that may be wanted; None if the list shows none.
        kind: of the artifact, as far as the list tells it; see `CopyOptions.unwanted_in_list`.
    """

    asked: Asked
    digest: str | None = None
    size: int | None = None
    pushed: datetime | None = None
    accessories: Accessories | None = None
    kind: str | None = None

    @classmethod
    def of(cls, asked: Asked, info: TagInfo | None, tags: Container[str]) -> Self:
        """Return a copy with the facts of a list about its tag, if there are more than its name.

        Args:
            asked: the copy.
            info: the facts from the list.
            tags: those that are listed beside it.
        """
        if info is None:
            return cls(asked)
        wanted = asked.request.options.signatures
        everything = wanted is True
        suffixes = (".sig", ".att", ".sbom") if everything else (".sig", ".att") if wanted is None else ()
        names = [f"{fallback_tag(info.digest)}{suffix}" for suffix in suffixes]
        digests = [each.digest for each in info.accessories if everything or each.kind not in _NO_SIGNATURES]
        attached = Accessories(
            info.digest, tuple(digests[:MAX_ACCESSORIES]), info.is_index, tuple(name for name in names if name in tags)
        )
        return cls(asked, info.digest, info.size, info.pushed, attached, info.kind)

    @property
    def request(self) -> CopyRequest:
        """The copy."""
        return self.asked.request


@dataclass(frozen=True, slots=True)
class ListingRefused:
    """A copy that is not made, because of a collision or because its destination can't hold its name.

    Attributes:
        asked: the copy, and the rules that ask for it.
        collision: its destination, and every source known to be on its way there; None if there is none.
    """

    asked: Asked
    collision: Collision | None

    @property
    def error(self) -> str:
        """Why the copy is not made, and what to do, as `replicator.errors.ErrorText.stored`."""
        if self.collision is not None:
            return ErrorText(str(self.collision), do="give the sources different destinations").stored
        return ErrorText(str(self.asked.request.problem)).stored


@dataclass(frozen=True, slots=True)
class Batch:
    """A part of a listing: some tags of one repository, or what could not be listed.

    Attributes:
        what: the repository; if there is an error, the repository, project or pattern that could not be listed.
        found: the copies to make.
        refused: the copies that collide.
        error: why it could not be listed.
        warnings: fall-backs that were taken while it was listed, and why.
    """

    what: str
    found: tuple[Found, ...] = ()
    refused: tuple[ListingRefused, ...] = ()
    error: ReplicatorError | None = None
    warnings: tuple[str, ...] = ()


class Listing:
    """Lists all copies that the rules ask for, each once.

    Args:
        narrowing: the part of the rules to list; None for all of them.
        copier: learns the destinations as soon as they are known; None for no copier.

    Attributes:
        rules_digest: see `Rules.digest`.
        destinations: the repositories that the rules copy the listed ones to, whatever their tags.
        quota: of ACR's Personal Edition, as far as it was listed; None before.
        incomplete: whether `repositories` or `collisions` passed over what can't be listed.
        on_page: called with a repository and some of its tags, whatever the rules want of them.
    """

    def __init__(
        self, rules: Rules, registries: Registries, narrowing: Narrowing | None = None, copier: Copier | None = None
    ) -> None:
        self._copier, self._registries = copier, registries
        self.narrowing = narrowing or Narrowing(rules)
        self._rules, self.rules_digest = rules, rules.digest
        self._collisions, self.incomplete = ListingCollisions(()), False
        self._agreed: dict[Collision, bool] = {}
        self._missing: set[Repository] = set()
        self.destinations: Collection[Repository] = ()
        self.quota: QuotaCount | None = None
        self._found: RepositoryLister | None = None
        self._tags: TagLister | None = None
        self.on_page: Callable[[str, Iterable[str]], object] = lambda *_: None

    async def repositories(self) -> list[WantedRepository]:
        """Return the repositories; what can't be listed is passed over."""
        repositories = RepositoryLister(self.narrowing, self._registries)
        async with contextlib.aclosing(repositories.failures()) as failures:
            async for _ in failures:
                self.incomplete = True
        return [repositories.wanted[repository] for repository in sorted(repositories.wanted)]

    async def collisions(self, wanted: list[WantedRepository] | None = None) -> AsyncGenerator[Collision, None]:
        """Yield the collisions of the tags that exist now, as `batches` would; what can't be listed is passed over.

        Without a request where the rules exclude any.

        Args:
            wanted: the repositories; None to list them.
        """
        if not self._rules.may_collide:
            return
        wanted = await self.repositories() if wanted is None else wanted
        async with contextlib.aclosing(self._read_ahead(wanted)) as failures:
            async for _ in failures:
                self.incomplete = True
        for collision in self._collisions:
            if not await self._agree(collision):
                yield collision

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Yield what is found, batch by batch; the next is listed only as the one before is consumed.

        Failed lists are reported, and the rest continues. A collision counts even if the narrowing leaves out one
        of its sources. A repository that a pattern found and that was deleted since is passed over.
        """
        self._missing.clear()
        repositories = self._found = RepositoryLister(self.narrowing, self._registries)
        async with contextlib.aclosing(repositories.failures()) as failures:
            async for failure in failures:
                yield Batch(failure.what, error=failure.error)
        wanted = [repositories.wanted[repository] for repository in sorted(repositories.wanted)]
        for each in wanted:
            each.needs_labels = self._rules.route(each.repository).labels
        self.destinations = destinations(self._rules, repositories.wanted)
        if self._copier is not None:
            self._copier.expect(self.destinations, whole=self.narrowing.is_whole)
        quota = self.quota = QuotaCount(self._rules)
        warnings = (*self._unseen(), *name_warnings(self._rules, wanted), *quota.add(wanted))
        if warnings:
            yield Batch("", warnings=warnings)
        async with contextlib.aclosing(self._read_ahead(wanted)) as failures:
            async for failure in failures:
                yield Batch(failure.what, error=failure.error)
        wanted = [each for each in wanted if each.repository not in self._missing]
        tags = self._tags = TagLister(self._registries, {registry for registry, _ in repositories.artifacts})
        streams = self._streams(wanted, repositories, tags)
        async with contextlib.aclosing(merge_streams(streams, LISTED_AT_ONCE)) as pages:
            async for page in pages:
                batch = self._batch(page, tags)
                if batch.refused and isinstance(page, TagPage):
                    batch = await self._with_agreed(batch, page)
                for found in batch.found:
                    quota.found(found.request, found.kind)
                if batch.found or batch.refused or batch.error is not None or batch.warnings:
                    yield batch
        if late := quota.end():
            yield Batch("", warnings=tuple(late))

    def covers(self, repository: Repository) -> bool:
        """Tell, after the last batch, whether every tag was listed that this repository has, if there still is one."""
        route = self._rules.route(repository)
        if self._found is None or self._tags is None or not (route.destinations or route.problems):
            return False
        if repository in self._found.wanted:
            return repository in self._tags.complete
        project = repository.registry, repository.name.partition("/")[0]
        return project in self._found.artifacts and self.narrowing.includes(repository)

    def _streams(
        self, wanted: list[WantedRepository], repositories: RepositoryLister, tags: TagLister
    ) -> Iterator[AsyncGenerator[TagPage | NotListed, None]]:
        """Choose how the tags of each repository are listed; a project that is listed as a whole is one stream."""
        projects: dict[tuple[str, str], list[WantedRepository]] = {}
        for each in wanted:
            whole = self._rules.route(each.repository).whole
            project = each.repository.registry, each.repository.name.partition("/")[0]
            if not each.needs_tags:
                yield _without_tags(each.repository)
            elif whole or each.artifact_count is None or project not in repositories.artifacts:
                yield tags.of_repository(each, whole=whole)
            else:
                projects.setdefault(project, []).append(each)
        for project, members in projects.items():
            # A project's list has the pages of all its repositories, wanted or not: it pays off if it has fewer.
            if _pages(repositories.artifacts[project]) <= sum(_pages(each.artifact_count or 0) for each in members):
                yield tags.of_project(*project, members)
            else:
                yield from (tags.of_repository(each, whole=False) for each in members)

    def _unseen(self) -> tuple[str, ...]:
        """Return a warning for each pattern over projects whose login is known not to see all of them."""
        found: list[str] = []
        for source in self.narrowing.sources() if self.narrowing.is_whole else ():
            if source.repository is None and source.project is None:
                # The login that lists the projects. One that can't be read has been reported as what was not listed.
                with contextlib.suppress(ConfigError):
                    access = self._rules.credentials(Repository(source.registry, "x"))
                    narrow = narrow_login(access.username if access is not None else None)
                    found += [f"{source.registry}/{source.glob} may not find all: {narrow}"] if narrow else []
        return tuple(dict.fromkeys(found))

    async def _read_ahead(self, wanted: list[WantedRepository]) -> AsyncGenerator[NotListed, None]:
        """Read the tags of all that may collide; yield what can't be listed of it."""
        candidates = collision_candidates(self._rules.route(each.repository) for each in wanted)
        self._collisions = ListingCollisions(candidates)
        if not candidates:
            return
        crossing = [each for each in wanted if self._rules.route(each.repository).destinations & candidates]
        async with contextlib.aclosing(merge_streams(map(self._read, crossing), LISTED_AT_ONCE)) as failures:
            async for failure in failures:
                yield failure

    async def _read(self, wanted: WantedRepository) -> AsyncGenerator[NotListed, None]:
        repository = wanted.repository
        whole = self._rules.route(repository).whole
        tags: list[str] = []
        try:
            if wanted.needs_labels:
                self._note(TagPage(repository, await read_labels(self._registries, repository)))
                return
            if wanted.needs_tags:
                # Only names are needed, and this list has the most of them in a request.
                async for tag in self._registries.source(repository).tags(patient=True):
                    tags.append(tag)
                    if len(tags) == TAGS_A_PAGE and not whole:
                        self._note(TagPage(repository, dict.fromkeys(tags)))
                        tags = []
            self._note(TagPage(repository, dict.fromkeys(tags)))
        except ReplicatorError as error:
            # Which of its tags collide is not known, so none is copied.
            self._missing.add(repository)
            if wanted.named or not isinstance(error, NotFound):
                yield NotListed(str(repository), error)

    def _note(self, page: TagPage) -> None:
        for asked in self._rules.asked(page.repository, page.tags, page.labels):
            self._collisions.add(asked.request)

    async def _agree(self, collision: Collision) -> bool:
        """Tell whether all sources of a collision have the same image, and the rules want the same of it."""
        if collision in self._agreed or len(self._agreed) >= _MOST_COMPARED:
            return self._agreed.get(collision, False)
        digests: set[str | None] = set()
        options = set()
        for source in collision.sources:
            request = self._rules.present(CopyRequest(source, collision.destination, ""))
            options.add(request.options if request is not None else None)
            try:
                head = await self._registries.source(source.repository).head_manifest(source.identifier)
            except ReplicatorError:
                head = None
            digests.add(head.digest if head is not None else None)
        agree = len(digests) == len(options) == 1 and None not in digests
        self._agreed[collision] = agree
        return agree

    async def _with_agreed(self, batch: Batch, page: TagPage) -> Batch:
        """Return a batch that makes those of its refused copies whose sources all have the same image."""
        found, refused = list(batch.found), []
        for each in batch.refused:
            if each.collision is not None and await self._agree(each.collision):
                tag = each.asked.request.source.tag
                found.append(Found.of(each.asked, page.tags.get(tag) if tag is not None else None, page.tags))
            else:
                refused.append(each)
        return replace(batch, found=tuple(found), refused=tuple(refused))

    def _batch(self, page: TagPage | NotListed, tags: TagLister) -> Batch:
        warnings = tuple(tags.warnings)
        tags.warnings.clear()
        if isinstance(page, NotListed):
            return Batch(page.what, error=page.error, warnings=warnings)
        self.on_page(str(page.repository), page.tags)
        found: list[Found] = []
        refused: list[ListingRefused] = []
        for asked in self._rules.asked(page.repository, page.tags, page.labels):
            request = asked.request
            # Added again: the tag may have been pushed since it was read ahead.
            self._collisions.add(request)
            if not self.narrowing.takes(asked):
                continue
            collision = self._collisions.of(request)
            info = page.tags.get(request.source.tag) if request.source.tag is not None else None
            if collision is not None or request.problem is not None:
                refused.append(ListingRefused(asked, collision))
            else:
                found.append(Found.of(asked, info, page.tags))
        return Batch(str(page.repository), tuple(found), tuple(refused), warnings=warnings)


async def _without_tags(repository: Repository) -> AsyncGenerator[TagPage, None]:
    """Yield a repository whose tags need no list, because the rules name all that they want."""
    yield TagPage(repository, {})


def _pages(artifacts: int) -> int:
    return max(1, math.ceil(artifacts / ROWS_A_PAGE))


async def warn_of_collisions(rules: Rules, registries: Registries) -> None:
    """Log a warning for each collision of the tags that exist now; it raises nothing.

    The lists give way to pushes. What can't be listed is left to the next reconcile.
    """
    BULK.set(True)
    number = 0
    try:
        async with contextlib.aclosing(Listing(rules, registries).collisions()) as collisions:
            async for collision in collisions:
                number += 1
                if number <= _MOST_LOGGED:
                    colliding = [str(source) for source in collision.sources]
                    log.warning("collision", destination=str(collision.destination), colliding=colliding)
    except Exception:
        # This runs beside the webhook and the copies, and a fault in it must not end them.
        log.exception("collisions not looked for")
    if number > _MOST_LOGGED:
        log.warning("more collisions", number=number - _MOST_LOGGED)
