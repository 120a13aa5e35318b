"""Copies of different sources to one destination, found as they are listed, with little kept of each."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from replicator.reference import Reference, Repository
from replicator.rules import CopyRequest, collisions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from replicator.rules import Collision, Route

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


class Clashes:
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
