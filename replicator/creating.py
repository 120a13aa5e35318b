"""A copy whose repository is created where the push is refused because it is not there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from replicator.advice import may_lack_repository
from replicator.registry.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from replicator.reference import Repository
    from replicator.registry import Registries

T = TypeVar("T")

_PAUSES = (0.0, 1.0, 2.0, 4.0)
"""Seconds before each further try: a registry may take a moment to know of what was created beside it."""


async def creating(registries: Registries, destination: Repository, copy: Callable[[], Awaitable[T]]) -> T:
    """Copy; where the destination refuses that as it does what it has no repository for, create that and copy again.

    Nobody is asked to create anything before a push was refused: as long as pushes work, no more is needed.

    Args:
        registries: which know who creates repositories where.
        destination: the repository that is pushed to.
        copy: does all of the copy, as often as it is called.

    Raises:
        RegistryError: what ``copy`` raised; or the repository was missing, it seems, and could not be created.
    """
    for pause in _PAUSES:
        try:
            return await copy()
        except RegistryError as refusal:
            if not may_lack_repository(refusal, destination) or not await _create(registries, destination, refusal):
                raise
        await asyncio.sleep(pause)
    return await copy()


async def _create(registries: Registries, destination: Repository, refusal: RegistryError) -> bool:
    try:
        return await registries.create(destination)
    except RegistryError as error:
        raise error.again(f"; asked to create {destination.name}, as its push was refused: {refusal.detail}") from error
