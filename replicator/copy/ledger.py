"""What is known to be at a registry, so that nothing is asked or sent twice."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

_MAX_REPOSITORIES = 16
"""Repositories remembered for one blob: any one of them serves to mount from."""


class Ledger:
    """Blobs and manifests known to be in repositories of a registry; bounded, the least used forgotten first.

    It only ever spares requests: what it knows is forgotten when a registry contradicts it.
    """

    def __init__(self, entries: int = 100_000) -> None:
        self._entries = entries
        self._known: OrderedDict[tuple[str, str], dict[str, None]] = OrderedDict()

    def add(self, registry: str, repository: str, digest: str) -> None:
        """Note that ``digest`` is in ``repository``."""
        places = self._known.setdefault((registry, digest), {})
        places.pop(repository, None)
        places[repository] = None
        if len(places) > _MAX_REPOSITORIES:
            del places[next(iter(places))]
        self._known.move_to_end((registry, digest))
        if len(self._known) > self._entries:
            self._known.popitem(last=False)

    def has(self, registry: str, repository: str, digest: str) -> bool:
        """Tell whether ``digest`` is known to be in ``repository``."""
        return repository in self._known.get((registry, digest), ())

    def elsewhere(self, registry: str, repository: str, digest: str) -> str | None:
        """Return another repository of the registry that has ``digest``, the latest one known."""
        places = self._known.get((registry, digest), {})
        return next((place for place in reversed(places) if place != repository), None)

    def forget(self, registry: str, repository: str, digest: str) -> None:
        """Forget one entry, because the registry contradicted it."""
        places = self._known.get((registry, digest))
        if places is not None:
            places.pop(repository, None)
            if not places:
                del self._known[(registry, digest)]


@dataclass(slots=True)
class Abilities:
    """What a registry was seen to do; None as long as it was not seen either way.

    Attributes:
        answers_mount_in_place: ``POST ?mount=D&from=SAME`` says 201 for a blob that is there and opens an upload for
            one that is not: a HEAD and a POST in one request.
        mounts: it takes a blob from another of its repositories.
    """

    answers_mount_in_place: bool | None = None
    mounts: bool | None = None
