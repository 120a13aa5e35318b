"""The Harbor projects that rules name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.errors import ReplicatorError
from replicator.harbor import HarborApi
from replicator.reference import Repository

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from replicator.registry import Registries
    from replicator.rules import Source


async def named_projects(
    sources: Iterable[Source], registries: Registries, only: Collection[str] = ()
) -> tuple[list[tuple[str, str]], dict[str, ReplicatorError]]:
    """Find the projects whose pushes rules are about.

    Args:
        sources: of the rules; the projects that a pattern over projects means are the ones that Harbor lists.
        registries: the way to the Harbors.
        only: projects that are meant, of those that the rules name; empty for all.

    Returns:
        Registry and project of each, sorted; and why a registry's projects could not be listed.
    """
    found: set[tuple[str, str]] = set()
    failed: dict[str, ReplicatorError] = {}
    listed: dict[str, list[str]] = {}
    for source in sources:
        project = source.project
        if project is None and source.repository is not None:
            project = source.repository.name.partition("/")[0] if "/" in source.repository.name else None
            if project is None:
                continue
        if project is not None:
            found.add((source.registry, project))
            continue
        # Those that are said need no list, which not every login may see.
        found |= {(source.registry, name) for name in only if source.may_be_in(name)}
        if only or source.registry in failed:
            continue
        try:
            if source.registry not in listed:
                api = HarborApi(source.registry, registries.transport(Repository(source.registry, "x")))
                listed[source.registry] = [name async for name in api.projects()]
        except ReplicatorError as error:
            failed[source.registry] = error
            continue
        found |= {(source.registry, name) for name in listed[source.registry] if source.may_be_in(name)}
    return sorted(place for place in found if not only or place[1] in only), failed
