"""From rules to every copy they ask for now: repositories through Harbor's API, tags through the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.errors import ReplicatorError
from replicator.harbor import HarborApi
from replicator.reference import Repository

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.registry import Registries
    from replicator.rules import Asked, Narrowing, Rules, Source


class Listed:
    """One repository, or what should have been one, and what the rules want of it.

    Attributes:
        what: the repository, or the pattern that could not be listed.
        asked: the copies the rules ask for.
        error: why it could not be listed; None when it could.
    """

    __slots__ = ("asked", "error", "what")

    def __init__(self, what: str, asked: list[Asked], error: ReplicatorError | None = None) -> None:
        self.what = what
        self.asked = asked
        self.error = error


async def list_requests(rules: Rules, narrowing: Narrowing, registries: Registries) -> AsyncIterator[Listed]:
    """List all copies that ``rules`` ask for, a repository at a time, each once.

    What can't be listed is told, and the rest goes on. Repositories of which nothing is meant are left out; of the
    others every copy is listed, as only the whole shows who would overwrite whom.
    """
    seen: set[Repository] = set()
    for source in narrowing.sources():
        async for found in _repositories(source, registries):
            if isinstance(found, Listed):
                yield found
            elif found not in seen and narrowing.includes(found):
                seen.add(found)
                yield await _requests(rules, registries, found, needs_tags=source.needs_tags)


async def _requests(rules: Rules, registries: Registries, repository: Repository, *, needs_tags: bool) -> Listed:
    try:
        tags = [tag async for tag in registries.source(repository).tags()] if needs_tags else []
    except ReplicatorError as error:
        return Listed(str(repository), [], error)
    return Listed(str(repository), rules.asked(repository, tags))


async def _repositories(source: Source, registries: Registries) -> AsyncIterator[Repository | Listed]:
    """List a source's repositories; what can't be listed comes as a `Listed`, and the other projects follow."""
    if source.repository is not None:
        yield source.repository
        return
    # The login of the project, where the rules give one, else that of the host.
    place = Repository(source.registry, f"{source.project}/x" if source.project is not None else "x")
    try:
        api = HarborApi(source.registry, registries.transport(place))
        projects = [source.project] if source.project is not None else [project async for project in api.projects()]
    except ReplicatorError as error:
        yield Listed(f"{source.registry}/{source.glob}", [], error)
        return
    for project in projects:
        try:
            async for repository in api.repositories(project):
                if source.includes(repository.name):
                    yield repository
        except ReplicatorError as error:
            what = source.glob if source.project is not None else f"{project}/"
            yield Listed(f"{source.registry}/{what}", [], error)
