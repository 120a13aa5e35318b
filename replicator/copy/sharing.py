"""What the processes of one installation tell each other of blobs, as the copy engine wants it told.

It only ever spares work: an implementation that can't reach the others lets every turn begin at once, knowing nothing.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager


class Turn(Protocol):
    """The right to bring one blob to one registry, while no other process does."""

    @property
    def here(self) -> bool:
        """Whether another process brought the blob to this very repository lately enough to be believed."""

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Other repositories of the registry that a process brought the blob to, the latest first."""

    def brought(self) -> None:
        """Tell that the blob is in the repository now; the others hear of it when the turn ends."""


class Sharing(Protocol):
    """Turns over all processes."""

    def turn(self, registry: str, repository: str, digest: str) -> AbstractAsyncContextManager[Turn]:
        """Wait for the turn to bring a blob to a repository, and have it for as long as the context lasts.

        The turn is over a registry and a digest: whoever has it may bring the blob to any repository there. Who has it
        and dies loses it after a short while. It is never waited for by who could help another to end theirs.
        """

    async def forget(self, registry: str, repository: str, digest: str) -> None:
        """Forget that a blob is in a repository, because the registry contradicted it."""


class Alone:
    """Sharing with nobody: for a process without a queue."""

    here = False
    elsewhere: tuple[str, ...] = ()

    @asynccontextmanager
    async def turn(self, registry: str, repository: str, digest: str) -> AsyncIterator[Turn]:
        """Begin at once."""
        del registry, repository, digest
        yield self

    def brought(self) -> None:
        """Tell nobody."""

    async def forget(self, registry: str, repository: str, digest: str) -> None:
        """Know nothing to forget."""
