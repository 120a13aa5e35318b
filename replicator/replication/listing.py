"""From rules to every copy they ask for now, given out while the rest is still being listed.

Names come first: repositories through Harbor's API, a hundred a request. They tell which destination repositories can
get copies from several sources; only what goes there is looked through before anything is given out, so that who
would overwrite whom is known before the first copy.

Copies of different sources to one destination, found as they are listed, with little kept of each.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from typing import TYPE_CHECKING

from replicator.errors import ReplicatorError
from replicator.harbor import ROWS_A_PAGE
from replicator.reference import Reference, Repository
from replicator.registry.errors import NotFound
from replicator.replication.repositories import Batch, Found, ListingRefused, RepositoryLister, WantedRepository
from replicator.replication.tag_lists import NotListed, TagLister, TagPage
from replicator.rules import CopyRequest, collisions
from replicator.tasks import merge_streams

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterable, Iterator

    from replicator.registry import Registries
    from replicator.rules import Collision, Narrowing, Route, Rules

__all__ = ["Batch", "Found", "Listing", "ListingRefused"]

_Origin = tuple[Reference | Repository, str]
"""A source, and the rule that sent it. The repository stands for the source with the destination's tag."""


def contested(routes: Iterable[Route]) -> frozenset[Repository]:
    """Return the destination repositories where copies can meet others on their way to the same tag.

    Only there: tags of one repository that keep their names never meet.

    Args:
        routes: one a source repository.
    """
    reached: set[Repository] = set()
    found: set[Repository] = set()
    for route in routes:
        found |= route.renaming | (route.destinations & reached)
        reached |= route.destinations
    return frozenset(found)


class ListingCollisions:
    """Who is on its way where, for the destinations where others can be.

    Args:
        where: the destination repositories that are watched.
    """

    def __init__(self, where: Collection[Repository]) -> None:
        self._where = frozenset(where)
        # By a digest of the destination: there may be a million of them, and hardly any clash.
        self._first: dict[bytes, _Origin] = {}
        self._origins: dict[_Origin, _Origin] = {}
        self._clashing: dict[Reference, dict[CopyRequest, None]] = {}

    def add(self, request: CopyRequest) -> None:
        """Note a copy; the same one again makes no difference."""
        end = request.destination
        # What goes by digest is the same content, wherever it comes from.
        if end.tag is None or end.repository not in self._where:
            return
        source = request.source
        keeps_its_name = source.digest is None and source.tag == end.tag
        origin: _Origin = (source.repository if keeps_its_name else source, request.rule)
        origin = self._origins.setdefault(origin, origin)
        key = hashlib.blake2b(str(end).encode(), digest_size=16).digest()
        first = self._first.setdefault(key, origin)
        if first[0] == origin[0]:
            return
        there, rule = first
        first_source = Reference(there, end.tag) if isinstance(there, Repository) else there
        clashing = self._clashing.setdefault(end, {CopyRequest(first_source, end, rule): None})
        clashing[CopyRequest(source, end, request.rule)] = None

    def of(self, request: CopyRequest) -> Collision | None:
        """Return the collision that ``request`` is a part of, as far as it has been seen; None if it is of none."""
        clashing = self._clashing.get(request.destination)
        return collisions(clashing)[0] if clashing is not None else None


_AT_ONCE = 4
"""Projects or repositories that are listed at the same time, the pages of each one after the other."""
_CHUNK = 1000
"""Tags that are looked through together where they need not be seen whole."""
_MAX_UNFIT = 20
"""Repositories that no destination can hold, each named; further ones are counted."""


class Listing:
    """Lists all copies that rules ask for, each once.

    Args:
        rules: say what is copied where.
        narrowing: what is meant, of all that the rules name.
        registries: to list.
    """

    def __init__(self, rules: Rules, narrowing: Narrowing, registries: Registries) -> None:
        self._rules = rules
        self._narrowing = narrowing
        self._registries = registries
        self._clashes = ListingCollisions(())
        self._missing: set[Repository] = set()

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Give out what is found, part by part; the next parts are listed only as those before are taken.

        What can't be listed is told, and the rest goes on. Repositories of which nothing is meant are left out. Of
        the others every copy counts for who would overwrite whom, whether it is meant or not. A repository that a
        pattern found and that is gone by now is left out.
        """
        self._missing.clear()
        names = RepositoryLister(self._narrowing, self._registries)
        async with contextlib.aclosing(names.failures()) as failures:
            async for failure in failures:
                yield failure
        wanted = [names.wanted[repository] for repository in sorted(names.wanted)]
        unfit = self._unfit(wanted)
        if unfit:
            yield Batch("", warnings=unfit)
        async with contextlib.aclosing(self._look_ahead(wanted)) as failures:
            async for failure in failures:
                yield failure
        wanted = [each for each in wanted if each.repository not in self._missing]
        lists = TagLister(self._registries, {registry for registry, _ in names.artifacts})
        async with contextlib.aclosing(merge_streams(self._units(wanted, names, lists), _AT_ONCE)) as parts:
            async for part in parts:
                batch = self._batch(part, lists)
                if batch.found or batch.refused or batch.error is not None or batch.warnings:
                    yield batch

    def _units(
        self, wanted: list[WantedRepository], names: RepositoryLister, lists: TagLister
    ) -> Iterator[AsyncGenerator[TagPage | NotListed, None]]:
        """Choose how the tags of each repository are listed; what is listed together is one unit."""
        projects: dict[tuple[str, str], list[WantedRepository]] = {}
        for each in wanted:
            whole = self._rules.route(each.repository).whole
            project = each.repository.registry, each.repository.name.partition("/")[0]
            if not each.needs_tags:
                yield _unlisted(each.repository)
            elif whole or each.artifact_count is None or project not in names.artifacts:
                yield lists.of_repository(each, whole=whole)
            else:
                projects.setdefault(project, []).append(each)
        for project, members in projects.items():
            if _pages(names.artifacts[project]) <= sum(_pages(each.artifact_count or 0) for each in members):
                yield lists.of_project(*project, members)
            else:
                yield from (lists.of_repository(each, whole=False) for each in members)

    def _unfit(self, wanted: list[WantedRepository]) -> tuple[str, ...]:
        """Say what can't be copied whatever its tags are, as no such name can be at the destination."""
        reasons = [
            f"{each.repository} is left out: {reason}"
            for each in wanted
            for reason in self._rules.route(each.repository).unfit
        ]
        more = len(reasons) - _MAX_UNFIT
        return (*reasons[:_MAX_UNFIT], *([f"{more} more are left out for such reasons"] if more > 0 else []))

    async def _look_ahead(self, wanted: list[WantedRepository]) -> AsyncGenerator[Batch, None]:
        """Look through everything that can meet others at its destination; give out what can't be listed of it."""
        where = contested(self._rules.route(each.repository) for each in wanted)
        self._clashes = ListingCollisions(where)
        if not where:
            return
        crossing = [each for each in wanted if self._rules.route(each.repository).destinations & where]
        async with contextlib.aclosing(merge_streams(map(self._note, crossing), _AT_ONCE)) as failures:
            async for failure in failures:
                yield failure

    async def _note(self, wanted: WantedRepository) -> AsyncGenerator[Batch, None]:
        repository = wanted.repository
        whole = self._rules.route(repository).whole
        tags: list[str] = []
        try:
            if wanted.needs_tags:
                # Of all lists the one with the fewest requests: only names count here.
                async for tag in self._registries.source(repository).tags():
                    tags.append(tag)
                    if len(tags) == _CHUNK and not whole:
                        self._note_tags(repository, tags)
                        tags = []
            self._note_tags(repository, tags)
        except ReplicatorError as error:
            # What it would overwrite is not known: nothing of it is copied.
            self._missing.add(repository)
            if wanted.named or not isinstance(error, NotFound):
                yield Batch(str(repository), error=error)

    def _note_tags(self, repository: Repository, tags: Iterable[str]) -> None:
        for asked in self._rules.asked(repository, tags):
            self._clashes.add(asked.request)

    def _batch(self, part: TagPage | NotListed, lists: TagLister) -> Batch:
        warnings = tuple(lists.warnings)
        lists.warnings.clear()
        if isinstance(part, NotListed):
            return Batch(part.what, error=part.error, warnings=warnings)
        found: list[Found] = []
        refused: list[ListingRefused] = []
        for asked in self._rules.asked(part.repository, part.tags):
            request = asked.request
            # Once more: it may have been pushed since.
            self._clashes.add(request)
            if not self._narrowing.takes(asked):
                continue
            collision = self._clashes.of(request)
            label = part.tags.get(request.source.tag) if request.source.tag is not None else None
            if collision is not None:
                refused.append(ListingRefused(asked, collision))
            elif label is None:
                found.append(Found(asked))
            else:
                found.append(Found(asked, label.digest, label.size, label.pushed))
        return Batch(str(part.repository), tuple(found), tuple(refused), warnings=warnings)


async def _unlisted(repository: Repository) -> AsyncGenerator[TagPage, None]:
    """Give out a repository of which the rules write out all that they want."""
    yield TagPage(repository, {})


def _pages(artifacts: int) -> int:
    return max(1, math.ceil(artifacts / ROWS_A_PAGE))
